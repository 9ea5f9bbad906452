"""How large a month's error is though the forecast is perfect but for what each night shares.

Rows of one night have its weather in common, and nobody knows it on the evening before. Over a
month of thirty nights that does not cancel out: mean and rate differ, and so do the bins of a
calibration error. The common effect of a night is estimated from published predictions, and months
are drawn in which the forecast knows everything else. Source: Zeger, Liang & Albert (1988), Models
for longitudinal data (population-averaged probabilities of a logistic model with random effects).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    variance = float((between - by_chance).mean())
    # Nights that are equal but for chance give a little less than 0 as often as a little more.
    return float(math.sqrt(max(0.0, variance)))


def _bias_noise(
    label: Vector,
    value: Vector,
    days: Days,
    dice: np.random.Generator,
) -> NightNoise:
    error = label - value
    columns = (np.ones(error.size), error, error**2)
    n_rows, total, squares = days.sums(*columns).T
    means = total / n_rows
    # Of rows within a night; rounding may leave a little less than 0.
    within = np.maximum(squares / n_rows - means**2, 0.0)
    variances = within / n_rows
    deviation = effect_deviation(means, variances)

    # A busy night moves the month's mean more than a quiet one.
    weight = n_rows / n_rows.sum()
    variance = (weight**2 * (deviation**2 + variances)).sum()
    drawn = dice.standard_normal(N_DRAWS)
    errors = np.abs(drawn) * np.sqrt(variance)
    measured = abs(float(error.mean()))
    return NightNoise(
        measured,
        deviation,
        errors,
    )


def _calibration_noise(
    label: Vector,
    probability: Vector,
    days: Days,
    dice: np.random.Generator,
) -> NightNoise:
    deviation = effect_deviation(
        *_night_effects(
            label,
            probability,
            days,
        )
    )
    log_odds = log_odds_of(probability)
    # The perfect forecast knows the log-odds of each row in an ordinary night, and how nights vary.
    perfect = _averaged(log_odds, deviation)
    bins = calibration_bins(perfect)
    expected = np.bincount(bins, perfect)

    drawn = np.zeros((N_DRAWS, expected.size))
    for number in range(days.n):
        is_night = days.codes == number
        rows = _NightRows(
            log_odds[is_night],
            bins[is_night],
            expected.size,
        )
        drawn += rows.outcomes(deviation, dice)
    # Mean and rate of a bin differ by a share of its rows.
    errors = np.abs(drawn - expected).sum(axis=1) / label.size
    measured = calibration_error(label, probability)
    return NightNoise(
        measured,
        deviation,
        errors,
    )


def _night_effects(label: Vector, probability: Vector, days: Days) -> tuple[Vector, Vector]:
    """Return the shift of the log-odds that each night lacked, and what chance gives it.

    Both have the shape (nights,).
    """
    log_odds = log_odds_of(probability)
    effects = np.empty(days.n)
    variances = np.empty(days.n)
    for number in range(days.n):
        is_night = days.codes == number
        effect = shift_of_log_odds(label[is_night], probability[is_night])
        rate = sigmoid(log_odds[is_night] + effect)
        effects[number] = effect
        # The inverse of the information that the rows have about the shift.
        variances[number] = 1 / (rate * (1 - rate)).sum()
    return effects, variances


def _averaged(log_odds: Vector, deviation: float) -> Vector:
    """Return the probability of each row over all nights, shape (n,)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    shares = weights / weights.sum()
    probability = np.zeros(log_odds.size)
    for node, share in zip(
        nodes,
        shares,
        strict=True,
    ):
        probability += share * sigmoid(log_odds + deviation * node)
    return probability


@dataclass(frozen=True)
class _NightRows:
    """The rows of one night.

    Attributes:
        log_odds: In an ordinary night; shape (n,).
        bins: Calibration bin of each row; shape (n,).
        n_bins: Of all nights.
    """

    log_odds: Vector
    bins: npt.NDArray[np.intp]
    n_bins: int

    def outcomes(self, deviation: float, dice: np.random.Generator) -> Matrix:
        """Draw the number of positive rows in each bin, shape (draws, bins).

        Args:
            deviation: Of the night's effect.
            dice: Draws.
        """
        # Sums over rows on a grid of effects: a draw then interpolates, and reads no row.
        shape = (_GRID.size, self.n_bins)
        means = np.empty(shape)
        variances = np.empty(shape)
        for position, effect in enumerate(_GRID):
            rate = sigmoid(self.log_odds + deviation * effect)
            means[position] = self._sums(rate)
            variances[position] = self._sums(rate * (1 - rate))

        effects = dice.standard_normal(N_DRAWS)
        drawn = np.empty((N_DRAWS, self.n_bins))
        for number in range(self.n_bins):
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
            # What chance gives the rows of a night whose effect is known.
            chance = dice.standard_normal(N_DRAWS)
            drawn[:, number] = mean + np.sqrt(variance) * chance
        return drawn

    def _sums(self, values: Vector) -> Vector:
        sums: Vector = np.bincount(
            self.bins,
            values,
            minlength=self.n_bins,
        ).astype(np.float64)
        return sums
