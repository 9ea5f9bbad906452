"""One copy of the history: break it, see what on-call sees, and do what a page says."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
from pydantic import SecretStr
from tests.chaos.on_call.airflow_tasks import DagRun, ReportedAirflow, open_run
from tests.chaos.on_call.history import (
    HOLE,
    MODEL,
    NIGHT,
    Contents,
    History,
    clone_database,
    published_contents,
    with_settings,
)
from tests.databases import run_as_admin

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import code_version
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings

COMMAND_SECONDS = 300
INGEST, TRANSFORM, SCORE, TRAIN = "ingest", "transform", f"score__{MODEL}", f"train__{MODEL}"


@dataclass
class World:
    """A warehouse of its own, and the settings that tasks and commands see now.

    Attributes:
        history: What it was copied from.
        settings: The settings now.
        folder: For files of this fault.
        runs: The last run of each DAG and partition key.
        wakes_downstream: Whether the event of a run starts the next DAG.
        at: The instant that the watch compares deadlines with; the present by default.
        findings: What the last look for a cause has printed.
        held: Sessions of people who have left them open.
        servers: Servers that stand in for the right ones.
    """

    history: History
    settings: Settings
    folder: Path
    runs: dict[tuple[str, str | None], DagRun] = field(default_factory=dict)
    wakes_downstream: bool = False
    at: dt.datetime | None = None
    findings: str = ""
    held: list[psycopg.Connection[Any]] = field(default_factory=list)
    servers: list[HTTPServer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.airflow = ReportedAirflow(self.runs)

    @classmethod
    @contextmanager
    def copied(cls, history: History, stage: str, folder: Path) -> Iterator[World]:
        """Copy the warehouse of a stage; drop it at the end."""
        database = f"fault_{uuid.uuid4().hex[:12]}"
        clone_database(history.settings, history.databases[stage], database)
        try:
            settings = with_settings(history.settings, warehouse_database=database)
            world = cls(history, settings, folder)
            try:
                yield world
            finally:
                world.end_held_sessions()
                for server in world.servers:
                    server.shutdown()
                    server.server_close()
        finally:
            run_as_admin(history.settings, f"drop database {database} with (force)")

    # what breaks

    def change(self, **values: object) -> None:
        """Let tasks and commands see other settings from now on."""
        self.settings = with_settings(self.settings, **values)

    def restore(self, *names: str) -> None:
        """Give settings their right values again."""
        self.change(**{name: getattr(self.history.settings, name) for name in names})

    def admin(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in this warehouse as the superuser."""
        with self._connect_as_admin() as conn:
            # Without values psycopg takes several statements.
            cursor = conn.execute(statement.encode(), list(values) or None)
            return cursor.fetchall() if cursor.description else []

    def _connect_as_admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=self.history.settings.warehouse_host,
            port=self.history.settings.warehouse_port,
            dbname=self.settings.warehouse_database,
            user=self.history.settings.warehouse_admin_user,
            password=self.history.settings.warehouse_admin_password.get_secret_value(),
            autocommit=True,
        )

    def hold(self, statement: str) -> None:
        """Run a statement in a transaction that stays open."""
        conn = self._connect_as_admin()
        self.held.append(conn)
        conn.execute("begin")
        conn.execute(statement.encode())

    def end_held_sessions(self) -> None:
        """Be the person who comes back to their open sessions."""
        for conn in self.held:
            conn.close()

    def serve(self, server: HTTPServer) -> None:
        """Let a server answer until the end of the fault."""
        self.servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()

    @property
    def store(self) -> ObjectStore:
        """Return the bucket of the settings."""
        return ObjectStore.open(self.settings)

    @property
    def backup(self) -> ObjectStore:
        """Return the bucket of the history, which no fault changes."""
        return ObjectStore.open(self.history.settings)

    def take_own_bucket(self, *keys: str) -> None:
        """Work in a new bucket that holds the models of the history, and copies of some objects."""
        self.change(s3_bucket=f"fault-{uuid.uuid4().hex[:12]}")
        self.store.ensure_bucket()
        models = self.admin("select unnest(array[model_key, metadata_key]) from ml.model_versions")
        for key in (*(key for (key,) in models), *keys):
            self.store.put(key, self.backup.get(key))

    def overwrite(self, key: str, data: bytes | None) -> None:
        """Replace an object as a person with the key of the store could; None deletes it."""
        place = {"Bucket": self.settings.s3_bucket, "Key": key}
        client = self.store.client
        if data is None:
            client.delete_object(**place)
        else:
            client.put_object(**place, Body=data, ChecksumAlgorithm="SHA256")

    def take_own_folder(self, setting: str) -> Path:
        """Work with a copy of the folder that a setting names, and return it."""
        folder = self.folder / setting
        shutil.copytree(
            getattr(self.settings, setting), folder, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.change(**{setting: folder})
        return folder

    # what on-call sees and does

    def start(self, dag_id: str, key: str | None, only: tuple[str, ...] = ()) -> DagRun:
        """Start a run and return it when it has ended.

        Args:
            dag_id: The DAG.
            key: The partition key.
            only: The tasks that matter to the test; all by default.
        """
        run = self.prepare(dag_id, key, only)
        run.run(self.settings)
        return run

    def prepare(self, dag_id: str, key: str | None, only: tuple[str, ...] = ()) -> DagRun:
        """Return a run of which no task has begun; a clear runs it again."""
        run = open_run(self.settings, dag_id, key, only)
        self.runs[dag_id, key] = run
        return run

    def kill(self, task: str, dag_id: str, key: str, fault: str) -> None:
        """Run one task in a process of its own that a failpoint kills; all others are lost."""
        done = self._run(
            ["-m", "tests.chaos.on_call.airflow_tasks", dag_id, task, key], NIGHTSHIFT_FAULT=fault
        )
        assert done.returncode < 0, done.stdout + done.stderr

    def nightshift(self, *arguments: str) -> tuple[int, str]:
        """Run a command in a process; return its exit code and what it printed."""
        done = self._run(["-m", "nightshift.cli", *arguments])
        return done.returncode, done.stdout + done.stderr

    def status(self) -> str:
        """Return what ``nightshift status`` prints; it exits with 1 since no part is local."""
        return self.nightshift("status")[1]

    def perform(self, command: str) -> None:
        """Do what a command of a page does; Airflow's own commands run the tasks here."""
        match shlex.split(command):
            case ["nightshift", "airflow", "dags", "clear", dag_id, *options]:
                self._clear(dag_id, options)
            case ["nightshift", "airflow", "backfill", "create", *options]:
                self._backfill(options)
            case ["nightshift", "airflow", "dags", "unpause", dag_id]:
                self.airflow.paused.discard(dag_id)
            case ["nightshift", "airflow", "pools", "set", name, slots, _]:
                self.airflow.slots[name] = int(slots)
            # The servers of the tests run on; what these start is what the cure has repaired.
            case ["nightshift", "up"]:
                self.airflow.silent_for.clear()
            case ["nightshift", "doctor"] | ["timedatectl", "status"]:
                self._look(command)
            # It downloads the record to where on-call is.
            case ["nightshift", "evidence", model]:
                assert self.nightshift("evidence", model, "--into", str(self.folder))[0] == 0
            case ["git", *_]:
                subprocess.run(shlex.split(command), check=True, capture_output=True)
            case ["nightshift", *arguments]:
                code, output = self.nightshift(*arguments)
                assert code == 0, f"{command}: exit code {code}\n{output}"
            case _:
                raise AssertionError(f"No command of a page: {command}")

    def check_out(self, setting: str, file: str) -> None:
        """Bring a file of a folder back as it was in the commit before the last one."""
        folder = getattr(self.settings, setting)
        arguments = ["git", "-C", str(folder), "checkout", "HEAD~1", "--", file]
        subprocess.run(arguments, check=True, capture_output=True)

    def commit(self, folder: Path, at: dt.datetime | None = None) -> None:
        """Commit all that a folder holds, as the repository of the project does.

        Args:
            folder: The folder; it becomes a repository.
            at: When; now by default.
        """
        dates = {}
        if at is not None:
            dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), at.isoformat())
        if not (folder / ".git").exists():
            subprocess.run(["git", "init", "-q", str(folder)], check=True, capture_output=True)
        who = ["-c", "user.name=on call", "-c", "user.email=on-call@example.com"]
        for arguments in (["add", "-A"], [*who, "commit", "-q", "-m", "change"]):
            subprocess.run(
                ["git", "-C", str(folder), *arguments],
                env={**os.environ, **dates},
                check=True,
                capture_output=True,
            )

    def _look(self, command: str) -> None:
        """Keep what a command finds out that changes nothing."""
        # The clock of the machine of the tests is right.
        is_clock = command.startswith("timedatectl")
        self.findings = "local time" if is_clock else self._run(["-c", _DIAGNOSE]).stdout

    def _clear(self, dag_id: str, options: list[str]) -> None:
        run = self.runs[dag_id, _value(options, "--partition-key")]
        run.clear(only_failed="--only-failed" in options)
        run.run(self.settings)
        assert run.is_success, f"{dag_id} after it was cleared: {run.states}\n{run.log}"

    def _backfill(self, options: list[str]) -> None:
        days = PartitionRange.of(_value(options, "--from-date"), _value(options, "--to-date"))
        woken = (INGEST, TRANSFORM, SCORE) if self.wakes_downstream else (INGEST,)
        for partition in days:
            for dag_id in woken:
                run = self.start(dag_id, partition.key)
                assert run.is_success, f"{dag_id}: {run.states}\n{run.log}"

    def _run(self, arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**environment(self.settings), **variables},
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    # what must be right at the end

    def contents(self) -> Contents:
        """Return what readers see from the night on."""
        own = self.settings.warehouse_database
        return published_contents(with_settings(self.history.settings, warehouse_database=own))

    def has(self, dataset: str, day: str = NIGHT) -> bool:
        """Return whether readers see what an undisturbed run publishes, and every row of it."""
        layer, _, name = dataset.partition("/")
        table = f"{layer}.{'feat_' if layer == 'features' else ''}{name}"
        ((n_lost,),) = self.admin(
            "select sum(l.n_rows) - (select count(*) from"
            f" {table} t join ops.published q using (partition_date, load_id)"
            " where q.dataset = %s and q.partition_date = %s)"
            " from ops.published p join ops.loads l using (dataset, partition_date, load_id)"
            " where p.dataset = %s and p.partition_date = %s",
            *(dataset, day, dataset, day),
        )
        right = self.history.contents[dataset, day]
        return self.contents().get((dataset, day)) == right and n_lost == 0

    def has_weather(self) -> bool:
        """Return whether the weather of the day after the night is right."""
        return self.has("raw/weather", HOLE)


# What `nightshift doctor` says of servers elsewhere; its other checks look at this machine.
_DIAGNOSE = """
from nightshift_local.diagnosis import check_settings, check_store
for check in (check_settings, check_store):
    for finding in check(None):
        print(finding.check, finding.level, finding.what, finding.fix)
"""


def _value(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give a process these settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    for name, value in settings:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        env[f"NIGHTSHIFT_{name.upper()}"] = str(plain)
    paths = [str(PROJECT_ROOT / "plugins"), str(PROJECT_ROOT)]
    return env | {
        "PYTHONPATH": os.pathsep.join(paths),
        "NIGHTSHIFT_CODE_VERSION": code_version(),
    }
