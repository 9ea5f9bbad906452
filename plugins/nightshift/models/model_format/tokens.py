"""Read the words of a text model strictly: only what LightGBM itself writes, nothing that Python would read more kindly.

LightGBM's reader takes half a number, a missing one or one too many without a word and goes on with
memory that is not its own.
"""

from __future__ import annotations

import math
import re
from typing import TypeVar

from nightshift.errors import NightshiftError

Word = TypeVar("Word", int, float)

LARGEST_INTEGER = 2**31 - 1
"""LightGBM counts and indexes in 32 bits with a sign."""
_INTEGERS = re.compile(r"-?\d{1,10}(?: -?\d{1,10})*", re.ASCII)
_NUMBER = r"-?\d{1,20}(?:\.\d{1,20})?(?:e[+-]\d{1,3})?"
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*", re.ASCII)


class ModelTextError(NightshiftError):
    """A model file is truncated, inconsistent, or reads other features."""

    code = "NS-MODEL-003"


def refused(what: str, expected: str, got: str) -> ModelTextError:
    """Return the error of a model file, with the one step that is safe."""
    return ModelTextError(
        f"The model file is refused: {what}.",
        expected=expected,
        got=got[:200],
        todo="Load another version, or train again; never edit the file.",
    )


def fields_of(lines: list[str], names: list[str], where: str) -> dict[str, str]:
    """Return the values of lines ``name=value`` that must have exactly these names in this order.

    Raises:
        ModelTextError: A line is missing, repeated, unknown or elsewhere.
    """
    parts = [line.partition("=") for line in lines]
    found = [name for name, _, _ in parts]
    if found != names or not all(mark for _, mark, _ in parts):
        raise refused(
            f"{where} has other lines than LightGBM writes", ", ".join(names), ", ".join(found)
        )
    return {name: value for name, _, value in parts}


def integers(text: str, where: str, n: int | None = None) -> list[int]:
    """Return whole numbers that one space each keeps apart.

    Args:
        text: The words; empty for none.
        where: Names the line in the error.
        n: How many there must be; None takes any number.

    Raises:
        ModelTextError: Something else, more than 32 bits hold, or another number of them.
    """
    if text and not _INTEGERS.fullmatch(text):
        raise refused(
            f"{where} holds something else than whole numbers", "whole numbers", text[:40]
        )
    found = [int(word) for word in text.split(" ")] if text else []
    if found and max(map(abs, found)) > LARGEST_INTEGER:
        raise refused(
            f"{where} holds a number beyond 32 bits", str(LARGEST_INTEGER), str(max(found, key=abs))
        )
    return _counted(found, where, n)


def numbers(text: str, where: str, n: int | None = None) -> list[float]:
    """Return finite numbers that one space each keeps apart; as ``integers``.

    Raises:
        ModelTextError: Something else, an infinite one, or another number of them.
    """
    if text and not _NUMBERS.fullmatch(text):
        raise refused(
            f"{where} holds something else than finite numbers", "finite numbers", text[:40]
        )
    found = [float(word) for word in text.split(" ")] if text else []
    if not all(map(math.isfinite, found)):
        raise refused(
            f"{where} holds a number that no double holds", "finite numbers", "an infinite one"
        )
    return _counted(found, where, n)


def _counted(found: list[Word], where: str, n: int | None) -> list[Word]:
    if n is not None and len(found) != n:
        raise refused(f"{where} holds another number of values", str(n), str(len(found)))
    return found
