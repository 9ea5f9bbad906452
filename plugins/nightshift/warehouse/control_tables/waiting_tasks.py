"""Tasks that wait for upstream: their runs count as active runs of their DAG until they end."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


class RunWaitsError(NightshiftError):
    """A run has been waiting for upstream for a long time."""

    code = "NS-AIRFLOW-012"


@dataclass(frozen=True)
class WaitingTask:
    """A task that polls for upstream.

    Attributes:
        dag_id: Its DAG.
        task_id: The task.
        day: Its partition.
        last_look: When it polled last, UTC.
    """

    dag_id: str
    task_id: str
    day: dt.date
    last_look: dt.datetime

    def describe(self) -> RunWaitsError:
        """Return a message for the operator."""
        return RunWaitsError(
            f"{self.dag_id} of {self.day} waits for upstream in {self.task_id}.",
            got=f"last look {self.last_look:%Y-%m-%d %H:%M} UTC",
            todo=f"If nobody needs that day: `nightshift end-run {self.dag_id} {self.day}`.",
        )


def waiting_tasks(conn: Connection) -> list[WaitingTask]:
    """Return one waiting task of each run that polled within the last ten minutes."""
    # A waiting task polls every two minutes.
    rows = conn.execute(
        """
        select distinct on (dag_id, dag_run_id) dag_id, task_id, partition_date, started_at
        from ops.task_tries
        where outcome = 'waiting' and started_at > clock_timestamp() - interval '10 minutes'
        order by dag_id, dag_run_id, started_at desc
        """
    )
    return [WaitingTask(*row) for row in rows]
