"""Start one night in Airflow and follow it through every DAG that it wakes."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.cli.console import say
from nightshift.errors import ServiceError

if TYPE_CHECKING:
    from nightshift_local.airflow_api import AirflowApi, DagRun

POLL_SECONDS = 1.0
QUIET_POLLS = 4
"""Polls without an active run before a night counts as over: a wake-up by an asset takes the
scheduler a moment.
"""
ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class Night:
    """What one night took.

    Attributes:
        partition_key: The operating day.
        n_runs: DAG runs that it woke.
        seconds_to_predictions: From the start of ``ingest`` to the last published prediction table.
        seconds: From the start of ``ingest`` to the end of the last run.
    """

    partition_key: str
    n_runs: int
    seconds_to_predictions: float
    seconds: float


def run_night(
    api: AirflowApi, partition_key: str, expected: Collection[str], timeout_seconds: float = 900
) -> Night:
    """Start ``ingest`` for a partition and wait until every expected DAG has run and nothing is active.

    Args:
        api: Airflow.
        partition_key: The operating day.
        expected: DAG ids that must run.
        timeout_seconds: Upper limit of the whole night.

    Raises:
        ServiceError: A run failed, or the night did not end in time.
    """
    before = {(run.dag_id, run.run_id) for run in api.runs(partition_key)}
    started = time.monotonic()
    api.trigger("ingest", partition_key)
    ended: dict[tuple[str, str], float] = {}
    n_quiet = 0
    while n_quiet < QUIET_POLLS:
        time.sleep(POLL_SECONDS)
        elapsed = time.monotonic() - started
        runs = [run for run in api.runs(partition_key) if (run.dag_id, run.run_id) not in before]
        for run in runs:
            if run.state in ENDED and (run.dag_id, run.run_id) not in ended:
                ended[run.dag_id, run.run_id] = elapsed
                say(f"      {elapsed:5.0f} s  {run.dag_id:<32} {run.state}")
                _refuse_failure(api, run)
        is_over = len(ended) == len(runs) and set(expected) <= {run.dag_id for run in runs}
        n_quiet = n_quiet + 1 if is_over else 0
        if elapsed > timeout_seconds:
            _give_up(partition_key, runs, expected, elapsed)
    scored = max(
        (at for (dag_id, _), at in ended.items() if dag_id.startswith("score__")), default=0.0
    )
    return Night(partition_key, len(ended), scored, max(ended.values()))


def _refuse_failure(api: AirflowApi, run: DagRun) -> None:
    if run.state != "failed":
        return
    failed = [task["task_id"] for task in api.tasks(run) if task["state"] == "failed"]
    raise ServiceError(
        f"{run.dag_id} of {run.partition_key} failed in task {', '.join(failed) or '?'}.",
        todo=f"Open its log at {api.url}/dags/{run.dag_id}/runs/{run.run_id}",
        code="NS-SERVICE-010",
    )


def _give_up(
    partition_key: str, runs: list[DagRun], expected: Collection[str], elapsed: float
) -> None:
    active = [f"{run.dag_id} ({run.state})" for run in runs if run.state not in ENDED]
    missing = sorted(set(expected) - {run.dag_id for run in runs})
    raise ServiceError(
        f"The night of {partition_key} did not end within {elapsed:.0f} s.",
        got=f"active: {', '.join(active) or 'none'}; never started: {', '.join(missing) or 'none'}",
        todo="Run `nightshift status`, then look at the runs in Airflow.",
        code="NS-SERVICE-011",
    )
