"""Rerun runs that ended without a complete result although their cause is gone.

Two types of runs: an ``ingest`` whose tasks died before or within their own code
(``ops.task_tries``), since no asset triggers an ingest; and a scoring that was downgraded because
the store or a model could not be read (``scoring.degraded``). At most three reruns per partition,
twenty minutes apart. Source: docs/adr/0038-lost-tries.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import DatasetContract, daily_contracts, load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.errors import NightshiftError, stack_of
from nightshift.orchestration.reconcile import DAG_ID, HORIZON, PATIENCE
from nightshift.orchestration.task_scope import ended_when_overdue
from nightshift.orchestration.task_tries import NOT_FAILED
from nightshift.scoring.degraded import better_choice, degraded_partitions
from nightshift.settings import load_settings
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


# Reruns per partition: what fails so often needs a person.
MAX_RERUNS = 3


class LostTriesError(NightshiftError):
    """Tries ended before or within their own code, without an error."""

    code = "NS-AIRFLOW-007"


@dataclass(frozen=True)
class Rerun:
    """A run to clear; its reason begins with an error code."""

    dag_id: str
    dag_run_id: str
    day: dt.date
    reason: str


@task
def rerun_unfinished() -> list[str]:
    """Clear the runs that can complete now; return them.

    Raises:
        AirflowSkipException: There is no such run.
    """
    settings = load_settings()
    limit = get_current_context()["task"].execution_timeout
    cleared: list[str] = []
    _evaluate_incidents(settings)
    with (
        ended_when_overdue(limit),
        connect(settings, f"nightshift {DAG_ID}") as conn,
    ):
        reruns = lost_ingests(settings, conn) + improvable_scorings(settings, conn)
        for rerun in reruns:
            # Airflow clears only a run that is over; the claim comes after, so that none is wasted.
            if _is_over(rerun) and _claim(conn, rerun):
                logger.warning("Rerun %s of %s:\n%s", rerun.dag_id, rerun.day, rerun.reason)
                _clear(rerun)
                cleared.append(f"{rerun.dag_id} {rerun.day}")
    if not cleared:
        raise AirflowSkipException("No run can be completed.")
    return cleared


def _evaluate_incidents(settings: Settings) -> None:
    """Evaluate what is broken where nobody runs ``nightshift watch``; a failure is only logged."""
    from nightshift.incidents.evaluation import evaluate

    # Here and in no stage: this DAG has nobody who waits for it.
    try:
        evaluate(settings)
    except Exception as error:  # noqa: BLE001 - runs are cleared all the same
        logger.warning("Incidents were not evaluated:\n%s", stack_of(error))


def lost_ingests(settings: Settings, conn: Connection) -> list[Rerun]:
    """Return the newest ``ingest`` run of each incomplete day, unless one of its loads failed.

    A load that failed has reported its error: a person acts on that.
    """
    contracts = _daily_contracts(settings)
    parameters = {
        "horizon": HORIZON,
        "patience": PATIENCE,
        "not_failed": list(NOT_FAILED),
    }
    runs = conn.execute(_UNFAILED_INGESTS, parameters).fetchall()
    reruns: list[Rerun] = []
    for dag_run_id, day in runs:
        expected = {contract.dataset for contract in contracts if contract.history_start <= day}
        rows = conn.execute("select dataset from ops.published where partition_date = %s", [day])
        published = {dataset for (dataset,) in rows}
        missing = sorted(expected - published)
        if missing:
            error = lost_tries_error(", ".join(missing))
            reruns.append(Rerun("ingest", dag_run_id, day, str(error)))
    return reruns


_UNFAILED_INGESTS = """
with tries as (
    select distinct on (dag_run_id, task_id) dag_run_id, partition_date, task_id, outcome,
        greatest(started_at, ended_at) as seen_at
    from ops.task_tries
    where dag_id = 'ingest' and started_at > clock_timestamp() - %(horizon)s::interval
    order by dag_run_id, task_id, attempt desc
), runs as (
    select dag_run_id, partition_date, max(seen_at) as seen_at,
        coalesce(
            bool_or(outcome <> all(%(not_failed)s)) filter (where starts_with(task_id, 'load_')),
            false
        ) as has_failed
    from tries group by dag_run_id, partition_date
), newest as (
    select distinct on (partition_date) * from runs order by partition_date, seen_at desc
)
select dag_run_id, partition_date from newest
where not has_failed and seen_at < clock_timestamp() - %(patience)s::interval
order by partition_date
"""


def loads_without_outcome(settings: Settings, dag_run_id: str) -> list[str]:
    """Return the loads of a failed ingest that recorded no outcome; none if a load failed."""
    query = """
        select distinct on (task_id) task_id, outcome from ops.task_tries
        where dag_id = 'ingest' and dag_run_id = %s and starts_with(task_id, 'load_')
        order by task_id, attempt desc
    """
    with connect(settings, "nightshift tell_failures") as conn:
        rows = conn.execute(query, [dag_run_id]).fetchall()
    outcomes = dict(rows)
    if not set(outcomes.values()) <= {None, *NOT_FAILED}:
        return []
    names = ["load_reference"]
    names += [f"load_{contract.name}" for contract in _daily_contracts(settings)]
    lost = [name for name in names if outcomes.get(name) is None]
    # A load that succeeded but failed in Airflow was ended while it reported its result. It cannot
    # be told apart then, so all loads are returned.
    return lost or names


def _daily_contracts(settings: Settings) -> list[DatasetContract]:
    return daily_contracts(load_contracts(settings.datasets_dir).values())


def lost_tries_error(lost: str) -> LostTriesError:
    """Return the error for tries that left no result and no error."""
    return LostTriesError(
        f"Tries ended without a result or an error: {lost}.",
        expected="a try that reaches its own code and ends with a result or an error",
        got="a try without a row or an outcome in ops.task_tries; its log is empty or breaks off",
        todo="Airflow's API server was down, or the process was killed."
        " Check that `nightshift status` is healthy, then clear the task.",
    )


def improvable_scorings(settings: Settings, conn: Connection) -> list[Rerun]:
    """Return the scorings of degraded partitions that the champion could score better now."""
    reruns: list[Rerun] = []
    for spec in load_specs(settings.models_dir).values():
        try:
            reruns += _improvable(settings, conn, spec)
        except Exception as error:  # noqa: BLE001 - one model must not block the rest
            logger.warning("The scoring of %s was not checked:\n%s", spec.name, stack_of(error))
    return reruns


def _improvable(settings: Settings, conn: Connection, spec: ModelSpec) -> list[Rerun]:
    now = dt.datetime.now(dt.UTC)
    dag_id = f"score__{spec.name}"
    reruns: list[Rerun] = []
    for degraded in degraded_partitions(conn, spec):
        day = degraded.partition.day
        dag_run_id = _newest_run(conn, dag_id, day)
        # Without a run there is nothing to clear: a person scored the partition.
        if dag_run_id is None or not _may_rerun(conn, dag_id, day):
            continue
        if not degraded.by_airflow or not degraded.is_looked_after(spec, now):
            continue
        # Checked last: it loads the champion and scores a sample.
        if better_choice(settings, spec, conn, degraded) is not None:
            reason = str(degraded.describe())
            reruns.append(Rerun(dag_id, dag_run_id, day, reason))
    return reruns


def _newest_run(conn: Connection, dag_id: str, day: dt.date) -> str | None:
    """Return Airflow's id of the run that last began a task of the partition."""
    query = """
        select dag_run_id from ops.task_tries
        where dag_id = %s and partition_date = %s order by started_at desc limit 1
    """
    row = conn.execute(query, [dag_id, day]).fetchone()
    return str(row[0]) if row else None


