"""What a night waits for, and which keys are refused before anything is announced."""

from __future__ import annotations

import datetime as dt
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nightshift.cli.data.backfill import backfill
from nightshift.contracts.datasets import BeforeHistoryError, load_contract
from nightshift.contracts.partitions import CalendarError, Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.orchestration import data_tasks
from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration.task_scope import TaskScope
from nightshift.orchestration.upstream import (
    PAST_DAY_WAIT,
    CutoffAheadError,
    FutureDayError,
    PermanentHoleError,
    drop_wait,
    fail_on_permanent_holes,
    require_runnable,
)
from nightshift.settings import Settings
from nightshift.transformation.build import LookbackIncomplete, build
from nightshift.warehouse.control_tables.waiting_tasks import waiting_tasks
from nightshift.warehouse.dbt.project import FeatureView

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R16")]

OLD = Partition.parse("2013-06-05")


def scope_of(settings: Settings, day: dt.date) -> TaskScope:
    return TaskScope(settings, Partition(day), RunContext("transform/x/build_features", 1, "test"))


def today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def look_back(settings: Settings, day: dt.date) -> None:
    """Build as the task does, up to the look at the inputs."""
    scope = scope_of(settings, day)
    with fail_on_permanent_holes(scope):
        build(settings, PartitionRange.single(scope.partition), scope.run)


@pytest.fixture
def no_dbt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightshift.transformation.build.ensure_relations", lambda _: False)
    view = FeatureView("flight", "flight_id", {})
    monkeypatch.setattr("nightshift.transformation.build.feature_views", lambda _: [view])


def test_a_night_fails_at_once_when_its_look_back_has_holes_of_the_past(
    settings: Settings, no_dbt: None
) -> None:
    with pytest.raises(PermanentHoleError, match=r"raw/flight_outcomes 2013-05-08") as raised:
        look_back(settings, OLD.day)
    assert (raised.value.code, raised.value.is_waiting) == ("NS-AIRFLOW-009", False)


@pytest.mark.parametrize(
    ("outcome", "ago", "waits"),
    [
        (None, "1 minute", True),
        ("waiting", "3 minutes", True),
        ("NS-INGEST-001", "1 minute", False),
        (None, "2 hours", False),
    ],
)
def test_it_waits_while_somebody_ingests_the_missing_days(
    settings: Settings, conn: Connection, no_dbt: None, outcome: str | None, ago: str, waits: bool
) -> None:
    conn.execute(
        """
        insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt,
            partition_date, started_at, outcome)
        select 'ingest', 'r' || day, 'load_' || dataset, -1, 1, day,
            clock_timestamp() - %s::interval, %s
        from generate_series('2013-05-08'::date, '2013-06-05', '1 day') day,
            unnest('{flight_outcomes,flight_schedules,weather}'::text[]) dataset
        """,
        [ago, outcome],
    )
    with pytest.raises(LookbackIncomplete if waits else PermanentHoleError):
        look_back(settings, OLD.day)


def test_last_night_waits_for_its_own_drops_only(
    settings: Settings, conn: Connection, no_dbt: None
) -> None:
    """The days before it have no drop in this warehouse, and theirs is overdue."""
    with pytest.raises(PermanentHoleError) as raised:
        look_back(settings, today())
    assert f"raw/weather {today() - dt.timedelta(days=5)}" not in str(
        raised.value.__cause__.holes[:1]
    )  # type: ignore[union-attr]
    contract = load_contract(settings.datasets_dir, "weather")
    just_after = Partition(today()).cutoff + dt.timedelta(minutes=1)
    assert drop_wait(contract, Partition(today()), just_after) == dt.timedelta(
        minutes=contract.maximum_wait_minutes
    )
    assert drop_wait(contract, OLD, just_after) == PAST_DAY_WAIT


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("1900-01-01", BeforeHistoryError),
        ("2012-12-31", BeforeHistoryError),
        ("2199-12-31", FutureDayError),
        ("tomorrow", FutureDayError),
    ],
)
def test_a_day_without_data_is_refused_with_a_code(
    settings: Settings, key: str, error: type[Exception]
) -> None:
    day = today() + dt.timedelta(days=1) if key == "tomorrow" else dt.date.fromisoformat(key)
    with pytest.raises(error):
        require_runnable(scope_of(settings, day))


