"""The members of a recipe, trees and a linear model, fitted on some rows of a training window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from nightshift.contracts.metrics import Task
from nightshift.errors import NightshiftError
from nightshift.kernels import thread_count
from nightshift.models.predictions import group_codes
from nightshift.models.signature import encode, encode_columns, learn_signature, numbers
from nightshift.training.recipe.linear_fit import LinearRows, fit_linear
from nightshift.training.recipe.target_encoding import encode_targets
from nightshift.training.trees.boosting import (
    LAMBDARANK,
    MAXIMUM_GROUP_ROWS,
    Fit,
    FitPlan,
    RowFacts,
    first_trees,
    grow_trees,
)
from nightshift.training.trees.dask_trees import grow_trees_on_dask

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Integers, Mask, Matrix, Vector
    from nightshift.models.linear_member import LinearMember
    from nightshift.models.signature import Signature

DAY = "partition_date"
_OBJECTIVES = {
    Task.BINARY: "binary",
    Task.REGRESSION: "regression",
    Task.MULTICLASS: "multiclass",
    Task.RANKING: LAMBDARANK,
}


class TrainingError(NightshiftError):
    """The spec cannot be trained."""

    code = "NS-TRAIN-011"


@dataclass(frozen=True)
class FitPaths:
    """Files and the cluster that a training may use.

    Attributes:
        checkpoints: Folder of the checkpoints from which a killed training resumes; None starts
            anew.
        binned_rows: Folder of rows that earlier fits have binned; None bins them.
        dask_scheduler: Address for ``training.engine: dask``; empty starts local workers.
    """

    checkpoints: Path | None = None
    binned_rows: Path | None = None
    dask_scheduler: str = ""

    def checkpoint(self, fit: str) -> Path | None:
        """Return the checkpoint of one fit of the training."""
        return None if self.checkpoints is None else self.checkpoints / f"{fit}.json"


NO_PATHS = FitPaths()


@dataclass(frozen=True)
class LearntColumns:
    """What the rows of a window say about the columns of the matrix.

    Attributes:
        signature: Names, levels, and the encoded categories as scoring reads them.
        as_of: Values of the encoded categories of the rows themselves, by name; shape (n,).
    """

    signature: Signature
    as_of: Mapping[str, Vector]


@dataclass(frozen=True)
class FitRows:
    """Rows that members are fitted on.

    Attributes:
        spec: Features, label and recipe.
        rows: In their total order, of a ranking group by group; shape (n, any).
        given: Columns that a longer window has learnt; None learns them from these rows alone.
    """

    spec: ModelSpec
    rows: pa.Table
    given: LearntColumns | None = None

    def __post_init__(self) -> None:
        """Bring the rows of a ranking together by group, as LightGBM reads them."""
        # Every use of the rows must see the same order, so no caller has to remember it.
        object.__setattr__(self, "rows", in_group_order(self.spec, self.rows))

    @cached_property
    def columns(self) -> LearntColumns:
        """Return names, levels and encodings."""
        if self.given is not None:
            return self.given
        encoded, as_of = encode_targets(
            self.spec,
            self.rows,
            self.label,
            self.day,
        )
        signature = learn_signature(
            self.spec.features,
            self.rows,
            encoded,
        )
        return LearntColumns(signature, as_of)

    @property
    def signature(self) -> Signature:
        """Return names, levels and encodings as scoring reads them."""
        return self.columns.signature

    def matrix(self, start: int = 0, n_rows: int | None = None) -> Matrix:
        """Return the matrix of the fit, or of some of its rows; shape (n, k).

        Args:
            start: Index of the first row.
            n_rows: At most; None for all that follow.
        """
        part = self.rows.slice(start, n_rows)
        stop = start + part.num_rows
        as_of = {}
        for name, values in self.columns.as_of.items():
            as_of[name] = values[start:stop]
        return encode(part, self.signature, as_of)

    @property
    def windows(self) -> list[Mask]:
        """Return which rows each night's trees are grown on, the newest night first.

        All windows have the same length, so tomorrow's have all nights but one in common with
        today's.
        """
        n_windows = self.spec.training.recipe.averaged_nights
        oldest, newest = self.day.min(), self.day.max()
        windows = []
        for age in range(n_windows):
            first = oldest + n_windows - 1 - age
            last = newest - age
            windows.append((self.day >= first) & (self.day <= last))
        return windows

    def within(self, window: Mask) -> FitRows:
        """Return the rows of a window, with the columns of these: trees of one model share them.

        Args:
            window: Which rows; shape (n,).
        """
        if window.all():
            return self
        as_of = {}
        for name, values in self.columns.as_of.items():
            as_of[name] = values[window]
        columns = LearntColumns(
            self.signature,
            as_of,
        )
        return FitRows(
            self.spec,
            self.rows.filter(window),
            columns,
        )

    @cached_property
    def label(self) -> Vector:
        """Return the labels; shape (n,)."""
        return numbers(self.rows, self.spec.label.column)

    @cached_property
    def day(self) -> Integers:
        """Return the partition of each row as a number; shape (n,)."""
        return days_of(self.rows)

    @cached_property
    def weight(self) -> Vector | None:
        """Return the weight of each row, shape (n,); None where all weigh alike.

        Raises:
            TrainingError: A weight is missing or not above 0.
        """
        training = self.spec.training
        # Declared weights and age multiply.
        weight = np.ones(self.rows.num_rows)
        if training.weight_column is not None:
            weight = numbers(self.rows, training.weight_column)
            n_bad = int((~(weight > 0)).sum())  # also NaN
            if n_bad:
                raise TrainingError(
                    f"{n_bad} row(s) have no weight above 0.",
                    expected=f"a number above 0 in column {training.weight_column!r}",
                    todo="Correct the feature view, or leave training.weight_column out.",
                )
        if training.recipe.half_life_days is not None:
            age = self.day.max(initial=0) - self.day
            weight = weight * 0.5 ** (age / training.recipe.half_life_days)
        is_equal = training.weight_column is None and training.recipe.half_life_days is None
        return None if is_equal else weight


def in_group_order(spec: ModelSpec, rows: pa.Table) -> pa.Table:
    """Return the rows of a ranking group by group, each in its order; other rows as they are."""
    if not spec.is_ranking:
        return rows
    return rows.take(np.argsort(group_codes(spec, rows), kind="stable"))


def group_sizes(spec: ModelSpec, rows: pa.Table) -> Integers | None:
    """Return the rows of each group, in the order of ``in_group_order``; None without groups.

    LightGBM refuses larger groups than ``MAXIMUM_GROUP_ROWS``: their rows are compared within
    parts of even size.
    """
    if not spec.is_ranking:
        return None
    sizes = np.bincount(group_codes(spec, rows))
    parts = []
    for size in sizes:
        n_parts = -(-size // MAXIMUM_GROUP_ROWS)
        ends = np.linspace(
            0,
            size,
            n_parts + 1,
        )
        parts.append(np.diff(ends.astype(np.int64)))
    return np.concatenate(parts)


def days_of(rows: pa.Table) -> Integers:
    """Return the partition of each row as days since 1970; all 0 for rows without one."""
    import pyarrow as pa

    if DAY not in rows.column_names:
        return np.zeros(rows.num_rows, dtype=np.int64)
    dates = rows.column(DAY).cast(pa.date32())
    days: Integers = dates.cast(pa.int32()).to_numpy().astype(np.int64)
    return days


def fit_plan(spec: ModelSpec, signature: Signature) -> FitPlan:
    """Return what defines a fit of trees, apart from its rows.

    Raises:
        TrainingError: The task has no trainer.
    """
    if spec.task not in _OBJECTIVES:
        raise TrainingError(
            f"Task {spec.task} has no trainer.",
            expected=", ".join(_OBJECTIVES),
            todo="Choose a task that has one.",
        )
    params = dict(spec.training.params)
    directions = spec.training.recipe.directions
    if directions:
        # LightGBM reads them by position.
        signs = [str(directions.get(name, 0)) for name in signature.names]
        params["monotone_constraints"] = ",".join(signs)
    return FitPlan(
        objective=spec.training.objective or _OBJECTIVES[spec.task],
        params=params,
        seed=spec.training.seed,
        n_rounds=spec.training.num_boost_round,
        patience_rounds=spec.training.early_stopping_rounds,
        categorical_positions=signature.categorical_positions,
        names=signature.names,
        n_threads=thread_count(),
        n_classes=len(spec.classes) or 1,
        top_k=spec.top_k,
    )


def watched_trees(fit_rows: FitRows, watched: pa.Table, paths: FitPaths, name: str) -> Fit:
    """Grow trees until their loss on later rows has stalled; all trees are kept.

    Args:
        fit_rows: Rows of the fit.
        watched: Later rows; shape (m, any).
        paths: Checkpoints and binned rows.
        name: Of the fit's checkpoint.
    """
    signature = fit_rows.signature
    watched = in_group_order(fit_rows.spec, watched)
    validation = (encode(watched, signature), numbers(watched, fit_rows.spec.label.column))
    return _grow(
        fit_rows,
        validation,
        fit_plan(fit_rows.spec, signature),
        paths,
        name,
        group_sizes(fit_rows.spec, watched),
    )


def averaged_trees(fit_rows: FitRows, n_rounds: int, paths: FitPaths, name: str) -> list[str]:
    """Grow so many trees on each night's window with each seed; return the text models."""
    plan = replace(fit_plan(fit_rows.spec, fit_rows.signature), n_rounds=n_rounds)
    models: list[str] = []
    for window in fit_rows.windows:
        of_night = fit_rows.within(window)
        for number in range(fit_rows.spec.training.recipe.seeds):
            # Segments of one fit take the following seeds, so those of two fits are far apart.
            seeded = replace(plan, seed=plan.seed + 10_007 * number)
            grown = _grow(
                of_night,
                None,
                seeded,
                paths,
                f"{name}-{len(models)}",
            )
            models.append(first_trees(grown.text, n_rounds))
    return models


