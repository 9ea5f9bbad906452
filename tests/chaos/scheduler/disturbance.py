"""Hold a task of the running Airflow at one place, find its processes, do it harm, and see what
became of the night."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
from tests.whole_night import NIGHT, Whole, not_green

from nightshift.contracts.run import RunContext
from nightshift.errors import ServiceError
from nightshift.orchestration.task_scope import task_identity
from nightshift.warehouse.connection import connect
from nightshift_local.airflow_api import DagRun

Found = TypeVar("Found")
Contents = dict[str, tuple[str, int]]
ENDED = {"success", "failed"}
MEASURED = "monitoring"
"""A verdict names its report, and a report that took too long is left out: on a busy machine its
content may differ.
"""

_HOLDS = """
create table if not exists public.chaos_holds (application_name text primary key);
create or replace function public.chaos_hold() returns trigger language plpgsql as $$
begin
    while exists (select from public.chaos_holds where application_name =
        current_setting('application_name')) loop
        perform pg_sleep(0.1);
    end loop;
    return null;
end $$;
"""


def eventually(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Return the first answer that is true; on a busy machine Airflow may not answer at once."""
    started = time.monotonic()
    while not (found := _answer(look)):
        assert time.monotonic() - started < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return found


def _answer(look: Callable[[], Found | None]) -> Found | None:
    try:
        return look()
    except ServiceError:
        return None


def contents(whole: Whole) -> Contents:
    """Return content hash and rows of everything that readers see of the night."""
    query = """
        select p.dataset, l.content_hash,
            l.n_rows from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s
    """
    with connect(whole.settings, "test") as conn:
        return {
            dataset: (content_hash, n_rows)
            for dataset, content_hash, n_rows in conn.execute(query, [NIGHT])
        }


def publisher(whole: Whole, dataset: str) -> str:
    """Return the identity of the task that began the load that readers see of the night."""
    query = """
        select l.run_id from ops.published p
        join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = %s
    """
    with connect(whole.settings, "test") as conn:
        ((identity,),) = conn.execute(query, [dataset, NIGHT]).fetchall()
    return str(identity)


def is_task_of(identity: str, run: DagRun) -> bool:
    """Return whether a task's identity in the ledger belongs to this run and its partition."""
    task_id = identity.rpartition("/")[2].partition("@")[0]
    return identity == task_identity(run.dag_id, run.run_id, str(run.partition_key), task_id)


def new_runs(whole: Whole, dag_id: str, earlier: list[DagRun]) -> list[DagRun]:
    """Return the runs of a DAG for the night that were not there earlier."""
    known = {(run.dag_id, run.run_id) for run in earlier}
    return [
        run
        for run in whole.api.runs(NIGHT)
        if run.dag_id == dag_id and (run.dag_id, run.run_id) not in known
    ]


def expect_published_by(whole: Whole, dataset: str, dag_id: str, earlier: list[DagRun]) -> None:
    """What readers see of a dataset was made by a new run of this DAG, for the night."""
    identity, runs = publisher(whole, dataset), new_runs(whole, dag_id, earlier)
    assert any(is_task_of(identity, run) for run in runs), (identity, runs)


@contextmanager
def unpublished(whole: Whole, *datasets: str) -> Iterator[None]:
    """Take the datasets away from the night's readers; at the end they must be back, published
    anew with the content of before.

    Nothing may be under way when they vanish, and it leaves no run red. When the block fails they
    come back, so that other tests go on.
    """
    wait_until_quiet(whole)
    before, red = contents(whole), not_green(whole.api, whole.api.runs(NIGHT))
    assert set(datasets) <= set(before)
    with connect(whole.settings, "test") as conn:
        query = (
            "delete from ops.published where partition_date = %s and dataset = any(%s) returning *"
        )
        taken = conn.execute(query, [NIGHT, list(datasets)]).fetchall()
    try:
        yield
    except BaseException:
        with connect(whole.settings, "test") as conn, conn.cursor() as cursor:
            places = ", ".join(["%s"] * len(taken[0]))
            cursor.executemany(
                f"insert into ops.published values ({places}) on conflict do nothing", taken
            )
        raise
    after = contents(whole)
    assert set(not_green(whole.api, whole.api.runs(NIGHT))) <= set(red)
    assert after.keys() == before.keys()
    assert {name: after[name] for name in after if not name.startswith(MEASURED)} == {
        name: before[name] for name in before if not name.startswith(MEASURED)
    }


