"""A step that did not do what its plan shows ends with an error, so that it is never applied."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.late_arrivals import LateLoad
from nightshift.plans import applying, stage_runner
from nightshift.plans.plan import ONLY_RECORD, PlanBusyError, StalePlanError, Step
from nightshift.plans.stage_runner import DropsLeftError, StageRunner

DAY = dt.date(2013, 1, 1)
NIGHT = dt.timedelta(days=1)
SETTINGS: Any = SimpleNamespace(models_dir=None)


def runner(name: str, work: list[Step], **arguments: Any) -> StageRunner:
    plan: Any = SimpleNamespace(name=name, token="plan-t", arguments=arguments, work=work)
    return StageRunner(SETTINGS, plan, "asked", RunContext("plan/plan-t"))


def redo(monkeypatch: pytest.MonkeyPatch, swept: LateLoad) -> None:
    """Run the step that loads late drops, with what came of it."""
    monkeypatch.setattr(stage_runner, "load_late_drops", lambda *_, **__: swept)
    step = Step("ingest", "raw/weather", DAY, DAY, "landed, not loaded")
    runner("redo", [step], reread=False).run_step(step, print)


def test_a_dataset_that_another_process_loads_is_busy(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(PlanBusyError, match="loading weather") as busy:
        redo(monkeypatch, LateLoad("raw/weather", is_busy=True))
    assert "nightshift apply plan-t" in (busy.value.todo or "")


def test_refused_drops_end_the_step_with_key_and_code(monkeypatch: pytest.MonkeyPatch):
    drop: Any = SimpleNamespace(data_key="landing/weather/a.csv")
    with pytest.raises(DropsLeftError) as left:
        redo(monkeypatch, LateLoad("raw/weather", left=((drop, "NS-CONTRACT-004"),)))
    assert left.value.got == "landing/weather/a.csv: NS-CONTRACT-004"
    redo(monkeypatch, LateLoad("raw/weather", loaded=(drop,)))


@pytest.mark.parametrize(
    ("shown", "affected", "is_refused"),
    [(1, 1, False), (1, 2, True), (2, 1, True), (0, 0, False), (0, 1, True)],
)
def test_a_rollback_of_other_nights_than_shown_is_refused(
    monkeypatch: pytest.MonkeyPatch, shown: int, affected: int, is_refused: bool
):
    calls: list[str] = []
    last = DAY + max(affected - 1, 0) * NIGHT
    part = SimpleNamespace(partitions=PartitionRange.of(str(DAY), str(last)))
    repair = SimpleNamespace(partition_runs=[part] if affected else [])
    monkeypatch.setattr(stage_runner, "load_spec", lambda *_: None)
    monkeypatch.setattr(stage_runner, "plan_rollback", lambda *_: repair)
    monkeypatch.setattr(stage_runner, "roll_back", lambda *_: calls.append("done"))
    reason = "version 1 scores again" if shown else ONLY_RECORD
    step = Step("rollback", "predictions/m", DAY, DAY + max(shown - 1, 0) * NIGHT, reason)
    stages = runner("rollback", [step], model="m", since=str(DAY), version=1)
    if is_refused:
        with pytest.raises(StalePlanError):
            stages.run_step(step, print)
    else:
        stages.run_step(step, print)
    assert calls == ([] if is_refused else ["done"])


def test_a_lost_connection_does_not_replace_the_error_of_the_step():
    def broken(*_: Any) -> None:
        raise psycopg.OperationalError("the connection is lost")

    conn: Any = SimpleNamespace(closed=False, execute=broken)
    plan: Any = SimpleNamespace(token="plan-t")
    applying.note_failure(conn, plan, DropsLeftError("refused"))
