"""Fit the linear member: a ridge regression, logistic for a binary label, on standardised columns.

A column that has one value a day has as many observations as there are days, however many rows
repeat it. So each weight's penalty grows with the rows that share an observation: the night's
weather cannot pass for a property of a single row. Source: docs/adr/0044-recipes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.calibration import sigmoid
from nightshift.models.linear_member import LevelTerm, LinearMember, NumericTerm

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Matrix, Vector
    from nightshift.models.signature import Signature

MAXIMUM_ROWS = 50_000
"""Rows that are fitted, evenly spaced; more move no metric of 2013 by more than 0.001."""
MAXIMUM_LEVELS = 30
"""Levels of a category with a weight of their own: the most frequent ones."""
_CLIPPED_SHARE = 0.001
"""Share of the values beyond which the line is not continued, on either side."""
_MINIMUM_MISSING = 0.002
"""Share of missing values from which they have a weight of their own."""
_MAX_STEPS = 30
_TOLERANCE = 1e-10
"""Largest step of a weight at which Newton's method ends."""
_JITTER = 1e-10
"""Added to all penalties: columns that depend on each other have a solution too."""
_DIGITS = 8
"""Significant digits of fitted numbers: the last bits depend on the machine."""


@dataclass(frozen=True)
class LinearRows:
    """Rows to fit the linear member on.

    Attributes:
        matrix: Of ``encode``; shape (n, k).
        label: Shape (n,).
        weight: Weight of each row, above 0; shape (n,).
        day: Partition of each row, as a number; shape (n,).
    """

    matrix: Matrix
    label: Vector
    weight: Vector
    day: Integers

    def sampled(self) -> LinearRows:
        """Return at most ``MAXIMUM_ROWS`` rows, evenly spaced."""
        n_rows = len(self.label)
        if n_rows <= MAXIMUM_ROWS:
            return self
        positions = np.linspace(
            0,
            n_rows - 1,
            MAXIMUM_ROWS,
        ).astype(np.int64)
        return LinearRows(
            self.matrix[positions],
            self.label[positions],
            self.weight[positions],
            self.day[positions],
        )


@dataclass
class _Design:
    """Columns of the regression: for each its values, its feature and its penalty."""

    columns: list[Vector]
    features: list[int]
    penalties: list[float]

    def add(
        self,
        values: Vector,
        feature: int,
        penalty: float,
    ) -> None:
        self.columns.append(values)
        self.features.append(feature)
        self.penalties.append(penalty)


@dataclass(frozen=True)
class _Scale:
    """How a numeric column was standardised."""

    lowest: float
    highest: float
    mean: float
    deviation: float
    has_missing: bool


def fit_linear(
    rows: LinearRows,
    signature: Signature,
    penalty: float,
    directions: dict[str, int],
    *,
    is_binary: bool,
) -> LinearMember:
    """Fit the linear member.

    Args:
        rows: In their total order.
        signature: Names and levels of the columns.
        penalty: Of a weight per standard deviation whose column has a value of its own in each row.
        directions: 1 for features that may only raise the score, -1 for those that may only lower
            it.
        is_binary: The label is 0 or 1, and the score a log-odds.
    """
    rows = rows.sampled()
    design = _Design([], [], [])
    n_numeric = len(signature.number_names)
    scales = [
        _add_numeric(
            design,
            rows,
            position,
            penalty,
        )
        for position in range(n_numeric)
    ]
    level_codes = []
    for position, (_, levels) in zip(
        signature.categorical_positions,
        signature.categorical,
        strict=True,
    ):
        level_codes.append(
            _add_levels(
                design,
                rows,
                position,
                len(levels),
                penalty,
            )
        )

    # The intercept is the last column; it is not penalised.
    matrix = np.column_stack([*design.columns, np.ones(len(rows.label))])
    penalties = np.array([*design.penalties, 0.0])
    weights = _solve(
        matrix,
        rows,
        penalties,
        is_binary=is_binary,
    )
    signs = _signs(
        design,
        scales,
        signature,
        directions,
    )
    # Weights that point the wrong way are left out, until none does.
    is_free = np.ones(
        len(weights),
        dtype=np.bool_,
    )
    while (wrong := is_free & (weights * signs < 0)).any():
        is_free &= ~wrong
        weights = np.zeros(len(is_free))
        weights[is_free] = _solve(
            matrix[:, is_free],
            rows,
            penalties[is_free],
            is_binary=is_binary,
        )
    return _member(
        weights,
        rows,
        scales,
        signature,
        level_codes,
    )


