"""Defaults of every DAG and task: owner, pools, time limits, retries, and which errors to retry."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseNotifier, RetryDecision, RetryPolicy

from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.notices.round import tell_quietly
from nightshift.orchestration.task_tries import N_TRIES, TaskTry, failed_tries
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

# Tries that Airflow may lose before a task's code begins, on top of our own three.
N_LOST_TRIES = 6
# Pause after an error of our own code. After lost tries the pauses double from here.
RETRY_DELAY = dt.timedelta(seconds=20)
MAX_RETRY_DELAY = dt.timedelta(minutes=10)
# Active runs of a DAG whose tasks wait for upstream; a few mistyped days must not block it.
WAITING_RUNS = 16


class Lane(NamedTuple):
    """A pool, and the priority that its tasks have in Airflow's queue."""

    pool: str
    priority_weight: int


RESCUE = Lane("rescue", 200)
SCORING = Lane("scoring", 100)
WAREHOUSE = Lane("warehouse", 50)
MONITORING = Lane("warehouse", 20)
TRAINING = Lane("training", 10)
# A study takes the cores as a training does, and every training goes first.
STUDIES = Lane("training", 1)
# Behind everything: no promise to anybody outside depends on it.
SHADOW = Lane("shadow", 1)


class StageRetryPolicy(RetryPolicy):  # type: ignore[misc]  # airflow.sdk exports it lazily, untyped
    """Retry transient errors of a stage, up to ``N_TRIES`` tries of our own code."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's number counts tries that never reached our code
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide by the type of error and by our own count of tries; Airflow calls it."""
        if isinstance(exception, StaleTokenError):
            return RetryDecision.retry(
                RETRY_DELAY, "another run owns the partition; the next try finds its content"
            )
        if isinstance(exception, NightshiftError):
            if exception.is_waiting:
                return RetryDecision.fail(f"{exception.code}: the maximum wait is over")
            if not exception.is_retryable:
                return RetryDecision.fail(f"{exception.code} needs a person")
        name = type(exception).__name__
        if context is None:
            return RetryDecision.retry(RETRY_DELAY, name)

        this = TaskTry.of(context)
        n_failed = failed_tries(load_settings(), this)
        if n_failed is None:
            # The warehouse that counts tries is down, maybe for long: back off, and let Airflow's
            # own limit end the task.
            pause = RETRY_DELAY * 2 ** (this.attempt - this.first)
            return RetryDecision.retry(min(pause, MAX_RETRY_DELAY), name)
        if n_failed >= N_TRIES:
            return RetryDecision.fail(f"{n_failed} tries of the task's own code failed")
        return RetryDecision.retry(RETRY_DELAY, name)


class IncidentNotifier(BaseNotifier):  # type: ignore[misc]  # airflow.sdk exports it lazily
    """Tell people what is broken, as an Airflow notifier: for tasks of ours, and of other DAGs.

    Airflow cannot tell that Airflow is down, and lateness is no event of a task: those are told
    from outside. Source: docs/notices.md.
    """

    def notify(self, context: Context) -> None:  # noqa: ARG002 - the warehouse knows what failed
        """Evaluate the incidents and tell people; what goes wrong is logged and fails nothing."""
        tell_quietly(load_settings())


def task_defaults(owner: str, lane: Lane, *, timeout_minutes: int) -> dict[str, Any]:
    """Return the ``default_args`` of a DAG.

    Args:
        owner: Team that answers for it.
        lane: Pool and priority of its tasks.
        timeout_minutes: Limit of one try; waiting for upstream does not count.
    """
    return {
        "owner": owner,
        **lane._asdict(),
        "retries": N_TRIES - 1 + N_LOST_TRIES,
        "retry_delay": RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": MAX_RETRY_DELAY,
        "retry_policy": StageRetryPolicy(),
        "execution_timeout": dt.timedelta(minutes=timeout_minutes),
        "depends_on_past": False,
        # Only after the last try: Airflow calls it when a task has failed for good.
        "on_failure_callback": [IncidentNotifier()],
    }


def dag_defaults(
    doc: str | None, *tags: str, longest_run: dt.timedelta, max_active_runs: int = 1
) -> dict[str, Any]:
    """Return the arguments that all DAGs share.

    Args:
        doc: The DAG's documentation.
        tags: Tags in addition to ``nightshift``.
        longest_run: Limit of a run, longer than all tries and waits of its tasks. Without it, a
            task that Airflow lost would block all later runs.
        max_active_runs: Runs at the same time.
    """
    # No start date: with one, Airflow starts the run of the last midnight as soon as it parses the
    # DAG, and that run waits in vain.
    return {
        "catchup": False,
        "dagrun_timeout": longest_run,
        "max_active_runs": max_active_runs,
        "max_active_tasks": 8,
        "doc_md": doc,
        "tags": ["nightshift", *tags],
    }
