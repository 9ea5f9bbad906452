from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.training_spec import Training
from nightshift.training.splits import (
    backtest_folds,
    evenly_spaced,
    rows_of,
    split_window,
)

WINDOW = PartitionRange.of("2013-01-01", "2013-01-31")
TRAINING = Training(
    schedule="nightly",
    window_days=31,
    minimum_days=20,
    gap_days=1,
    validation_days=5,
    holdout_days=4,
    backtest_folds=3,
)


def test_parts_are_in_order_with_a_gap_between():
    assert str(split_window(WINDOW, TRAINING)) == (
        "train 2013-01-01..2013-01-20 | validation 2013-01-22..2013-01-26"
        " | hold-out 2013-01-28..2013-01-31"
    )


def test_parts_touch_when_gap_is_zero():
    split = split_window(WINDOW, TRAINING.model_copy(update={"gap_days": 0}))
    assert (
        str(split) == "train 2013-01-01..2013-01-22 | validation 2013-01-23..2013-01-27"
        " | hold-out 2013-01-28..2013-01-31"
    )


def test_folds_go_back_by_whole_holdouts_while_days_suffice():
    assert [str(fold.holdout) for fold in backtest_folds(WINDOW, TRAINING)] == [
        "2013-01-24..2013-01-27",
        "2013-01-20..2013-01-23",
    ]


def test_no_fold_when_switched_off():
    assert backtest_folds(WINDOW, TRAINING.model_copy(update={"backtest_folds": 0})) == []


@pytest.mark.parametrize("n_days", range(20, 40))
def test_no_day_is_in_two_parts(n_days):
    window = PartitionRange(WINDOW.first, WINDOW.first.shift(n_days - 1))
    for split in [split_window(window, TRAINING), *backtest_folds(window, TRAINING)]:
        days = [split.train.days, split.validation.days, split.holdout.days]
        assert [len(part) for part in days[1:]] == [5, 4]
        assert days[0][-1] < days[1][0] - dt.timedelta(days=1)
        assert days[1][-1] < days[2][0] - dt.timedelta(days=1)


def test_rows_are_chosen_by_day_with_both_ends():
    days = [dt.date(2013, 1, day) for day in (1, 2, 3, 4)]
    rows = pa.table({"partition_date": pa.array(days, pa.date32()), "value": [1, 2, 3, 4]})
    assert rows_of(rows, PartitionRange.of("2013-01-02", "2013-01-03"))["value"].to_pylist() == [
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("n_rows", "maximum", "expected"),
    [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (9, 3, [0, 4, 8]), (4, 1, [0])],
)
def test_an_even_sample_is_spread_over_the_rows_also_when_there_are_none(n_rows, maximum, expected):
    rows = pa.table({"n": pa.array(range(n_rows), pa.int64())})
    assert evenly_spaced(rows, maximum).column("n").to_pylist() == expected
