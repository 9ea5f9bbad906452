"""Which tries count: those whose own code has begun and failed by its own doing."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.errors import SettingsError, WarehouseError
from nightshift.orchestration import defaults, reruns
from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration.data_tasks import watcher
from nightshift.orchestration.defaults import WAREHOUSE, StageRetryPolicy, task_defaults
from nightshift.orchestration.task_scope import task_scope
from nightshift.orchestration.task_tries import TriesUsedUpError
from nightshift.settings import Settings
from nightshift.stage_times import stage

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18")]

DAY = dt.date(2013, 3, 10)
KEY = DAY.isoformat()
RETRIES = task_defaults("team", WAREHOUSE, timeout_minutes=5)["retries"]


class Attempts:
    """A task of Airflow's, tried again and again."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = SimpleNamespace(
            task_id="load_weather", try_number=1, map_index=-1, max_tries=RETRIES
        )
        self.context: dict[str, Any] = {
            "dag_run": SimpleNamespace(dag_id="ingest", run_id="r"),
            "ti": self.instance,
            "task": SimpleNamespace(execution_timeout=None, retries=RETRIES),
        }
        for module in (scopes, reruns):
            monkeypatch.setattr(module, "get_current_context", lambda: self.context)
        for module in (scopes, defaults):
            monkeypatch.setattr(module, "load_settings", lambda: settings)

    def run(self, body: Callable[[], None]) -> RetryAction | None:
        """Run a try, and return what Airflow does next; the next call is the next try."""
        try:
            with task_scope(KEY):
                body()
        except Exception as error:  # noqa: BLE001 - whatever it is, the policy decides
            return (
                StageRetryPolicy()
                .evaluate(error, self.instance.try_number, RETRIES, self.context)
                .action
            )
        else:
            return None
        finally:
            self.instance.try_number += 1

    def lose(self) -> None:
        """Let a try die before its own code begins."""
        self.instance.try_number += 1

    def clear(self) -> None:
        """Do what Airflow does when a person clears the task."""
        self.instance.max_tries = self.instance.try_number - 1 + RETRIES


@pytest.fixture
def attempts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempts]:
    before = signal.getsignal(signal.SIGTERM)
    yield Attempts(settings, monkeypatch)
    signal.signal(signal.SIGTERM, before)


def fail() -> None:
    raise WarehouseError("a lock was not free")


def outcomes(conn: Connection) -> list[tuple[int, str | None]]:
    return conn.execute("select attempt, outcome from ops.task_tries order by attempt").fetchall()


def test_the_third_failure_of_our_own_code_is_the_last(
    attempts: Attempts, conn: Connection
) -> None:
    assert [attempts.run(fail) for _ in range(3)] == [
        RetryAction.RETRY,
        RetryAction.RETRY,
        RetryAction.FAIL,
    ]
    assert outcomes(conn) == [(number, "NS-WAREHOUSE-001") for number in (1, 2, 3)]


def test_tries_that_died_before_our_code_do_not_count(attempts: Attempts) -> None:
    for _ in range(5):
        attempts.lose()
    assert [attempts.run(fail) for _ in range(3)] == [
        RetryAction.RETRY,
        RetryAction.RETRY,
        RetryAction.FAIL,
    ]


def test_a_cleared_task_has_all_its_tries_again(attempts: Attempts) -> None:
    for _ in range(3):
        attempts.run(fail)
    attempts.clear()
    assert [attempts.run(fail) for _ in range(3)] == [
        RetryAction.RETRY,
        RetryAction.RETRY,
        RetryAction.FAIL,
    ]


def test_a_try_that_waits_for_upstream_does_not_count(attempts: Attempts, conn: Connection) -> None:
    def wait() -> None:
        raise AirflowRescheduleException(dt.datetime.now(dt.UTC))

    for _ in range(4):
        attempts.run(wait)
        attempts.instance.try_number = 1
    assert outcomes(conn) == [(1, "waiting")]
    assert attempts.run(fail) is RetryAction.RETRY


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (AirflowSkipException("nothing to do"), "skipped"),
        (SettingsError("wrong"), "NS-SETTINGS-001"),
        (KeyError("a value"), "KeyError"),
        (None, "success"),
    ],
)
def test_the_record_says_how_a_try_ended(
    attempts: Attempts, conn: Connection, error: Exception | None, outcome: str
) -> None:
    def body() -> None:
        if error is not None:
            raise error

    attempts.run(body)
    assert outcomes(conn) == [(1, outcome)]


def test_a_task_whose_processes_vanish_ends_with_a_code(
    attempts: Attempts, conn: Connection
) -> None:
    """What the out-of-memory killer ends is tried three times, not as often as Airflow may lose
    tries."""
    for _ in range(3):
        attempts.run(lambda: None)
    conn.execute("update ops.task_tries set outcome = null, ended_at = null")
    with pytest.raises(TriesUsedUpError), task_scope(KEY):
        pytest.fail("the body ran")
    assert outcomes(conn)[-1] == (4, "NS-AIRFLOW-008")


def test_a_task_goes_on_when_its_tries_cannot_be_recorded(
    attempts: Attempts, conn: Connection
) -> None:
    conn.execute("drop table ops.task_tries cascade")
    ran = []
    assert attempts.run(lambda: ran.append(1)) is None
    assert ran == [1]
    assert attempts.run(fail) is RetryAction.RETRY


def test_the_stages_of_a_try_are_kept_also_when_it_fails(
    attempts: Attempts, conn: Connection
) -> None:
    def body() -> None:
        with stage("gate", dataset="raw/weather"):
            fail()

    attempts.run(body)
    ((stages,),) = conn.execute("select stages from ops.task_tries")
    assert [(each["name"], each["outcome"]) for each in stages] == [("gate", WarehouseError.code)]
    assert stages[0]["attributes"] == {"dataset": "raw/weather"}


def test_a_warehouse_without_the_column_of_stages_keeps_the_outcome(
    attempts: Attempts, conn: Connection
) -> None:
    conn.execute("alter table ops.task_tries drop column stages")
    attempts.run(lambda: None)
    assert outcomes(conn) == [(1, "success")]


def test_the_night_says_that_tries_were_lost_when_no_load_failed_by_its_own_doing(
    attempts: Attempts, conn: Connection
) -> None:
    attempts.run(lambda: None)
    attempts.instance.task_id = "tell_failures"
    with pytest.raises(reruns.LostTriesError, match="load_reference") as raised:
        watcher.function(KEY, "r")
    assert raised.value.code == "NS-AIRFLOW-007"
    assert "load_weather" not in raised.value.what
    conn.execute(
        "update ops.task_tries set outcome = 'NS-CONTRACT-001' where task_id = 'load_weather'"
    )
    with pytest.raises(Exception, match="NS-AIRFLOW-006"):
        watcher.function(KEY, "r")
