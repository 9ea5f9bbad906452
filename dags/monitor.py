"""Measures the predictions whose outcomes are mature, and tonight's drift; asks for a retraining when the evidence says so.

**Reads** published predictions, outcomes as known at the partition's as-of, features, the
champion's training reference. **Writes** `monitoring.*`, a report in the lake, at most one row in
`monitoring.retrain_decisions`; emits `retrain/<model>` then. **Starts** when the partition's
predictions are published (docs/adr/0003-partitions-and-assets.md says why not with the features).
**Rerun, clear, backfill** are safe: same partition, same verdict, never a second decision. Its
failure stops nothing else.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, tasks


def build_dag(spec: ModelSpec) -> DAG:
    """Wire the measurement, and the event that follows only from an open decision."""
    common = {"pool": defaults.POOL_WAREHOUSE, "priority_weight": defaults.PRIORITY_MONITOR}
    with DAG(
        dag_id=f"monitor__{spec.name}",
        schedule=PartitionedAssetTimetable(assets=assets.predictions(spec)),
        default_args=defaults.task_defaults(spec.owner, timeout_minutes=30),
        **defaults.dag_defaults(__doc__, "monitor", spec.name, longest_run=dt.timedelta(hours=6)),
    ) as dag:
        verdict = task(task_id="measure", **common)(tasks.measure_model)(spec.name)
        task(task_id="announce_retraining", outlets=[assets.retrain(spec)], **common)(
            tasks.emit_retrain_asset
        )(verdict)
    return dag


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    globals()[f"monitor__{_spec.name}"] = build_dag(_spec)
