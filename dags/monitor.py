"""Measures mature predictions and current drift; requests a retraining if the evidence supports it.

**Reads** published predictions, outcomes as known at the partition's as-of, features, the
champion's training reference.
**Writes** `monitoring.*`, a report in the lake, at most one row in `monitoring.retrain_decisions`;
emits `retrain/<model>` then.
**Starts** when the partition's predictions are published (docs/adr/0003-partitions-and-assets.md
tells why not with the features).
**Rerun, clear, backfill** are safe: same partition, same verdict, never a second request. Its
failure stops nothing else.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import PartitionedAssetTimetable, dag

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, monitor_tasks


def build_dag(spec: ModelSpec) -> None:
    """Build the DAG of one model."""

    @dag(
        dag_id=f"monitor__{spec.name}",
        schedule=PartitionedAssetTimetable(assets=assets.predictions(spec)),
        default_args=defaults.task_defaults(spec.owner, defaults.MONITORING, timeout_minutes=30),
        **defaults.dag_defaults(__doc__, "monitor", spec.name, longest_run=dt.timedelta(hours=6)),
    )
    def monitor() -> None:
        verdict = monitor_tasks.measure_model(spec.name)
        monitor_tasks.emit_retrain_asset.override(outlets=[assets.retrain(spec)])(verdict)

    monitor()


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    build_dag(_spec)