def _add_numeric(
    design: _Design,
    rows: LinearRows,
    position: int,
    penalty: float,
) -> _Scale:
    """Add a column of standardised values, and one for missing values where there are enough."""
    values = rows.matrix[:, position]
    is_missing = np.isnan(values)
    present = values[~is_missing]
    if not present.size:
        present = np.zeros(1)
    lowest, highest = np.quantile(
        present,
        (_CLIPPED_SHARE, 1 - _CLIPPED_SHARE),
        method="nearest",
    )
    clipped = np.clip(present, lowest, highest)
    mean, deviation = float(clipped.mean()), float(clipped.std())
    has_missing = bool(is_missing.mean() > _MINIMUM_MISSING)
    scale = _Scale(
        float(lowest),
        float(highest),
        mean,
        deviation,
        has_missing,
    )
    # A constant column moves no score; it stays, so that each feature has a column.
    standardised = np.zeros(len(values))
    if deviation > 0:
        standardised = (np.clip(values, lowest, highest) - mean) / deviation
        standardised = np.nan_to_num(standardised)
    shared = penalty * _rows_per_observation(
        values,
        rows.day,
    )
    design.add(standardised, position, shared)
    if has_missing:
        share = is_missing.mean()
        design.add(
            is_missing - share,
            position,
            shared,
        )
    return scale


def _add_levels(
    design: _Design,
    rows: LinearRows,
    position: int,
    n_levels: int,
    penalty: float,
) -> Integers:
    """Add a column per frequent level; return their codes."""
    codes = rows.matrix[:, position]
    # A missing level has no code.
    known = codes[~np.isnan(codes)].astype(np.int64)
    counts = np.bincount(
        known,
        minlength=n_levels,
    )
    # The most frequent ones; the lower code of equals.
    frequent = np.sort(
        np.argsort(
            -counts,
            kind="stable",
        )[:MAXIMUM_LEVELS]
    )
    frequent = frequent[counts[frequent] > 0]
    for code in frequent:
        is_level = (codes == code).astype(np.float64)
        # A level of few rows is no more than its rows: its penalty stays that of a row.
        design.add(
            is_level - is_level.mean(),
            position,
            penalty,
        )
    return frequent


def _rows_per_observation(values: Vector, day: Integers) -> float:
    """Return how many rows share a value of one day on average, at least 1."""
    order = np.lexsort((values, day))
    ordered, days = values[order], day[order]
    # NaN differs from itself; its rows are one observation a day as well.
    is_new = (ordered[1:] != ordered[:-1]) & ~(np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    is_new |= days[1:] != days[:-1]
    return len(values) / (1 + int(is_new.sum()))


def _solve(
    matrix: Matrix,
    rows: LinearRows,
    penalties: Vector,
    *,
    is_binary: bool,
) -> Vector:
    """Return the weights with the smallest penalised loss, by Newton's method."""
    # A mean of 1 keeps the penalty's meaning.
    row_weight = rows.weight / rows.weight.mean()
    weights = np.zeros(matrix.shape[1])
    for _ in range(_MAX_STEPS):
        raw = matrix @ weights
        predicted = sigmoid(raw) if is_binary else raw
        curvature = row_weight * (predicted * (1 - predicted) if is_binary else 1.0)
        gradient = matrix.T @ (row_weight * (predicted - rows.label)) + penalties * weights
        hessian = (matrix * curvature[:, None]).T @ matrix + np.diag(penalties + _JITTER)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if not is_binary or np.abs(step).max() < _TOLERANCE:
            break
    return weights


def _signs(
    design: _Design,
    scales: list[_Scale],
    signature: Signature,
    directions: dict[str, int],
) -> Vector:
    """Return the required sign of each weight, 0 for free ones; shape (columns + 1,)."""
    signs = np.zeros(len(design.columns) + 1)
    position = 0
    for name, scale in zip(
        signature.number_names,
        scales,
        strict=True,
    ):
        signs[position] = directions.get(
            name,
            0,
        )
        # A column of missing values follows, which has no direction.
        position += 2 if scale.has_missing else 1
    return signs


def _member(
    weights: Vector,
    rows: LinearRows,
    scales: list[_Scale],
    signature: Signature,
    level_codes: list[Integers],
) -> LinearMember:
    """Return the weights in the units of the features, centred on the fitted rows."""
    # In the order in which the columns were added.
    remaining = iter(weights)
    intercept = float(weights[-1])
    numeric = []
    for position, scale in enumerate(scales):
        slope = float(next(remaining)) / scale.deviation if scale.deviation > 0 else 0.0
        missing = float(next(remaining)) if scale.has_missing else 0.0
        share = float(np.isnan(rows.matrix[:, position]).mean()) if scale.has_missing else 0.0
        numeric.append(
            NumericTerm(
                slope=_rounded(slope),
                offset=_rounded(-slope * scale.mean - missing * share),
                lowest=scale.lowest,
                highest=scale.highest,
                missing=_rounded(missing * (1 - share)),
            )
        )
    categorical = []
    for position, (_, levels), codes in zip(
        signature.categorical_positions,
        signature.categorical,
        level_codes,
        strict=True,
    ):
        added = np.zeros(len(levels) + 1)
        for code in codes:
            weight = float(next(remaining))
            share = float((rows.matrix[:, position] == code).mean())
            added -= weight * share
            added[code] += weight
        values = [_rounded(value) for value in added]
        categorical.append(
            LevelTerm(
                levels=values[:-1],
                missing=values[-1],
            )
        )
    return LinearMember(
        intercept=_rounded(intercept),
        numeric=numeric,
        categorical=categorical,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
