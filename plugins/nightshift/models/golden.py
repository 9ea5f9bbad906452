"""Golden predictions: what a model answered when it was stored, to be answered again, bit by bit, wherever it is loaded.

The rows are made up from the model's own thresholds and levels, so they lie on both sides of its
splits and hold nobody's data. Source: docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import ModelTextError, refused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.models.signature import Signature

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

N_ROWS = 48
CONTRIBUTION_TOLERANCE = 1e-9
"""Allowed difference of a contribution, relative to 1 or more: other processors may add its
terms in fused steps. A score's must be 0.
"""
PROBABILITY_TOLERANCE = 1e-9
"""Allowed relative difference of a probability: libraries differ in the last bits of an
exponential.
"""
_MISSING_SHARE = 8
"""One value in this many is missing."""


class GoldenError(ModelTextError):
    """A loaded model does not answer what it answered when it was stored."""

    code = "NS-MODEL-005"


@dataclass(frozen=True)
class Golden:
    """Rows and answers.

    Attributes:
        rows: The model's matrix; None is a missing value. Shape (n, k).
        raw: Raw score of each row.
        contributions: What each feature adds to it, and the base value; shape (n, k + 1).
        probability: Calibrated probability of each row, as it is published; None unless the model
            is binary, and for files of before.
    """

    rows: tuple[tuple[float | None, ...], ...]
    raw: tuple[float, ...]
    contributions: tuple[tuple[float, ...], ...]
    probability: tuple[float, ...] | None = None

    @property
    def matrix(self) -> Matrix:
        """Return the rows with NaN for what is missing; shape (n, k)."""
        import numpy as np

        return np.array(self.rows, dtype=np.float64)

    @classmethod
    def of(
        cls, matrix: Matrix, raw: Vector, contributions: Matrix, probability: Vector | None
    ) -> Golden:
        """Freeze what a model answered."""
        rows = tuple(
            tuple(None if math.isnan(value) else value for value in row) for row in matrix.tolist()
        )
        chances = None if probability is None else tuple(probability.tolist())
        return cls(rows, tuple(raw.tolist()), tuple(map(tuple, contributions.tolist())), chances)

    def as_json(self) -> dict[str, Any]:
        """Return plain lists; JSON keeps every bit of a double."""
        answers = {"rows": self.rows, "raw": self.raw, "contributions": self.contributions}
        return answers if self.probability is None else {**answers, "probability": self.probability}

    @classmethod
    def from_json(cls, document: dict[str, Any], n_features: int) -> Golden:
        """Return what ``as_json`` wrote.

        Raises:
            ModelTextError: The lists are no answers of a model with that many features.
        """
        rows, raw, contributions = (document[name] for name in ("rows", "raw", "contributions"))
        probability = document.get("probability")
        is_whole = (
            len(rows) == len(raw) == len(contributions) == N_ROWS
            and len(probability or raw) == N_ROWS
        )
        if (
            not is_whole
            or {*map(len, rows)} != {n_features}
            or {*map(len, contributions)} != {n_features + 1}
        ):
            raise refused(
                "its golden predictions have another shape",
                f"{N_ROWS} rows of {n_features} features",
                f"{len(rows)} rows",
            )
        return cls(
            tuple(tuple(None if value is None else float(value) for value in row) for row in rows),
            tuple(map(float, raw)),
            tuple(tuple(map(float, row)) for row in contributions),
            None if probability is None else tuple(map(float, probability)),
        )

    def compare_probability(self, probability: Vector | None) -> None:
        """Refuse other probabilities of the golden raw scores; files of before have none to compare with.

        Raises:
            GoldenError: One differs by more than ``PROBABILITY_TOLERANCE``.
        """
        import numpy as np

        if self.probability is None:
            return
        if probability is None or not np.allclose(
            probability, np.array(self.probability), rtol=PROBABILITY_TOLERANCE, atol=0
        ):
            raise _other_answers(
                "it calibrates scores otherwise than when it was stored",
                "the frozen probabilities",
                "others",
            )

    def compare(self, raw: Vector, contributions: Matrix) -> None:
        """Refuse other answers.

        Raises:
            GoldenError: A score is not finite or differs in any bit, or a contribution by more than
                ``CONTRIBUTION_TOLERANCE``.
        """
        import numpy as np

        expected = np.array(self.raw)
        if not np.isfinite(raw).all() or not np.isfinite(contributions).all():
            raise _other_answers(
                "some of its answers are not finite",
                "finite scores",
                f"{int((~np.isfinite(raw)).sum())} scores are not",
            )
        if raw.tobytes() != expected.tobytes():
            at = int(np.flatnonzero(raw != expected)[0]) if (raw != expected).any() else 0
            raise _other_answers(
                "it scores otherwise than when it was stored", f"{expected[at]!r}", f"{raw[at]!r}"
            )
        if not np.allclose(
            contributions,
            np.array(self.contributions),
            rtol=CONTRIBUTION_TOLERANCE,
            atol=CONTRIBUTION_TOLERANCE,
        ):
            raise _other_answers(
                "it explains scores otherwise than when it was stored",
                "the frozen contributions",
                "others",
            )


def golden_rows(text: str, signature: Signature) -> Matrix:
    """Make rows of a model's matrix up: thresholds, the next double above one, levels, and missing values.

    Always the same for the same model: places in the lists follow from a digest of row and column.

    Returns:
        Shape (N_ROWS, len(signature.names)).

    Raises:
        ModelTextError: The text is refused.
    """
    import numpy as np

    n_features = len(signature.names)
    asked: list[set[float]] = [set() for _ in range(n_features)]
    for tree in read_model(text, signature.names):
        for feature, threshold in zip(tree.features, tree.thresholds, strict=True):
            if math.isfinite(threshold):
                asked[feature].add(threshold)
    for place, (_, levels) in enumerate(signature.categorical, start=len(signature.numeric)):
        asked[place] = {float(code) for code in range(len(levels))}
    matrix = np.full((N_ROWS, n_features), np.nan)
    for column, values in enumerate(sorted(found) or [0.0] for found in asked):
        for row in range(N_ROWS):
            place = int.from_bytes(sha256(f"{row} {column}".encode()).digest()[:8])
            value = values[place // (2 * _MISSING_SHARE) % len(values)]
            is_above = place % 2 == 1 and column < len(signature.numeric)
            if place // 2 % _MISSING_SHARE:
                matrix[row, column] = np.nextafter(value, np.inf) if is_above else value
    return matrix


def _other_answers(what: str, expected: str, got: str) -> GoldenError:
    return GoldenError(
        f"The model is refused: {what}.",
        expected=expected,
        got=got,
        todo="Load another version, or train again.",
    )
