"""Task bodies of the rescue: before the deadline, publish the best predictions that can be made."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.errors import SpecError
from nightshift.orchestration.post_conditions import require_published
from nightshift.orchestration.task_scope import task_scope, waiting
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.orchestration.task_scope import TaskScope


@task(task_id="rescue")
def rescue_predictions(model: str, partition_key: str) -> dict[str, Any]:
    """Publish by the best step of the fallback chain, unless the partition is published."""
    with task_scope(partition_key) as scope:
        return _rescue(scope, scope.spec(model))


@task(task_id="rescue")
def rescue_by_last_good_spec(model: str) -> dict[str, Any]:
    """Rescue the partition that is due, with the last good spec, while the spec file is invalid.

    Raises:
        AirflowSkipException: There is no good spec of the model: it was never scored.
    """
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.last_good_specs import spec_for_rescue

    settings = load_settings()
    try:
        with connect(settings, f"nightshift rescue__{model}") as conn:
            spec = spec_for_rescue(conn, settings.models_dir, model)
    except SpecError as error:
        raise AirflowSkipException(f"No good spec of {model} is known: {error.what}") from None
    partition = spec.last_to_rescue(dt.datetime.now(dt.UTC))
    with task_scope(partition.key) as scope:
        return _rescue(scope, spec)


def _rescue(scope: TaskScope, spec: ModelSpec) -> dict[str, Any]:
    """Run the fallback chain; return its outcome and the load that readers see."""
    from nightshift.scoring.deadline_fallback import publish_by_deadline

    # A scoring that is running may finish in the first half of the time until the deadline.
    patience = dt.timedelta(minutes=spec.scoring.rescue_minutes_before_deadline / 2)
    latest_wait = spec.deadline_of(scope.partition) - patience
    may_wait = dt.datetime.now(dt.UTC) < latest_wait
    # A try that died before our code cannot have hung in a model, so it must not make the rescue
    # skip one: only failed tries of our own code count.
    attempt = scope.n_failed + 1
    with waiting(patience):
        result = publish_by_deadline(
            scope.settings,
            spec,
            scope.partition,
            scope.run,
            may_wait=may_wait,
            attempt=attempt,
        )
    if result.load_id is None:
        raise AirflowSkipException(f"Not in operation: {result.reason}.")
    dataset = spec.predictions_dataset
    visible = require_published(scope, [dataset], {dataset: result.load_id})
    load = visible[dataset]
    return {
        "outcome": result.outcome,
        "reason": result.reason,
        "load_id": load.load_id,
        "n_rows": load.n_rows,
    }


@task(task_id="announce")
def emit_predictions_asset(rescued: dict[str, Any]) -> int:
    """Emit the predictions' event if features were scored; else skip, nothing is to be monitored.

    Raises:
        AirflowSkipException: The partition was published before, or without features.
    """
    if rescued["outcome"] != "scored":
        raise AirflowSkipException(f"Nothing to emit: {rescued['outcome']}.")
    return int(rescued["load_id"])
