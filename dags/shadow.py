"""Scores tonight's partition with the challengers, where nobody reads it, and compares streams.

**Reads** the published predictions and the features that they were made from, challengers from the
registry, outcomes as known at the partition's as-of.
**Writes** `shadow.<model>`, `monitoring.stream_nights`, and a decision in `ml.promotions` when a
stream is proved better, the champion is old, or a canary is opened or returned; emits
`model/<model>` then.
**Starts** when the partition's predictions are published: never before them, and in a pool of its
own, so that it takes no slot from anything with a deadline.
**Rerun, clear, backfill** are safe: the same versions score again, a recorded night stays, a
decision is made once. Its failure stops nothing else; nights that it left out are recorded later.
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
        dag_id=f"shadow__{spec.name}",
        schedule=PartitionedAssetTimetable(assets=assets.predictions(spec)),
        default_args=defaults.task_defaults(spec.owner, defaults.SHADOW, timeout_minutes=30),
        **defaults.dag_defaults(__doc__, "shadow", spec.name, longest_run=dt.timedelta(hours=6)),
    )
    def shadow() -> None:
        # Tonight's scores mature later: what they decide does not wait for them.
        train_tasks.score_shadows(spec.name)
        recorded = train_tasks.record_stream_nights(spec.name)
        decide = train_tasks.decide_on_streams.override(outlets=[assets.model(spec)])
        recorded >> decide(spec.name)

    shadow()


for _spec in read_specs(Path(__file__).parent / "models").documents.values():
    build_dag(_spec)
