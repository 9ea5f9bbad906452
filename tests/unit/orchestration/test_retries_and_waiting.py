"""What a failed task does next: wait, try again, or call a person."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowRescheduleException

from nightshift.errors import AuditError, StaleTokenError, WarehouseError
from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration.defaults import (
    N_TRIES,
    WAREHOUSE,
    StageRetryPolicy,
    task_defaults,
)
from nightshift.orchestration.task_scope import (
    OVERDUE_EXIT_CODE,
    NotPartitionedError,
    TaskTerminatedError,
    ended_when_overdue,
    task_scope,
    waiting,
)
from nightshift.settings import PROJECT_ROOT
from nightshift.transformation.build import LookbackIncomplete

KEY = "2013-03-10"
LIMIT = dt.timedelta(minutes=60)


class Instance:
    """A task instance that looked for the first time some minutes ago."""

    def __init__(self, first_look: dt.datetime | None = None) -> None:
        self.task_id, self.try_number, self.map_index, self._first_look = (
            "build_features",
            2,
            -1,
            first_look,
        )

    def get_first_reschedule_date(self, _: Any) -> dt.datetime | None:
        return self._first_look


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Be a task of Airflow's; the handler of SIGTERM is restored afterwards."""
    given: dict[str, Any] = {
        "dag_run": SimpleNamespace(dag_id="transform", run_id="r"),
        "ti": Instance(),
    }
    given["task"] = SimpleNamespace(execution_timeout=None)
    monkeypatch.setattr(scopes, "get_current_context", lambda: given)
    monkeypatch.setattr(scopes, "load_settings", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    yield given
    signal.signal(signal.SIGTERM, before)


def minutes_ago(minutes: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (WarehouseError("down"), RetryAction.RETRY),
        (ValueError("ours or a vendor's"), RetryAction.RETRY),
        (StaleTokenError("a run that raced this one publishes"), RetryAction.RETRY),
        (AuditError("refused"), RetryAction.FAIL),
        (LookbackIncomplete("holes, and the limit is over"), RetryAction.FAIL),
    ],
)
@pytest.mark.parametrize("try_number", [1, 7])
def test_policy_asks_the_error_when_a_task_fails(
    error: Exception, action: RetryAction, try_number: int
) -> None:
    """Airflow counts the tries, also after a clear, so the number must not matter."""
    assert StageRetryPolicy().evaluate(error, try_number, 2).action is action


def test_airflow_may_lose_tries_beside_the_three_of_our_own_code() -> None:
    defaults = task_defaults("team", WAREHOUSE, timeout_minutes=5)
    assert (N_TRIES, defaults["retries"]) == (3, 8)
    pauses = [20 * defaults["retry_exponential_backoff"] ** number for number in range(8)]
    longest = defaults["max_retry_delay"].total_seconds()
    assert sum(min(pause, longest) for pause in pauses) > 30 * 60, (
        "an outage of half an hour is survived"
    )


@pytest.mark.parametrize("minutes", [None, 59])
def test_task_is_put_back_when_upstream_owes_something(
    context: dict[str, Any], minutes: int | None
) -> None:
    context["ti"] = Instance(None if minutes is None else minutes_ago(minutes))
    with pytest.raises(AirflowRescheduleException) as raised, waiting(LIMIT):
        raise LookbackIncomplete("holes")
    pause = (raised.value.reschedule_date - dt.datetime.now(dt.UTC)).total_seconds()
    assert 110 < pause <= 120


def test_task_fails_with_its_code_when_the_limit_is_over(context: dict[str, Any]) -> None:
    context["ti"] = Instance(minutes_ago(61))
    with pytest.raises(LookbackIncomplete), waiting(LIMIT):
        raise LookbackIncomplete("holes")


def test_task_does_not_wait_when_nothing_is_owed(context: dict[str, Any]) -> None:
    with pytest.raises(WarehouseError), waiting(LIMIT):
        raise WarehouseError("down")


def test_scope_has_the_run_partition_and_an_identity_without_the_try(
    context: dict[str, Any],
) -> None:
    with task_scope(KEY) as scope:
        assert scope.partition.key == "2013-03-10"
        assert [day.key for day in scope.partitions] == ["2013-03-10"]
        assert (scope.run.run_id, scope.run.attempt, scope.run.actor) == (
            "transform/2013-03-10/build_features@454349",
            2,
            "airflow",
        )


def test_scope_refuses_a_run_without_a_partition(context: dict[str, Any]) -> None:
    with pytest.raises(NotPartitionedError), task_scope(None):
        pytest.fail("the body ran")


def test_terminated_task_raises_when_the_signal_comes(context: dict[str, Any]) -> None:
    with pytest.raises(TaskTerminatedError), task_scope(KEY):
        os.kill(os.getpid(), signal.SIGTERM)


def test_terminated_task_raises_when_a_stage_swallows_the_signal(context: dict[str, Any]) -> None:
    with pytest.raises(TaskTerminatedError), task_scope(KEY), contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)


def test_no_stage_mistakes_the_signal_for_a_failure_of_its_own(context: dict[str, Any]) -> None:
    """What a stage makes of an exception, for example a broken champion, must not happen because
    somebody ended the task."""
    blamed = []

    def stage() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # noqa: BLE001 - as a stage would
            blamed.append("the champion")

    with pytest.raises(TaskTerminatedError), task_scope(KEY):
        stage()
    assert blamed == []


def test_a_second_signal_does_not_interrupt_the_clean_up(context: dict[str, Any]) -> None:
    cleaned = []

    def stage() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("rolled back")

    with pytest.raises(TaskTerminatedError), task_scope(KEY):
        stage()
    assert cleaned == ["rolled back"]


@pytest.mark.parametrize("call", ["time.sleep(30)", "ctypes.PyDLL(None).sleep(30)"])
def test_process_ends_with_code_and_stacks_when_c_code_outlives_the_limit(call: str) -> None:
    """``PyDLL`` keeps the interpreter's lock, as a vendor's C code may: no thread of Python runs
    then."""
    code = (
        "import ctypes, datetime, time; from nightshift.orchestration.task_scope "
        "import ended_when_overdue as ended\n"
    )
    code += "import signal; signal.signal(signal.SIGALRM, lambda *_: None)\n"
    code += f"with ended(datetime.timedelta(seconds=1), grace_seconds=1.0): {call}"
    env = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert time.monotonic() - started < 25
    assert done.returncode == (OVERDUE_EXIT_CODE if "time" in call else 1)
    assert ("[NS-AIRFLOW-004]" in done.stderr) == ("time" in call)
    assert "most recent call first" in done.stderr


def test_watchdog_is_gone_when_the_task_ends_in_time() -> None:
    before = threading.active_count()
    with ended_when_overdue(dt.timedelta(seconds=60)):
        assert threading.active_count() == before + 1
    deadline = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