@dataclass(frozen=True)
class Held:
    """A task that waits inside of a statement.

    Attributes:
        application_name: Of its connections.
        task: Its process.
        worker: The executor's process that supervises it.
    """

    application_name: str
    task: psutil.Process
    worker: psutil.Process


@contextmanager
def held(
    whole: Whole,
    run: DagRun,
    task_id: str,
    table: str,
    *,
    event: str = "insert",
    attempt: int = 1,
    map_index: int = -1,
) -> Iterator[Callable[[], Held]]:
    """Stop one try of a task before its statements on a table; the block gets a function that
    waits until it is there.

    The task goes on when the block ends.
    """
    identity = task_identity(run.dag_id, run.run_id, str(run.partition_key), task_id, map_index)
    name = RunContext(identity, attempt, "airflow").application_name
    with connect(whole.settings, "test") as conn:
        conn.execute(_HOLDS)
        conn.execute("insert into public.chaos_holds values (%s)", [name])
        conn.execute(
            f"create trigger chaos_hold before {event} on {table} for each statement "
            "execute function public.chaos_hold()"
        )
    try:
        yield lambda: _wait_until_held(whole, run, task_id, name, map_index)
    finally:
        with connect(whole.settings, "test") as conn:
            conn.execute("delete from public.chaos_holds where application_name = %s", [name])
            conn.execute("set lock_timeout = '60s'")
            conn.execute(f"drop trigger chaos_hold on {table}")


def _wait_until_held(whole: Whole, run: DagRun, task_id: str, name: str, map_index: int) -> Held:
    query = (
        "select pid from pg_stat_activity where application_name = %s and wait_event = 'PgSleep'"
    )
    with connect(whole.settings, "test") as conn:
        eventually(lambda: conn.execute(query, [name]).fetchone(), 180, f"{name} is held")
    process = psutil.Process(int(instance(whole, run, task_id, map_index)["pid"]))
    return Held(name, process, process.parent())


def instance(whole: Whole, run: DagRun, task_id: str, map_index: int = -1) -> dict[str, Any]:
    """Return one task instance of a run: ``state``, ``try_number``, ``pid``, …"""
    return next(
        task
        for task in whole.api.tasks(run)
        if (task["task_id"], task["map_index"]) == (task_id, map_index)
    )


def mark_failed(whole: Whole, run: DagRun, task_id: str) -> None:
    """Do what the button *Mark as failed* does."""
    whole.api.call(
        "PATCH",
        f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}",
        json={"new_state": "failed"},
    )


def set_paused(whole: Whole, dag_id: str, *, is_paused: bool) -> None:
    """Do what the switch of a DAG does."""
    whole.api.call("PATCH", f"/dags/{dag_id}", json={"is_paused": is_paused})


def log_of(whole: Whole, run: DagRun, task_id: str, attempt: int = 1) -> str:
    """Return the log of one try as Airflow shows it."""
    return str(whole.api.log(run, task_id, attempt))


def start(whole: Whole, dag_id: str) -> DagRun:
    """Start a DAG for the night."""
    return whole.api.run(dag_id, whole.api.trigger(dag_id, NIGHT))


def end_of(whole: Whole, run: DagRun, seconds: float = 300) -> DagRun:
    """Wait until a run has ended and return it."""
    eventually(
        lambda: whole.api.run(run.dag_id, run.run_id).state in ENDED, seconds, f"{run.dag_id} ends"
    )
    return whole.api.run(run.dag_id, run.run_id)


def wait_until_quiet(whole: Whole, seconds: float = 400) -> None:
    """Wait until no run of the night is active, in three looks in a row."""
    n_quiet, started = 0, time.monotonic()
    while n_quiet < 3:
        time.sleep(0.7)
        n_quiet = n_quiet + 1 if all(run.state in ENDED for run in whole.api.runs(NIGHT)) else 0
        assert time.monotonic() - started < seconds


def n_backends(whole: Whole, application_name: str) -> int:
    """Return how many backends work for the connections of this name."""
    with connect(whole.settings, "test") as conn:
        row = conn.execute(
            "select count(*) from pg_stat_activity where application_name = %s", [application_name]
        ).fetchone()
    return int(row[0]) if row else 0


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def expect_nothing_left(whole: Whole, victim: Held, seconds: float = 10) -> float:
    """Wait until neither the task's process nor a backend of it is there; return how long that
    took, in seconds."""
    started = time.monotonic()
    eventually(lambda: is_gone(victim.task), seconds, "the process is gone")
    eventually(
        lambda: n_backends(whole, victim.application_name) == 0,
        seconds - (time.monotonic() - started),
        "its backends are gone",
    )
    return time.monotonic() - started
