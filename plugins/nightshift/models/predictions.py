"""The predictions of one model for some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What was predicted for some rows.

    Attributes:
        score: What rows are ordered by: probability before calibration, or the value in the label's
            unit; shape (n,).
        probability: Calibrated probability, binary only; shape (n,).
        threshold: Probability from which a row is called positive.
    """

    score: Vector
    probability: Vector | None = None
    threshold: float = 0.5

    def at(self, mask: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions of some rows."""
        return Predictions(
            self.score[mask],
            None if self.probability is None else self.probability[mask],
            self.threshold,
        )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of one model for several parts of rows, in that order; at least one part."""
    import numpy as np

    probabilities = [part.probability for part in parts if part.probability is not None]
    return Predictions(
        np.concatenate([part.score for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        parts[0].threshold,
    )
