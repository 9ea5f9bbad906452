"""Read the numbers of a text model strictly: only the forms that LightGBM itself writes.

LightGBM's own reader accepts half a number, a missing one or one too many without an error, and
then uses memory that does not belong to it. Python's ``int`` and ``float`` accept too much as well.
"""

from __future__ import annotations

import math
import re

from nightshift.errors import NightshiftError

LARGEST_INTEGER = 2**31 - 1
"""LightGBM counts and indexes with signed 32-bit integers."""
# Digits are bounded, so that no damaged line can hold a number that takes long to convert.
_INTEGERS = re.compile(r"-?\d{1,10}(?: -?\d{1,10})*", re.ASCII)
_NUMBER = r"-?\d{1,20}(?:\.\d{1,20})?(?:e[+-]\d{1,3})?"
_MAX_GOT = 200
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*", re.ASCII)


class ModelTextError(NightshiftError):
    """A model file is truncated, inconsistent, or reads other features."""

    code = "NS-MODEL-003"


def refused(problem: str, expected: str, got: str) -> ModelTextError:
    """Return the error of a refused model file; its to-do is always safe to follow."""
    # A damaged file may hold a line of any length.
    got = got[:_MAX_GOT]
    return ModelTextError(
        f"The model file is refused: {problem}.",
        expected=expected,
        got=got,
        todo="Load another version, or train again; never edit the file.",
    )


def parse_fields(lines: list[str], names: list[str], where: str) -> dict[str, str]:
    """Return the values of ``name=value`` lines of exactly these names, in this order.

    Raises:
        ModelTextError: A line is missing, repeated, unknown or out of order.
    """
    line_names = [line.partition("=")[0] for line in lines]
    has_values = all("=" in line for line in lines)
    if line_names != names or not has_values:
        raise refused(
            f"{where} does not have the lines that LightGBM writes",
            ", ".join(names),
            ", ".join(line_names),
        )
    values = [line.partition("=")[2] for line in lines]
    return dict(zip(names, values, strict=True))


def parse_integers(text: str, where: str, n: int | None = None) -> list[int]:
    """Return integers that are separated by single spaces.

    Args:
        text: The integers; empty for none.
        where: Name of the line, for the error.
        n: Required count; None accepts any.

    Raises:
        ModelTextError: The text has another form, a value beyond 32 bits, or the wrong count.
    """
    words = _split(text, where, "integers", _INTEGERS, n)
    values = [int(word) for word in words]
    largest = max(values, key=abs, default=0)
    if abs(largest) > LARGEST_INTEGER:
        raise refused(
            f"{where} holds a number beyond 32 bits",
            f"at most {LARGEST_INTEGER}",
            str(largest),
        )
    return values


def parse_numbers(text: str, where: str, n: int | None = None) -> list[float]:
    """Return finite numbers that are separated by single spaces; arguments as ``parse_integers``.

    Raises:
        ModelTextError: The text has another form, an infinite value, or the wrong count.
    """
    words = _split(text, where, "finite numbers", _NUMBERS, n)
    values = [float(word) for word in words]
    # The form excludes "inf", but 1e999 has it and becomes infinite.
    if not all(map(math.isfinite, values)):
        raise refused(
            f"{where} holds a number that is too large for a double",
            "finite numbers",
            "infinity",
        )
    return values


def _split(
    text: str,
    where: str,
    expected: str,
    form: re.Pattern[str],
    n: int | None,
) -> list[str]:
    """Return the words of a line that has a form, and the required count of words."""
    if text and not form.fullmatch(text):
        beginning = text[:40]
        raise refused(
            f"{where} holds something other than {expected}",
            expected,
            beginning,
        )
    # An empty line holds no word; ``split`` alone would give an empty one.
    words = text.split(" ") if text else []
    if n is not None and len(words) != n:
        raise refused(
            f"{where} has the wrong number of values",
            str(n),
            str(len(words)),
        )
    return words
