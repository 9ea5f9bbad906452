"""Task bodies of `monitor__<model>`: publish the verdict, and emit its request to retrain."""

from __future__ import annotations

from typing import Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.orchestration.post_conditions import require_published, require_row
from nightshift.orchestration.task_scope import task_scope


@task(task_id="measure")
def measure_model(model: str, partition_key: str) -> dict[str, Any]:
    """Measure performance and drift, and publish the verdict; return its summary."""
    from nightshift.monitoring.monitor import monitor

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        verdict = monitor(scope.settings, spec, scope.partitions, scope.run)
        require_published(scope, [f"monitoring/{model}"])
        return verdict.summary()


@task(task_id="announce_retraining")
def emit_retrain_asset(verdict: dict[str, Any], partition_key: str) -> int:
    """Emit the retrain event of an open request; skip without one, so that nothing is emitted."""
    decision_id = verdict["retrain_decision_id"]
    if decision_id is None:
        raise AirflowSkipException("The verdict requests no retraining.")
    with task_scope(partition_key) as scope:
        row = require_row(scope, "decision", decision_id=decision_id)
        return int(row)
