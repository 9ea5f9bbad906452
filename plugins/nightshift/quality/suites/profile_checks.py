"""Hold a suite's expectations against profiles that are kept already: no row is read again, whether of a night or of a month.

A profile knows counts, minimum and maximum exactly, and bins of 1/64; what it cannot settle it
calls unknown, and the gate's own scan has the word. NaN counts as missing, as everywhere in a
profile. Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nightshift.quality.sketches.sketch import NumberSketch, TextSketch

if TYPE_CHECKING:
    from nightshift.quality.sketches.sketch import Sketch


class Verdict(StrEnum):
    """What a profile says of an expectation."""

    MET = "met"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ProfileCheck:
    """One expectation held against a profile.

    Attributes:
        kind: Its type, in Great Expectations' words.
        column: What it is about; empty for the table.
        verdict: What the profile says.
        observed: The numbers behind it.
    """

    kind: str
    column: str
    verdict: Verdict
    observed: str


Counts = tuple[int, int, int]
"""Rows that an expectation is about, and the least and the most of them that may break it."""


def check_profile(
    profile: Mapping[str, Sketch], expectations: Sequence[Mapping[str, Any]], n_partitions: int = 1
) -> list[ProfileCheck]:
    """Return what a profile says of each expectation, in their order.

    Args:
        profile: Columns of one partition, or of several added up.
        expectations: In Great Expectations' JSON: ``type``, ``kwargs``.
        n_partitions: Of how many; limits of a partition's number of rows say nothing of several.
    """
    return [_check(profile, one["type"], dict(one["kwargs"]), n_partitions) for one in expectations]


def _check(
    profile: Mapping[str, Sketch], kind: str, given: dict[str, Any], n_partitions: int
) -> ProfileCheck:
    column = str(given.get("column", ""))
    if (
        kind == "expect_table_row_count_to_be_between"
        and n_partitions == 1
        and profile
        and set(given) <= {"min_value", "max_value"}
    ):
        n_rows = next(iter(profile.values())).n_rows
        smallest, largest = given.get("min_value"), given.get("max_value")
        is_met = (smallest is None or n_rows >= smallest) and (largest is None or n_rows <= largest)
        return ProfileCheck(kind, "", Verdict.MET if is_met else Verdict.BROKEN, f"{n_rows:,} rows")
    mostly = given.pop("mostly", 1.0)
    count = _COUNTS.get(kind)
    sketch = profile.get(column)
    if (
        count is None
        or sketch is None
        or not isinstance(mostly, int | float)
        or {"row_condition", "condition_parser"} & set(given)
    ):
        return ProfileCheck(kind, column, Verdict.UNKNOWN, "")
    counted = count(sketch, given)
    if counted is None:
        return ProfileCheck(kind, column, Verdict.UNKNOWN, "")
    n, least, most = counted
    observed = f"{least:,} of {n:,}" if least == most else f"{least:,} to {most:,} of {n:,}"
    if n == 0 or (n - most) / n >= mostly:
        return ProfileCheck(kind, column, Verdict.MET, observed)
    return ProfileCheck(
        kind, column, Verdict.BROKEN if (n - least) / n < mostly else Verdict.UNKNOWN, observed
    )


def _missing(sketch: Sketch, given: dict[str, Any]) -> Counts | None:
    return (sketch.n_rows, sketch.n_missing, sketch.n_missing) if set(given) == {"column"} else None


def _outside(sketch: Sketch, given: dict[str, Any]) -> Counts | None:
    limits = [given.get("min_value"), given.get("max_value")]
    numbers = all(
        limit is None or (isinstance(limit, int | float) and not isinstance(limit, bool))
        for limit in limits
    )
    if (
        not isinstance(sketch, NumberSketch)
        or not numbers
        or set(given) - {"column", "min_value", "max_value", "strict_min", "strict_max"}
    ):
        return None
    low = float("-inf") if limits[0] is None else float(limits[0])
    high = float("inf") if limits[1] is None else float(limits[1])
    least, most = sketch.count_outside(
        low,
        high,
        is_low_outside=bool(given.get("strict_min")),
        is_high_outside=bool(given.get("strict_max")),
    )
    return sketch.n_known, least, most


def _of_other_texts(sketch: Sketch, given: dict[str, Any]) -> Counts | None:
    allowed = given.get("value_set")
    if (
        not isinstance(sketch, TextSketch)
        or not sketch.keeps_levels
        or not isinstance(allowed, list)
        or not all(isinstance(text, str) for text in allowed)
        or set(given) != {"column", "value_set"}
    ):
        return None
    n_allowed = sum(n for text, n in sketch.levels.items() if text in {*allowed})
    n_other = sum(sketch.levels.values()) - n_allowed
    if not sketch.n_uncounted:
        return sketch.n_known, n_other, n_other
    return sketch.n_known, n_other, sketch.n_known - n_allowed


_COUNTS: dict[str, Callable[[Any, dict[str, Any]], Counts | None]] = {
    "expect_column_values_to_not_be_null": _missing,
    "expect_column_values_to_be_between": _outside,
    "expect_column_values_to_be_in_set": _of_other_texts,
}
