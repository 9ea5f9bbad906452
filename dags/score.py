"""Scores tomorrow's entities with the champion and publishes the predictions.

One DAG per spec in `dags/models`.

**Reads** the published feature partition; the champion from the warehouse's registry and the lake.
Never MLflow, never a training.
**Writes** `predictions.<model>`; emits `predictions/<model>`.
**Starts** when the feature view of the partition is published.
**No champion, or a broken one**: the previous champion scores, else the last scores are carried
over, else the spec's rule applies; every row names its source in `score_source`.
**A canary** of the partition scores its share alongside the champion, which scores every row if it
cannot.
**Rerun, clear, backfill** are safe: a partition is scored again by the model version that scored
it, so the content is equal.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import PartitionedAssetTimetable, dag

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, score_tasks


def build_dag(spec: ModelSpec) -> None:
    """Build the DAG of one model."""

    @dag(
        dag_id=f"score__{spec.name}",
        schedule=PartitionedAssetTimetable(assets=assets.features(spec.feature_view)),
        default_args=defaults.task_defaults(spec.owner, defaults.SCORING, timeout_minutes=30),
        **defaults.dag_defaults(__doc__, "score", spec.name, longest_run=dt.timedelta(hours=8)),
    )
    def score() -> None:
        plan = score_tasks.begin_scoring(spec.name)
        score_shard = score_tasks.score_shard.partial(model=spec.name, plan=plan)
        publish = score_tasks.publish_predictions.override(outlets=[assets.predictions(spec)])
        shards = score_shard.expand(shard=list(range(spec.scoring.shards)))
        shards >> publish(spec.name, plan)

    score()


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    build_dag(_spec)
