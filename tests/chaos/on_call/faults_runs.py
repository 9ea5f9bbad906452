"""Faults of runs: keys, lost tries, holes, attempts that meet, and marks of a person."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from tests.chaos.on_call.fault import Fault, Seen, failed
from tests.chaos.on_call.faults_models import CLEAR, PREDICTIONS, predictions_are_right
from tests.chaos.on_call.history import FEATURES, HOLE, LATER, MODEL, NIGHT
from tests.chaos.on_call.world import INGEST, SCORE, TRANSFORM, World

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import StaleTokenError
from nightshift.scoring import pipeline

START = "nightshift airflow backfill create --dag-id ingest"
INGEST_HOLE = f"{START} --from-date {HOLE} --to-date {HOLE} --max-active-runs 1"
SCHEDULER = "tests/chaos/scheduler"


def lose_all_tries(world: World) -> str:
    """Let every load die before its code begins, as without an API server."""
    run = world.prepare(INGEST, HOLE)
    run.run(world.settings, {"tell_failures"})
    return run.log


def kill_everything(world: World) -> str:
    """Kill a load in its middle; all others have not begun."""
    world.kill("load_weather", INGEST, HOLE, "ingest.stage.after:1:crash")
    run = world.prepare(INGEST, HOLE)
    run.attempts["load_weather"] = 1
    run.run(world.settings, {"tell_failures"})
    return run.log


def transform_behind_a_hole(world: World) -> str:
    """Build a day whose look-back lacks the day before it, of which nothing has landed."""
    landed = world.backup.list("landing/")
    world.take_own_bucket(*(key for key in landed if f"dt={LATER}" in key))
    assert world.start(INGEST, LATER).is_success
    run = world.start(TRANSFORM, LATER)
    # It fails at once: what waits would hold a slot.
    assert run.states["build_features"] == "failed"
    return run.log


def hole_is_delivered(world: World) -> None:
    for key in world.backup.list("landing/"):
        if f"dt={HOLE}" in key:
            world.store.put(key, world.backup.get(key))


def start_with(*keys: str | None) -> Callable[[World], str]:
    """Return an act: a person starts ingest with keys that are none; every task refuses each."""

    def act(world: World) -> str:
        logs: list[str] = []
        for key in keys:
            run = world.start(INGEST, key, only=("load_weather", "announce_raw"))
            assert set(run.states.values()) == {"failed"}
            logs += run.logs.values()
        # Of several logs on-call may read the one that says least.
        return min(logs, key=lambda log: log.count("[NS-"))

    return act


def score_without_features(world: World) -> str:
    world.wakes_downstream = True
    return world.start(SCORE, HOLE).log


def two_attempts_meet(world: World) -> str:
    """Score by hand while a run begins, and let its tasks die."""
    spec, night = load_spec(world.settings.models_dir, MODEL), PartitionRange.of(NIGHT)
    by_hand = RunContext("score/by-hand", actor="cli:somebody")
    plan = pipeline.begin(world.settings, spec, night, by_hand)
    pipeline.score_shards(world.settings, spec, plan, by_hand)
    world.prepare(SCORE, NIGHT).run(world.settings, {"begin"})
    try:
        pipeline.publish(world.settings, spec, plan, by_hand)
    except StaleTokenError as error:
        return str(error)
    return "the older attempt has published"


def task_is_marked_failed(world: World) -> str:
    """End the publishing task by the signal that Airflow sends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "publish", lambda *_: signal.raise_signal(signal.SIGTERM))
        return world.start(SCORE, NIGHT).log


STARTED = {
    "commands": (START,),
    "values": {"day": HOLE},
    "is_right": World.has_weather,
}


def wrong_start(code: str) -> Seen:
    """Return the incident about a run whose key is no partition."""
    return Seen(
        code,
        INGEST,
        command="nightshift airflow backfill create --dag-id ingest --from-date <day>"
        " --to-date <day> --max-active-runs 1",
        consequence="It did nothing",
        severity="info",
    )


