"""A task that a person marks as failed, and one that is over its limit in C code or in SQL: the
state in Airflow is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.chaos.scheduler.disturbance import (
    contents,
    end_of,
    expect_nothing_left,
    held,
    instance,
    log_of,
    mark_failed,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.whole_night import Whole

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(900, func_only=True),
    pytest.mark.long,
]

SCORES = "predictions/flight_delayed"


@pytest.mark.promise("R17")
def test_nothing_is_published_when_the_task_is_marked_failed_before_the_commit(
    whole: Whole, record_figure: Callable[[str, float], None]
) -> None:
    with unpublished(whole, SCORES):
        run = start(whole, "score__flight_delayed")
        with held(whole, run, "publish", "ops.ledger") as wait_until_held:
            victim = wait_until_held()
            mark_failed(whole, run, "publish")
            record_figure(
                "seconds until a task marked failed is gone", expect_nothing_left(whole, victim)
            )
        assert end_of(whole, run).state == "failed"
        assert SCORES not in contents(whole)
        log = log_of(whole, run, "publish")
        assert "NS-AIRFLOW-001" in log
        assert "nothing is published" in log
        whole.api.clear(run)
        assert end_of(whole, run).state == "success"
        wait_until_quiet(whole)


def test_the_log_says_what_readers_see_when_the_task_is_marked_failed_after_the_commit(
    whole: Whole,
) -> None:
    with unpublished(whole, SCORES):
        run = start(whole, "score__flight_delayed")
        with held(
            whole, run, "publish", "predictions.flight_delayed", event="delete"
        ) as wait_until_held:
            victim = wait_until_held()
            assert SCORES in contents(whole)
            mark_failed(whole, run, "publish")
            expect_nothing_left(whole, victim)
        assert end_of(whole, run).state == "failed"
        assert f"readers see {SCORES} load" in log_of(whole, run, "publish")
        whole.api.clear(run)
        assert end_of(whole, run).state == "success"
        wait_until_quiet(whole)


_LIMIT = """
import pathlib
_task_defaults = defaults.task_defaults
def _limited(*arguments, **options):
    given = _task_defaults(*arguments, **options)
    if pathlib.Path(__file__).name == "score.py":
        given["execution_timeout"] = datetime.timedelta(seconds=20)
    return given
defaults.task_defaults = _limited
"""
_LOST_IN_C = """
import hashlib
from nightshift.warehouse import partition_write
_audit, _armed = partition_write.audit, pathlib.Path(__file__).parent / "armed"
def _endless_audit(conn, write, *rest):
    if write.targets[0].dataset == "predictions/flight_delayed" and _armed.exists():
        _armed.unlink()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    return _audit(conn, write, *rest)
partition_write.audit = _endless_audit
"""
"""One call of C that no signal interrupts, minutes long; ``sleep`` of libc returns when the
alarm comes.
"""


@pytest.mark.promise("R17")
def test_the_next_try_publishes_when_one_is_over_its_limit_in_c_code(whole: Whole) -> None:
    (whole.settings.dags_dir / "armed").touch()
    with unpublished(whole, SCORES), whole.inject(_LIMIT + _LOST_IN_C):
        run = start(whole, "score__flight_delayed")
        assert end_of(whole, run).state == "success"
        assert instance(whole, run, "publish")["try_number"] == 2
        log = log_of(whole, run, "publish")
        assert "NS-AIRFLOW-004" in log
        assert "_endless_audit" in log
        wait_until_quiet(whole)


@pytest.mark.promise("R17")
def test_the_server_stops_working_and_the_next_try_publishes_when_one_is_over_its_limit_in_sql(
    whole: Whole, record_figure: Callable[[str, float], None]
) -> None:
    with unpublished(whole, SCORES), whole.inject(_LIMIT):
        run = start(whole, "score__flight_delayed")
        with held(whole, run, "publish", "ops.ledger") as wait_until_held:
            victim = wait_until_held()
            victim.task.wait(40)
            record_figure(
                "seconds until the server stops the statement of an overdue task",
                expect_nothing_left(whole, victim),
            )
        assert end_of(whole, run).state == "success"
        assert instance(whole, run, "publish")["try_number"] == 2
        assert "AirflowTaskTimeout" in log_of(whole, run, "publish")
        wait_until_quiet(whole)
