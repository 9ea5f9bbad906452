from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from tests.integration.training.conftest import FIRST_DAY, tiny_spec

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.training.baselines import NAMES, Baselines
from nightshift.training.evaluation import overall
from nightshift.training.holdout import train_rows
from nightshift.training.splits import WindowError, check_window, rows_of, split_window
from nightshift.training.statistics.block_bootstrap import Days
from nightshift.training.statistics.calibration_slope import slope_estimate
from nightshift.training.statistics.confidence_intervals import NoEstimateError

N_DAYS, ROWS_A_DAY = 30, 40
DAYS = np.repeat(np.arange(N_DAYS), ROWS_A_DAY)
WINDOW = PartitionRange(Partition(FIRST_DAY), Partition(FIRST_DAY).shift(N_DAYS - 1))
REGRESSION = {
    "task": "regression",
    "promotion": {"metric": "mae"},
    "monitoring": {"metric": "mae", "maximum_metric_loss": 1, "windows": {"n": 2, "m": 3}},
}


def make_rows(part: str, change: str) -> pa.Table:
    """Return a training set in which the labels of one part are all false, all true, or absent."""
    random = np.random.default_rng(4)
    wind = random.normal(size=DAYS.size)
    is_late = (2 * wind + random.normal(size=DAYS.size)) > 1
    table = pa.table(
        {
            "partition_date": [FIRST_DAY + dt.timedelta(days=int(day)) for day in DAYS],
            "wind": wind,
            "weight": pa.nulls(DAYS.size, pa.float64()),
            "is_fragile": pa.array([False] * DAYS.size),
            "late_rate_7d": pa.array([0.3] * DAYS.size),
            "carrier": pa.nulls(DAYS.size, pa.string()),
        }
    )
    days = getattr(split_window(WINDOW, tiny_spec().training), part)
    first, last = ((day.day - FIRST_DAY).days for day in (days.first, days.last))
    is_part = (first <= DAYS) & (last >= DAYS)
    if change != "absent":
        is_late = np.where(is_part, change == "true", is_late)
    table = table.append_column("is_late", pa.array(is_late.astype(bool)))
    return table.filter(pa.array(~is_part)) if change == "absent" else table


@pytest.mark.parametrize("task", [{}, REGRESSION], ids=["binary", "regression"])
@pytest.mark.parametrize("part", ["train", "validation", "holdout"])
def test_part_without_a_row_needs_a_person(part: str, task: dict[str, object]) -> None:
    spec = tiny_spec(**task)
    with pytest.raises(WindowError) as caught:
        check_window(spec, make_rows(part, "absent"), split_window(WINDOW, spec.training))
    assert caught.value.code == "NS-TRAIN-015"
    assert not caught.value.is_retryable


@pytest.mark.parametrize("label", ["false", "true"])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_part_of_one_class_needs_a_person(part: str, label: str) -> None:
    spec = tiny_spec()
    with pytest.raises(WindowError) as caught:
        check_window(spec, make_rows(part, label), split_window(WINDOW, spec.training))
    assert caught.value.code == "NS-TRAIN-016"
    assert not caught.value.is_retryable


@pytest.mark.parametrize("calibration", ["platt", "isotonic", "none"])
def test_holdout_of_one_class_is_measured_and_drawn(calibration: str) -> None:
    """The gate refuses it; empty features and a backtest of one class do not stop a training."""
    training = tiny_spec().training.model_dump(mode="json") | {"calibration": calibration}
    spec = tiny_spec(training=training)
    rows = make_rows("holdout", "false")
    split = split_window(WINDOW, spec.training)
    trained, measured, figures = train_rows(spec, rows, split, "key")
    values = overall(measured, "challenger")
    assert values["roc_auc"] is None
    assert values["log_loss"] > 0
    assert all(part.value is None or np.isfinite(part.value) for part in measured)
    assert {"curves.png", "reliability.png", "importance.png"} <= figures.keys()
    assert np.isfinite(trained.served.predictions(rows_of(rows, split.holdout)).probability).all()


@pytest.mark.parametrize("task", [{}, REGRESSION], ids=["binary", "regression"])
@pytest.mark.parametrize("part", ["train", "holdout"])
def test_baselines_do_without_columns_that_say_nothing(part: str, task: dict[str, object]) -> None:
    spec = tiny_spec(**task)
    rows, split = make_rows("holdout", "false"), split_window(WINDOW, spec.training)
    baselines = Baselines(
        spec, rows_of(rows, getattr(split, part)), rows_of(rows, split.holdout), 0.5
    )
    for name in NAMES:
        score = baselines[name].score
        assert score.shape == (rows_of(rows, split.holdout).num_rows,)
        assert np.isfinite(score).all()


def test_slope_of_a_perfect_separation_is_no_estimate() -> None:
    label = np.tile([0.0, 1.0], 50)
    days = Days.of(np.datetime64("2020-01-01") + np.arange(100) // 20)
    with pytest.raises(NoEstimateError):
        slope_estimate(label, np.where(label > 0, 700.0, -700.0), days, 0.95, is_logistic=True)