LOST = {
    "code": "NS-AIRFLOW-007",
    "cause": "load_weather",
    "commands": (CLEAR,),
    "values": {"dag": INGEST, "day": HOLE},
    "is_right": World.has_weather,
    "seen": (failed(INGEST, "NS-AIRFLOW-007", HOLE),),
}

FAULTS = (
    Fault(
        "scheduler and API server are killed",
        lose_all_tries,
        page="whose own code never began",
        advice="wait until `nightshift status` reports a healthy API server",
        proved_by=f"{SCHEDULER}/test_api_server_away.py::"
        "test_the_night_ends_by_itself_when_the_api_server_is_away_for_more_than_a_minute",
        **LOST,
    ),
    Fault(
        "everything is killed",
        kill_everything,
        page="whose process vanished",
        advice="Run `nightshift up`",
        proved_by=f"{SCHEDULER}/test_api_server_away.py::"
        "test_the_night_ends_by_itself_when_all_of_airflow_was_killed_and_is_started_again",
        **LOST,
    ),
    Fault(
        "an old day holds transform",
        transform_behind_a_hole,
        "NS-AIRFLOW-009",
        cause=f"raw/weather {HOLE}",
        page="Mostly somebody started an old or mistyped day",
        advice="Else ingest the missing days",
        cure=hole_is_delivered,
        tells="upstream has to deliver it first",
        seen=(
            failed(
                TRANSFORM,
                "NS-AIRFLOW-009",
                LATER,
                command=INGEST_HOLE,
            ),
        ),
        commands=(START, "nightshift airflow dags clear transform"),
        values={"day": LATER, "hole": HOLE},
        is_right=lambda world: world.has("features/flight", LATER),
    ),
    Fault(
        "a run has no key",
        start_with(None),
        "NS-AIRFLOW-002",
        cause="has no partition key",
        page="started a DAG by hand without a partition key",
        advice="Delete the run",
        seen=(wrong_start("NS-AIRFLOW-002"),),
        **STARTED,
    ),
    Fault(
        "a key is 2013-9-7",
        start_with("2013-9-7"),
        "NS-TIME-001",
        cause="2013-9-7",
        page="is not `YYYY-MM-DD`",
        advice="Delete a run with a wrong key",
        seen=(wrong_start("NS-TIME-001"),),
        **STARTED,
    ),
    Fault(
        "keys are 0001-01-01 and 9999-12-31",
        start_with("0001-01-01", "9999-12-31"),
        "NS-TIME-004",
        cause="calendar",
        page="a day before 1900-01-01 or after 2199-12-31",
        advice="Delete the run in Airflow",
        seen=(wrong_start("NS-TIME-004"),),
        **STARTED,
    ),
    Fault(
        "the features are absent",
        score_without_features,
        "NS-SCORE-003",
        cause=HOLE,
        page="whose feature view has no published load",
        seen=(failed(SCORE, "NS-SCORE-003", HOLE, command=INGEST_HOLE),),
        commands=(START,),
        values={"day": HOLE},
        is_right=lambda world: world.has(PREDICTIONS, HOLE),
    ),
    Fault(
        "two attempts meet",
        two_attempts_meet,
        "NS-WRITE-001",
        cause="newer",
        page="Two attempts of the same work ran",
        advice="If the newer attempt ended without publishing",
        seen=(failed(SCORE, "NS-AIRFLOW-007", NIGHT, consequence="Nothing runs them again"),),
        commands=(CLEAR,),
        values={"dag": SCORE},
        is_right=predictions_are_right,
        stage=FEATURES,
    ),
    Fault(
        "a task is marked failed",
        task_is_marked_failed,
        "NS-AIRFLOW-001",
        cause="nothing is published",
        page="A person marked or cleared it",
        advice="If the task ended as failed, clear it",
        seen=(failed(SCORE, "NS-AIRFLOW-001", NIGHT, consequence="Nothing runs them again"),),
        commands=(CLEAR,),
        values={"dag": SCORE},
        is_right=predictions_are_right,
        proved_by=f"{SCHEDULER}/test_marks_and_limits.py::"
        "test_nothing_is_published_when_the_task_is_marked_failed_before_the_commit",
    ),
)
