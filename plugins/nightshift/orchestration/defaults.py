"""What every DAG and task decides: owner, retries, time limits, pools, and which errors are worth a retry."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.orchestration.task_tries import N_TRIES, TaskTry, failed_tries
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

N_LOST_TRIES = 6
"""Tries beside our own three that Airflow may lose before a task's code begins: its API server
was away, a worker died.
"""
RETRY_DELAY = dt.timedelta(seconds=20)
"""Pause after an error of our own code; after a lost try it is the first pause, and each is
twice as long as the one before.
"""
LONGEST_RETRY_DELAY = dt.timedelta(minutes=10)
WAITING_RUNS = 16
"""Runs of a DAG whose tasks wait for upstream: so many that some mistyped days hold back no
night. Pools and ``max_active_tis_per_dag`` say how many work at the same time.
"""
POOL_WAREHOUSE, POOL_SCORING, POOL_TRAINING, POOL_RESCUE = (
    "warehouse",
    "scoring",
    "training",
    "rescue",
)
PRIORITY_RESCUE, PRIORITY_NIGHT, PRIORITY_SCORE, PRIORITY_MONITOR, PRIORITY_TRAIN = (
    200,
    50,
    100,
    20,
    10,
)


class StageRetryPolicy(RetryPolicy):  # type: ignore[misc]  # airflow.sdk exports it lazily, untyped
    """Retry what can heal by itself; fail at once what needs a person, was waited for in vain, or has failed often enough."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's number counts tries that never reached our code
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide by the error's own word and by the tries that our code has had; Airflow calls it in the worker."""
        if isinstance(exception, StaleTokenError):
            return RetryDecision.retry(
                RETRY_DELAY, "another run took the partition; the next try finds its content there"
            )
        if isinstance(exception, NightshiftError):
            if exception.is_waiting:
                return RetryDecision.fail(f"{exception.code} was waited for in vain")
            if not exception.is_retryable:
                return RetryDecision.fail(f"{exception.code} needs a person")
        if context is None:
            return RetryDecision.retry(RETRY_DELAY, type(exception).__name__)
        return _retry_by_count(exception, TaskTry.of(context))


def _retry_by_count(exception: BaseException, this: TaskTry) -> RetryDecision:
    name, n_failed = type(exception).__name__, failed_tries(load_settings(), this)
    if n_failed is None:
        # The warehouse that counts them is away, as long as that lasts: the pauses grow, and
        # Airflow's own limit holds.
        pause = RETRY_DELAY * 2 ** (this.attempt - this.first)
        return RetryDecision.retry(min(pause, LONGEST_RETRY_DELAY), name)
    if n_failed >= N_TRIES:
        return RetryDecision.fail(f"{n_failed} tries of the task's own code have failed")
    return RetryDecision.retry(RETRY_DELAY, name)


def task_defaults(owner: str, *, timeout_minutes: int) -> dict[str, Any]:
    """Return ``default_args`` of a DAG.

    Args:
        owner: Team that answers for it.
        timeout_minutes: Limit of one try; waiting for upstream does not count.
    """
    return {
        "owner": owner,
        "retries": N_TRIES - 1 + N_LOST_TRIES,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": LONGEST_RETRY_DELAY,
        "retry_policy": StageRetryPolicy(),
        "execution_timeout": dt.timedelta(minutes=timeout_minutes),
        "depends_on_past": False,
    }


def dag_defaults(
    doc: str | None, *tags: str, longest_run: dt.timedelta, max_active_runs: int = 1
) -> dict[str, Any]:
    """Return the arguments that all DAGs share: no catch-up, documentation and tags, one active run unless said otherwise.

    There is no start date: with one, Airflow starts the run of the last midnight as soon as it
    reads a DAG, and that run waits in vain.

    Args:
        doc: The DAG's documentation.
        tags: Beside ``nightshift``.
        longest_run: After it a run fails: one whose task is lost to Airflow but never ends would
            keep all later nights waiting. More than all tries and waits of its tasks take.
        max_active_runs: Runs at the same time.
    """
    return {
        "catchup": False,
        "dagrun_timeout": longest_run,
        "max_active_runs": max_active_runs,
        "max_active_tasks": 8,
        "doc_md": doc,
        "tags": ["nightshift", *tags],
    }
