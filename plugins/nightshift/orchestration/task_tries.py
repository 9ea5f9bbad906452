"""Record which tries reached our own code: a try that Airflow counts and that is not recorded died before it.

A worker that cannot reach Airflow's API server ends before a task's code begins, and Airflow counts
that as a try like any other. So Airflow gets more tries than we want (``defaults.N_LOST_TRIES``),
and we count ours here. Source: docs/adr/0038-lost-tries.md.
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
"""Tries of our own code in one round; clearing a task begins another round."""
ENDED_BY_AIRFLOW = "NS-AIRFLOW-001"
UNCOUNTED = ("success", "waiting", "skipped", ENDED_BY_AIRFLOW)
"""Outcomes of tries that did not fail by themselves, although Airflow took them for failed."""


class TriesUsedUpError(NightshiftError):
    """The tries of a round have begun, and none of them came back."""

    code = "NS-AIRFLOW-008"


@dataclass(frozen=True)
class TaskTry:
    """One try of one task of one run, as Airflow counts it.

    Attributes:
        dag_id: The DAG.
        dag_run_id: Airflow's name of the run.
        task_id: The task.
        map_index: Its shard, -1 for a task without.
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
        """Return the running try; a clear raises ``max_tries`` by the retries of the task, which tells where its round began."""
        run, instance = context["dag_run"], context["ti"]
        retries = getattr(context["task"], "retries", 0) or 0
        first = max(1, getattr(instance, "max_tries", 0) - retries + 1)
        attempt = instance.try_number
        return cls(run.dag_id, run.run_id, instance.task_id, instance.map_index, attempt, first)


@contextmanager
def recorded(settings: Settings, this: TaskTry, day: dt.date) -> Iterator[int]:
    """Record the start of a try and how it ended; the block gets the number of tries that failed before it in this round.

    A record that cannot be written stops no task: what it works with will say why.

    Raises:
        TriesUsedUpError: As many tries as a round has have begun, and ended without an answer.
    """
    n_failed = _begin(settings, this, day)
    if n_failed >= N_TRIES:
        _end(settings, this, TriesUsedUpError.code)
        raise TriesUsedUpError(
            f"{n_failed} tries of {this.dag_id}.{this.task_id} have begun, and none of them came back.",
            expected="a try that ends with a result or an error",
            got="processes that vanished: killed from outside, or out of memory",
            todo="Find out who ended them (`dmesg`, the log of the scheduler), then clear the task.",
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
    """Return how a try ended, for its record: a word, a code, or the class of a foreign exception."""
    if isinstance(error, NightshiftError):
        return error.code
    if isinstance(error, AirflowRescheduleException):
        return "waiting"
    if isinstance(error, AirflowSkipException):
        return "skipped"
    return ENDED_BY_AIRFLOW if isinstance(error, KeyboardInterrupt) else type(error).__name__


def failed_tries(settings: Settings, this: TaskTry) -> int | None:
    """Return how many tries of our own code have failed in this round, this one included; None if nobody knows."""
    try:
        with connect(settings, APPLICATION) as conn:
            row = conn.execute(_COUNT_FAILED, _values(this)).fetchone()
    except Exception:
        logger.warning("The tries of this task cannot be counted.", exc_info=True)
        return None
    return int(row[0]) if row else None


_COUNT_FAILED = """
select count(*) as n_failed from ops.task_tries
where (dag_id, dag_run_id, task_id, map_index) = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s)
    and attempt between %(first)s and %(attempt)s
    and (outcome is null or outcome <> all(%(uncounted)s))
"""
_BEGIN = """
insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt, partition_date)
values (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s, %(day)s)
on conflict (dag_id, dag_run_id, task_id, map_index, attempt)
do update set started_at = clock_timestamp(), ended_at = null, outcome = null
"""


def _values(this: TaskTry) -> dict[str, Any]:
    return {**asdict(this), "uncounted": list(UNCOUNTED)}


def _begin(settings: Settings, this: TaskTry, day: dt.date) -> int:
    """Record the start, and return how many tries failed before it; 0 if nobody knows."""
    values = _values(this)
    try:
        with connect(settings, APPLICATION) as conn:
            row = conn.execute(_COUNT_FAILED, {**values, "attempt": this.attempt - 1}).fetchone()
            conn.execute(_BEGIN, {**values, "day": day})
    except Exception:  # noqa: BLE001 - the task goes on, and whatever is wrong shows there
        logger.warning("The start of this try could not be recorded.")
        return 0
    return int(row[0]) if row else 0


def _end(settings: Settings, this: TaskTry, outcome: str) -> None:
    query = """
        update ops.task_tries set ended_at = clock_timestamp(), outcome = %(outcome)s
        where (dag_id, dag_run_id, task_id, map_index, attempt)
            = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s)
    """
    try:
        with connect(settings, APPLICATION) as conn:
            conn.execute(query, {**_values(this), "outcome": outcome})
    except Exception:  # noqa: BLE001 - as above
        logger.warning("The end of this try could not be recorded.")
