"""Faults of which nothing fails: only what is looked at by itself can tell."""

from __future__ import annotations

import datetime as dt
import json
import socket
from hashlib import sha256

from tests.chaos.on_call.fault import Fault, Seen
from tests.chaos.on_call.faults_models import (
    LOST_FILE,
    key_of,
    predictions_are_right,
    training_set_key,
)
from tests.chaos.on_call.faults_servers import analysts_read_the_view
from tests.chaos.on_call.history import LAST_DAY, MODEL, NIGHT, SCORED
from tests.chaos.on_call.world import SCORE, World

from nightshift.lake.content_keys import content_key

PAGE = b"<h1>Evidence</h1>"
DAG_FILE = "score.py"
AFTER_THE_NIGHT = dt.datetime(2013, 1, 22, 14, tzinfo=dt.UTC)
"""After the deadline of the night, and before the next day's files are due."""


def scheduler_dies(world: World) -> None:
    world.airflow.silent_for["scheduler"] = dt.timedelta(minutes=4)


def pool_is_closed(world: World) -> None:
    run_by_night(world)
    world.airflow.slots["scoring"] = 0


def dag_file_is_deleted(world: World) -> None:
    assert world.start(SCORE, NIGHT).is_success
    folder = world.take_own_folder("dags_dir")
    world.commit(folder)
    (folder / DAG_FILE).unlink()
    world.commit(folder)
    world.airflow.files[SCORE] = folder / DAG_FILE


def dag_is_paused(world: World) -> None:
    run_by_night(world)
    world.airflow.paused.add(SCORE)


def run_by_night(world: World) -> None:
    """Let the warehouse say that each night was published in its time."""
    world.admin(
        "update ops.loads set published_at = partition_date + interval '30 hours'"
        " where published_at is not null"
    )
    world.at = AFTER_THE_NIGHT


def run_reaches_its_limit(world: World) -> None:
    """Let Airflow end a run, whose tasks it then skips; nothing of it has failed."""
    run = world.prepare(SCORE, NIGHT)
    run.states = {step.name: "skipped" for step in run.steps}
    run.is_overdue = True


def champion_is_deleted(world: World) -> None:
    world.take_own_bucket(training_set_key(world))
    world.overwrite(key_of(world, "model_key"), None)


def champion_can_be_read(world: World) -> bool:
    key = key_of(world, "model_key")
    return bool(world.store.get(key) == world.backup.get(key))


def decide_with_evidence(world: World) -> str:
    """Record a decision with its evidence; return the key of the record."""
    world.take_own_bucket()
    key, data = first_record()
    world.store.put(key, data)
    page = content_key(f"evidence/{MODEL}", PAGE, ".html")
    world.store.put(page, PAGE)
    world.admin(
        "insert into ml.promotions (model, version, verdict, partition_date, effective_partition,"
        " reasons, numbers, run_id, actor, evidence_key, evidence_sha256, evidence_page)"
        " values (%s, 1, 'shadowed', %s, %s, '{on call}', '{}', 'r', 'test', %s, %s, %s)",
        *(MODEL, LAST_DAY, NIGHT, key, sha256(data).hexdigest(), page),
    )
    return key


def first_record() -> tuple[str, bytes]:
    """Return key and bytes of the first record of evidence."""
    record = {
        "previous": None,
        "model": MODEL,
        "version": 1,
        "verdict": "shadowed",
        "reasons": ["on call"],
        "criteria": [],
    }
    return f"evidence/{MODEL}/shadowed.json", json.dumps(record).encode()


def evidence_is_restored(world: World) -> None:
    key, data = first_record()
    world.overwrite(key, data)


def evidence_verifies(world: World) -> bool:
    code, _ = world.nightshift("evidence", MODEL, "--into", str(world.folder))
    return code == 0


def spec_is_removed(world: World) -> None:
    folder = world.take_own_folder("dags_dir")
    world.commit(folder)
    (folder / "models" / f"{MODEL}.yaml").unlink()
    world.commit(folder)


def clock_of_the_watch_is_behind(world: World) -> None:
    """Let the warehouse be a day ahead of whoever asks it: calls find the fake clock first."""
    world.admin("create schema fake")
    world.admin(
        "create function fake.clock_timestamp() returns timestamptz volatile language sql as"
        " $$ select pg_catalog.clock_timestamp() + interval '20 hours' $$"
    )
    world.admin("grant usage on schema fake to nightshift")
    set_search_path(world, "fake, pg_catalog, public")


def set_search_path(world: World, path: str) -> None:
    database = world.settings.warehouse_database
    world.admin(f"alter database {database} set search_path = {path}")


