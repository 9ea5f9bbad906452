"""A task that is killed, terminated or out of time leaves nothing working in the warehouse."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from tests.integration.warehouse.conftest import DAY, PLAIN, manifest

from nightshift.contracts.run import RunContext
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow
from nightshift.warehouse.partition_write import LoadManifest, begin

pytestmark = [pytest.mark.integration, pytest.mark.promise("R17")]
LIMIT_SECONDS = 10
AIRFLOW_PATIENCE_SECONDS = 5
"""How long Airflow 3.3 waits between SIGTERM and SIGKILL."""


def long_statement(settings: Settings, run: RunContext) -> None:
    with connect(settings, run.application_name) as conn:
        conn.execute("select pg_sleep(300)")


def open_transaction_with_lock(settings: Settings, run: RunContext) -> None:
    with connect(settings, run.application_name) as conn, conn.transaction():
        conn.execute("select from ops.fences for update")
        time.sleep(300)


def wait_for_lock(settings: Settings, run: RunContext) -> None:
    with connect(settings, run.application_name) as conn:
        conn.execute("set lock_timeout = 0")
        conn.execute("select pg_advisory_lock(17)")


def stalled_copy(settings: Settings, run: RunContext) -> None:
    with (
        connect(settings, run.application_name) as conn,
        conn.cursor() as cursor,
        cursor.copy("copy features.feat_thing from stdin") as copy,
    ):
        copy.write_row(["2013-07-01", 1, "a", None, 1.0])
        time.sleep(300)


def long_arrow_read(settings: Settings, run: RunContext) -> None:
    from psycopg import sql

    read_arrow(settings, sql.SQL("select pg_sleep(300)::text"), run.application_name)


WORK = (long_statement, open_transaction_with_lock, wait_for_lock, stalled_copy, long_arrow_read)


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Return a list of forked children; those that are left are killed."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def fork(
    work: Callable[[Settings, RunContext], None],
    settings: Settings,
    run: RunContext,
    limit_seconds: float = 0,
) -> int:
    """Run work in a child as a task does: SIGTERM and the time limit raise in its main thread."""
    child = os.fork()
    if child == 0:

        def interrupt(number: int, _: object) -> None:
            raise TimeoutError(number)

        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, limit_seconds)
        try:
            work(settings, run)
        finally:
            os._exit(1)
    return child


def n_backends(conn, run: RunContext) -> int:
    query = (
        "select count(*) from pg_stat_activity"
        " where application_name = %s and datname = current_database()"
    )
    return conn.execute(query, [run.application_name]).fetchone()[0]


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def kill_after(children: list[int], seconds: float) -> None:
    """Wait for the children to end; kill those that have not in time, as Airflow does."""
    deadline = time.monotonic() + seconds
    while children and time.monotonic() < deadline:
        time.sleep(0.05)
        children[:] = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
    for child in children:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM", "time limit"])
def test_no_backend_is_left_when_a_task_ends_by(
    conn, settings, tables, children, way, record_figure
):
    begin(conn, [PLAIN], DAY, manifest())
    conn.execute("select pg_advisory_lock(17)")
    runs = {work: RunContext(f"test/{work.__name__}", 1, "test") for work in WORK}
    limit = 3.0 if way == "time limit" else 0.0
    children += [fork(work, settings, run, limit) for work, run in runs.items()]
    for run in runs.values():
        wait_until(lambda run=run: n_backends(conn, run) == 1, 20)

    if way != "time limit":
        for child in children:
            os.kill(child, signal.SIGKILL if way == "SIGKILL" else signal.SIGTERM)
    if way != "SIGKILL":
        kill_after(children, limit + AIRFLOW_PATIENCE_SECONDS)

    seconds = max(
        wait_until(lambda run=run: n_backends(conn, run) == 0, LIMIT_SECONDS)
        for run in runs.values()
    )
    record_figure(f"seconds_until_no_backend_after_{way.replace(' ', '_')}", round(seconds, 2))


def test_a_newer_attempt_ends_the_work_of_an_older_one_that_hangs(conn, settings, tables, children):
    begin(conn, [PLAIN], DAY, manifest())
    older, newer, other = (
        RunContext("test/night", 1),
        RunContext("test/night", 2),
        RunContext("test/other", 1),
    )
    children += [
        fork(open_transaction_with_lock, settings, older),
        fork(long_statement, settings, other),
    ]
    for run in (older, other):
        wait_until(lambda run=run: n_backends(conn, run) == 1, 20)
    wait_until(
        lambda: (
            conn.execute(
                "select count(*) from pg_stat_activity where state = 'idle in transaction'"
            ).fetchone()
            != (0,)
        ),
        20,
    )

    began = time.monotonic()
    begin(conn, [PLAIN], DAY, LoadManifest(newer, {"input": "b"}))

    assert time.monotonic() - began < settings.lock_timeout_seconds / 2
    wait_until(lambda: n_backends(conn, older) == 0, 2)
    assert n_backends(conn, other) == 1


def test_every_connection_has_limits_on_the_server(settings):
    names = [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "client_connection_check_interval",
    ]
    with connect(settings, "nightshift test/run#1") as conn:
        values = {
            name: conn.execute(f"show {name}".encode()).fetchone()[0]
            for name in [*names, "application_name", "timezone"]
        }

    assert values == {
        "statement_timeout": "10min",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "2min",
        "client_connection_check_interval": "2s",
        "application_name": "nightshift test/run#1",
        "timezone": "UTC",
    }


def test_two_attempts_never_share_a_name_when_the_run_is_long():
    run_id = "score__arrival_delay_minutes/2013-07-01/publish_predictions_ü" + "x" * 40
    names = [RunContext(run_id + end, n).application_name
             for end in "ab" for n in (1, 12)]  # fmt: skip

    assert len(set(names)) == 4
    assert all(len(name.encode()) <= 63 for name in names)
    assert [name[-2:] for name in names] == ["#1", "12", "#1", "12"]
