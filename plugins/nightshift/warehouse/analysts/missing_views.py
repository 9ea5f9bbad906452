"""Name the views of a model's predictions that analysts read and that do not exist any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.relations.prediction_views import missing_views

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection


class ViewsMissingError(NightshiftError):
    """Views that analysts read do not exist."""

    code = "NS-WAREHOUSE-010"


def missing_views_error(conn: Connection, spec: ModelSpec) -> ViewsMissingError | None:
    """Return an error that names the missing views of a model; None if all are there."""
    # A model without a table of predictions has not scored yet, and needs no views.
    if not table_columns(conn, "predictions", spec.name):
        return None
    names = [f"analytics.{spec.name}_{view.suffix}" for view in missing_views(conn, spec)]
    if not names:
        return None
    # A dropped view fails no task: only its readers notice.
    return ViewsMissingError(
        f"Views of {spec.name} that analysts read do not exist: {', '.join(names)}.",
        expected="the views that every scoring creates",
        todo="`nightshift migrate` creates them again, with their grants. No row was lost.",
    )
