"""Leak check of a challenger: its linear member is the one that the split's rows give.

A line counts no rows, as the leaves of trees do. But it has one solution: fitted again on the rows
that were meant for it, it must add the same to each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyarrow import concat_tables

from nightshift.registry.checks import Criterion, at_most, not_applicable
from nightshift.training.recipe.members import FitRows, linear_member
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.promotion_context import PromotionContext

NAME = "fitted_rows[line]"

TOLERANCE = 1e-4
"""Largest difference, in standard deviations of the line's score: two processors differ by a
millionth, and one night more of a hundred by a hundredth.
"""
COMPARED_ROWS = 5_000


def fitted_line(context: PromotionContext) -> Criterion:
    """Check that the line was fitted on exactly the rows that were meant for it."""
    models = [(context.trained, rows_before_holdout(context))]
    if context.challenger.evaluated is not None:
        models.append((context.served, context.all_rows))
    differences = [
        line_difference(context.spec, model, rows) for model, rows in models if has_line(model)
    ]
    if not differences:
        return not_applicable(NAME, "No line moves a score.")
    largest = max(differences)
    reason = (
        f"Fitted again on the rows of the split, the line differs by {largest:.2g} standard "
        f"deviations; allowed ≤ {TOLERANCE:g}."
    )
    return at_most(NAME, largest, TOLERANCE, reason)


def rows_before_holdout(context: PromotionContext) -> pa.Table:
    """Return the rows that the evaluated model was meant to be fitted on."""
    # The gap between these parts was left out of the fit.
    parts = (context.split.train, context.split.validation)
    return concat_tables([rows_of(context.all_rows, days) for days in parts])


def has_line(model: TrainedModel) -> bool:
    """Return whether a linear member moves any score."""
    if model.linear is None:
        return False
    slopes = [value for term in model.linear.numeric for value in (term.slope, term.missing)]
    levels = [value for term in model.linear.categorical for value in (*term.levels, term.missing)]
    return any(value != 0 for value in (*slopes, *levels))


def line_difference(spec: ModelSpec, model: TrainedModel, rows: pa.Table) -> float:
    """Return by how much a line differs from the one of these rows, in its standard deviations.

    The intercept is left out: it is the level of a regression, which later days choose. Infinite
    for a line of other levels.

    Args:
        spec: Penalty, directions and weights of the fit.
        model: With a line; the share that it says the line has is taken out.
        rows: The rows that were meant for it, in their total order.
    """
    assert model.linear is not None  # noqa: S101 - the caller has asked
    fit_rows = FitRows(spec, rows)
    # Levels are learnt from the rows of the fit.
    if fit_rows.signature != model.signature:
        return float("inf")
    expected = linear_member(fit_rows).scaled(float(model.training.get("linear_share", 1.0)))
    positions = np.linspace(0, rows.num_rows - 1, min(rows.num_rows, COMPARED_ROWS))
    matrix = model.encode(rows.take(positions.astype(np.int64)))
    usual = expected.contributions(matrix)
    spread = float(usual.sum(axis=1).std())
    # Feature by feature: two that are wrong must not make up for each other.
    largest = float(np.abs(model.linear.contributions(matrix) - usual).max())
    return largest / spread if spread > 0 else float("inf")
