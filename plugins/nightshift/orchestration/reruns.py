"""Start runs again that ended and left the night unfinished or degraded, although what stopped them is gone.

Two kinds: an ``ingest`` whose tasks died before their own code began or in the middle of it
(``ops.task_tries``), since no asset wakes an ingest; and a scoring that stepped down because the
store or a model could not be read (``scoring.degraded``). Bounded: three times a partition, twenty
minutes apart. Source: docs/adr/0038-lost-tries.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import Delivery, load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.errors import NightshiftError, stack_of
from nightshift.orchestration.task_scope import ended_when_overdue
from nightshift.orchestration.task_tries import UNCOUNTED
from nightshift.scoring.degraded import better_choice, degraded_nights
from nightshift.settings import load_settings
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

PATIENCE = dt.timedelta(minutes=20)
"""How long after the last sign of a run nothing is wrong yet, and between two starts of one
partition.
"""
HORIZON = dt.timedelta(days=7)
MAX_RERUNS = 3
"""Times that a partition's run is started again: what fails so often needs a person."""


class LostTriesError(NightshiftError):
    """Tries ended before their own code began, or in the middle of it, without an error."""

    code = "NS-AIRFLOW-007"


@dataclass(frozen=True)
class Rerun:
    """A run to clear.

    Attributes:
        dag_id: Its DAG.
        dag_run_id: Airflow's name of it.
        day: Its partition.
        reason: For the log, beginning with a code.
    """

    dag_id: str
    dag_run_id: str
    day: dt.date
    reason: str


def rerun_unfinished() -> list[str]:
    """Clear the runs that deserve another go, and return them; without one the task is skipped.

    Raises:
        AirflowSkipException: There is none.
    """
    context, settings = get_current_context(), load_settings()
    cleared: list[str] = []
    with (
        ended_when_overdue(context["task"].execution_timeout),
        connect(settings, "nightshift catch_up") as conn,
    ):
        for one in [*lost_ingests(settings, conn), *improvable_scorings(settings, conn)]:
            if _is_over(one) and _claim(conn, one):
                logger.warning("%s of %s runs again:\n%s", one.dag_id, one.day, one.reason)
                _clear(one)
                cleared.append(f"{one.dag_id} {one.day}")
    if not cleared:
        raise AirflowSkipException("No run deserves another go.")
    return cleared


def lost_ingests(settings: Settings, conn: Connection) -> list[Rerun]:
    """Return the newest ``ingest`` run of each day that is not all published, if no load of it has failed by its own doing."""
    contracts = [
        contract
        for contract in load_contracts(settings.datasets_dir).values()
        if contract.delivery is Delivery.DAILY
    ]
    values = {"horizon": HORIZON, "patience": PATIENCE, "uncounted": [*UNCOUNTED[:3]]}
    found: list[Rerun] = []
    for dag_run_id, day in conn.execute(_LOST_INGESTS, values).fetchall():
        expected = [contract.dataset for contract in contracts if contract.history_start <= day]
        published = conn.execute(
            "select dataset from ops.published where partition_date = %s and dataset = any(%s)",
            [day, expected],
        ).fetchall()
        if missing := sorted({*expected} - {dataset for (dataset,) in published}):
            found.append(
                Rerun("ingest", dag_run_id, day, str(lost_tries_error(", ".join(missing))))
            )
    return found


_LOST_INGESTS = """
with tries as (
    select distinct on (dag_run_id, task_id) dag_run_id, partition_date, task_id, outcome, greatest(started_at, ended_at) as seen_at
    from ops.task_tries
    where dag_id = 'ingest' and started_at > clock_timestamp() - %(horizon)s::interval
    order by dag_run_id, task_id, attempt desc
), runs as (
    select dag_run_id, partition_date, max(seen_at) as seen_at,
        coalesce(bool_or(outcome <> all(%(uncounted)s)) filter (where starts_with(task_id, 'load_')), false) as has_failed
    from tries group by dag_run_id, partition_date
), newest as (
    select distinct on (partition_date) * from runs order by partition_date, seen_at desc
)
select dag_run_id, partition_date from newest
where not has_failed and seen_at < clock_timestamp() - %(patience)s::interval
order by partition_date
"""