def linear_member(fit_rows: FitRows) -> LinearMember:
    """Fit the linear member of the recipe."""
    spec = fit_rows.spec
    matrix = fit_rows.matrix()
    weight = np.ones(len(matrix)) if fit_rows.weight is None else fit_rows.weight
    rows = LinearRows(
        matrix,
        fit_rows.label,
        weight,
        fit_rows.day,
    )
    # In one thread: sums of several threads end in other last bits.
    with threadpool_limits(1):
        return fit_linear(
            rows,
            fit_rows.signature,
            spec.training.recipe.linear.penalty,
            spec.training.recipe.directions,
            is_binary=spec.task == Task.BINARY,
        )


def _grow(
    fit_rows: FitRows,
    validation: tuple[Matrix, Vector] | None,
    plan: FitPlan,
    paths: FitPaths,
    name: str,
    watched_groups: Integers | None = None,
) -> Fit:
    learnt = fit_rows.columns
    columns = encode_columns(fit_rows.rows, learnt.signature, learnt.as_of)
    train = (columns, fit_rows.label)
    if fit_rows.spec.training.engine == "dask":
        return grow_trees_on_dask(
            train,
            validation,
            plan,
            paths.dask_scheduler,
        )
    checkpoint = paths.checkpoint(name)
    return grow_trees(
        train,
        validation,
        plan,
        checkpoint,
        paths.binned_rows,
        RowFacts(
            weight=fit_rows.weight,
            groups=group_sizes(fit_rows.spec, fit_rows.rows),
            watched_groups=watched_groups,
        ),
    )
