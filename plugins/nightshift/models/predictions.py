"""Predictions of a model: scores and, for a binary label, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.models.arrays import Mask, Matrix, Vector


@dataclass(frozen=True)
class Predictions:
    """Scores and probabilities of some rows.

    Attributes:
        score: Orders the rows: probability before calibration, or the value in the label's unit;
            shape (n,).
        probability: Calibrated probability, binary only; shape (n,).
        threshold: Probability from which a row is called positive.
        answers: Median, lower and upper end of each row, NaN without; shape (n, 3).
    """

    score: Vector
    probability: Vector | None = None
    threshold: float = 0.5
    answers: Matrix | None = None

    def at(self, mask: Mask) -> Predictions:
        """Return the predictions of some rows."""
        probability = None if self.probability is None else self.probability[mask]
        answers = None if self.answers is None else self.answers[mask]
        return Predictions(self.score[mask], probability, self.threshold, answers)


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of consecutive rows as one; the threshold is that of the last part.

    Args:
        parts: At least one; of one model, or of one after the other.
    """
    import numpy as np

    score = np.concatenate([part.score for part in parts])
    probabilities = [part.probability for part in parts if part.probability is not None]
    # Either every part has probabilities (a binary model) or none has.
    probability = np.concatenate(probabilities) if probabilities else None
    answers = [part.answers for part in parts if part.answers is not None]
    return Predictions(
        score, probability, parts[-1].threshold, np.concatenate(answers) if answers else None
    )
