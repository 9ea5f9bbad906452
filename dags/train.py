"""Trains a challenger when the spec's schedule or an open decision asks for it, and promotes or refuses it.

**Reads** published feature partitions, labels as known at the partition's as-of, open rows of
`monitoring.retrain_decisions`. **Writes** a training set and model files in the lake, `ml.*`,
MLflow; emits `model/<model>`. **Starts** every night with the features, and with `retrain/<model>`:
if that event is lost, the next night finds the open decision. **Rerun, clear, backfill** are safe:
same training set and spec give the same trees and the same recorded decision. Scoring never waits
for it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, tasks


def build_dag(spec: ModelSpec) -> DAG:
    """Wire due, training set, training and decision."""
    common = {"pool": defaults.POOL_TRAINING, "priority_weight": defaults.PRIORITY_TRAIN}
    with DAG(
        dag_id=f"train__{spec.name}",
        schedule=PartitionedAssetTimetable(
            assets=assets.any_of([assets.features(spec.feature_view), assets.retrain(spec)])
        ),
        default_args=defaults.task_defaults(spec.owner, timeout_minutes=120),
        **defaults.dag_defaults(__doc__, "train", spec.name, longest_run=dt.timedelta(hours=24)),
    ) as dag:
        due = task.short_circuit(task_id="is_due", **common)(tasks.is_training_due)(spec.name)
        training_set = task(task_id="build_training_set", **common)(tasks.build_training_set)(
            spec.name
        )
        candidate = task(task_id="train", **common)(tasks.train_model)(spec.name, training_set)
        decide = task(task_id="decide", outlets=[assets.model(spec)], **common)(
            tasks.decide_promotion
        )
        due >> training_set
        decide(spec.name, candidate)
    return dag


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    globals()[f"train__{_spec.name}"] = build_dag(_spec)
