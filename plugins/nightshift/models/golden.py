"""Golden predictions: a model's answers when it was stored, compared wherever it is loaded.

The rows are made from the model's own thresholds and levels, so they lie on both sides of its
splits and hold nobody's data. Source: docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightshift.models.model_format.tokens import ModelTextError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.models.model_format.trees import Tree
    from nightshift.models.signature import Signature

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

N_ROWS = 48
CONTRIBUTION_TOLERANCE = 1e-9
"""Allowed difference of a contribution, relative to 1 or more: other processors may add its terms
in fused steps. A score's difference must be 0.
"""
PROBABILITY_TOLERANCE = 1e-9
"""Allowed relative difference of a probability: libraries differ in the last bits of an
exponential.
"""
_MISSING_SHARE = 8
"""One value in this many is missing."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


class GoldenError(ModelTextError):
    """A loaded model does not give the answers that it gave when it was stored."""

    code = "NS-MODEL-005"


class Golden(BaseModel):
    """Rows and a model's answers; JSON keeps every bit of a double.

    Attributes:
        rows: Rows of the model's matrix; None is a missing value. Shape (n, k).
        raw: Raw score of each row.
        contributions: What each feature adds to it, and the base value; shape (n, k + 1).
        probability: Calibrated probability of each row; None unless the model is binary, and for
            files of format 2.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    rows: list[list[Finite | None]]
    raw: list[Finite]
    contributions: list[list[Finite]]
    probability: list[Probability] | None = None

    @model_validator(mode="after")
    def _has_one_shape(self) -> Self:
        n_answers = {len(self.rows), len(self.raw), len(self.contributions)}
        if self.probability is not None:
            n_answers.add(len(self.probability))
        n_features = {*map(len, self.rows), *(len(row) - 1 for row in self.contributions)}
        if n_answers != {N_ROWS} or len(n_features) != 1:
            raise ValueError(f"{N_ROWS} rows, each with a contribution per feature and a base")
        return self

    @classmethod
    def of(
        cls, matrix: Matrix, raw: Vector, contributions: Matrix, probability: Vector | None
    ) -> Golden:
        """Freeze the answers of a model."""
        rows = [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
        # Not validated: answers that are not finite are refused by ``compare``, with their name.
        return cls.model_construct(
            rows=rows,
            raw=raw.tolist(),
            contributions=contributions.tolist(),
            probability=None if probability is None else probability.tolist(),
        )

    @property
    def matrix(self) -> Matrix:
        """Return the rows with NaN for missing values; shape (n, k)."""
        import numpy as np

        return np.array(self.rows, dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """Return plain lists; without ``probability`` if there is none."""
        return self.model_dump(exclude_none=True)

    def compare(self, raw: Vector, contributions: Matrix) -> None:
        """Refuse other scores and contributions.

        Raises:
            GoldenError: A score is not finite or differs in any bit, or a contribution by more than
                ``CONTRIBUTION_TOLERANCE``.
        """
        import numpy as np

        if not np.isfinite(raw).all() or not np.isfinite(contributions).all():
            n_infinite = int((~np.isfinite(raw)).sum())
            raise _different(
                "some of its answers are not finite", "finite scores", f"{n_infinite} are not"
            )
        expected = np.array(self.raw)
        if raw.tobytes() != expected.tobytes():
            first = int(np.argmax(raw != expected))
            raise _different(
                "it scores differently from when it was stored",
                f"{expected[first]!r}",
                f"{raw[first]!r}",
            )
        if not np.allclose(
            contributions,
            np.array(self.contributions),
            rtol=CONTRIBUTION_TOLERANCE,
            atol=CONTRIBUTION_TOLERANCE,
        ):
            raise _different(
                "it explains scores differently from when it was stored",
                "the frozen contributions",
                "other contributions",
            )

    def compare_probability(self, probability: Vector | None) -> None:
        """Refuse other probabilities of the golden raw scores; format 2 has none to compare.

        Raises:
            GoldenError: One differs by more than ``PROBABILITY_TOLERANCE``.
        """
        import numpy as np

        if self.probability is None:
            return
        expected = np.array(self.probability)
        if probability is None or not np.allclose(
            probability, expected, rtol=PROBABILITY_TOLERANCE, atol=0
        ):
            raise _different(
                "it calibrates scores differently from when it was stored",
                "the frozen probabilities",
                "other probabilities",
            )


def golden_rows(trees: list[Tree], signature: Signature) -> Matrix:
    """Make rows of thresholds, next doubles above them, level codes and missing values.

    Always the same for the same model: choices follow from a digest of row and column.

    Returns:
        Shape (N_ROWS, len(signature.names)).
    """
    import numpy as np

    n_numeric = len(signature.numeric)
    candidates = _candidate_values(trees, signature)
    matrix = np.full((N_ROWS, len(candidates)), np.nan)
    for column, values in enumerate(candidates):
        for row in range(N_ROWS):
            # Bits of the digest choose: above or not, missing or not, which value.
            number = int.from_bytes(sha256(f"{row} {column}".encode()).digest()[:8])
            is_missing = number // 2 % _MISSING_SHARE == 0
            if is_missing:
                continue
            value = values[number // (2 * _MISSING_SHARE) % len(values)]
            is_above = number % 2 == 1 and column < n_numeric
            matrix[row, column] = np.nextafter(value, np.inf) if is_above else value
    return matrix


def _candidate_values(trees: list[Tree], signature: Signature) -> list[list[float]]:
    """Return for each column its finite thresholds or its level codes, in order; at least one."""
    thresholds: list[set[float]] = [set() for _ in signature.names]
    for tree in trees:
        for feature, threshold in zip(tree.features, tree.thresholds, strict=True):
            if math.isfinite(threshold):
                thresholds[feature].add(threshold)
    numeric = thresholds[: len(signature.numeric)]
    codes = [{float(code) for code in range(len(levels))} for _, levels in signature.categorical]
    return [sorted(values) or [0.0] for values in (*numeric, *codes)]


def _different(problem: str, expected: str, got: str) -> GoldenError:
    return GoldenError(
        f"The model is refused: {problem}.",
        expected=expected,
        got=got,
        todo="Load another version, or train again.",
    )
