"""Gives traces and lineage events of past tasks and loads to the receivers that are configured.

**Reads** `ops.task_tries`, `ops.loads`, `ops.ledger`, `ml.*` and `monitoring.verdicts`; for lineage
the specs, contracts and results of gates too.
**Writes** `ops.telemetry_sent`; sends spans to `OTEL_EXPORTER_OTLP_ENDPOINT` and events to
`OPENLINEAGE_URL`.
**Starts** every five minutes where one of these variables is set for Airflow's processes; never
without, and a person may trigger it.
**Never fails** because of a receiver: one that is away or slow gets the rest in a later round.
**Rerun, clear, backfill** are safe: what was accepted is not sent again.
"""

from __future__ import annotations

import datetime as dt

from airflow.sdk import CronTriggerTimetable, dag

from nightshift.orchestration import defaults
from nightshift.orchestration.telemetry.tasks import DAG_ID, send_new
from nightshift.telemetry.export_round import is_on


@dag(
    dag_id=DAG_ID,
    # Off means off: not even a task that finds nothing to do.
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC") if is_on() else None,
    default_args=defaults.task_defaults("data-platform", defaults.MONITORING, timeout_minutes=10),
    **defaults.dag_defaults(__doc__, DAG_ID, longest_run=dt.timedelta(minutes=40)),
)
def telemetry() -> None:
    """Send in one task."""
    send_new()


telemetry()
