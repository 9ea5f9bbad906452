"""What every DAG and task decides: owner, retries, time limits, pools, and which errors are worth a retry."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from airflow.sdk import Context

START = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
"""First day that any DAG knows; the first of the data that nightshift ships with."""
N_TRIES = 3
RETRY_DELAY = dt.timedelta(seconds=20)
WAIT_DELAY = dt.timedelta(minutes=2)
"""Pause while a task waits for something that upstream still owes."""
POOL_WAREHOUSE, POOL_SCORING, POOL_TRAINING = "warehouse", "scoring", "training"
PRIORITY_NIGHT, PRIORITY_SCORE, PRIORITY_MONITOR, PRIORITY_TRAIN = 50, 100, 20, 10


class StageRetryPolicy(RetryPolicy):  # type: ignore[misc]  # airflow.sdk exports it lazily, untyped
    """Wait for what is owed, retry what can heal by itself, and fail at once what needs a person.

    A waiting task uses up to its ``retries``; any other failure has ``N_TRIES`` tries in a row at most.
    """

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None) -> RetryDecision:  # noqa: ARG002
        """Decide by the error's own word; Airflow calls it in the worker."""
        if isinstance(exception, NightshiftError):
            if exception.is_waiting:
                return RetryDecision.retry(WAIT_DELAY, f"waiting: {exception.code}")
            if not exception.is_retryable:
                return RetryDecision.fail(f"{exception.code} needs a person")
        if try_number >= N_TRIES:
            return RetryDecision.fail(f"failed {try_number} times")
        return RetryDecision.retry(RETRY_DELAY, type(exception).__name__)


def task_defaults(owner: str, *, timeout_minutes: int, wait_minutes: int = 0) -> dict[str, Any]:
    """Return ``default_args`` of a DAG.

    Args:
        owner: Team that answers for it.
        timeout_minutes: Limit of one try.
        wait_minutes: How long a task may wait for upstream in all.
    """
    return {
        "owner": owner,
        "retries": N_TRIES - 1 + wait_minutes * 60 // int(WAIT_DELAY.total_seconds()),
        "retry_delay": RETRY_DELAY,
        "retry_policy": StageRetryPolicy(),
        "execution_timeout": dt.timedelta(minutes=timeout_minutes),
        "depends_on_past": False,
    }


def dag_defaults(doc: str | None, *tags: str) -> dict[str, Any]:
    """Return the arguments that all DAGs share: one active run, no catch-up, documentation and tags."""
    return {
        "start_date": START,
        "catchup": False,
        "max_active_runs": 1,
        "max_active_tasks": 8,
        "doc_md": doc,
        "tags": ["nightshift", *tags],
    }
