"""Task bodies of `monitor__<model>` and `study__<model>`.

They publish the verdict of a partition, emit its request to retrain, and report once a month what
features are worth.
"""

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


@task.short_circuit(task_id="is_due")
def is_report_due(model: str, partition_key: str) -> bool:
    """Return whether a champion serves and the month of the newest features has no report."""
    from nightshift.studies.report_store import is_due

    with task_scope(partition_key) as scope, scope.connect() as conn:
        spec = scope.spec(model)
        return is_due(conn, spec)


@task(task_id="report_features")
def report_features(model: str, partition_key: str) -> dict[str, str | int]:
    """Study the features and keep the report; return its partition and its rows."""
    from nightshift.studies.feature_report import report_features as study

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        report = study(scope.settings, spec, scope.run)
        n_rows = require_row(
            scope,
            "feature report",
            model=model,
            partition_date=report.partition_date,
        )
        return {"partition": str(report.partition_date), "n_rows": int(n_rows)}
