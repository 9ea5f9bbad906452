"""Golden predictions: a model's answers when it was stored, compared wherever it is loaded.

The rows are made from the model's own thresholds and levels, so they lie on both sides of its
splits and hold nobody's data. Source: docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightshift.models.model_format.tokens import ModelTextError

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.models.model_format.trees import Tree
    from nightshift.models.signature import Signature


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
        raw: Raw score of the trees for each row; of classes one of each.
        contributions: What each feature adds to it, and the base value; shape (n, k + 1), of
            classes one after the other: (n, classes * (k + 1)).
        probability: Calibrated probability of each row, or of each class; None for a regression,
            and for files of format 2.
        linear: Raw score of the linear member; None for a model without one.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
    )

    rows: list[list[Finite | None]]
    raw: list[Finite] | list[list[Finite]]
    contributions: list[list[Finite]]
    probability: list[Probability] | list[list[Probability]] | None = None
    linear: list[Finite] | None = None

    @model_validator(mode="after")
    def _has_one_shape(self) -> Self:
        answers: list[Sequence[object]] = [self.rows, self.raw, self.contributions]
        if self.probability is not None:
            answers.append(self.probability)
        if self.linear is not None:
            answers.append(self.linear)
        n_features = len(self.rows[0]) if self.rows else 0
        # A damaged file is refused here with a name: ragged lists make no matrix later.
        n_scores = self.n_scores
        n_contributions = n_scores * (n_features + 1)
        fits = (
            all(len(part) == N_ROWS for part in answers)
            and _has_width(self.rows, n_features)
            and _has_width(self.contributions, n_contributions)
        )
        # One number, or one of each class.
        if n_scores > 1:
            fits = (
                fits and _has_width(self.raw, n_scores) and _has_width(self.probability, n_scores)
            )
        if not fits:
            raise ValueError(f"{N_ROWS} rows, each with a contribution per feature and a base")
        return self

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        raw: Matrix,
        contributions: Matrix,
        probability: Matrix | None,
        linear: Vector | None = None,
    ) -> Golden:
        """Freeze the answers of a model."""
        import numpy as np

        # JSON has no NaN.
        rows = matrix.astype(np.object_)
        rows[np.isnan(matrix)] = None
        # Not validated: answers that are not finite are refused by ``compare``, with their name.
        return cls.model_construct(
            rows=rows.tolist(),
            raw=raw.tolist(),
            contributions=contributions.tolist(),
            probability=None if probability is None else probability.tolist(),
            linear=None if linear is None else linear.tolist(),
        )

    @property
    def n_scores(self) -> int:
        """Return the number of raw scores of each row: 1, or one of each class."""
        if not self.raw:
            return 1
        first = self.raw[0]
        if isinstance(first, list):
            return len(first)
        return 1

    def contributions_of(self, score: int) -> Matrix:
        """Return what each feature adds to one raw score, and its base value.

        Args:
            score: Number of the score: 0, or that of a class.

        Returns:
            Shape (n, k + 1).
        """
        import numpy as np

        contributions = np.array(self.contributions)
        # One score after the other, each with its base last.
        width = len(self.rows[0]) + 1
        start = score * width
        end = start + width
        return contributions[:, start:end]

    @property
    def matrix(self) -> Matrix:
        """Return the rows with NaN for missing values; shape (n, k)."""
        import numpy as np

        return np.array(self.rows, dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """Return plain lists; without those that there are none of."""
        return self.model_dump(exclude_none=True)

    def compare(self, raw: Matrix, contributions: Matrix) -> None:
        """Refuse other scores and contributions.

        Raises:
            GoldenError: A score is not finite or differs in any bit, or a contribution by more than
                ``CONTRIBUTION_TOLERANCE``.
        """
        import numpy as np

        if not np.isfinite(raw).all() or not np.isfinite(contributions).all():
            n_infinite = int((~np.isfinite(raw)).sum())
            raise _different(
                "some of its answers are not finite",
                "finite scores",
                f"{n_infinite} are not",
            )
        expected = np.array(self.raw)
        # Bytes: an equal comparison would take 0.0 for -0.0.
        if raw.tobytes() != expected.tobytes():
            has_shape = raw.shape == expected.shape
            differs = (raw != expected).ravel() if has_shape else np.ones(1)
            first = int(np.argmax(differs))
            raise _different(
                "it scores differently from when it was stored",
                f"{expected.ravel()[first]!r}",
                f"{raw.ravel()[first]!r}",
            )
        is_close = np.allclose(
            contributions,
            self.contributions,
            rtol=CONTRIBUTION_TOLERANCE,
            atol=CONTRIBUTION_TOLERANCE,
        )
        if not is_close:
            raise _different(
                "it explains scores differently from when it was stored",
                "the frozen contributions",
                "other contributions",
            )

    def compare_linear(self, linear: Vector) -> None:
        """Refuse other scores of the linear member.

        Raises:
            GoldenError: One differs in any bit.
        """
        import numpy as np

        expected = np.array(self.linear)
        if linear.tobytes() != expected.tobytes():
            first = int(np.argmax(linear != expected))
            raise _different(
                "its linear member scores differently from when it was stored",
                f"{expected[first]!r}",
                f"{linear[first]!r}",
            )

    def compare_probability(self, probability: Matrix | None) -> None:
        """Refuse other probabilities of the golden raw scores; format 2 has none to compare.

        Raises:
            GoldenError: One differs by more than ``PROBABILITY_TOLERANCE``.
        """
        import numpy as np

        if self.probability is None:
            return
        # No absolute tolerance: a rare event's probability may be far below it.
        expected = np.array(self.probability)
        is_close = False
        # Arrays of other shapes would be compared by repeating the shorter.
        if probability is not None and probability.shape == expected.shape:
            is_close = np.allclose(
                probability,
                expected,
                rtol=PROBABILITY_TOLERANCE,
                atol=0,
            )
        if not is_close:
            raise _different(
                "it calibrates scores differently from when it was stored",
                "the frozen probabilities",
                "other probabilities",
            )


def _has_width(part: Sequence[object] | None, width: int) -> bool:
    """Return whether each row of some answers is a list of so many numbers.

    Args:
        part: The answers; None is an answer that the file does not have.
        width: Length of each list.
    """
    rows = part or ()
    return all(
        isinstance(
            row,
            list,
        )
        and len(row) == width
        for row in rows
    )


def golden_rows(trees: list[Tree], signature: Signature) -> Matrix:
    """Make rows of thresholds, next doubles above them, level codes and missing values.

    Always the same for the same model: choices follow from a digest of row and column.

    Returns:
        Shape (N_ROWS, len(signature.names)).
    """
    import numpy as np

    n_numeric = len(signature.number_names)
    candidates = _candidate_values(trees, signature)
    matrix = np.full((N_ROWS, len(candidates)), np.nan)
    for column, values in enumerate(candidates):
        for row in range(N_ROWS):
            # Bits of the digest choose: above or not, missing or not, which value. A random
            # generator might give other rows after an upgrade.
            digest = sha256(f"{row} {column}".encode()).digest()
            number, is_above = divmod(int.from_bytes(digest[:8]), 2)
            number, is_present = divmod(number, _MISSING_SHARE)
            if not is_present:
                continue
            value = values[number % len(values)]
            # The next double goes to the other side of the split. A level has no next one.
            if is_above and column < n_numeric:
                value = np.nextafter(value, np.inf)
            matrix[row, column] = value
    return matrix


def _candidate_values(trees: list[Tree], signature: Signature) -> list[list[float]]:
    """Return for each column its finite thresholds or its level codes, in order; at least one."""
    thresholds: list[set[float]] = [set() for _ in signature.names]
    for tree in trees:
        for feature, threshold in zip(
            tree.features,
            tree.thresholds,
            strict=True,
        ):
            if math.isfinite(threshold):
                thresholds[feature].add(threshold)
    # A categorical node's threshold is the number of a set, so its codes replace it.
    for position, (_, levels) in zip(
        signature.categorical_positions,
        signature.categorical,
        strict=True,
    ):
        thresholds[position] = {float(code) for code in range(len(levels))}
    return [sorted(values) or [0.0] for values in thresholds]


def _different(problem: str, expected: str, got: str) -> GoldenError:
    return GoldenError(
        f"The model is refused: {problem}.",
        expected=expected,
        got=got,
        todo="Load another version, or train again.",
    )