FAULTS = (
    Fault(
        "the scheduler dies while its API answers",
        scheduler_dies,
        "NS-SERVICE-001",
        cause="scheduler",
        page="the API server answers on",
        commands=("nightshift up",),
        is_right=lambda world: not world.airflow.silent_for,
        seen=(
            Seen(
                "NS-SERVICE-001",
                "airflow scheduler",
                command="nightshift up",
                consequence="No task begins",
            ),
        ),
    ),
    Fault(
        "a pool has no slot",
        pool_is_closed,
        "NS-INCIDENT-010",
        cause="scoring",
        page="A pool with 0 slots",
        commands=("nightshift airflow pools set <pool>",),
        values={"pool": "scoring"},
        is_right=lambda world: world.airflow.slots["scoring"] > 0,
        stage=SCORED,
        seen=(
            Seen(
                "NS-INCIDENT-010",
                "airflow pool scoring",
                command='nightshift airflow pools set scoring 1 "opened by on-call"',
                consequence="No task of that pool begins",
            ),
        ),
    ),
    Fault(
        "a DAG is paused",
        dag_is_paused,
        "NS-INCIDENT-008",
        cause=SCORE,
        page="A person has paused a DAG",
        commands=("nightshift airflow dags unpause <dag>",),
        values={"dag": SCORE},
        is_right=lambda world: not world.airflow.paused,
        stage=SCORED,
        seen=(
            Seen(
                "NS-INCIDENT-008",
                SCORE,
                command=f"nightshift airflow dags unpause {SCORE}",
                consequence="Its runs do not begin",
            ),
        ),
    ),
    Fault(
        "the file of the DAGs is deleted",
        dag_file_is_deleted,
        "NS-SERVICE-012",
        cause="does not have score__",
        page="the file of the DAGs is gone",
        advice="bring it back",
        commands=(),
        cure=lambda world: world.check_out("dags_dir", DAG_FILE),
        is_right=lambda world: (world.settings.dags_dir / DAG_FILE).is_file(),
        seen=(
            Seen(
                "NS-SERVICE-012",
                "airflow DAGs",
                command=f"git -C dags checkout <commit>~1 -- {DAG_FILE}",
                consequence="Their runs do not begin",
            ),
        ),
    ),
    Fault(
        "a run ends by its time limit",
        run_reaches_its_limit,
        "NS-AIRFLOW-013",
        cause="time limit",
        page="Airflow skips the tasks that have not ended",
        commands=("nightshift airflow dags clear <dag>",),
        values={"dag": SCORE},
        is_right=predictions_are_right,
        seen=(
            Seen(
                "NS-AIRFLOW-013",
                SCORE,
                (NIGHT,),
                f"nightshift airflow dags clear {SCORE} --partition-key {NIGHT} --yes",
                "Nothing runs them again",
            ),
        ),
    ),
    Fault(
        "the champion is deleted by day",
        champion_is_deleted,
        "NS-LAKE-002",
        cause="champion",
        page="the same night gives the same file",
        commands=("nightshift train <model> <day>",),
        values={"day": LAST_DAY},
        is_right=champion_can_be_read,
        seen=(LOST_FILE,),
    ),
    Fault(
        "a record of evidence is replaced",
        lambda world: world.overwrite(decide_with_evidence(world), b'{"verdict": "promoted"}'),
        "NS-REGISTRY-004",
        cause="evidence",
        page="differs from `ml.promotions`",
        advice="Compare both with a backup",
        cure=evidence_is_restored,
        tells="until a backup restores the record",
        commands=("nightshift evidence <model>",),
        is_right=evidence_verifies,
        seen=(
            Seen(
                "NS-REGISTRY-004",
                MODEL,
                command=f"nightshift evidence {MODEL}",
                consequence="nobody can prove why the champion serves",
            ),
        ),
    ),
    Fault(
        "a spec is removed while its predictions are read",
        spec_is_removed,
        "NS-SPEC-007",
        cause=MODEL,
        page="The file of a model is gone",
        advice="bring the file back",
        cure=lambda world: world.check_out("models_dir", f"{MODEL}.yaml"),
        commands=(),
        is_right=lambda world: (world.settings.models_dir / f"{MODEL}.yaml").is_file(),
        stage=SCORED,
        seen=(
            Seen(
                "NS-SPEC-007",
                f"dags/models/{MODEL}.yaml",
                command=f"git -C dags checkout <commit>~1 -- models/{MODEL}.yaml",
                consequence="its predictions grow old",
            ),
        ),
    ),
    Fault(
        "analysts lose their schema",
        lambda world: world.admin("revoke usage on schema analytics from analyst"),
        "NS-WAREHOUSE-005",
        cause="analyst",
        page="a privilege was revoked",
        commands=("nightshift migrate",),
        is_right=analysts_read_the_view,
        stage=SCORED,
        seen=(
            Seen(
                "NS-WAREHOUSE-005",
                "role analyst",
                command="nightshift migrate",
                consequence="Analysts cannot read",
                severity="critical",
            ),
        ),
    ),
    Fault(
        "the clock of the watch is a day behind",
        clock_of_the_watch_is_behind,
        "NS-TIME-006",
        cause="behind",
        page="time server",
        advice="Set the clock",
        cure=lambda world: set_search_path(world, "public"),
        cured_by="timedatectl status",
        finding="local time",
        commands=(),
        is_right=lambda _: True,
        seen=(
            Seen(
                "NS-TIME-006",
                f"clock of {socket.gethostname()}",
                command="timedatectl status",
                consequence="begins early or late",
            ),
        ),
    ),
)
