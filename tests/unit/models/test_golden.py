from __future__ import annotations

import json

import numpy as np
import pytest

from nightshift.models.golden import N_ROWS, Golden, GoldenError, golden_rows
from nightshift.models.model_format.reader import read_model
from nightshift.models.signature import Signature
from nightshift.training.trees.boosting import FitPlan, fit_trees

pytestmark = [pytest.mark.promise("R8"), pytest.mark.mlts("mon-5")]
SIGNATURE = Signature(("a", "b"), (("kind", ("w", "x", "y", "z")),))


@pytest.fixture(scope="module")
def text():
    dice = np.random.default_rng(1)
    matrix = np.column_stack([dice.normal(size=(400, 2)), dice.integers(0, 4, 400)])
    label = (matrix[:, 0] + (matrix[:, 2] == 1) > 0.5).astype(float)
    return fit_trees(
        (matrix[:300], label[:300]),
        (matrix[300:], label[300:]),
        FitPlan("binary", {}, 1, 6, 6, [2], SIGNATURE.names),
    ).text


def frozen() -> Golden:
    matrix = np.tile([1.0, np.nan], (N_ROWS, 1))
    return Golden.of(
        matrix, np.full(N_ROWS, 0.1 + 0.2), np.full((N_ROWS, 3), 0.1), np.full(N_ROWS, 0.3)
    )


def test_rows_are_always_the_same_and_hold_thresholds_levels_and_gaps(text):
    trees = read_model(text)
    rows = golden_rows(trees, SIGNATURE)
    assert rows.tobytes() == golden_rows(trees, SIGNATURE).tobytes()
    assert rows.shape == (N_ROWS, 3)
    thresholds = {
        float(word)
        for line in text.split("\n")
        if line.startswith("threshold=")
        for word in line[10:].split(" ")
    }
    near = {*thresholds, *(float(np.nextafter(value, np.inf)) for value in thresholds)}
    numbers = rows[:, 0][~np.isnan(rows[:, 0])]
    assert {*numbers.tolist()} <= near
    assert {*numbers.tolist()} & thresholds
    assert {*numbers.tolist()} - thresholds
    assert {*rows[:, 2][~np.isnan(rows[:, 2])].tolist()} == {0.0, 1.0, 2.0, 3.0}
    assert 0 < np.isnan(rows).mean() < 0.3


def test_answers_survive_json_in_every_bit():
    golden = frozen()
    again = Golden.model_validate(json.loads(json.dumps(golden.as_json())))
    assert again == golden
    assert again.raw[0] == 0.30000000000000004
    assert np.isnan(again.matrix[:, 1]).all()


def test_same_answers_pass_and_a_last_bit_of_a_score_is_refused():
    golden = frozen()
    raw, contributions = np.array(golden.raw), np.array(golden.contributions)
    golden.compare(raw, contributions * (1 + 1e-12))
    with pytest.raises(GoldenError, match="scores differently"):
        golden.compare(np.nextafter(raw, 1), contributions)
    with pytest.raises(GoldenError, match="explains scores differently"):
        golden.compare(raw, contributions + 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_are_refused_even_when_they_were_frozen_so(value):
    raw = np.full(N_ROWS, value)
    golden = Golden.of(np.zeros((N_ROWS, 2)), raw, np.zeros((N_ROWS, 3)), None)
    with pytest.raises(GoldenError, match="not finite"):
        golden.compare(raw, np.zeros((N_ROWS, 3)))
