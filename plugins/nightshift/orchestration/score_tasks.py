"""Task bodies of `score__<model>`: begin the write, score its shards, publish them."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import task

from nightshift.errors import StaleTokenError
from nightshift.orchestration.post_conditions import (
    claims_of,
    count_shard,
    require_published,
    require_row,
)
from nightshift.orchestration.task_scope import TaskScope, task_scope
from nightshift.warehouse.damage import VanishedRowsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.scoring.plan import ScorePlan
    from nightshift.warehouse.write_types import PublishedLoad

logger = logging.getLogger(__name__)


@task(task_id="begin")
def begin_scoring(model: str, partition_key: str) -> dict[str, Any]:
    """Choose and verify the model, and begin the write; return the plan."""
    from nightshift.scoring.pipeline import begin

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        plan = begin(scope.settings, spec, scope.partitions, scope.run)
        require_row(scope, "load", load_id=plan.load_id, dataset=spec.predictions_dataset)
        # The shards and `publish` follow this plan, whatever the spec says by then.
        return plan.model_dump(mode="json")


@task(task_id="score_shard")
def score_shard(model: str, plan: dict[str, Any], shard: int, partition_key: str) -> int:
    """Score one shard into the begun write; return its rows."""
    from nightshift.scoring.pipeline import score_shard as score
    from nightshift.scoring.plan import ScorePlan

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        begun = ScorePlan.model_validate(plan)
        score(scope.settings, spec, begun, shard, scope.run)
        require_row(scope, "load", load_id=begun.load_id, dataset=spec.predictions_dataset)
        return count_shard(scope, spec, begun.load_id, shard)


@task(task_id="publish")
def publish_predictions(model: str, plan: dict[str, Any], partition_key: str) -> dict[str, Any]:
    """Audit, gate and publish the predictions; return the load that readers see."""
    from nightshift.scoring.plan import ScorePlan

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        begun = ScorePlan.model_validate(plan)
        published = _publish_or_rescore(scope, spec, begun)
        logger.info("Published: %s", published)
        dataset = spec.predictions_dataset
        claims = claims_of(published)
        visible = require_published(scope, [dataset], claims)
        return asdict(visible[dataset])


def _publish_or_rescore(
    scope: TaskScope, spec: ModelSpec, plan: ScorePlan
) -> Iterable[PublishedLoad]:
    """Publish the plan; if it is obsolete, score the partition again within this task.

    A plan is obsolete if shards are missing (somebody cleared ``begin`` alone), if a newer attempt
    took over but published nothing, or if published rows have vanished.
    """
    from nightshift.scoring.pipeline import has_successor, publish, score
    from nightshift.scoring.row_checks import IncompletePredictionsError

    try:
        return publish(scope.settings, spec, plan, scope.run)
    except StaleTokenError as error:
        if has_successor(scope.settings, spec, plan, scope.run):
            logger.warning("A newer attempt has published the partition:\n%s", error)
            return []
        logger.warning("Scoring again in this task:\n%s", error)
    except (IncompletePredictionsError, VanishedRowsError) as error:
        logger.warning("Scoring again in this task:\n%s", error)
    return score(scope.settings, spec, scope.partitions, scope.run)
