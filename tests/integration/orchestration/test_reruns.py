"""Which runs are started again: those that left the night unfinished although nothing of ours has
failed for good."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import DagRunResult, GetDagRun, TriggerDagRun

from nightshift.contracts.partitions import Partition
from nightshift.orchestration import reruns
from nightshift.orchestration.reruns import MAX_RERUNS, improvable_scorings, lost_ingests
from nightshift.scoring.degraded import DegradedPartition
from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R16")]

DAY = dt.date(2013, 3, 10)
MODEL = "flight_delayed"
LONG_AGO, JUST_NOW = "1 hour", "1 minute"


class FinishedRuns:
    """What Airflow answers to a task about runs that have all ended, and which it cleared."""

    def __init__(self) -> None:
        self.cleared: list[str] = []

    def send(self, request: TriggerDagRun | GetDagRun) -> DagRunResult | None:
        if isinstance(request, TriggerDagRun):
            self.cleared.append(request.run_id)
            return None
        now = dt.datetime.now(dt.UTC)
        return DagRunResult(
            dag_id=request.dag_id,
            run_id=request.run_id,
            run_type="scheduled",
            state="failed",
            run_after=now,
            start_date=now,
            end_date=now,
            logical_date=None,
            data_interval_start=None,
            data_interval_end=None,
            partition_key=str(DAY),
            consumed_asset_events=[],
        )


def tried(
    conn: Connection,
    task_id: str,
    outcome: str | None,
    ago: str = LONG_AGO,
    *,
    dag_id: str = "ingest",
    run: str = "r1",
    attempt: int = 1,
) -> None:
    """Record a try that began some time ago."""
    conn.execute(
        """
        insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt,
            partition_date, started_at, ended_at, outcome)
        select %(dag)s, %(run)s, %(task)s, -1, %(attempt)s, %(day)s, at,
            case when %(outcome)s::text is not null then at end, %(outcome)s
        from (select clock_timestamp() - %(ago)s::interval as at) t
        """,
        {
            "dag": dag_id,
            "run": run,
            "task": task_id,
            "attempt": attempt,
            "day": DAY,
            "ago": ago,
            "outcome": outcome,
        },
    )


def publish(conn: Connection, *datasets: str) -> None:
    for dataset in datasets:
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token) "
            "values (%s, %s, 1, 1)",
            [dataset, DAY],
        )


def found(settings: Settings, conn: Connection) -> list[str]:
    return [one.dag_run_id for one in lost_ingests(settings, conn)]


def test_an_ingest_is_found_when_loads_died_before_their_code_began(
    settings: Settings, conn: Connection
) -> None:
    """The third load has no record at all; the tasks behind the loads did begin, and failed."""
    for dataset in ("flight_outcomes", "flight_schedules"):
        tried(conn, f"load_{dataset}", "success")
        publish(conn, f"raw/{dataset}")
    tried(conn, "announce_raw", "NS-AIRFLOW-005")
    tried(conn, "tell_failures", "NS-AIRFLOW-007")
    (one,) = lost_ingests(settings, conn)
    assert (one.dag_id, one.dag_run_id, one.day) == ("ingest", "r1", DAY)
    assert one.reason.startswith("[NS-AIRFLOW-007]")
    assert "raw/weather" in one.reason


@pytest.mark.parametrize("outcome", [None, "waiting"])
def test_an_ingest_is_found_when_a_load_died_in_its_middle_or_never_looked_again(
    settings: Settings, conn: Connection, outcome: str | None
) -> None:
    tried(conn, "load_weather", outcome)
    assert found(settings, conn) == ["r1"]


@pytest.mark.parametrize(
    "outcome", ["NS-CONTRACT-001", "NS-INGEST-001", "NS-AIRFLOW-001", "KeyError"]
)
def test_it_is_left_to_a_person_when_a_load_failed_by_its_own_doing(
    settings: Settings, conn: Connection, outcome: str
) -> None:
    tried(conn, "load_flight_outcomes", "success")
    tried(conn, "load_weather", outcome)
    assert found(settings, conn) == []


def test_a_later_try_has_the_last_word(settings: Settings, conn: Connection) -> None:
    tried(conn, "load_weather", "NS-LAKE-001")
    tried(conn, "load_weather", None, "30 minutes", attempt=2)
    assert found(settings, conn) == ["r1"]


def test_only_the_newest_run_of_a_day_is_started_again(
    settings: Settings, conn: Connection
) -> None:
    tried(conn, "load_weather", None)
    tried(conn, "load_weather", None, "40 minutes", run="r2")
    assert found(settings, conn) == ["r2"]


@pytest.mark.parametrize("ago", [JUST_NOW, "8 days"])
def test_it_is_not_found_while_it_is_under_way_or_after_a_week(
    settings: Settings, conn: Connection, ago: str
) -> None:
    tried(conn, "load_weather", None, ago)
    assert found(settings, conn) == []


def test_it_is_not_found_when_all_of_the_day_is_published(
    settings: Settings, conn: Connection
) -> None:
    tried(conn, "load_weather", None)
    publish(conn, "raw/weather", "raw/flight_outcomes", "raw/flight_schedules")
    assert found(settings, conn) == []


@pytest.fixture
def degraded(monkeypatch: pytest.MonkeyPatch, conn: Connection) -> DegradedPartition:
    """Have one degraded night, which the champion would score better."""
    night = DegradedPartition(
        MODEL,
        Partition(DAY),
        "fallback_rule",
        "the store was away",
        dt.datetime.now(dt.UTC),
        by_airflow=True,
    )
    monkeypatch.setattr(
        reruns, "degraded_partitions", lambda _, spec: [night] if spec.name == MODEL else []
    )
    monkeypatch.setattr(reruns, "better_choice", lambda *_: "the champion")
    tried(conn, "publish", "success", dag_id=f"score__{MODEL}", run="scored")
    return night


def test_the_scoring_of_a_degraded_night_runs_again(
    settings: Settings, conn: Connection, degraded: DegradedPartition
) -> None:
    (one,) = improvable_scorings(settings, conn)
    assert (one.dag_id, one.dag_run_id) == (f"score__{MODEL}", "scored")
    assert "NS-SCORE-007" in one.reason


@pytest.mark.parametrize(
    "why", ["nothing is better", "it breaks", "made by hand", "too late", "never in Airflow"]
)
def test_it_does_not_when(
    settings: Settings,
    conn: Connection,
    degraded: DegradedPartition,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("a model may break in any way")

    changes: dict[str, dict[str, Any]] = {
        "made by hand": {"by_airflow": False},
        "too late": {"published_at": dt.datetime(2013, 3, 11, tzinfo=dt.UTC)},
    }
    changed = DegradedPartition(**{**vars(degraded), **changes.get(why, {})})
    monkeypatch.setattr(reruns, "degraded_partitions", lambda *_: [changed])
    if why in {"nothing is better", "it breaks"}:
        monkeypatch.setattr(
            reruns, "better_choice", breaks if why == "it breaks" else lambda *_: None
        )
    if why == "never in Airflow":
        conn.execute("delete from ops.task_tries")
    assert improvable_scorings(settings, conn) == []


def test_a_run_is_started_again_three_times_at_most_and_not_at_once(
    settings: Settings,
    conn: Connection,
    degraded: DegradedPartition,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airflow = FinishedRuns()
    monkeypatch.setattr(reruns, "load_settings", lambda: settings)
    monkeypatch.setattr(
        reruns, "get_current_context", lambda: {"task": SimpleNamespace(execution_timeout=None)}
    )
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", airflow, raising=False)
    for number in range(MAX_RERUNS):
        assert reruns.rerun_unfinished.function() == [f"score__{MODEL} {DAY}"]
        with pytest.raises(AirflowSkipException):
            reruns.rerun_unfinished.function()
        conn.execute("update ops.reruns set at = at - interval '30 minutes'")
        assert len(airflow.cleared) == number + 1
    with pytest.raises(AirflowSkipException):
        reruns.rerun_unfinished.function()
