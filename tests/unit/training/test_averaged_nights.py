"""Averages of nights: trees of windows that end a night apart."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import ValidationError
from tests.unit.backtest.test_nightly_models import FIRST_DAY, world
from tests.unit.models.models import class_rows, class_spec, ranking_rows, ranking_spec
from tests.unit.training.test_recipe import WINDOW, fit, spec_with, with_labels

from nightshift.models.booster import load_booster, predict_raw
from nightshift.training.model_fit import fit_recipe
from nightshift.training.recipe.members import NO_PATHS, FitPaths, FitRows, averaged_trees
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.models.arrays import Vector
    from nightshift.training.holdout import TrainingResult

ROWS = world()
NIGHTS = {"averaged_nights": 3, "linear": {"shares": [0.0]}}
SPEC = spec_with(recipe=NIGHTS)


@pytest.fixture(scope="module")
def training() -> TrainingResult:
    return fit(SPEC, ROWS)


def window_days(fit_rows: FitRows) -> list[tuple[int, int]]:
    """Return first and last day of each window, from the first day of the world."""
    first = np.datetime64(FIRST_DAY).astype(int)
    of_windows = [fit_rows.day[window] - first for window in fit_rows.windows]
    return [(int(days.min()), int(days.max())) for days in of_windows]


def raw_of(text: str, names: list[str]) -> Vector:
    matrix = FitRows(SPEC, ROWS).matrix()
    return predict_raw(load_booster(text, names), matrix)


def test_windows_end_a_night_apart_and_have_one_length():
    rows = rows_of(ROWS, WINDOW)
    assert window_days(FitRows(SPEC, rows)) == [(2, 29), (1, 28), (0, 27)]
    assert window_days(FitRows(spec_with(), rows)) == [(0, 29)]


def test_what_serves_is_the_average_of_the_fits_of_its_windows(training):
    served = training.served
    n_rounds = served.training["n_rounds"]
    rows = FitRows(SPEC, rows_of(ROWS, WINDOW))
    one = spec_with(recipe=NIGHTS | {"averaged_nights": 1})
    alone = [
        averaged_trees(FitRows(one, rows.within(window).rows), n_rounds, NO_PATHS, "alone")[0]
        for window in rows.windows
    ]

    expected = np.mean([raw_of(text, served.signature.names) for text in alone], axis=0)
    assert len(set(alone)) == 3
    np.testing.assert_allclose(
        raw_of(served.text, served.signature.names), expected, rtol=0, atol=1e-12
    )
    assert load_booster(served.text).num_trees() == 3 * n_rounds == served.training["n_trees"]
    assert fit(SPEC, ROWS).served.files == served.files


def test_tomorrow_has_all_fits_but_one_in_common_with_today():
    today = FitRows(SPEC, rows_of(ROWS, WINDOW))
    tomorrow = FitRows(SPEC, ROWS.slice(40, today.rows.num_rows))
    fits = [averaged_trees(rows, 6, NO_PATHS, "night") for rows in (today, tomorrow)]
    assert fits[1][1:] == fits[0][:2]
    assert fits[1][0] not in fits[0]


def test_seeds_and_nights_multiply():
    spec = spec_with(
        recipe=NIGHTS | {"averaged_nights": 2, "seeds": 2},
        params={"num_leaves": 7, "min_data_in_leaf": 20, "feature_fraction": 0.5},
    )
    texts = averaged_trees(FitRows(spec, rows_of(ROWS, WINDOW)), 4, NO_PATHS, "both")
    assert len(set(texts)) == 4


def test_a_killed_training_resumes_each_fit(tmp_path: Path):
    rows = FitRows(SPEC, rows_of(ROWS, WINDOW))
    texts = averaged_trees(rows, 5, FitPaths(tmp_path), "served")
    # Each fit has a checkpoint of its own, which a resumed training reads.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"served-{number}.json" for number in range(3)
    ]
    (tmp_path / "served-1.json").unlink()
    assert averaged_trees(rows, 5, FitPaths(tmp_path), "served") == texts


def test_hold_out_labels_never_move_what_is_evaluated(training):
    turned = fit(SPEC, with_labels(ROWS, "2020-01-26", "2020-01-30"))
    assert training.evaluated is not None
    assert turned.evaluated is not None
    assert turned.evaluated.text == training.evaluated.text
    assert turned.served.text != training.served.text


def test_nights_leave_days_to_fit_on_and_a_cold_start_has_one():
    with pytest.raises(ValidationError, match=r"recipe\.averaged_nights <= validation_days"):
        spec_with(recipe=NIGHTS | {"averaged_nights": 6})
    with pytest.raises(ValidationError, match="less than or equal to 7"):
        spec_with(recipe=NIGHTS | {"averaged_nights": 8})
    training = spec_with(recipe=NIGHTS, cold_start_days=12).training
    assert training.for_days(12).recipe.averaged_nights == 1


def test_windows_of_a_ranking_keep_groups_together_and_rows_next_to_their_encodings():
    recipe = {"averaged_nights": 2, "target_encoding": {"columns": ["c"]}}
    spec = ranking_spec(training={"schedule": "nightly", "recipe": recipe})
    rows = FitRows(spec, ranking_rows(600, FIRST_DAY))
    for window in rows.windows:
        part = rows.within(window)
        assert 0 < part.rows.num_rows < 600
        assert FitRows(spec, part.rows).rows.equals(part.rows)
        # Rows of one level have one value a night.
        codes = part.rows.column("c").to_pylist()
        seen = set(zip(part.day.tolist(), codes, part.matrix()[:, 2].tolist(), strict=True))
        assert len(seen) == 3 * len(np.unique(part.day))


def test_classes_have_trees_of_each_window():
    spec = class_spec(training={"schedule": "nightly", "recipe": {"averaged_nights": 2}})
    later = class_rows(300, FIRST_DAY + dt.timedelta(days=10), seed=2)
    fitted = fit_recipe(spec, class_rows(900, FIRST_DAY), later)
    assert len(set(fitted.members.trees)) == 2
    n_trees = load_booster(fitted.model.text).num_trees()
    assert n_trees == 2 * 3 * fitted.n_rounds == fitted.model.training["n_trees"]
