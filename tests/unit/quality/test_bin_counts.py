"""Counts in given bins: half open, unknown levels last, missing rows apart, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nightshift.quality.profiles import scan
from nightshift.quality.sketches.bin_counts import (
    BinCounter,
    BinnedColumn,
    CategoricalColumn,
    NumericColumn,
)

SAMPLE = {
    "speed": pa.array([10.0, 20.0, 30.0, None, float("nan")]),
    "is_wet": pa.array([1.0, 0.0, None, 1.0, 1.0]),
    "carrier": pa.array(["UA", "B6", None, "ZZ", "UA"]),
}


def counted(
    columns: dict[str, Any], *wanted: NumericColumn | CategoricalColumn, size: int = 2
) -> dict[str, BinnedColumn]:
    numeric = [column for column in wanted if isinstance(column, NumericColumn)]
    counter = BinCounter(
        numeric, [column for column in wanted if isinstance(column, CategoricalColumn)]
    )
    return counter.columns(scan(pa.table(columns).to_batches(max_chunksize=size), counter))


def test_bins_are_half_open_and_nan_is_missing():
    found = counted(SAMPLE, NumericColumn("speed", (20.0, 30.0)))["speed"]

    assert found == BinnedColumn(5, 2, (1, 1, 1), 20.0)
    assert found.missing_share == 0.4


def test_other_levels_are_counted_last():
    assert counted(SAMPLE, CategoricalColumn("carrier", ("AA", "B6", "UA")))[
        "carrier"
    ] == BinnedColumn(5, 1, (0, 1, 2, 1), None)


def test_a_column_without_edges_or_levels_has_one_bin():
    found = counted(SAMPLE, NumericColumn("is_wet", ()), CategoricalColumn("carrier", ()))

    assert found == {
        "is_wet": BinnedColumn(5, 1, (4,), 0.75),
        "carrier": BinnedColumn(5, 1, (4,), None),
    }


def test_a_column_without_any_value_is_all_missing():
    nothing = {"speed": pa.nulls(3, pa.float64()), "carrier": pa.nulls(3, pa.string())}
    found = counted(nothing, NumericColumn("speed", (1.0,)), CategoricalColumn("carrier", ("UA",)))

    assert found == {
        "speed": BinnedColumn(3, 3, (0, 0), None),
        "carrier": BinnedColumn(3, 3, (0, 0), None),
    }


def test_infinite_numbers_are_in_the_outer_bins():
    found = counted(
        {"speed": pa.array([-np.inf, 1.0, np.inf])}, NumericColumn("speed", (0.0, 2.0))
    )["speed"]

    assert found == BinnedColumn(3, 0, (1, 1, 1), None)


def test_it_is_the_same_to_the_bit_when_rows_come_in_another_order():
    dice = np.random.default_rng(0)
    values, strings = (
        np.sqrt(dice.random(3_000)) * 1e-3,
        np.array(list("abcd"))[dice.integers(0, 4, 3_000)],
    )
    wanted = (NumericColumn("x", (0.0003, 0.0007)), CategoricalColumn("t", ("a", "c")))
    order = dice.permutation(3_000)

    found = counted({"x": values, "t": strings}, *wanted, size=700)

    assert counted({"x": values[order], "t": strings[order]}, *wanted, size=11) == found
    assert found["x"].counts == tuple(
        int(n) for n in np.histogram(values, [0, 0.0003, 0.0007, 1])[0]
    )
    assert found["t"].counts == (
        int((strings == "a").sum()),
        int((strings == "c").sum()),
        int(np.isin(strings, ["b", "d"]).sum()),
    )
