"""The shape of generated features: 26 numbers, 4 categories of 30 levels, 5 % missing.

That of the real ones. ``NIGHTSHIFT_BENCH_SHAPE`` names another one, in whole or in part, for this
process and those that it starts:

    NIGHTSHIFT_BENCH_SHAPE=numbers=400,categories=20,levels=3000,missing=0.6
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pydantic import TypeAdapter

VARIABLE = "NIGHTSHIFT_BENCH_SHAPE"


@dataclass(frozen=True)
class Shape:
    """How the features look.

    Attributes:
        numbers: Columns of numbers; at least 7, of which the label is made.
        categories: Columns of texts; at least one.
        levels: Different texts of each.
        missing: Share of the values that are null, 0 to 1.
    """

    numbers: int = 26
    categories: int = 4
    levels: int = 30
    missing: float = 0.05

    def __str__(self) -> str:
        return (
            f"{self.numbers} numbers and {self.categories} categories of {self.levels} levels,"
            f" {self.missing:.0%} missing"
        )


def read_shape() -> Shape:
    """Return the shape that the environment names.

    Raises:
        ValidationError: It names something else.
    """
    pairs = (part.split("=", 1) for part in os.environ.get(VARIABLE, "").split(",") if part)
    return TypeAdapter(Shape).validate_python(dict(pairs))


SHAPE = read_shape()
N_NUMERIC, N_CATEGORICAL, N_LEVELS = SHAPE.numbers, SHAPE.categories, SHAPE.levels
NUMERIC = [f"n{i:02d}" for i in range(N_NUMERIC)]
CATEGORICAL = [f"c{i}" for i in range(N_CATEGORICAL)]
