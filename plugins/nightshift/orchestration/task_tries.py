"""Record the tries that reached our own code; Airflow also counts tries that died before it.

A worker that cannot reach Airflow's API server ends before a task's code begins, and Airflow counts
that as a try. So Airflow gets more tries than we want (``defaults.N_LOST_TRIES``), and we count our
own. Source: docs/adr/0038-lost-tries.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.peak_memory import peak_memory_bytes
from nightshift.stage_times import recording
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

APPLICATION = "nightshift task tries"
# Tries of our own code per round; clearing a task begins a new round.
N_TRIES = 3
TERMINATED = "NS-AIRFLOW-001"
# Outcomes of tries that ended without an error of their own.
NOT_FAILED = ("success", "waiting", "skipped")
# Outcomes of tries that do not count as failed tries.
UNCOUNTED = (*NOT_FAILED, TERMINATED)


class TriesUsedUpError(NightshiftError):
    """All tries of a round began, and none of them ended with a result or an error."""

    code = "NS-AIRFLOW-008"


@dataclass(frozen=True)
class TaskTry:
    """One try of one task of one run, as Airflow counts it.

    Attributes:
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
    n_failed = _execute(settings, _BEGIN, this, day=day) or 0
    if n_failed >= N_TRIES:
        _execute(settings, _END, this, outcome=TriesUsedUpError.code, is_final=True)
        raise TriesUsedUpError(
            f"{n_failed} tries of {this.dag_id}.{this.task_id} began without reporting an outcome.",
            expected="a try that ends with a result or an error",
            got="processes that vanished: killed from outside, or out of memory",
            todo="Find out what ended them (`dmesg`, the scheduler's log), then clear the task.",
        )
    outcome, is_final = "success", False
    with recording() as stages:
        try:
            yield n_failed
        except BaseException as error:
            outcome = outcome_of(error)
            is_final = is_last_try(error, n_failed)
            raise
        finally:
            _execute(settings, _END, this, outcome=outcome, is_final=is_final)
            # On its own: a warehouse without the column must not cost the outcome.
            _execute(settings, _KEEP_STAGES, this, stages=json.dumps(stages.as_documents()))


def is_last_try(error: BaseException, n_failed: int) -> bool:
    """Return whether an error ends a task for good: ``defaults.StageRetryPolicy`` decides so too.

    Args:
        error: How the try ended.
        n_failed: Failed tries of the round before it.
    """
    if outcome_of(error) in UNCOUNTED or isinstance(error, StaleTokenError):
        return False
    if isinstance(error, NightshiftError) and (error.is_waiting or not error.is_retryable):
        return True
    return n_failed + 1 >= N_TRIES


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
    return _execute(settings, f"{_COUNT_FAILED} <= %(attempt)s", this)


_COUNT_FAILED = """
select count(*) from ops.task_tries
where (dag_id, dag_run_id, task_id, map_index)
        = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s)
    and (outcome is null or outcome <> all(%(uncounted)s))
    and attempt >= %(first)s and attempt"""
_BEGIN = f"""
with begun as (
    insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt, partition_date)
    values (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s, %(day)s)
    on conflict (dag_id, dag_run_id, task_id, map_index, attempt)
    do update set started_at = clock_timestamp(), ended_at = null, outcome = null, is_final = false
)
{_COUNT_FAILED} < %(attempt)s
"""  # noqa: S608 - our own text
_END = """
update ops.task_tries
set ended_at = clock_timestamp(), outcome = %(outcome)s, is_final = %(is_final)s,
    peak_memory_bytes = %(peak)s
where (dag_id, dag_run_id, task_id, map_index, attempt)
    = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s)
returning 0
"""
_KEEP_STAGES = """
update ops.task_tries
set stages = %(stages)s
where (dag_id, dag_run_id, task_id, map_index, attempt)
    = (%(dag_id)s, %(dag_run_id)s, %(task_id)s, %(map_index)s, %(attempt)s)
returning 0
"""


def _execute(settings: Settings, query: str, this: TaskTry, **more: object) -> int | None:
    """Run a statement and return its number; log a warehouse that is down, and return None."""
    known = {"uncounted": list(UNCOUNTED), "peak": peak_memory_bytes()}
    parameters = {**asdict(this), **known, **more}
    try:
        with connect(settings, APPLICATION) as conn:
            row = conn.execute(query.encode(), parameters).fetchone()
    except Exception:
        logger.warning("The tries of this task cannot be recorded or counted.", exc_info=True)
        return None
    return int(row[0]) if row else None
