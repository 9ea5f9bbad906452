"""Out-of-fold scores: of rolling blocks of days, by members that were fitted on the days before.

They choose what the rows of a fit cannot: rounds, shares, calibration, level, threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.calibration import apply_calibration, fit_calibration, shift_of_log_odds
from nightshift.models.class_scores import of_rows
from nightshift.training.recipe.members import DAY, days_of

if TYPE_CHECKING:
    from typing import Any

    import pyarrow as pa

    from nightshift.contracts.training_spec import Calibration, Level
    from nightshift.models.arrays import Integers, Matrix, Vector

_DIGITS = 9


@dataclass(frozen=True)
class OutOfFold:
    """Raw scores of rows by members that never saw their days.

    Attributes:
        label: Shape (n,).
        day: Partition of each row as a number; shape (n,).
        block: Number of each row's block; shape (n,).
        trees: Mean raw score of the trees; shape (n,), of classes (n, classes).
        linear: Raw score of the linear member, 0 without one; of the same shape.
    """

    label: Vector
    day: Integers
    block: Integers
    trees: Matrix
    linear: Matrix

    def blended(self, share: float) -> Matrix:
        """Return the raw scores with a share for the linear member."""
        return (1 - share) * self.trees + share * self.linear

    def and_then(self, later: OutOfFold) -> OutOfFold:
        """Return these rows and those of a later block."""
        next_block = int(self.block.max(initial=-1)) + 1
        return OutOfFold(
            np.concatenate([self.label, later.label]),
            np.concatenate([self.day, later.day]),
            np.concatenate(
                [
                    self.block,
                    np.full(later.label.size, next_block),
                ]
            ),
            np.concatenate([self.trees, later.trees]),
            np.concatenate([self.linear, later.linear]),
        )


def rolling_blocks(
    train: pa.Table,
    validation: pa.Table,
    n_blocks: int,
    gap_days: int,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the rows to fit on and the block to predict, the earliest block first.

    Args:
        train: Rows before the validation days.
        validation: Rows that are divided into blocks of whole days; rows without a day, as tests
            have them, into equal parts.
        n_blocks: At most.
        gap_days: Days left out before each block.
    """
    import pyarrow as pa

    day = days_of(validation)
    # Rows without a day are cut by position.
    if DAY not in validation.column_names:
        day = np.arange(validation.num_rows)
        gap_days = 0
    for days in np.array_split(np.unique(day), n_blocks):
        if not days.size:
            continue
        is_before = day < days[0] - gap_days
        is_block = (day >= days[0]) & (day <= days[-1])
        before = validation.filter(pa.array(is_before))
        yield pa.concat_tables([train, before]), validation.filter(pa.array(is_block))


def common_rounds(losses: Sequence[Sequence[float]], n_rows: Sequence[int]) -> tuple[int, float]:
    """Return the number of rounds with the lowest mean loss over all blocks, and that loss.

    Args:
        losses: Of each block, after each round; a block that stalled early has fewer.
        n_rows: Of each block.
    """
    # Rounds that not every block has grown cannot be compared.
    n_common = min(map(len, losses))
    curves = np.array([curve[:n_common] for curve in losses])
    mean = np.average(curves, axis=0, weights=n_rows)
    best = int(np.argmin(mean))
    # LightGBM adds losses in an order that depends on its threads.
    return best + 1, _rounded(float(mean[best]))


def choose_share(
    scores: OutOfFold,
    shares: Sequence[float],
    *,
    is_binary: bool,
) -> float:
    """Return the linear member's share with the lowest loss; the smaller of equals."""
    # Classes have no linear member, so there is nothing to choose.
    if len(shares) == 1:
        return shares[0]
    losses = {}
    for share in sorted(shares):
        losses[share] = _loss_of(
            scores,
            share,
            is_binary=is_binary,
        )
    # ``min`` takes the first of equals.
    return min(losses, key=lambda share: losses[share])


def _loss_of(
    scores: OutOfFold,
    share: float,
    *,
    is_binary: bool,
) -> float:
    """Return the log loss once calibrated, or the squared error once centred."""
    raw = scores.blended(share)
    if not is_binary:
        # A shift is corrected by the level, so only the spread counts here.
        return float(np.var(scores.label - raw))
    calibration = fit_calibration(
        "platt",
        raw,
        scores.label,
    )
    return log_loss(
        scores.label,
        apply_calibration(calibration, raw),
    )


def choose_calibration(
    scores: OutOfFold,
    raw: Matrix,
    methods: Sequence[Calibration],
) -> dict[str, Any]:
    """Return the calibration with the lowest log loss on blocks that it was not fitted on.

    Args:
        scores: Labels and blocks.
        raw: Their raw scores; shape (n,), of classes (n, classes).
        methods: The candidates; the first of equals.
    """
    blocks = np.unique(scores.block)
    # With one candidate, or one block, there is nothing to choose by.
    best = methods[0]
    if len(methods) > 1 and blocks.size > 1:
        losses = []
        for rank, method in enumerate(methods):
            predicted = np.empty(raw.shape)
            for block in blocks:
                is_block = scores.block == block
                fitted = fit_calibration(
                    method,
                    raw[~is_block],
                    scores.label[~is_block],
                )
                predicted[is_block] = apply_calibration(
                    fitted,
                    raw[is_block],
                )
            losses.append(
                (
                    log_loss(scores.label, predicted),
                    rank,
                )
            )
        best = methods[min(losses)[1]]
    return fit_calibration(best, raw, scores.label)


def level_offset(
    predicted: Vector,
    scores: OutOfFold,
    level: Level,
    *,
    is_binary: bool,
) -> float:
    """Return by how much the newest days lie above the predictions, shrunk towards 0.

    Args:
        predicted: Probabilities, or values in the label's unit; shape (n,).
        scores: Their labels and days.
        level: How many days, and how strongly they are shrunk.
        is_binary: The predictions are probabilities.

    Returns:
        In log-odds, or in the label's unit.
    """
    newest = np.unique(scores.day)[-level.days :] if level.days else scores.day[:0]
    is_newest = np.isin(scores.day, newest)
    if not is_newest.any():
        return 0.0
    # The mean over rows: a busy day tells more than a quiet one.
    label, values = scores.label[is_newest], predicted[is_newest]
    shift = shift_of_log_odds(label, values) if is_binary else float((label - values).mean())
    shrunk = shift * newest.size / (newest.size + level.prior_days)
    return _rounded(shrunk)


def log_loss(label: Vector, probability: Matrix) -> float:
    """Return the mean log loss of probabilities strictly between 0 and 1.

    Args:
        label: Shape (n,).
        probability: Shape (n,), of classes (n, classes).
    """
    if probability.ndim > 1:
        return float(-np.log(of_rows(probability, label)).mean())
    losses = np.where(
        label > 0,
        -np.log(probability),
        -np.log1p(-probability),
    )
    return float(losses.mean())


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
