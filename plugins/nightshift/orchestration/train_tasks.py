"""Task bodies of `train__<model>` and `shadow__<model>`: challengers, and decisions about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.orchestration.post_conditions import claims_of, require_published, require_row
from nightshift.orchestration.task_scope import TaskScope, task_scope, waiting
from nightshift.orchestration.upstream import MAX_WAIT
from nightshift.stage_times import stage

if TYPE_CHECKING:
    from nightshift.registry.promotion import Decision


@task.short_circuit(task_id="is_due")
def is_training_due(model: str, partition_key: str) -> bool:
    """Return whether the spec's schedule or an open retrain request calls for training now."""
    from nightshift.training.schedule import is_due

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        return is_due(scope.settings, spec, scope.partition)


@task
def build_training_set(model: str, partition_key: str) -> str:
    """Probe the window's features for leakage, freeze the training set and return its key."""
    from nightshift.training import training_set
    from nightshift.training.point_in_time_probe import probe_features

    with task_scope(partition_key) as scope, waiting(MAX_WAIT):
        spec = scope.spec(model)
        window = training_set.mature_window(spec, scope.partition)
        # First: a feature that knows the future would look like a good model.
        with stage("leakage_probe", model=model):
            probe_features(scope.settings, spec, window, scope.run)
        built = training_set.build_training_set(scope.settings, spec, scope.partition, scope.run)
        key = require_row(scope, "training set", key=built.key, model=model)
        return str(key)


@task(task_id="train")
def train_model(model: str, training_set_key: str, partition_key: str) -> int:
    """Train, evaluate and register a challenger; return its version."""
    from nightshift.registry.model_versions import register
    from nightshift.training.pipeline import train

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        candidate = train(scope.settings, spec, training_set_key, scope.run)
        registered = register(scope.settings, candidate, scope.run)
        version = require_row(scope, "model version", version=registered.version, model=model)
        return int(version)


@task(task_id="decide")
def decide_promotion(model: str, version: int, partition_key: str) -> dict[str, Any]:
    """Promote or refuse the challenger, and close the retrain requests that it answers."""
    from nightshift.registry.promotion import decide

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        decision = decide(scope.settings, spec, version, scope.run)
        return _read_back(scope, decision)


@task(task_id="score_shadows")
def score_shadows(model: str, partition_key: str) -> dict[str, Any]:
    """Score the partition with the challengers; return the load, empty without a challenger."""
    from nightshift.scoring.shadow.shadow_scores import score_shadows as score

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        published = score(scope.settings, spec, scope.partition, scope.run)
        if published is None:
            return {}
        dataset = spec.shadow_dataset
        visible = require_published(scope, [dataset], claims_of([published]))
        return asdict(visible[dataset])


@task(task_id="record_nights")
def record_stream_nights(model: str, partition_key: str) -> list[str]:
    """Record the paired losses of matured nights."""
    from nightshift.registry.streams.nights import record_nights

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        recorded = record_nights(scope.settings, spec, scope.partition, scope.run)
        for row in recorded:
            require_row(
                scope,
                "stream night",
                model=model,
                stream=row.stream,
                night=row.partition_date,
                shadow_load=row.shadow_load,
            )
        return [f"{row.stream} {row.partition_date}" for row in recorded]


@task(task_id="decide")
def decide_on_streams(model: str, partition_key: str) -> dict[str, Any]:
    """Decide about challengers that have proved something and about a canary; skip without one."""
    from nightshift.registry.streams.nightly_decision import decide_night

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        decisions = decide_night(scope.settings, spec, scope.partition, scope.run)
        if not decisions:
            raise AirflowSkipException("No stream has proved anything, and nothing else is due.")
        return {"decisions": [_read_back(scope, decision) for decision in decisions]}


def _read_back(scope: TaskScope, decision: Decision) -> dict[str, Any]:
    verdict = require_row(
        scope,
        "promotion",
        promotion_id=decision.promotion_id,
        model=decision.model,
        version=decision.version,
    )
    return {
        "promotion_id": decision.promotion_id,
        "verdict": verdict,
        "reasons": list(decision.reasons),
    }
