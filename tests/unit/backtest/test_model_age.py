"""Ages on a tiny example, worked out by hand: comparable partitions, and what age costs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.model_age import comparable_partitions, compare_ages
from nightshift.backtest.nightly_models import NightlyModels
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import PartitionRange
from nightshift.models.predictions import Predictions, joined
from nightshift.settings import PROJECT_ROOT

SPEC = load_spec(PROJECT_ROOT / "dags" / "models", "arrival_delay_minutes")
LABEL = SPEC.label.column


@dataclass
class AgeingModels(NightlyModels):
    """Models that are wrong by as many minutes as they are days old."""

    requested: list[tuple[dt.date, dt.date]] = field(default_factory=list)

    def predictions(self, trained_on: dt.date, day: dt.date) -> Predictions:
        self.requested.append((trained_on, day))
        return Predictions(np.full(2, 10.0 + (day - trained_on).days))


def ageing_models(nights: PartitionRange) -> AgeingModels:
    """Return two flights a night, ten minutes late each."""
    days = [day for day in nights.days for _ in range(2)]
    return AgeingModels(
        SPEC, pa.table({"partition_date": days, LABEL: [10.0] * len(days)}), Path("unused")
    )


def test_nights_begin_where_every_age_has_a_model():
    common, ages = comparable_partitions(
        PartitionRange.of("2013-04-01", "2013-06-30")
    ) or pytest.fail("nothing")
    assert (str(common), ages) == ("2013-04-30..2013-06-30", [1, 3, 7, 14, 30])


def test_oldest_ages_are_left_out_when_they_leave_less_than_a_week():
    common, ages = comparable_partitions(
        PartitionRange.of("2013-04-01", "2013-04-20")
    ) or pytest.fail("nothing")
    assert (str(common), ages) == ("2013-04-14..2013-04-20", [1, 3, 7, 14])


def test_nothing_is_compared_when_there_is_less_than_a_week():
    assert comparable_partitions(PartitionRange.of("2013-04-01", "2013-04-06")) is None


def test_error_is_the_age_when_models_are_wrong_by_their_age():
    nights = PartitionRange.of("2013-04-01", "2013-04-20")
    result = compare_ages(ageing_models(nights), nights, ("mae", "rmse"), ("mae",))
    assert result is not None
    assert result.n_rows == 14
    assert [(age.days, age.values) for age in result.ages] == [
        (k, {"mae": k, "rmse": k}) for k in (1, 3, 7, 14)
    ]
    assert [age.gains["mae"].value for age in result.ages[1:]] == [-2.0, -6.0, -13.0]
    assert result.ages[0].gains == {}
    assert [(age.gains["mae"].low, age.gains["mae"].high) for age in result.ages[1:2]] == [
        (-2.0, -2.0)
    ]


def test_model_of_so_many_evenings_before_is_asked():
    nights = PartitionRange.of("2013-04-01", "2013-04-10")
    tiny = ageing_models(nights)
    compare_ages(tiny, nights, ("mae",), ())
    assert (dt.date(2013, 4, 3), dt.date(2013, 4, 4)) in tiny.requested
    assert (dt.date(2013, 4, 1), dt.date(2013, 4, 4)) in tiny.requested
    assert min(trained for trained, _ in tiny.requested) == dt.date(2013, 3, 31)


def test_gain_is_paired_and_has_an_interval_when_days_differ():
    """The second source is 1 minute worse on even days and 3 on odd ones.

    That is 2 in the mean, and no draw of days leaves 1 to 3.
    """
    days = PartitionRange.of("2013-04-01", "2013-04-10").days
    rows = pa.table({"partition_date": days, LABEL: [0.0] * 10})
    comparison = Comparison.of(SPEC, rows)
    good, bad = Predictions(np.full(10, 5.0)), Predictions(np.array([6.0, 8.0] * 5))
    gain = comparison.gains(
        comparison.statistics(good, ("mae",)), comparison.statistics(bad, ("mae",))
    )["mae"]
    assert gain.value == 2.0
    assert 1.0 < gain.low < 2.0 < gain.high < 3.0


def test_parts_keep_their_order_when_they_are_joined():
    whole = joined(
        [
            Predictions(np.array([1.0]), np.array([0.1]), 0.3),
            Predictions(np.array([2.0]), np.array([0.2]), 0.4),
        ]
    )
    assert (
        whole.score.tolist(),
        whole.probability.tolist() if whole.probability is not None else None,
    ) == ([1.0, 2.0], [0.1, 0.2])
