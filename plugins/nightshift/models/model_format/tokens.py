"""Read the numbers of a text model strictly: only the forms that LightGBM itself writes.

LightGBM's own reader accepts half a number, a missing one or one too many without an error, and
then uses memory that does not belong to it. Python's ``int`` and ``float`` accept too much as well.
"""

from __future__ import annotations

import math
import re
from typing import TypeVar

from nightshift.errors import NightshiftError

Number = TypeVar("Number", int, float)

LARGEST_INTEGER = 2**31 - 1
"""LightGBM counts and indexes with signed 32-bit integers."""
# Digits are bounded, so that no damaged line can hold a number that takes long to convert.
_INTEGERS = re.compile(r"-?\d{1,10}(?: -?\d{1,10})*", re.ASCII)
_NUMBER = r"-?\d{1,20}(?:\.\d{1,20})?(?:e[+-]\d{1,3})?"
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*", re.ASCII)


class ModelTextError(NightshiftError):
    """A model file is truncated, inconsistent, or reads other features."""

    code = "NS-MODEL-003"


def refused(problem: str, expected: str, got: str) -> ModelTextError:
    """Return the error of a refused model file; its to-do is always safe to follow."""
    return ModelTextError(
        f"The model file is refused: {problem}.",
        expected=expected,
        got=got[:200],
        todo="Load another version, or train again; never edit the file.",
    )


def parse_fields(lines: list[str], names: list[str], where: str) -> dict[str, str]:
    """Return the values of ``name=value`` lines, which must have exactly these names in this order.

    Raises:
        ModelTextError: A line is missing, repeated, unknown or out of order.
    """
    parts = [line.partition("=") for line in lines]
    line_names = [name for name, _, _ in parts]
    if line_names != names or not all(separator for _, separator, _ in parts):
        raise refused(
            f"{where} does not have the lines that LightGBM writes",
            ", ".join(names),
            ", ".join(line_names),
        )
    return {name: value for name, _, value in parts}


def parse_integers(text: str, where: str, n: int | None = None) -> list[int]:
    """Return integers that are separated by single spaces.

    Args:
        text: The integers; empty for none.
        where: Name of the line, for the error.
        n: Required count; None accepts any.

    Raises:
        ModelTextError: The text has another form, a value beyond 32 bits, or the wrong count.
    """
    values = [int(word) for word in _split(text, where, "integers", _INTEGERS)]
    largest = max(values, key=abs, default=0)
    if abs(largest) > LARGEST_INTEGER:
        raise refused(
            f"{where} holds a number beyond 32 bits", f"at most {LARGEST_INTEGER}", str(largest)
        )
    return _counted(values, where, n)


def parse_numbers(text: str, where: str, n: int | None = None) -> list[float]:
    """Return finite numbers that are separated by single spaces; arguments as ``parse_integers``.

    Raises:
        ModelTextError: The text has another form, an infinite value, or the wrong count.
    """
    values = [float(word) for word in _split(text, where, "finite numbers", _NUMBERS)]
    if not all(map(math.isfinite, values)):
        raise refused(
            f"{where} holds a number that is too large for a double", "finite numbers", "infinity"
        )
    return _counted(values, where, n)


def _split(text: str, where: str, expected: str, form: re.Pattern[str]) -> list[str]:
    if not text:
        return []
    if not form.fullmatch(text):
        raise refused(f"{where} holds something other than {expected}", expected, text[:40])
    return text.split(" ")


def _counted(values: list[Number], where: str, n: int | None) -> list[Number]:
    if n is not None and len(values) != n:
        raise refused(f"{where} has the wrong number of values", str(n), str(len(values)))
    return values
