"""Everything at a glance: models, incidents, what runs, and why nothing runs."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import Partition
from nightshift.errors import ServiceError
from nightshift.incidents.context import EvaluationContext, local_time
from nightshift.incidents.records import (
    Incident,
    SubjectHealth,
    as_json,
    open_incidents,
    read_health,
)
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.waiting_tasks import WaitingTask, waiting_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings

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


@dataclass(frozen=True)
class ModelOverview:
    """One model.

    Attributes:
        model: Its name.
        owner: Team that answers for it.
        health: In one word; ``unknown`` before the first evaluation.
        published: Newest day that readers have; None if none.
        published_at: Since when, UTC.
        source: Step of the fallback chain that made most of its rows.
        champion: Version that serves that day; None without one.
        champion_age_days: Days from the last day that it has learned from to the newest one.
        metric: Name of the quality metric.
        quality: Its newest matured value; None without one.
        expected_quality: The same on the hold-out.
        n_labels: Labels that the value stands on.
        quality_low: Lower bound of its 95 % interval; None without one.
        quality_high: Upper bound.
        n_rows: Rows of the newest day that readers see.
        n_recorded: Rows that were published of it.
    """

    model: str
    owner: str
    health: str
    published: dt.date | None
    published_at: dt.datetime | None
    source: str | None
    champion: int | None
    champion_age_days: int | None
    metric: str | None
    quality: float | None
    expected_quality: float | None
    n_labels: int | None
    quality_low: float | None = None
    quality_high: float | None = None
    n_rows: int | None = None
    n_recorded: int | None = None


@dataclass(frozen=True)
class Overview:
    """The state of everything.

    Attributes:
        at: When it was read, UTC.
        models: One entry for each model.
        incidents: What is broken now, the most severe first.
        health: Tables and models in one word.
        running: What runs now, a sentence each.
        waiting: Why nothing runs, a sentence each.
    """

    at: dt.datetime
    models: tuple[ModelOverview, ...]
    incidents: tuple[Incident, ...]
    health: tuple[SubjectHealth, ...]
    running: tuple[str, ...]
    waiting: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        document: dict[str, Any] = as_json(asdict(self))
        return document


def current_overview(
    settings: Settings, at: dt.datetime, runs: AirflowRuns | None
) -> tuple[Overview, str]:
    """Read the state of everything; what Airflow does not answer is left out.

    Args:
        settings: Warehouse and folders.
        at: The instant that deadlines are compared with, UTC.
        runs: Airflow's API; None where it cannot be reached.

    Returns:
        The state, and why Airflow's part is missing.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, "nightshift status") as conn:
        context = EvaluationContext(settings, conn, at)
        try:
            return read_overview(context, runs), ""
        except ServiceError as error:
            return read_overview(context, None), str(error)


def read_overview(context: EvaluationContext, runs: AirflowRuns | None) -> Overview:
    """Read the state of everything; only Airflow's part may be missing.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    health = read_health(context.conn)
    words = {(entry.subject_type, entry.subject): entry.health for entry in health}
    models = [
        _read_model(context, spec, words.get(("model", spec.name), "unknown"))
        for spec in context.specs.values()
    ]
    # Waiting for a file, for a lock, or for a try whose process is gone.
    waiting_now = waiting_tasks(context.conn)
    waiting = [_describe_waiting(context, task) for task in waiting_now]
    waiting += _blocked_sessions(context) + _lost_tries(context) + _unborn_tries(context)
    running = _open_tries(context)
    if runs is not None:
        airflow_running, airflow_waiting = _describe_runs(runs)
        # Airflow knows the runs; without it, the tries that began are all that is known.
        running = airflow_running
        waiting += airflow_waiting
    return Overview(
        context.now,
        models=tuple(models),
        incidents=tuple(open_incidents(context.conn)),
        health=tuple(health),
        running=tuple(running),
        waiting=tuple(waiting),
    )


def _read_model(context: EvaluationContext, spec: ModelSpec, health: str) -> ModelOverview:
    """Return what readers have of a model, who made it, and how good it was.

    Args:
        context: The warehouse.
        spec: The model.
        health: Its word of ``ops.health``.
    """
    # Three short queries: each finds its newest row by an index.
    row = context.conn.execute(_PUBLISHED, [spec.predictions_dataset]).fetchone()
    day, published_at, load_id, n_recorded = row or (None, None, None, None)
    row = context.conn.execute(_CHAMPION, [spec.name, day, day]).fetchone()
    champion, fit_end = row or (None, None)
    row = context.conn.execute(_QUALITY, [spec.name]).fetchone()
    metric, quality, expected, n_labels, low, high = row or (None,) * 6
    source, n_rows = _source(context, spec, day, load_id) if day else (None, None)
    return ModelOverview(
        spec.name,
        spec.owner,
        health,
        day,
        published_at,
        source,
        champion,
        (day - fit_end).days if day and fit_end else None,
        metric,
        quality,
        expected,
        n_labels,
        low,
        high,
        n_rows,
        n_recorded,
    )


_PUBLISHED = """
select p.partition_date, p.published_at, p.load_id, l.n_rows
from ops.published p left join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = %s order by p.partition_date desc limit 1
"""
_CHAMPION = """
select s.version, v.fit_end
from ml.succession s join ml.model_versions v using (model, version)
where s.model = %s and (%s::date is null or s.effective_partition <= %s)
order by s.effective_partition desc, s.promotion_id desc limit 1
"""
_QUALITY = """
select v.metric, v.metric_value, v.metric_expected, v.n_labels, p.low, p.high
from monitoring.verdicts_published v
left join monitoring.performance_published p
    on (p.model, p.metric, p.measured_on, p.partition_date)
        = (v.model, v.metric, v.partition_date, v.evaluated_partition) and p.slice_name = 'all'
where v.model = %s and v.metric_value is not null order by v.partition_date desc limit 1
"""


def _source(
    context: EvaluationContext, spec: ModelSpec, day: dt.date, load_id: int
) -> tuple[str | None, int]:
    """Return the step that made most rows of a load, and the number of all its rows."""
    query = model_query(
        spec,
        """
        select score_source, count(*) from {predictions}
        where partition_date = %s and load_id = %s group by 1 order by 2 desc
        """,
    )
    rows = context.conn.execute(query, [day, load_id]).fetchall()
    source = str(rows[0][0]) if rows else None
    return source, sum(n_rows for _, n_rows in rows)


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


def _describe_runs(airflow: AirflowRuns) -> tuple[list[str], list[str]]:
    """Return what runs in Airflow, and why other runs do not."""
    by_dag: dict[str, list[ActiveRun]] = defaultdict(list)
    for run in airflow.active_runs():
        by_dag[run.dag_id].append(run)
    running, waiting = [], []
    for dag_id, runs in by_dag.items():
        active = [run for run in runs if run.state == "running"]
        queued = [run for run in runs if run.state == "queued"]
        # A DAG has a number of active runs; the queued ones wait for these.
        holders = ", ".join(str(run.partition_key) for run in active)
        running += [f"{dag_id} of {run.partition_key} since {run.started_at}" for run in active]
        for run in queued:
            reason = f"slots are held by {holders}" if active else "the scheduler has not begun it"
            waiting.append(f"{dag_id} of {run.partition_key} is queued: {reason}")
    waiting += [f"{dag_id} is paused" for dag_id in sorted(airflow.paused_dags())]
    for pool in airflow.pools():
        if pool.get("open_slots", 1) <= 0:
            waiting.append(f"the pool {pool['name']} is full: {pool['slots']} slots")
    return running, waiting
