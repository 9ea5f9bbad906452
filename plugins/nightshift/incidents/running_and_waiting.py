"""What runs and what waits, one sentence each: for files, locks, slots, and tries that are gone."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import Partition
from nightshift.incidents.context import EvaluationContext, local_time
from nightshift.warehouse.control_tables.waiting_tasks import WaitingTask, waiting_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

# A try that has reported nothing for so long most likely died; running ones are shorter.
LOST_AFTER = dt.timedelta(minutes=30)
LOST_WITHIN = dt.timedelta(days=1)


class ActiveRun(Protocol):
    """A queued or running run, as a client of Airflow's API describes it."""

    @property
    def dag_id(self) -> str:
        """The DAG."""

    @property
    def partition_key(self) -> str | None:
        """Its partition; None for a run without one."""

    @property
    def state(self) -> str:
        """``queued`` or ``running``."""

    @property
    def started_at(self) -> str | None:
        """ISO time; None while queued."""


class AirflowRuns(Protocol):
    """What the overview asks Airflow."""

    def active_runs(self) -> Sequence[ActiveRun]:
        """Return the queued and running runs."""

    def paused_dags(self) -> set[str]:
        """Return the DAGs that a person has paused."""

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools with their slots."""

    def longest_run(self, dag_id: str) -> dt.timedelta | None:
        """Return after how long Airflow ends a run of the DAG; None if it never does."""


def what_runs(context: EvaluationContext, runs: AirflowRuns | None) -> tuple[list[str], list[str]]:
    """Return what runs, and what waits and why.

    Args:
        context: The warehouse.
        runs: Airflow's API; without it, the tries that began are all that is known to run.
    """
    # Waiting for a file, for a lock, or for a try whose process is gone.
    waiting = [_describe_waiting(context, task) for task in waiting_tasks(context.conn)]
    waiting += _blocked_sessions(context) + _lost_tries(context) + _unborn_tries(context)
    # What is queued, and which slots are full, only Airflow knows.
    if runs is None:
        return _open_tries(context), waiting
    running, waiting_runs = describe_runs(runs)
    return running, waiting + waiting_runs


def _describe_waiting(context: EvaluationContext, task: WaitingTask) -> str:
    """Return which file a task waits for, and until when."""
    sentence = f"{task.dag_id} of {task.day} waits in {task.task_id}"
    name = task.task_id.removeprefix("load_")
    if task.task_id.startswith("load_") and name in context.contract_files.documents:
        contract = load_contract(context.settings.datasets_dir, name)
        wait = dt.timedelta(minutes=contract.maximum_wait_minutes)
        until = Partition(task.day).cutoff + wait
        sentence += f" for a file in landing/{name}/dt={task.day}/"
        if until > context.now:
            return f"{sentence} until {local_time(until)}"
    elif task.dag_id == "transform":
        sentence += " for raw data of its look-back (`nightshift why-not` names it)"
    return f"{sentence}; it looked last at {local_time(task.last_look)}"


def _open_tries(context: EvaluationContext) -> list[str]:
    """Return the tries whose own code has begun lately and has not ended."""
    # What the warehouse alone can tell; Airflow also knows what is queued.
    rows = context.conn.execute(
        """
        select dag_id, task_id, partition_date, started_at from ops.task_tries
        where outcome is null and started_at > clock_timestamp() - %s::interval
        order by started_at
        """,
        [LOST_AFTER],
    )
    return [
        f"{dag_id} of {day}: {task_id} since {local_time(started_at)}"
        for dag_id, task_id, day, started_at in rows
    ]


def _lost_tries(context: EvaluationContext) -> list[str]:
    """Return the tries that began and never reported an end, unless a newer one followed."""
    rows = context.conn.execute(
        """
        select distinct on (dag_id, task_id, map_index, partition_date)
            dag_id, task_id, partition_date, outcome, started_at
        from ops.task_tries
        where started_at > clock_timestamp() - %s::interval
        order by dag_id, task_id, map_index, partition_date, started_at desc
        """,
        [LOST_WITHIN],
    )
    # A younger one may still run.
    oldest = context.now - LOST_AFTER
    return [
        f"{task_id} of {dag_id} of {day} began at {local_time(started_at)} and never reported its"
        " end (NS-AIRFLOW-007)"
        for dag_id, task_id, day, outcome, started_at in rows
        if outcome is None and started_at < oldest
    ]


def _unborn_tries(context: EvaluationContext) -> list[str]:
    """Return the tries that died before their own code: Airflow's numbers that are missing here."""
    rows = context.conn.execute(_UNBORN, {"within": LOST_WITHIN}).fetchall()
    away = context.conn.execute(_AWAY, {"within": LOST_WITHIN}).fetchall()
    spans = [
        f"{local_time(opened_at)} to {local_time(closed_at) if closed_at else 'now'}"
        for opened_at, closed_at in away
    ]
    reason = f"; Airflow was away from {', '.join(spans)}" if spans else ""
    # Of several deaths the last one is nearest to what to do next.
    return [
        f"{n_tries} tries of {task_id} of {dag_id} of {day} died before their own code, by"
        f" {local_time(last_at)}{reason}"
        for dag_id, task_id, day, n_tries, last_at in rows
    ]


