"""Contributions: what a row met on its way through the trees."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift import kernels
from nightshift.contracts.model_spec import ModelSpec
from nightshift.models.booster import contributions
from nightshift.models.shapley.shap_values import Contributions
from nightshift.models.signature import SignatureError
from nightshift.models.trained_model import TrainedModel
from nightshift.scoring import scorer
from nightshift.scoring.scorer import Scorer, score_rows, try_model
from nightshift.training.model_fit import fit_model

SPEC = ModelSpec.model_validate(
    {
        "name": "parcel_late",
        "description": "Will it be late?",
        "task": "binary",
        "owner": "post",
        "runbook": "r",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {
            "numeric": ["weight_kg", "late_rate_7d"],
            "categorical": [{"name": "depot", "minimum_rows": 1}],
        },
        "label": {"relation": "labels", "column": "is_late"},
        "training": {
            "schedule": "nightly",
            "num_boost_round": 20,
            "params": {"num_leaves": 6, "min_data_in_leaf": 20},
        },
        "promotion": {"metric": "roc_auc"},
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.2}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 1, "m": 1},
        },
    }
)


def _rows(n: int, seed: int = 1) -> pa.Table:
    dice = np.random.default_rng(seed)
    weight, rate = (
        dice.uniform(0, 15, n),
        np.where(dice.random(n) < 0.1, np.nan, dice.uniform(0, 0.7, n)),
    )
    depot = np.where(dice.random(n) < 0.3, "north", "south")
    late = dice.random(n) < 0.1 + 0.5 * np.nan_to_num(rate) + 0.02 * weight + 0.1 * (
        depot == "north"
    )
    return pa.table(
        {"weight_kg": weight, "late_rate_7d": rate, "depot": depot, "is_late": late.astype(float)}
    )


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    rows = _rows(900)
    return fit_model(SPEC, rows.slice(0, 600), rows.slice(600))


def _lightgbms(model: TrainedModel, rows: pa.Table) -> np.ndarray:
    """Return LightGBM's own contributions without the base value, and the linear member's."""
    matrix = model.encode(rows)
    assert model.linear is not None
    return contributions(model.booster, matrix)[:, :-1] + model.linear.contributions(matrix)


def test_contributions_add_up_to_the_raw_score_less_a_constant(model):
    rows = _rows(3000, seed=2)
    base = model.raw(rows) - Contributions(model).of(model.encode(rows)).sum(axis=1)

    assert np.ptp(base) < 1e-12


def test_contributions_are_lightgbms_own(model):
    rows = _rows(1000, seed=3)
    ours = Contributions(model)

    assert ours.is_accelerated
    assert np.abs(ours.of(model.encode(rows)) - _lightgbms(model, rows)).max() < 1e-13


def test_lightgbm_computes_contributions_when_the_kernel_cannot_be_made(model, monkeypatch, caplog):
    def fail(loops):
        raise OSError("no space left on device")

    monkeypatch.setattr(kernels, "jit", fail)
    rows, ours = _rows(50, seed=3), Contributions(model)

    assert not ours.is_accelerated
    assert "no space left on device" in caplog.text
    assert ours.of(model.encode(rows)).tobytes() == _lightgbms(model, rows).tobytes()
    assert ours.of(model.encode(rows.slice(0, 0))).shape == (0, 3)


def test_lightgbm_computes_contributions_when_the_kernel_gives_others_than_the_golden_ones(
    model, monkeypatch, caplog
):
    stored = TrainedModel.from_files(*model.files.values())
    assert Contributions(stored).is_accelerated

    monkeypatch.setattr(
        kernels, "jit", lambda loops: lambda matrix, added, **arrays: added.fill(0.25)
    )
    assert not Contributions(stored).is_accelerated
    assert "golden" in caplog.text


def test_scores_do_not_depend_on_the_order_of_columns_or_rows(model):
    rows = _rows(500, seed=4)
    order = np.random.default_rng(5).permutation(500)
    shuffled = rows.select(["depot", "is_late", "late_rate_7d", "weight_kg"]).take(pa.array(order))

    assert score_rows(model, shuffled, 2).equals(score_rows(model, rows, 2).take(pa.array(order)))


def test_scoring_nothing_gives_nothing(model):
    assert score_rows(model, _rows(10).slice(0, 0), 3).num_rows == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.drop(["weight_kg"]),
        lambda rows: rows.set_column(0, "weight_kg", pa.repeat("heavy", rows.num_rows)),
        lambda rows: rows.set_column(0, "weight_kg", pa.repeat(float("inf"), rows.num_rows)),
        lambda rows: rows.set_column(2, "depot", pa.repeat(1.0, rows.num_rows)),
    ],
)
def test_scoring_refuses_when_rows_do_not_fit_the_signature(model, damage):
    with pytest.raises(SignatureError):
        score_rows(model, damage(_rows(10)), 2)


def test_an_unknown_level_counts_as_missing(model):
    rows = _rows(50)
    unknown = rows.set_column(2, "depot", pa.repeat("moon", 50))
    missing = rows.set_column(2, "depot", pa.nulls(50, pa.string()))

    assert score_rows(model, unknown, 0).equals(score_rows(model, missing, 0))


def test_a_whole_model_passes_its_trial_on_a_hundred_rows(model, monkeypatch):
    scored: list[int] = []
    score = Scorer.score
    monkeypatch.setattr(
        Scorer, "score", lambda self, rows: scored.append(score(self, rows).num_rows)
    )
    try_model(model, _rows(100), 1)

    assert scored == [100]


def test_a_model_fails_its_trial_when_its_contributions_do_not_add_up(model, monkeypatch):
    of = Contributions.of
    monkeypatch.setattr(
        Contributions,
        "of",
        lambda self, matrix, _: of(self, matrix) * np.linspace(1, 2, len(matrix))[:, None],
    )

    with pytest.raises(scorer.ChampionBrokenError):
        try_model(model, _rows(100), 1)


def test_rows_are_the_same_whatever_their_batches(model, monkeypatch):
    rows, expected = _rows(500, seed=8), score_rows(model, _rows(500, seed=8), 2)
    monkeypatch.setattr(scorer, "BATCH_ROWS", 64)

    assert score_rows(model, rows, 2).equals(expected)


def test_no_more_than_a_batch_is_scored_at_once(model, monkeypatch):
    sizes: list[int] = []
    score = Scorer.score
    monkeypatch.setattr(
        Scorer,
        "score",
        lambda self, rows, shift: sizes.append(rows.num_rows) or score(self, rows, shift),
    )
    monkeypatch.setattr(scorer, "BATCH_ROWS", 64)
    score_rows(model, _rows(150), 2)

    assert sizes == [64, 64, 22]
