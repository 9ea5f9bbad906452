"""A whole nightshift in a home of its own: PostgreSQL, S3 and Airflow with the real scheduler, a
month of history, trained models.

Tests of several folders share it. Airflow notices a dead task after seconds instead of minutes,
retries after two seconds, and every DAG file runs ``hook`` when it is read, so that a test can put
a fault into the next tasks (``Whole.inject``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.flights.airflow_run import PartitionTiming, run_partition
from tests.processor_time import difference, processor_seconds

from nightshift.cli.operations.critical_path import PathTask, find_path
from nightshift.contracts.model_spec import load_specs
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift_local.airflow_api import AirflowApi, DagRun
from nightshift_local.local_env import ADMIN_FILE_NAME, read_env
from nightshift_local.watchdog import ends_with_us

FIRST_DAY, LAST_DAY, NIGHT = "2013-01-01", "2013-02-03", "2013-02-04"
_HISTORY = f"""
from examples.flights.demo import Stopwatch, load_history
from nightshift_local.launch import launch
from nightshift_local.stack import BASE_GROUPS
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from examples.flights.upstream import deliver
from nightshift.quality import gates
from nightshift.settings import load_admin_settings
# Great Expectations judges the night itself; of the history, only what SQL does not pass.
gates.ONE_SCAN_ROWS = 0
launch([*BASE_GROUPS, "airflow"], wait_for=BASE_GROUPS, report=print)
settings = load_admin_settings()
history = PartitionRange.of("{FIRST_DAY}", "{LAST_DAY}")
load_history(settings, load_specs(settings.models_dir), history, RunContext("test/history",
    actor="test"), Stopwatch())
