"""Trains a challenger when the schedule or an open request asks for it; promotes or refuses it.

**Reads** published feature partitions, labels as known at the partition's as-of, open rows of
`monitoring.retrain_decisions`.
**Writes** a training set and model files in the lake, `ml.*`, MLflow; emits `model/<model>`.
**Starts** with the features of every partition, and with `retrain/<model>`: if that event is lost,
the next run finds the open request.
**Rerun, clear, backfill** are safe: same training set and spec give the same trees and the same
recorded decision. Scoring never waits for it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import PartitionedAssetTimetable, dag

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, train_tasks


def build_dag(spec: ModelSpec) -> None:
    """Build the DAG of one model."""

    @dag(
        dag_id=f"train__{spec.name}",
        schedule=PartitionedAssetTimetable(
            assets=assets.any_of([assets.features(spec.feature_view), assets.retrain(spec)])
        ),
        default_args=defaults.task_defaults(spec.owner, defaults.TRAINING, timeout_minutes=120),
        **defaults.dag_defaults(__doc__, "train", spec.name, longest_run=dt.timedelta(hours=24)),
    )
    def train() -> None:
        is_due = train_tasks.is_training_due(spec.name)
        training_set = train_tasks.build_training_set(spec.name)
        version = train_tasks.train_model(spec.name, training_set)
        decide = train_tasks.decide_promotion.override(outlets=[assets.model(spec)])
        is_due >> training_set
        decide(spec.name, version)

    train()


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    build_dag(_spec)