def _may_rerun(conn: Connection, dag_id: str, day: dt.date) -> bool:
    """Return whether the partition was rerun neither recently nor too often."""
    # The warehouse's clock decides, as for the times that it compares with.
    query = """
        select count(*) < %s and coalesce(max(at) < clock_timestamp() - %s::interval, true)
        from ops.reruns
        where dag_id = %s and partition_date = %s and at > clock_timestamp() - %s::interval
    """
    parameters = [MAX_RERUNS, PATIENCE, dag_id, day, HORIZON]
    row = conn.execute(query, parameters).fetchone()
    return row == (True,)


def _claim(conn: Connection, rerun: Rerun) -> bool:
    """Record a rerun if it is allowed, before it happens: the limit then holds after any crash."""
    if not _may_rerun(conn, rerun.dag_id, rerun.day):
        return False
    conn.execute(
        """
        insert into ops.reruns (dag_id, dag_run_id, partition_date, reason)
        values (%(dag_id)s, %(dag_run_id)s, %(day)s, %(reason)s)
        """,
        asdict(rerun),
    )
    return True


def _is_over(rerun: Rerun) -> bool:
    """Return whether Airflow has finished the run; False if it is still active or was deleted."""
    from airflow.sdk.execution_time.comms import DagRunResult, GetDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    try:
        answer = SUPERVISOR_COMMS.send(GetDagRun(dag_id=rerun.dag_id, run_id=rerun.dag_run_id))
    except Exception as error:  # noqa: BLE001 - Airflow raises its own for a deleted run
        logger.warning(
            "Run %s of %s cannot be read (%s).",
            rerun.dag_run_id,
            rerun.dag_id,
            type(error).__name__,
        )
        return False
    if not isinstance(answer, DagRunResult):
        return False
    return str(answer.state.value) in {"failed", "success"}


def _clear(rerun: Rerun) -> None:
    """Clear a run: Airflow does so for a trigger of an existing run that may reset it."""
    from airflow.sdk.execution_time.comms import TriggerDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    request = TriggerDagRun(dag_id=rerun.dag_id, run_id=rerun.dag_run_id, reset_dag_run=True)
    SUPERVISOR_COMMS.send(request)
