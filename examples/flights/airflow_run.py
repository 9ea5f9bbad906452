"""Start one partition in Airflow and follow it through every DAG that its assets trigger."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from nightshift.errors import ServiceError

if TYPE_CHECKING:
    from nightshift_local.airflow_api import AirflowApi, DagRun

POLL_SECONDS = 1.0
QUIET_POLLS = 4
"""Polls without an active run after which a partition is complete: the scheduler takes a moment
to start the runs of an asset event.
"""
ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class PartitionTiming:
    """How long one partition took through Airflow.

    Attributes:
        partition_key: The operating day.
        n_runs: DAG runs that it triggered.
        seconds_to_predictions: From the start of ``ingest`` to the last published prediction table.
        seconds: From the start of ``ingest`` to the end of the last run.
    """

    partition_key: str
    n_runs: int
    seconds_to_predictions: float
    seconds: float


def run_partition(
    api: AirflowApi,
    partition_key: str,
    expected: Collection[str],
    timeout_seconds: float = 900,
) -> PartitionTiming:
    """Start ``ingest`` for a partition and wait until every expected DAG has run.

    Args:
        api: Airflow.
        partition_key: The operating day.
        expected: DAG ids that must run.
        timeout_seconds: Upper limit of all runs together.

    Returns:
        The times as this process saw them, in steps of a second.

    Raises:
        ServiceError: A run failed, or the runs did not end in time.
    """
    # A repeated demo triggers the same partitions: runs of before do not count.
    earlier = set(map(_identity, api.runs(partition_key)))
    started = time.monotonic()
    api.trigger("ingest", partition_key)
    ended: dict[tuple[str, str], float] = {}
    predicted_at = 0.0
    n_quiet = 0
    while n_quiet < QUIET_POLLS:
        time.sleep(POLL_SECONDS)
        elapsed = time.monotonic() - started
        runs = [run for run in api.runs(partition_key) if _identity(run) not in earlier]
        for run in runs:
            identity = _identity(run)
            if run.state not in ENDED or identity in ended:
                continue
            ended[identity] = elapsed
            typer.echo(f"      {elapsed:5.0f} s  {run.dag_id:<32} {run.state}")
            _refuse_failure(api, run)
            # The last model's scoring is what the night's readers waited for.
            if run.dag_id.startswith("score__"):
                predicted_at = elapsed

        # Between two DAGs nothing runs for a moment: only a longer silence is the end.
        started_dags = {run.dag_id for run in runs}
        missing = set(expected) - started_dags
        n_quiet += 1
        if missing or len(ended) < len(runs):
            n_quiet = 0
        if elapsed > timeout_seconds:
            raise _timeout(partition_key, runs, missing, elapsed)
    return PartitionTiming(
        partition_key,
        len(ended),
        predicted_at,
        max(ended.values()),
    )


def _identity(run: DagRun) -> tuple[str, str]:
    """Return what tells a run from all others."""
    # Two DAGs may use the same run id.
    return run.dag_id, run.run_id


def _refuse_failure(api: AirflowApi, run: DagRun) -> None:
    """Name the failed tasks of a run and where their logs are.

    Raises:
        ServiceError: The run has failed.
    """
    if run.state != "failed":
        return
    # A run can fail without a failed task, for example by its time limit.
    failed = [task["task_id"] for task in api.tasks(run) if task["state"] == "failed"]
    names = ", ".join(failed) or "?"
    raise ServiceError(
        f"{run.dag_id} of {run.partition_key} failed in task {names}.",
        todo=f"Open its log at {api.url}/dags/{run.dag_id}/runs/{run.run_id}",
        code="NS-SERVICE-010",
    )


def _timeout(
    partition_key: str,
    runs: Sequence[DagRun],
    missing: Collection[str],
    elapsed: float,
) -> ServiceError:
    """Return the error that names the runs that are missing or still active."""
    unended = [run for run in runs if run.state not in ENDED]
    # A run that hangs is active; an event that was lost has started no run.
    active = ", ".join(f"{run.dag_id} ({run.state})" for run in unended) or "none"
    absent = ", ".join(sorted(missing)) or "none"
    return ServiceError(
        f"The runs of {partition_key} did not end within {elapsed:.0f} s.",
        got=f"active: {active}; never started: {absent}",
        todo="Run `nightshift status`, then look at the runs in Airflow.",
        code="NS-SERVICE-011",
    )