_UNBORN = """
with counted as (
    select dag_id, task_id, partition_date, max(attempt) - count(*) as n_tries,
        max(started_at) as last_at
    from ops.task_tries t
    where exists (
        select from ops.task_tries r
        where (r.dag_id, r.dag_run_id, r.task_id, r.map_index)
                = (t.dag_id, t.dag_run_id, t.task_id, t.map_index)
            and r.started_at > clock_timestamp() - %(within)s::interval)
    group by dag_id, dag_run_id, task_id, map_index, partition_date
)
select dag_id, task_id, partition_date, sum(n_tries)::int, max(last_at)
from counted where n_tries > 0 group by 1, 2, 3 order by 5 desc, 1, 2
"""
_AWAY = """
select opened_at, closed_at from ops.incidents
where kind = 'airflow away' and code = 'NS-SERVICE-001'
    and coalesce(closed_at, clock_timestamp()) > clock_timestamp() - %(within)s::interval
order by opened_at desc limit 3
"""


def _blocked_sessions(context: EvaluationContext) -> list[str]:
    """Return which sessions of the warehouse wait for a lock, and who holds it."""
    # Application names are the names of tries and commands; a query may hold values of rows.
    rows = context.conn.execute(
        """
        select w.application_name, clock_timestamp() - w.query_start,
            string_agg(distinct h.application_name || ' (pid ' || h.pid || ')', ', ')
        from pg_stat_activity w
        join pg_stat_activity h on h.pid = any(pg_blocking_pids(w.pid))
        where w.datname = current_database() and w.wait_event_type = 'Lock'
        group by 1, 2, w.pid
        """
    )
    return [
        f"{waiter} waits for a lock since {waited.total_seconds():.0f} s; it is held by {holder}"
        for waiter, waited, holder in rows
    ]


def _instant(text: str | None) -> dt.datetime | None:
    """Return an instant of Airflow's API."""
    return dt.datetime.fromisoformat(text) if text else None


def _describe_holder(run: ActiveRun, limit: dt.timedelta | None) -> str:
    """Return which run holds a slot, and when Airflow ends it if nothing else does."""
    holder = f"the run of {run.partition_key}"
    started_at = _instant(run.started_at)
    if started_at is None or limit is None:
        return holder
    return f"{holder}, until {local_time(started_at + limit)} at the latest"


def describe_runs(airflow: AirflowRuns) -> tuple[list[str], list[str]]:
    """Return what runs in Airflow, and why other runs do not."""
    by_dag: dict[str, list[ActiveRun]] = defaultdict(list)
    for run in airflow.active_runs():
        by_dag[run.dag_id].append(run)
    running, waiting = [], []
    for dag_id, runs in by_dag.items():
        active = [run for run in runs if run.state == "running"]
        queued = [run for run in runs if run.state == "queued"]
        for run in active:
            started_at = _instant(run.started_at)
            since = f" since {local_time(started_at)}" if started_at else ""
            running.append(f"{dag_id} of {run.partition_key}{since}")
        # A DAG has a number of active runs; the queued ones wait for these.
        limit = airflow.longest_run(dag_id) if active and queued else None
        holders = ", ".join(_describe_holder(run, limit) for run in active)
        for run in queued:
            reason = "the scheduler has not begun it"
            if active:
                reason = f"its slot is held by {holders}"
            waiting.append(f"{dag_id} of {run.partition_key} is queued: {reason}")
    waiting += [f"{dag_id} is paused" for dag_id in sorted(airflow.paused_dags())]
    for pool in airflow.pools():
        if pool.get("open_slots", 1) <= 0:
            waiting.append(f"the pool {pool['name']} is full: {pool['slots']} slots")
    return running, waiting
