"""How large a month's error is though the forecast is perfect but for what each night shares.

Rows of one night have its weather in common, and nobody knows it on the evening before. Over a
month of thirty nights that does not cancel out: mean and rate differ, and so do the bins of a
calibration error. The common effect of a night is estimated from published predictions, and months
are drawn in which the forecast knows everything else. Source: Zeger, Liang & Albert (1988), Models
for longitudinal data (population-averaged probabilities of a logistic model with random effects).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.metrics import Task
from nightshift.models.calibration import log_odds_of, shift_of_log_odds, sigmoid
from nightshift.training.evaluation import calibration_bins, calibration_error
from nightshift.training.statistics.confidence_intervals import N_DRAWS

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.models.predictions import Predictions
    from nightshift.training.statistics.block_bootstrap import Days

MINIMUM_NIGHTS = 3
"""Fewer nights say nothing about how nights differ."""
_GRID = np.linspace(
    -5.0,
    5.0,
    81,
)
"""Effects of a night, in standard deviations, between which sums of rows are interpolated."""
_NODES = 31
"""Of the quadrature by which a probability is averaged over nights."""


@dataclass(frozen=True)
class NightNoise:
    """What is left of an error in a month whose forecast is perfect.

    Attributes:
        measured: The error of the predictions: calibration error, or the bias without its sign.
        deviation: Standard deviation of what a night has in common: log-odds, or the label's unit.
        errors: The same error of perfect forecasts, one for each drawn month; shape (draws,).
    """

    measured: float
    deviation: float
    errors: Vector

    def share_within(self, limit: float) -> float:
        """Return the share of the perfect months whose error is at most a limit."""
        return float((self.errors <= limit).mean())

    @property
    def share_as_large(self) -> float:
        """Return the share of the perfect months whose error is as large as the measured one."""
        return float((self.errors >= self.measured).mean())


def night_noise(
    task: Task, label: Vector, predictions: Predictions, days: Days, seed: int
) -> NightNoise | None:
    """Estimate what nobody could avoid in the error of some nights; None for too few nights.

    Args:
        task: Binary or regression.
        label: Shape (n,).
        predictions: As they were published, of the same rows.
        days: Of the same rows.
        seed: Of the drawn months.
    """
    if days.n < MINIMUM_NIGHTS or task not in (Task.BINARY, Task.REGRESSION):
        return None
    # NumPy's generator takes seeds of 32 bits.
    dice = np.random.default_rng(seed % 2**32)
    if predictions.probability is None:
        return _bias_noise(
            label,
            predictions.score,
            days,
            dice,
        )
    return _calibration_noise(
        label,
        predictions.probability,
        days,
        dice,
    )


def effect_deviation(effects: Vector, variances: Vector) -> float:
    """Return the standard deviation of the common effects of nights.

    It rests on the differences of neighbouring nights, so a season that turns does not count as
    chance: a perfect forecast would know it. Where a storm lasts for days the true value is higher.

    Args:
        effects: By how much the outcomes of each night lie above the predictions; in order,
            shape (nights,).
        variances: What chance gives the rows of a night; shape (nights,).

    Source: von Neumann (1941), Distribution of the ratio of the mean square successive difference
    to the variance.
    """
    between = np.diff(effects) ** 2 / 2
    by_chance = (variances[1:] + variances[:-1]) / 2
    return float(
        np.sqrt(
            max(
                0.0,
                (between - by_chance).mean(),
            )
        )
    )


def _bias_noise(label: Vector, value: Vector, days: Days, dice: np.random.Generator) -> NightNoise:
    error = label - value
    n_rows, total, squares = days.sums(
        np.ones(error.size),
        error,
        error**2,
    ).T
    means = total / n_rows
    variances = (
        np.maximum(
            squares / n_rows - means**2,
            0.0,
        )
        / n_rows
    )
    deviation = effect_deviation(
        means,
        variances,
    )

    # A busy night moves the month's mean more than a quiet one.
    weight = n_rows / n_rows.sum()
    spread = float(np.sqrt((weight**2 * (deviation**2 + variances)).sum()))
    errors = np.abs(spread * dice.standard_normal(N_DRAWS))
    return NightNoise(
        abs(float(error.mean())),
        deviation,
        errors,
    )


def _calibration_noise(
    label: Vector, probability: Vector, days: Days, dice: np.random.Generator
) -> NightNoise:
    log_odds = log_odds_of(probability)
    effects, variances = np.empty(days.n), np.empty(days.n)
    for number in range(days.n):
        is_night = days.codes == number
        effects[number] = shift_of_log_odds(
            label[is_night],
            probability[is_night],
        )
        moved = sigmoid(log_odds[is_night] + effects[number])
        variances[number] = 1 / (moved * (1 - moved)).sum()
    deviation = effect_deviation(
        effects,
        variances,
    )

    # The perfect forecast knows the log-odds of each row in an ordinary night, and how nights vary.
    perfect = _averaged(
        log_odds,
        deviation,
    )
    bins = calibration_bins(perfect)
    n_bins = int(bins.max()) + 1
    gaps = np.zeros((N_DRAWS, n_bins))
    gaps -= np.bincount(
        bins,
        perfect,
    )
    for number in range(days.n):
        is_night = days.codes == number
        gaps += _drawn_outcomes(
            log_odds[is_night],
            bins[is_night],
            n_bins,
            deviation,
            dice,
        )
    errors = np.abs(gaps).sum(axis=1) / label.size
    return NightNoise(
        calibration_error(
            label,
            probability,
        ),
        deviation,
        errors,
    )


def _averaged(log_odds: Vector, deviation: float) -> Vector:
    """Return the probability of each row over all nights, shape (n,)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    probability = np.zeros(log_odds.size)
    for node, weight in zip(
        nodes,
        weights / weights.sum(),
        strict=True,
    ):
        probability += weight * sigmoid(log_odds + deviation * node)
    return probability


def _drawn_outcomes(
    log_odds: Vector,
    bins: Vector,
    n_bins: int,
    deviation: float,
    dice: np.random.Generator,
) -> Matrix:
    """Draw the positive rows of one night in each bin, shape (draws, bins).

    Args:
        log_odds: Of the rows in an ordinary night; shape (n,).
        bins: Of the rows; shape (n,).
        n_bins: Of all nights.
        deviation: Of the night's effect.
        dice: Draws.
    """
    # Sums over rows on a grid of effects: a draw then interpolates, and reads no row.
    means, variances = np.empty((_GRID.size, n_bins)), np.empty((_GRID.size, n_bins))
    for position, effect in enumerate(_GRID):
        rate = sigmoid(log_odds + deviation * effect)
        means[position] = np.bincount(
            bins,
            rate,
            minlength=n_bins,
        )
        variances[position] = np.bincount(
            bins,
            rate * (1 - rate),
            minlength=n_bins,
        )

    effects = dice.standard_normal(N_DRAWS)
    chance = dice.standard_normal((N_DRAWS, n_bins))
    drawn = np.empty((N_DRAWS, n_bins))
    for number in range(n_bins):
        mean = np.interp(
            effects,
            _GRID,
            means[:, number],
        )
        variance = np.interp(
            effects,
            _GRID,
            variances[:, number],
        )
        drawn[:, number] = mean + np.sqrt(variance) * chance[:, number]
    return drawn
