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
from nightshift.training.splits import evenly_spaced, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.promotion_context import PromotionContext

NAME = "fitted_rows[line]"

TOLERANCE = 1e-4
"""Largest difference, in standard deviations of the line's score. The weights have eight digits, of
which another processor may change the last; one night less of 118 changes it by a half.
"""
COMPARED_ROWS = 5_000


def fitted_line(context: PromotionContext) -> Criterion:
    """Check that the line was fitted on exactly the rows that were meant for it."""
    models = [(context.trained, rows_before_holdout(context))]
    if context.challenger.evaluated is not None:
        models.append((context.served, context.all_rows))
    differences = []
    for model, rows in models:
        if has_line(model):
            difference = line_difference(
                context.spec,
                model,
                rows,
            )
            differences.append(difference)
    if not differences:
        return not_applicable(NAME, "No line moves a score.")
    largest = max(differences)
    reason = (
        f"Fitted again on the rows of the split, the line differs by {largest:.2g} standard "
        f"deviations; allowed ≤ {TOLERANCE:g}."
    )
    return at_most(
        NAME,
        largest,
        TOLERANCE,
        reason,
    )


def rows_before_holdout(context: PromotionContext) -> pa.Table:
    """Return the rows that the evaluated model was meant to be fitted on."""
    # The gap between these parts was left out of the fit.
    split = context.split
    train = rows_of(
        context.all_rows,
        split.train,
    )
    validation = rows_of(
        context.all_rows,
        split.validation,
    )
    return concat_tables([train, validation])


def has_line(model: TrainedModel) -> bool:
    """Return whether a linear member moves any score."""
    line = model.linear
    if line is None:
        return False
    weights = [term.missing for term in line.terms]
    weights += [number.slope for number in line.numeric]
    for category in line.categorical:
        weights += category.levels
    return any(weights)


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
    # Levels, and what their labels say, are learnt from the rows of the fit.
    if fit_rows.signature != model.signature:
        return float("inf")
    share = model.training.get("linear_share", 1.0)
    member = linear_member(fit_rows)
    expected = member.scaled(float(share))
    compared = evenly_spaced(
        rows,
        COMPARED_ROWS,
    )
    matrix = model.encode(compared)
    usual = expected.contributions(matrix)
    added = model.linear.contributions(matrix)
    spread = float(usual.sum(axis=1).std())
    if spread == 0:
        return float("inf")
    # Feature by feature: two that are wrong must not make up for each other.
    largest = np.abs(added - usual).max()
    return float(largest) / spread
