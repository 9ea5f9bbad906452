"""``kill -9`` of a task, of its supervisor, of the scheduler: the night ends with the content of
an undisturbed one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest
from tests.chaos.scheduler.disturbance import (
    contents,
    end_of,
    eventually,
    expect_nothing_left,
    held,
    instance,
    is_gone,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.whole_night import NIGHT, Whole

from nightshift.warehouse.connection import connect
from nightshift_local.process import ServerProcess

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(900, func_only=True),
    pytest.mark.long,
]

SCORES, FEATURES = "predictions/flight_delayed", "features/flight"


@pytest.mark.promise("R1")
@pytest.mark.promise("R17")
def test_killed_task_is_tried_again_and_leaves_no_backend_when_it_dies_while_publishing(
    whole: Whole, record_figure: Callable[[str, float], None]
) -> None:
    with unpublished(whole, SCORES):
        run = start(whole, "score__flight_delayed")
        with held(whole, run, "publish", "ops.ledger") as wait_until_held:
            victim = wait_until_held()
            victim.task.kill()
            record_figure(
                "seconds until a killed task's backends are gone",
                expect_nothing_left(whole, victim),
            )
            assert SCORES not in contents(whole)
        assert end_of(whole, run).state == "success"
        assert instance(whole, run, "publish")["try_number"] == 2
        wait_until_quiet(whole)


_FIRST_TRY_WAITS = """
import pathlib, time
from nightshift.transformation import build as _build
_folder, _audit = pathlib.Path(__file__).parent, _build.audit
def _late_audit(*args):
    if (_folder / "armed").exists():
        (_folder / "armed").rename(_folder / "hold")
        while (_folder / "hold").exists():
            time.sleep(0.1)
    return _audit(*args)
_build.audit = _late_audit
"""


@pytest.mark.promise("R1")
@pytest.mark.promise("R2")
def test_two_live_tries_publish_once_when_the_supervisor_is_killed(
    whole: Whole, record_figure: Callable[[str, float], None]
) -> None:
    """The first try stands before its audit while the second runs from beginning to end; then it
    wakes up."""
    hold = whole.settings.dags_dir / "hold"
    (whole.settings.dags_dir / "armed").touch()
    with unpublished(whole, FEATURES), whole.inject(_FIRST_TRY_WAITS):
        run = start(whole, "transform")
        eventually(hold.exists, 240, "the first try stands before its audit")
        first = psutil.Process(int(instance(whole, run, "build_features")["pid"]))
        first.parent().kill()
        killed_at = time.monotonic()
        eventually(
            lambda: instance(whole, run, "build_features")["try_number"] == 2,
            120,
            "Airflow has noticed",
        )
        eventually(lambda: FEATURES in contents(whole), 240, "the second try has published")
        assert not is_gone(first)
        record_figure(
            "seconds that a night takes longer when its supervisor is killed",
            time.monotonic() - killed_at,
        )
        hold.unlink()
        eventually(lambda: is_gone(first), 120, "the first try has ended")
        assert end_of(whole, run).state == "success"
        assert instance(whole, run, "build_features")["try_number"] == 2
        wait_until_quiet(whole)
    assert _attempt_of_published(whole, FEATURES) == 2


@pytest.mark.promise("R1")
def test_running_task_ends_as_success_when_the_scheduler_is_killed(whole: Whole) -> None:
    scheduler = ServerProcess(whole.settings.home, "airflow-scheduler")
    with unpublished(whole, SCORES):
        run = start(whole, "score__flight_delayed")
        with held(whole, run, "publish", "ops.ledger") as wait_until_held:
            victim = wait_until_held()
            killed = scheduler.find()
            assert killed is not None
            killed.send_signal(signal.SIGKILL)
            eventually(
                lambda: (now := scheduler.find()) is not None and now.pid != killed.pid,
                60,
                "the supervisor has started another",
            )
            assert not is_gone(victim.task)
        assert end_of(whole, run).state == "success"
        wait_until_quiet(whole)
    eventually(lambda: is_gone(victim.task), 30, "the task has ended")


def _attempt_of_published(whole: Whole, dataset: str) -> int:
    query = """
        select attempt from ops.published p join ops.loads l using (dataset, partition_date,
            load_id)
        where p.dataset = %s and p.partition_date = %s
    """
    with connect(whole.settings, "test") as conn:
        row = conn.execute(query, [dataset, NIGHT]).fetchone()
    return int(row[0]) if row else 0