def test_backfill_refuses_a_range_that_begins_before_the_history(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("nightshift.cli.data.backfill", "nightshift.cli.recorded_command"):
        monkeypatch.setattr(f"{module}.load_settings", lambda: settings)
    with pytest.raises(BeforeHistoryError, match="2012-12-31"):
        backfill("2012-12-31", "2013-01-02")
    assert conn.execute("select count(*) from ops.loads").fetchone() == (0,)


def test_status_names_a_run_that_waits(conn: Connection) -> None:
    conn.execute(
        "insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, "
        "attempt, partition_date, outcome)"
        " values ('transform', 'r', 'build_features', -1, 1, '2013-06-05', 'waiting'),"
        " ('ingest', 'q', 'load_weather', -1, 1, '2013-06-05', null)"
    )
    (waiting,) = waiting_tasks(conn)
    assert "nightshift end-run transform 2013-06-05" in str(waiting.describe())
    conn.execute("update ops.task_tries set started_at = started_at - interval '11 minutes'")
    assert waiting_tasks(conn) == []


def test_a_day_of_the_history_is_not_refused(settings: Settings) -> None:
    require_runnable(scope_of(settings, dt.date(2013, 1, 1)))


def test_the_scheduled_night_waits_for_its_cut_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return Partition(dt.date(2013, 6, 6)).start.astimezone(tz)

    monkeypatch.setattr(
        "nightshift.orchestration.upstream.dt",
        SimpleNamespace(datetime=Clock, timedelta=dt.timedelta, UTC=dt.UTC),
    )
    with pytest.raises(CutoffAheadError):
        require_runnable(scope_of(settings, OLD.day))


@pytest.mark.parametrize("key", ["0001-01-01", "1899-12-31", "2200-01-01", "9999-12-31"])
def test_a_key_beyond_the_calendar_is_refused_by_every_task(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    context: dict[str, Any] = {
        "dag_run": SimpleNamespace(dag_id="ingest", run_id="r"),
        "ti": SimpleNamespace(task_id="announce_raw", try_number=1, map_index=-1, max_tries=8),
        "task": SimpleNamespace(execution_timeout=None, retries=8),
    }
    monkeypatch.setattr(scopes, "get_current_context", lambda: context)
    monkeypatch.setattr(scopes, "load_settings", lambda: settings)
    for task in (data_tasks.load_reference, data_tasks.emit_raw_assets, data_tasks.build_features):
        with pytest.raises(CalendarError) as raised:
            task.function(partition_key=key)
        assert raised.value.code == "NS-TIME-004"


@pytest.mark.parametrize("key", ["2012-12-31", "2190-01-01"])
def test_ingest_announces_nothing_for_a_day_without_data(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    context: dict[str, Any] = {
        "dag_run": SimpleNamespace(dag_id="ingest", run_id="r"),
        "ti": SimpleNamespace(task_id="announce_raw", try_number=1, map_index=-1, max_tries=8),
        "task": SimpleNamespace(execution_timeout=None, retries=8),
    }
    monkeypatch.setattr(scopes, "get_current_context", lambda: context)
    monkeypatch.setattr(scopes, "load_settings", lambda: settings)
    load_weather = partial(data_tasks.load_dataset.function, "weather")
    loads = (data_tasks.load_reference.function, load_weather)
    for body in (*loads, data_tasks.emit_raw_assets.function):
        with pytest.raises((BeforeHistoryError, FutureDayError)):
            body(partition_key=key)
    assert conn.execute("select count(*) from ops.loads").fetchone() == (0,)
