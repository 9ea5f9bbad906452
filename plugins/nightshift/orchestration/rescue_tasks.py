"""Task bodies of the rescue: look before the deadline, publish what is possible, wake the monitor if it has something to measure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from nightshift.errors import SpecError
from nightshift.orchestration.post_conditions import require_published
from nightshift.orchestration.task_scope import task_scope, waiting
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.orchestration.task_scope import TaskScope


def rescue_predictions(model: str) -> dict[str, Any]:
    """Publish the best possible step of the ladder unless the partition is published; return what the look came to."""
    with task_scope() as scope:
        return _rescue(scope, scope.spec(model))


def rescue_by_last_good_spec(model: str) -> dict[str, Any]:
    """Do the same for the partition whose rescue time is over, while the model's file is wrong.

    Raises:
        AirflowSkipException: No good spec of the model is known: nobody has scored it yet.
    """
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.last_good_specs import spec_for_rescue

    settings = load_settings()
    try:
        with connect(settings, f"nightshift rescue__{model}") as conn:
            spec = spec_for_rescue(conn, settings.models_dir, model)
    except SpecError as error:
        raise AirflowSkipException(f"No good spec of {model} is known: {error.what}") from None
    partition = spec.last_to_rescue(dt.datetime.now(dt.UTC))
    with task_scope(partition) as scope:
        return _rescue(scope, spec)


def _rescue(scope: TaskScope, spec: ModelSpec) -> dict[str, Any]:
    """Look, and rescue; a scoring that has just begun may finish while more than half of the time until the deadline is left."""
    from nightshift.scoring.deadline_fallback import rescue

    patience = dt.timedelta(minutes=spec.scoring.rescue_minutes_before_deadline / 2)
    may_wait = dt.datetime.now(dt.UTC) < spec.deadline_of(scope.partition) - patience
    with waiting(patience):
        # A try that died before our code has hung in no model: it must not make the rescue skip
        # one.
        attempt = scope.n_failed + 1
        found = rescue(
            scope.settings, spec, scope.partition, scope.run, may_wait=may_wait, attempt=attempt
        )
    if found.load_id is None:
        raise AirflowSkipException(f"Not in operation: {found.reason}.")
    seen = require_published(
        scope, [spec.predictions_dataset], {spec.predictions_dataset: found.load_id}
    )[spec.predictions_dataset]
    return {
        "outcome": found.outcome,
        "reason": found.reason,
        "load_id": seen.load_id,
        "n_rows": seen.n_rows,
    }


def emit_predictions_asset(found: dict[str, Any]) -> int:
    """Emit the predictions' event after a scoring of features; else the task is skipped: the monitor has nothing to measure, or had it."""
    if found["outcome"] != "scored":
        raise AirflowSkipException(f"Nothing to announce: {found['outcome']}.")
    return int(found["load_id"])
