"""Reports once a month what the features of a model are used for, worth and cost.

**Reads** published features, labels as the newest partition knows them, the champion and versions
of earlier weeks, the ledger.
**Writes** `ml.feature_reports`, `ml.feature_findings`.
**Starts** at noon, long after the deadlines; it does nothing if no model serves, or if the month of
the newest features has a report. A report that failed is tried again at the next noon.
**Rerun, clear, backfill** are safe: a report replaces the one of its partition. Nothing waits for
it, and in the pool `training` every training goes first.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import CronPartitionTimetable, dag

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.contracts.partitions import operating_timezone
from nightshift.orchestration import defaults, monitor_tasks


def build_dag(spec: ModelSpec) -> None:
    """Build the DAG of one model."""

    @dag(
        dag_id=f"study__{spec.name}",
        schedule=CronPartitionTimetable(
            "0 12 * * *",
            timezone=operating_timezone(),
            run_offset=-1,
            key_format="%Y-%m-%d",
        ),
        default_args=defaults.task_defaults(spec.owner, defaults.STUDIES, timeout_minutes=120),
        **defaults.dag_defaults(__doc__, "study", spec.name, longest_run=dt.timedelta(hours=12)),
    )
    def study() -> None:
        is_due = monitor_tasks.is_report_due(spec.name)
        is_due >> monitor_tasks.report_features(spec.name)

    study()


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    build_dag(_spec)
