"""Leak check of a challenger: its trees and encodings are of exactly the split's rows.

A tree counts the rows of each of its leaves when it is grown. The same rows, sent through the tree,
must give the same counts: a model that saw days that judge it has other counts, whatever it says of
its training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.booster import leaf_numbers
from nightshift.registry.checks import Criterion, at_most, not_applicable
from nightshift.registry.leaks.fitted_line import rows_before_holdout
from nightshift.training.recipe.members import FitRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightshift.models.arrays import Integers
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.promotion_context import PromotionContext

ENCODINGS = "fitted_rows[encoding]"
LEAF_ROWS = 50_000
"""Rows whose leaves are in memory at once: a number for each tree."""
BAG_DEVIATIONS = 6.0
"""Standard deviations of a bag's size: of a billion honest trees two are further off."""
_FRACTIONS = ("bagging_fraction", "sub_row", "subsample", "bagging")
_FREQUENCIES = ("bagging_freq", "subsample_freq")
"""LightGBM's names of a parameter; an earlier one wins."""
_SAMPLING = frozenset(
    {
        "data_sample_strategy",
        *(f"pos_{name}" for name in _FRACTIONS),
        *(f"neg_{name}" for name in _FRACTIONS),
    }
)
"""Parameters by which a row's label or gradient decides whether a tree sees it."""


def fitted_trees(context: PromotionContext) -> Criterion:
    """Check the rows of the trees.

    The trees that serve must have seen every row of the window, or of one of the windows that the
    recipe averages.

    A tree that is grown on a bag has no more rows in a leaf than reach it, and in all about the
    declared share of the rows; no share is known where label or loss choose them. A tree of Dask's
    workers only estimates the counts of its leaves: their sum is compared.
    """
    params = _params_used(context)
    sampled = sorted(_SAMPLING & params.keys())
    has_counts = context.spec.training.engine != "dask"
    if sampled and not has_counts:
        reason = f"The spec chooses the rows of each tree by label or loss ({', '.join(sampled)})."
        return not_applicable("fitted_rows", reason)
    fraction = None if sampled else _bag_fraction(params)
    split = context.split
    n_trees = n_grown = n_different = 0
    models = _models_with_rows(context)
    for model, rows in models:
        sums, n_different_rows = _compare_leaves(model, rows, fraction, has_counts=has_counts)
        n_trees += len(sums)
        n_different += n_different_rows
        # The reason is about the days that judge, which the first model must not have seen.
        n_grown = n_grown or max(sums, default=0)
    if not n_trees:
        return not_applicable("fitted_rows", "No tree has a split.")
    n_rows = models[0][1].rows.num_rows
    bag = ", each on some of them" if fraction is None else ""
    if fraction is not None and fraction < 1:
        bag = f", each on {fraction:.0%} of them"
    n_windows = context.spec.training.recipe.averaged_nights
    if n_windows > 1:
        bag += f", in {n_windows} windows that end a night apart"
    reason = (
        f"The trees were grown on {n_grown:,} rows, the split has {n_rows:,} for them"
        f"{bag} ({split.train}, {split.validation}); in {n_trees} tree(s) the leaves differ by "
        f"{n_different:,}."
    )
    facts = {"n_grown": n_grown, "n_rows": n_rows, "fraction": fraction}
    return at_most("fitted_rows", n_different, 0, reason, **facts)


def fitted_encodings(context: PromotionContext) -> Iterator[Criterion]:
    """Check that what the labels say of each level is what the split's rows say; bit by bit."""
    models = _models_with_rows(context)
    n_categories = max(len(rows.signature.encoded) for _, rows in models)
    if not n_categories and not any(model.signature.encoded for model, _ in models):
        return
    n_different = sum(model.signature.encoded != rows.signature.encoded for model, rows in models)
    reason = (
        f"Encoded again on the rows of the split, {n_different} of {len(models)} model(s) have "
        f"other numbers for the levels of {n_categories} categories."
    )
    yield at_most(ENCODINGS, n_different, 0, reason)


