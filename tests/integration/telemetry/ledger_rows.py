"""Tries in the ledger as tasks leave them."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

DAY = dt.date(2013, 3, 4)
# The night ended long enough ago that its runs are over.
BEGAN = dt.timedelta(hours=2)


def add_try(
    conn: Connection,
    dag_id: str,
    task_id: str,
    start: float,
    end: float | None,
    *,
    outcome: str | None = "success",
    attempt: int = 1,
    run: str = "",
    day: dt.date = DAY,
    stages: tuple[dict[str, Any], ...] = (),
) -> None:
    """Record a try that began so many seconds after the night did."""
    # A run of each night, as Airflow has it.
    run = run or f"scheduled__{day + dt.timedelta(days=1)}T00:00:00+00:00"
    conn.execute(
        """
        insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt, partition_date,
            started_at, ended_at, outcome, stages)
        values (%s, %s, %s, -1, %s, %s, now() - %s + make_interval(secs => %s),
            now() - %s + make_interval(secs => %s), %s, %s)
        """,
        [dag_id, run, task_id, attempt, day, BEGAN, start, BEGAN, end, outcome, json.dumps(stages)],
    )


def add_night(conn: Connection, day: dt.date = DAY) -> None:
    """Record a night through five DAGs, with a retry in one of them."""
    add_try(conn, "ingest", "load_weather", 0, 4, day=day)
    add_try(conn, "transform", "build", 5, 20, outcome="NS-WAREHOUSE-003", day=day)
    add_try(conn, "transform", "build", 41, 60, attempt=2, day=day)
    add_try(conn, "score__flight_delayed", "publish", 61, 70, day=day)
    add_try(conn, "monitor__flight_delayed", "monitor", 71, 80, day=day)
    add_try(conn, "train__flight_delayed", "decide", 71, 200, day=day)


N_SPANS = 1 + 5 + 6
"""Of such a night: the root, runs and tries."""
