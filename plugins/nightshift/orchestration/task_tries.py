"""Record the tries that reached our own code; Airflow also counts tries that died before it.

A worker that cannot reach Airflow's API server ends before a task's code begins, and Airflow counts
that as a try. So Airflow gets more tries than we want (``defaults.N_LOST_TRIES``), and we count our
own. Source: docs/adr/0038-lost-tries.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.errors import NightshiftError
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

APPLICATION = "nightshift task tries"
N_TRIES = 3
"""Tries of our own code per round; clearing a task begins a new round."""
TERMINATED = "NS-AIRFLOW-001"
NOT_FAILED = ("success", "waiting", "skipped")
"""Outcomes of tries that ended without an error of their own."""
UNCOUNTED = (*NOT_FAILED, TERMINATED)
"""Outcomes of tries that do not count as failed tries."""


class TriesUsedUpError(NightshiftError):
    """All tries of a round began, and none of them ended with a result or an error."""

    code = "NS-AIRFLOW-008"


@dataclass(frozen=True)
class TaskTry:
    """One try of one task of one run, as Airflow counts it.

    Attributes:
        dag_id: The DAG.
        dag_run_id: Airflow's name of the run.
        task_id: The task.
        map_index: Its shard, -1 for an unmapped task.
        attempt: Number of the try, counted through all rounds.
        first: Number of the first try of this round.
    """

    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    attempt: int
    first: int

    @classmethod
    def of(cls, context: Any) -> TaskTry:  # noqa: ANN401 - Airflow's context
        """Return the running try."""
        run, instance = context["dag_run"], context["ti"]
        retries = getattr(context["task"], "retries", 0) or 0
        # A clear raises `max_tries` by the task's retries, which tells where the round began.
        first = max(1, getattr(instance, "max_tries", 0) - retries + 1)
        return cls(
            run.dag_id,
            run.run_id,
            instance.task_id,
            instance.map_index,
            instance.try_number,
            first,
        )


@contextmanager
def recorded(settings: Settings, this: TaskTry, day: dt.date) -> Iterator[int]:
    """Record the start and the outcome of a try; yield the failed tries of its round so far.

    A record that cannot be written stops no task: the task meets the same fault and reports it.

    Raises:
        TriesUsedUpError: As many tries as a round has ended without an outcome.
    """
    n_failed = _begin(settings, this, day)
    if n_failed >= N_TRIES:
        _end(settings, this, TriesUsedUpError.code)
        raise TriesUsedUpError(
            f"{n_failed} tries of {this.dag_id}.{this.task_id} began, and none reported an outcome.",
            expected="a try that ends with a result or an error",
            got="processes that vanished: killed from outside, or out of memory",
            todo="Find out what ended them (`dmesg`, the scheduler's log), then clear the task.",
        )
    outcome = "success"
    try:
        yield n_failed
    except BaseException as error:
        outcome = outcome_of(error)
        raise
    finally:
        _end(settings, this, outcome)


def outcome_of(error: BaseException) -> str:
    """Return the recorded outcome: a word, an error code, or the class of a foreign exception."""
    if isinstance(error, NightshiftError):
        return error.code
    if isinstance(error, AirflowRescheduleException):
        return "waiting"
    if isinstance(error, AirflowSkipException):
        return "skipped"
    if isinstance(error, KeyboardInterrupt):
        return TERMINATED
    return type(error).__name__


def failed_tries(settings: Settings, this: TaskTry) -> int | None:
    """Return the failed tries of this round, including this one; None if they cannot be counted."""
    try:
        with connect(settings, APPLICATION) as conn:
            row = conn.execute(_COUNT_FAILED, _parameters(this)).fetchone()
    except Exception:
        logger.warning("The tries of this task cannot be counted.", exc_info=True)
        return None
    return int(row[0]) if row else None


_COUNT_FAILED = """
select count(*) as n_failed from ops.task_tries
where (dag_id, dag_run_id, task_id, map_index)
        = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s)
    and attempt between %(first)s and %(attempt)s
    and (outcome is null or outcome <> all(%(uncounted)s))
"""
_BEGIN = """
insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt, partition_date)
values (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s, %(day)s)
on conflict (dag_id, dag_run_id, task_id, map_index, attempt)
do update set started_at = clock_timestamp(), ended_at = null, outcome = null
"""
_END = """
update ops.task_tries set ended_at = clock_timestamp(), outcome = %(outcome)s
where (dag_id, dag_run_id, task_id, map_index, attempt)
    = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s)
"""


def _parameters(this: TaskTry, **more: object) -> dict[str, Any]:
    return {**asdict(this), "uncounted": list(UNCOUNTED), **more}


def _begin(settings: Settings, this: TaskTry, day: dt.date) -> int:
    """Record the start; return the failed tries before it, 0 if they cannot be counted."""
    earlier = _parameters(this, attempt=this.attempt - 1)
    try:
        with connect(settings, APPLICATION) as conn:
            row = conn.execute(_COUNT_FAILED, earlier).fetchone()
            conn.execute(_BEGIN, _parameters(this, day=day))
    except Exception:  # noqa: BLE001 - the task goes on, and reports the same fault itself
        logger.warning("The start of this try could not be recorded.")
        return 0
    return int(row[0]) if row else 0


def _end(settings: Settings, this: TaskTry, outcome: str) -> None:
    try:
        with connect(settings, APPLICATION) as conn:
            conn.execute(_END, _parameters(this, outcome=outcome))
    except Exception:  # noqa: BLE001 - as above
        logger.warning("The end of this try could not be recorded.")