def _models_with_rows(context: PromotionContext) -> list[tuple[TrainedModel, FitRows]]:
    """Return the evaluated and the serving model with the rows that were meant for them."""
    models = [(context.trained, FitRows(context.spec, rows_before_holdout(context)))]
    if context.challenger.evaluated is not None:
        models.append((context.served, FitRows(context.spec, context.all_rows)))
    return models


def _params_used(context: PromotionContext) -> dict[str, object]:
    """Return LightGBM's parameters: those of the spec, and those that its search has chosen."""
    training = context.spec.training
    params: dict[str, object] = dict(training.params)
    chosen = context.trained.training.get("search", {}).get("params", {})
    # The files may say only what the spec lets a search choose.
    names = training.search.parameters if training.search else {}
    return params | {name: chosen[name] for name in names if name in chosen}


def _bag_fraction(params: dict[str, object]) -> float:
    """Return the share of the rows that a tree is grown on; 1 without a bag."""

    def first(names: tuple[str, ...], default: float) -> float:
        values = [params[name] for name in names if name in params]
        return float(str(values[0])) if values else default

    # LightGBM draws no bag unless it is told after how many trees to draw the next one.
    return first(_FRACTIONS, 1.0) if first(_FREQUENCIES, 0.0) > 0 else 1.0


def _compare_leaves(
    model: TrainedModel, fit_rows: FitRows, fraction: float | None, *, has_counts: bool
) -> tuple[list[int], int]:
    """Send rows through a model's trees.

    Args:
        model: Its trees.
        fit_rows: The rows that were meant for them.
        fraction: Share of them that each tree was grown on; None if it is not known.
        has_counts: The trees have counted the rows of each leaf.

    Returns:
        The rows that each tree with a split was grown on, and by how many rows all differ.
    """
    # A tree without a split may have no counts.
    grown = [np.asarray(tree.leaf_counts, np.int64) for tree in model.trees]
    has_split = [of_tree.size > 1 for of_tree in grown]
    sums = [int(of_tree.sum()) for of_tree in grown]
    windows = fit_rows.windows
    # Rows by which a tree differs from those of each window; shape (windows, trees).
    n_different: Integers = np.zeros((len(windows), len(grown)), dtype=np.int64)
    is_bagged = fraction is None or fraction < 1
    if fraction is not None and (is_bagged or not has_counts):
        n_meant = fraction * np.array([[window.sum()] for window in windows])
        tolerance = BAG_DEVIATIONS * np.sqrt(n_meant * (1 - fraction))
        n_off = np.ceil(np.abs(np.array(sums) - n_meant) - tolerance)
        n_different += np.maximum(n_off, 0).astype(np.int64)
    if has_counts:
        n_different += _leaf_differences(model, fit_rows, grown, is_bagged=is_bagged)
    # The files do not say of which window a tree is: it must fit to one.
    nearest = n_different.min(axis=0)
    with_split = [total for total, counts in zip(sums, has_split, strict=True) if counts]
    return with_split, int(nearest[has_split].sum())


def _leaf_differences(
    model: TrainedModel, fit_rows: FitRows, grown: list[Integers], *, is_bagged: bool
) -> Integers:
    """Return by how many rows the leaves of each tree differ, by window; (windows, trees)."""
    windows = fit_rows.windows
    reached = [[np.zeros(max(1, of_tree.size), np.int64) for of_tree in grown] for _ in windows]
    # The leaves of all rows in all trees at once would take gigabytes.
    for start in range(0, fit_rows.rows.num_rows, LEAF_ROWS):
        matrix = fit_rows.matrix(start, LEAF_ROWS)
        leaves = leaf_numbers(model.booster, matrix).astype(np.int64)
        for window, counts in zip(windows, reached, strict=True):
            of_window = leaves[window[start : start + LEAF_ROWS]]
            for number, of_tree in enumerate(of_window.T):
                counts[number] += np.bincount(of_tree, minlength=counts[number].size)
    n_different = np.zeros((len(windows), len(grown)), dtype=np.int64)
    for position, counts in enumerate(reached):
        for number, of_tree in enumerate(grown):
            if of_tree.size <= 1:
                continue
            difference = of_tree - counts[number]
            # Rows that a bag has left out are missing in its leaves.
            counted = np.maximum(difference, 0) if is_bagged else np.abs(difference)
            n_different[position, number] = counted.sum()
    return n_different
