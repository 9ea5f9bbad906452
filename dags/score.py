"""Scores tomorrow's entities with the champion and publishes the predictions. One DAG per spec in `dags/models`.

**Reads** the published feature partition; the champion from the warehouse's registry and the lake.
Never MLflow, never a training. **Writes** `predictions.<model>`; emits `predictions/<model>`.
**Starts** when the feature view of the partition is published. **No champion, or a broken one**:
the champion before it scores, else the last scores aged, else the spec's rule; every row says so in
`score_source`. **Rerun, clear, backfill** are safe: a partition that a model version scored is
scored by it again, so the content is equal.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from nightshift.contracts.model_spec import ModelSpec, read_specs
from nightshift.orchestration import assets, defaults, tasks


def build_dag(spec: ModelSpec) -> DAG:
    """Wire begin, the mapped shards, and publish."""
    common = {"pool": defaults.POOL_SCORING, "priority_weight": defaults.PRIORITY_SCORE}
    with DAG(
        dag_id=f"score__{spec.name}",
        schedule=PartitionedAssetTimetable(assets=assets.features(spec.feature_view)),
        default_args=defaults.task_defaults(spec.owner, timeout_minutes=30),
        **defaults.dag_defaults(__doc__, "score", spec.name, longest_run=dt.timedelta(hours=8)),
    ) as dag:
        plan = task(task_id="begin", **common)(tasks.begin_scoring)(spec.name)
        shards = task(task_id="score_shard", **common)(tasks.score_shard).partial(
            model=spec.name, plan=plan
        )
        publish = task(task_id="publish", outlets=[assets.predictions(spec)], **common)(
            tasks.publish_predictions
        )
        shards.expand(shard=list(range(spec.scoring.shards))) >> publish(spec.name, plan)
    return dag


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    globals()[f"score__{_spec.name}"] = build_dag(_spec)
