"""The linear member of a model: a line per number, a value per level, added to the trees' score.

Each feature adds a value that depends on this feature alone and has mean 0 over the fitted rows, so
the value is the feature's exact Shapley value. Source: Lundberg & Lee (2017), A unified approach to
interpreting model predictions, section 4 (linear models); docs/adr/0044-recipes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StrictPart(BaseModel):
    """A part of ``model.json``: immutable, nothing is converted, unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NumericTerm(StrictPart):
    """What a number adds: ``slope * clipped value + offset``.

    Attributes:
        slope: In units of the raw score per unit of the feature.
        offset: Makes the mean over the fitted rows 0.
        lowest: Smaller values count as this one: a line says nothing beyond the fitted rows.
        highest: Larger values count as this one.
        missing: What a missing value adds.
    """

    slope: Finite
    offset: Finite
    lowest: Finite
    highest: Finite
    missing: Finite

    @model_validator(mode="after")
    def _has_range(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError("lowest <= highest")
        return self

    def of(self, values: Vector) -> Vector:
        """Return what each value adds; shape (n,)."""
        import numpy as np

        clipped = np.clip(values, self.lowest, self.highest)
        added = self.slope * clipped + self.offset
        return np.where(np.isnan(values), self.missing, added)


class LevelTerm(StrictPart):
    """What a level of a category adds.

    Attributes:
        levels: By the level's code.
        missing: What a missing or unknown level adds.
    """

    levels: list[Finite]
    missing: Finite

    def of(self, codes: Vector) -> Vector:
        """Return what each code adds; shape (n,)."""
        import numpy as np

        # The last entry stands for a missing level.
        table = np.array([*self.levels, self.missing])
        is_known = (codes >= 0) & (codes < len(self.levels))
        return table[
            np.where(
                is_known,
                codes,
                len(self.levels),
            ).astype(np.int64)
        ]


class LinearMember(StrictPart):
    """The terms of all features, in the order of the signature.

    Attributes:
        intercept: Mean of the member's score over the fitted rows.
        numeric: A term per column of numbers.
        categorical: A term per column of codes.
    """

    intercept: Finite
    numeric: list[NumericTerm]
    categorical: list[LevelTerm]

    @classmethod
    def empty(cls, n_numeric: int, n_levels: list[int]) -> LinearMember:
        """Return a member that adds nothing."""
        nothing = NumericTerm(
            slope=0.0,
            offset=0.0,
            lowest=0.0,
            highest=0.0,
            missing=0.0,
        )
        categorical = [LevelTerm(levels=[0.0] * n, missing=0.0) for n in n_levels]
        return cls(
            intercept=0.0,
            numeric=[nothing] * n_numeric,
            categorical=categorical,
        )

    @property
    def terms(self) -> list[NumericTerm | LevelTerm]:
        """Return a term per column of the model's matrix."""
        return [*self.numeric, *self.categorical]

    def contributions(self, matrix: Matrix) -> Matrix:
        """Return what each feature adds to the raw score, shape (n, k).

        Args:
            matrix: Of ``TrainedModel.encode``, shape (n, k).
        """
        import numpy as np

        added = np.empty_like(matrix)
        for position, term in enumerate(self.terms):
            added[:, position] = term.of(matrix[:, position])
        return added

    def raw(self, matrix: Matrix) -> Vector:
        """Return the member's raw score, shape (n,); a row's bits do not depend on other rows."""
        import numpy as np

        # Column by column, in one order: a product of matrices adds in an order that depends on the
        # library, the processor and the number of rows.
        total = np.full(len(matrix), self.intercept)
        for position, term in enumerate(self.terms):
            total += term.of(matrix[:, position])
        return total

    def shifted(self, offset: float) -> LinearMember:
        """Return the member with another intercept."""
        return self.model_copy(update={"intercept": self.intercept + offset})

    def scaled(self, share: float) -> LinearMember:
        """Return the member with a share of its score."""
        numeric = []
        for line in self.numeric:
            scaled = {
                "slope": line.slope * share,
                "offset": line.offset * share,
                "missing": line.missing * share,
            }
            numeric.append(line.model_copy(update=scaled))
        categorical = []
        for term in self.categorical:
            levels = [value * share for value in term.levels]
            categorical.append(LevelTerm(levels=levels, missing=term.missing * share))
        return LinearMember(
            intercept=self.intercept * share,
            numeric=numeric,
            categorical=categorical,
        )
