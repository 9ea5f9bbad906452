"""What every DAG and task decides: owner, retries, time limits, pools, and which errors are worth a retry."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from nightshift.errors import NightshiftError, StaleTokenError

if TYPE_CHECKING:
    from airflow.sdk import Context

N_TRIES = 3
RETRY_DELAY = dt.timedelta(seconds=20)
POOL_WAREHOUSE, POOL_SCORING, POOL_TRAINING, POOL_RESCUE = "warehouse", "scoring", "training", "rescue"
PRIORITY_RESCUE, PRIORITY_NIGHT, PRIORITY_SCORE, PRIORITY_MONITOR, PRIORITY_TRAIN = 200, 50, 100, 20, 10


class StageRetryPolicy(RetryPolicy):  # type: ignore[misc]  # airflow.sdk exports it lazily, untyped
    """Retry what can heal by itself, and fail at once what needs a person, or what has been waited for in vain."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None) -> RetryDecision:  # noqa: ARG002
        """Decide by the error's own word; Airflow calls it in the worker, and counts the tries itself."""
        if isinstance(exception, StaleTokenError):
            return RetryDecision.retry(RETRY_DELAY, "another run took the partition; the next try finds its content there")
        if isinstance(exception, NightshiftError):
            if exception.is_waiting:
                return RetryDecision.fail(f"{exception.code} was waited for in vain")
            if not exception.is_retryable:
                return RetryDecision.fail(f"{exception.code} needs a person")
        return RetryDecision.retry(RETRY_DELAY, type(exception).__name__)


def task_defaults(owner: str, *, timeout_minutes: int) -> dict[str, Any]:
    """Return ``default_args`` of a DAG.

    Args:
        owner: Team that answers for it.
        timeout_minutes: Limit of one try; waiting for upstream does not count.
    """
    return {
        "owner": owner,
        "retries": N_TRIES - 1,
        "retry_delay": RETRY_DELAY,
        "retry_policy": StageRetryPolicy(),
        "execution_timeout": dt.timedelta(minutes=timeout_minutes),
        "depends_on_past": False,
    }


def dag_defaults(doc: str | None, *tags: str, longest_run: dt.timedelta, max_active_runs: int = 1) -> dict[str, Any]:
    """Return the arguments that all DAGs share: no catch-up, documentation and tags, one active run unless said otherwise.

    There is no start date: with one, Airflow starts the run of the last midnight as soon as it reads a DAG, and that run waits in vain.

    Args:
        doc: The DAG's documentation.
        tags: Beside ``nightshift``.
        longest_run: After it a run fails: one whose task is lost to Airflow but never ends would keep all later nights waiting. More than
            all tries and waits of its tasks take.
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
