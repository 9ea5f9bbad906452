from __future__ import annotations

import math

import pytest

from nightshift.monitoring.drift import expected_shares, largest_gap, stability_index, total_variation


def test_index_is_zero_when_shares_are_equal() -> None:
    assert stability_index([50, 30, 20], [0.5, 0.3, 0.2], 100) == 0.0


def test_index_is_the_textbook_value_when_counts_are_large() -> None:
    expected = (0.5 - 0.25) * math.log(0.5 / 0.25) + (0.5 - 0.75) * math.log(0.5 / 0.75)
    assert stability_index([5_000_000, 5_000_000], [0.25, 0.75], 10_000_000) == pytest.approx(expected, abs=1e-6)


def test_index_is_finite_when_a_bin_is_empty_on_one_side() -> None:
    assert stability_index([0, 100], [0.5, 0.5], 100) == pytest.approx(
        (100.5 / 101 - 0.5) * math.log((100.5 / 101) / (0.5 / 101)), rel=1e-9
    )


def test_bin_that_is_empty_on_both_sides_changes_nothing() -> None:
    assert stability_index([40, 0, 60], [0.5, 0.0, 0.5], 100) == stability_index([40, 60], [0.5, 0.5], 100)


def test_largest_gap_is_the_distance_of_cumulated_shares() -> None:
    assert largest_gap([10, 20, 70], [0.5, 0.3, 0.2]) == pytest.approx(0.5)
    assert largest_gap([5, 3, 2], [0.5, 0.3, 0.2]) == pytest.approx(0.0)


def test_total_variation_is_half_the_sum_of_differences() -> None:
    assert total_variation([5, 0, 5], [0.5, 0.5, 0.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("distance", [largest_gap, total_variation])
def test_distance_is_one_when_only_one_side_has_values(distance) -> None:
    assert distance([0, 0], [0.5, 0.5]) == 1.0
    assert distance([1, 0], [0.0, 0.0]) == 1.0
    assert distance([0, 0], [0.0, 0.0]) == 0.0


def test_expected_shares_hold_other_levels_and_missing_rows() -> None:
    assert expected_shares({"shares": {"b": 0.75, "a": 0.25}, "missing_share": 0.2}) == pytest.approx([0.2, 0.6, 0.0, 0.2])
    assert expected_shares({"shares": [0.5, 0.5], "missing_share": 0.0}) == [0.5, 0.5, 0.0]
