"""Task bodies of `train__<model>`: a training set, a challenger, and the decision about it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import task

from nightshift.orchestration.post_conditions import require_row
from nightshift.orchestration.task_scope import task_scope, waiting
from nightshift.orchestration.upstream import MAX_WAIT


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
        probe_features(scope.settings, spec, window, scope.run)
        built = training_set.build_training_set(
            scope.settings,
            spec,
            scope.partition,
            scope.run,
        )
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
        version = require_row(
            scope,
            "model version",
            version=registered.version,
            model=model,
        )
        return int(version)


@task(task_id="decide")
def decide_promotion(model: str, version: int, partition_key: str) -> dict[str, Any]:
    """Promote or refuse the challenger, and close the retrain requests that it answers."""
    from nightshift.registry.promotion import decide

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        decision = decide(scope.settings, spec, version, scope.run)
        verdict = require_row(
            scope,
            "promotion",
            promotion_id=decision.promotion_id,
            model=model,
            version=version,
        )
        return {
            "promotion_id": decision.promotion_id,
            "verdict": verdict,
            "reasons": list(decision.reasons),
        }
