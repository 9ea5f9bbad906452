"""Evaluate expectations on stored profiles: no row is read again, of a partition or of a month.

A profile knows counts, minimum and maximum exactly, and bins of 1/64. What these do not settle is
reported as unknown: the gate's own scan decides it. NaN counts as missing, as everywhere in a
profile. Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.text_sketch import TextSketch
from nightshift.quality.suites.suite import Between, Expectation, InSet, NotNull, RowCount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nightshift.quality.sketches.sketch import Sketch

    Counts = tuple[int, int, int]
    """Considered rows, and the minimum and maximum number of unexpected ones among them."""


class ProfileVerdict(StrEnum):
    """What a profile shows about an expectation."""

    MET = "met"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ProfileCheck:
    """One expectation evaluated on a profile.

    Attributes:
        type: Its type, in Great Expectations' words.
        column: What it is about; empty for the table.
        verdict: What the profile shows.
        observed: The numbers of the verdict.
    """

    type: str
    column: str
    verdict: ProfileVerdict
    observed: str


def check_profile(
    profile: Mapping[str, Sketch],
    expectations: Sequence[Expectation],
    n_partitions: int = 1,
) -> list[ProfileCheck]:
    """Return what a profile shows about each expectation, in their order.

    Args:
        profile: Columns of one partition, or of several added up.
        expectations: Parsed expectations.
        n_partitions: How many partitions the profile covers.
    """
    checks = []
    for expectation in expectations:
        verdict, observed = _evaluate(profile, expectation, n_partitions)
        check = ProfileCheck(expectation.type, expectation.column, verdict, observed)
        checks.append(check)
    return checks


def _evaluate(
    profile: Mapping[str, Sketch],
    expectation: Expectation,
    n_partitions: int,
) -> tuple[ProfileVerdict, str]:
    if isinstance(expectation.rule, RowCount):
        # A suite limits the rows of one partition, which means nothing for several.
        if not profile or n_partitions != 1 or expectation.condition:
            return ProfileVerdict.UNKNOWN, ""
        n_rows = next(iter(profile.values())).n_rows
        is_met = expectation.is_met(n_rows, 0)
        return ProfileVerdict.MET if is_met else ProfileVerdict.BROKEN, f"{n_rows:,} rows"

    counts = _count(profile.get(expectation.column), expectation)
    if counts is None:
        return ProfileVerdict.UNKNOWN, ""
    n_considered, minimum, maximum = counts
    observed = f"{minimum:,} to {maximum:,} of {n_considered:,}"
    if minimum == maximum:
        observed = f"{minimum:,} of {n_considered:,}"
    # Met even if all uncertain rows are unexpected, or broken even if none is.
    if expectation.is_met(n_considered, maximum):
        return ProfileVerdict.MET, observed
    may_be_met = expectation.is_met(n_considered, minimum)
    return ProfileVerdict.UNKNOWN if may_be_met else ProfileVerdict.BROKEN, observed


def _count(
    sketch: Sketch | None,
    expectation: Expectation,
) -> Counts | None:
    """Return what a column's sketch knows; None if it knows nothing about the expectation."""
    if expectation.condition:
        return None
    match expectation.rule, sketch:
        case NotNull(), NumberSketch() | TextSketch():
            return sketch.n_rows, sketch.n_missing, sketch.n_missing
        case Between() as rule, NumberSketch():
            return _count_outside(rule, sketch)
        case InSet() as rule, TextSketch(keeps_levels=True):
            return _count_other_strings(rule, sketch)
    return None


def _count_outside(
    rule: Between,
    sketch: NumberSketch,
) -> Counts:
    low = float("-inf") if rule.minimum is None else float(rule.minimum)
    high = float("inf") if rule.maximum is None else float(rule.maximum)
    minimum, maximum = sketch.count_outside(
        low,
        high,
        is_low_outside=rule.strict_min,
        is_high_outside=rule.strict_max,
    )
    return sketch.n_known, minimum, maximum


def _count_other_strings(
    rule: InSet,
    sketch: TextSketch,
) -> Counts:
    allowed = set(rule.allowed)
    n_allowed = sum(n for string, n in sketch.levels.items() if string in allowed)
    n_other = sum(sketch.levels.values()) - n_allowed
    # Strings that the sketch has dropped may be allowed ones or others.
    if sketch.n_uncounted:
        return sketch.n_known, n_other, sketch.n_known - n_allowed
    return sketch.n_known, n_other, n_other