deliver(settings, PartitionRange.of("{NIGHT}"))
"""
IMPATIENT = {
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    # No file changes while Airflow runs, and reading all of them takes seconds of a processor;
    # a task reads its own file anyway.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
}
DAGS_TIMEOUT_SECONDS = 120
_QUICK_RETRY = """
import datetime
from nightshift.orchestration import defaults
defaults.RETRY_DELAY = datetime.timedelta(seconds=2)
"""


@dataclass(frozen=True)
class Whole:
    """A running nightshift.

    Attributes:
        settings: Its endpoints.
        api: Its Airflow.
        night: The night that went through the scheduler.
        path: What its predictions waited for, read before any test touched its runs; empty in a
            kept home.
        cost: Processor seconds of that night by part, as ``processor_seconds`` names them.
    """

    settings: Settings
    api: AirflowApi
    night: PartitionTiming
    path: Sequence[PathTask]
    cost: Mapping[str, float]

    @contextmanager
    def inject(self, code: str) -> Iterator[None]:
        """Have every DAG file run this code when a task reads it, as long as the block lasts."""
        hook = self.settings.dags_dir / "hook"
        _replace(hook, _QUICK_RETRY + code)
        try:
            yield
        finally:
            _replace(hook, _QUICK_RETRY)


_OPENED = pytest.StashKey[tuple[ExitStack, Whole]]()


@pytest.fixture
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Start everything, load a history in one range, train, and run one night through Airflow.

    The tests of a process share it as long as one follows the other. ``NIGHTSHIFT_TEST_WHOLE``
    names a folder in which all of this stays alive for the next call.
    """
    stash = request.config.stash
    if _OPENED not in stash:
        kept = os.environ.get("NIGHTSHIFT_TEST_WHOLE")
        base = Path(kept) if kept else tmp_path_factory.mktemp("whole night")
        stack = ExitStack()
        stash[_OPENED] = stack, stack.enter_context(open_whole(base, is_kept=bool(kept)))
    return stash[_OPENED][1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop Airflow after its last test: it would take processor time from all others."""
    yield
    if "whole" not in getattr(nextitem, "fixturenames", ()):
        _close(item.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop Airflow also when the session ends early."""
    _close(session.config)


def _close(config: pytest.Config) -> None:
    if _OPENED in config.stash:
        stack, _ = config.stash[_OPENED]
        del config.stash[_OPENED]
        stack.close()


@contextmanager
def open_whole(
    base: Path,
    *,
    is_kept: bool = False,
    beside: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Iterator[Whole]:
    """Open a whole nightshift in a folder.

    Args:
        base: Folder for its home and its DAGs.
        is_kept: Let it live on, and take what is there.
        beside: Given the home, runs what its Airflow needs beside it, from before the night until
            the end.
    """
    home, dags = base / "home", base / "dags"
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    env |= {
        "NIGHTSHIFT_HOME": str(home),
        "NIGHTSHIFT_DAGS_DIR": str(dags),
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        **IMPATIENT,
    }
    with nullcontext() if is_kept else ends_with_us(home):
        try:
            if is_new := not dags.exists():
                _copy_small_dags(dags)
                # Airflow starts in the background while the history is loaded.
                _run(env, "-c", _HISTORY)
                _run(env, "-m", "nightshift.cli", "up", "--only", "postgres,s3,airflow")
            given = read_env(home) | read_env(home, ADMIN_FILE_NAME)
            values = {
                name.removeprefix("NIGHTSHIFT_").lower(): value for name, value in given.items()
            }
            settings = Settings(dags_dir=dags, **values)
            api = AirflowApi.local(home)
            if is_new:
                _wait_for_dags(api, expected_dags(settings))
            with beside(home):
                night, path = PartitionTiming(NIGHT, 0, 0.0, 0.0), ()
                cost = base / "cost_of_the_night.json"
                if is_new:
                    before = processor_seconds(home)
                    night = run_partition(api, NIGHT, expected_dags(settings), timeout_seconds=1500)
                    used = difference(before, processor_seconds(home))
                    cost.write_text(json.dumps(used))
                    path = find_path(api, NIGHT)
                yield Whole(settings, api, night, path, json.loads(cost.read_text()))
        finally:
            if not is_kept:
                _run(env, "-m", "nightshift.cli", "down", "--delete-data", "--yes")


def expected_dags(settings: Settings) -> set[str]:
    """Return the DAGs that a night wakes."""
    stages = ("score", "shadow", "monitor", "train")
    return {"ingest", "transform"} | {
        f"{stage}__{name}" for name in load_specs(settings.models_dir) for stage in stages
    }


def _wait_for_dags(api: AirflowApi, dag_ids: set[str]) -> None:
    deadline = time.monotonic() + DAGS_TIMEOUT_SECONDS
    while missing := dag_ids - api.dag_ids():
        assert time.monotonic() < deadline, (missing, api.import_errors())
        time.sleep(0.5)


def not_green(api: AirflowApi, runs: list[DagRun]) -> list[str]:
    """Return the runs that did not succeed, each with its tasks: ``score__m failed: begin success,
    publish failed``."""
    return [
        f"{run.dag_id} {run.state}: "
        + ", ".join(f"{task['task_id']} {task['state']}" for task in api.tasks(run))
        for run in runs
        if run.state != "success"
    ]


def _copy_small_dags(folder: Path) -> None:
    """Copy the DAG folder with specs whose training fits a month."""
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "models").glob("*.yaml"):
        text = path.read_text()
        for key, value in {
            "minimum_days": 25,
            "cold_start_days": 24,
            "validation_days": 5,
            "holdout_days": 5,
            "num_boost_round": 30,
        }.items():
            text = "\n".join(
                f"  {key}: {value}" if line.strip().startswith(f"{key}:") else line
                for line in text.splitlines()
            )
        path.write_text(text + "\n")
    _replace(folder / "hook", _QUICK_RETRY)
    for path in folder.glob("*.py"):
        head, imports, rest = path.read_text().partition("from nightshift.orchestration import ")
        hook = 'exec((__import__("pathlib").Path(__file__).parent / "hook").read_text())'
        path.write_text(f"{head}{hook}\n{imports}{rest}")


def _replace(path: Path, text: str) -> None:
    """Write a file that tasks may read at this very moment."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


def _run(env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