def loads_without_outcome(settings: Settings, dag_run_id: str) -> list[str]:
    """Return the loads of a failed ingest whose tries left no word, if none has failed by its own doing; else nothing."""
    query = """
        select distinct on (task_id) task_id, outcome from ops.task_tries
        where dag_id = 'ingest' and dag_run_id = %s and starts_with(task_id, 'load_')
        order by task_id, attempt desc
    """
    with connect(settings, "nightshift tell_failures") as conn:
        outcomes = dict(conn.execute(query, [dag_run_id]).fetchall())
    if any(outcome is not None and outcome not in UNCOUNTED[:3] for outcome in outcomes.values()):
        return []
    daily = [
        contract
        for contract in load_contracts(settings.datasets_dir).values()
        if contract.delivery is Delivery.DAILY
    ]
    names = ["load_reference", *(f"load_{contract.name}" for contract in daily)]
    # A load that succeeded and is red all the same was ended while it told Airflow so: then all of
    # them are named.
    return [name for name in names if outcomes.get(name) is None] or names


def lost_tries_error(what: str) -> LostTriesError:
    """Return the error for tries that left nothing behind."""
    return LostTriesError(
        f"Tries ended without a word: {what}.",
        expected="a try that reaches its own code and ends with a result or an error",
        got="a try that is not in ops.task_tries, or has no outcome there; its log is empty or breaks off",
        todo="Airflow's API server was away, or the process was killed. See that `nightshift status` is healthy, then clear the task.",
    )


def improvable_scorings(settings: Settings, conn: Connection) -> list[Rerun]:
    """Return the scoring of each degraded night that the champion, tried now on its rows, would score better."""
    found: list[Rerun] = []
    for spec in load_specs(settings.models_dir).values():
        try:
            found += _improvable(settings, conn, spec)
        except Exception as error:  # noqa: BLE001 - the nights of one model must not keep those of another one degraded
            logger.warning(
                "Whether %s can be improved is not known:\n%s", spec.name, stack_of(error)
            )
    return found


def _improvable(settings: Settings, conn: Connection, spec: ModelSpec) -> list[Rerun]:
    found: list[Rerun] = []
    now, dag_id = dt.datetime.now(dt.UTC), f"score__{spec.name}"
    for night in degraded_nights(conn, spec):
        run_id = _newest_run(conn, dag_id, night.partition.day)
        may_run = run_id is not None and _may_rerun(conn, dag_id, night.partition.day)
        if (
            run_id is None
            or not may_run
            or not night.by_airflow
            or not night.is_looked_after(spec, now)
        ):
            continue
        if better_choice(settings, spec, conn, night) is not None:
            found.append(Rerun(dag_id, run_id, night.partition.day, str(night.describe())))
    return found


def _newest_run(conn: Connection, dag_id: str, day: dt.date) -> str | None:
    row = conn.execute(
        "select dag_run_id from ops.task_tries where dag_id = %s and partition_date = %s order by started_at desc limit 1",
        [dag_id, day],
    ).fetchone()
    return str(row[0]) if row else None


def _may_rerun(conn: Connection, dag_id: str, day: dt.date) -> bool:
    """Return whether the partition's run was started again neither just now nor too often."""
    query = """
        select count(*) < %s and coalesce(max(at) < clock_timestamp() - %s::interval, true) from ops.reruns
        where dag_id = %s and partition_date = %s and at > clock_timestamp() - %s::interval
    """
    return conn.execute(query, [MAX_RERUNS, PATIENCE, dag_id, day, HORIZON]).fetchone() == (True,)


def _claim(conn: Connection, one: Rerun) -> bool:
    """Record that a run is started again, before it is, so that the bound holds whatever comes next."""
    if not _may_rerun(conn, one.dag_id, one.day):
        return False
    conn.execute(
        "insert into ops.reruns (dag_id, dag_run_id, partition_date, reason) values (%s, %s, %s, %s)",
        [one.dag_id, one.dag_run_id, one.day, one.reason],
    )
    return True


def _is_over(one: Rerun) -> bool:
    """Return whether Airflow is done with the run; one that is still tried, or was deleted, is left alone."""
    from airflow.sdk.execution_time.comms import DagRunResult, GetDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    try:
        answer = SUPERVISOR_COMMS.send(GetDagRun(dag_id=one.dag_id, run_id=one.dag_run_id))
    except Exception as error:  # noqa: BLE001 - Airflow raises its own for a run that is gone
        logger.warning(
            "%s %s is not there any more (%s).", one.dag_id, one.dag_run_id, type(error).__name__
        )
        return False
    return isinstance(answer, DagRunResult) and str(answer.state.value) in {"failed", "success"}


def _clear(one: Rerun) -> None:
    """Clear a run that exists: what Airflow makes of a trigger that may reset."""
    from airflow.sdk.execution_time.comms import TriggerDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    SUPERVISOR_COMMS.send(
        TriggerDagRun(dag_id=one.dag_id, run_id=one.dag_run_id, reset_dag_run=True)
    )
