"""Engines: the accelerated one only where it was proved, else LightGBM; the same bits."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.models.models import SHAPES, make_booster, make_matrix, trees_of
from tests.unit.models.test_shap_values import SPEC, _rows

from nightshift.models.engines import engine
from nightshift.models.engines.engine import choose_engine
from nightshift.models.engines.equivalence import prove_engines
from nightshift.models.engines.quickscorer import QuickScorer
from nightshift.models.trained_model import TrainedModel
from nightshift.scoring.scorer import score_rows
from nightshift.training.model_fit import fit_model

ENGINES = ["lightgbm", "quickscorer"]


@pytest.fixture(scope="module")
def proved() -> TrainedModel:
    """Return a stored model with its proof."""
    rows = _rows(900)
    model = fit_model(SPEC, rows.slice(0, 600), rows.slice(600))
    return replace(
        TrainedModel.from_files(*model.files.values()),
        engine_proof=prove_engines(model, _rows(300, seed=9)),
    )


def _with(model: TrainedModel, **engines: dict[str, str | None]) -> TrainedModel:
    return replace(
        model,
        engine_proof={
            **model.engine_proof,
            "engines": {**model.engine_proof["engines"], **engines},
        },
    )


def test_the_proof_says_what_was_compared(proved):
    proof = proved.engine_proof

    assert proof["n_rows"] == 300
    assert proof["engines"] == {"quickscorer": {"version": "1", "objection": None}}


def test_auto_takes_the_accelerated_engine_when_it_was_proved(proved):
    rows = _rows(3000, seed=4)

    assert choose_engine(proved, "auto").name == "quickscorer"
    assert [choose_engine(proved, name).name for name in ENGINES] == ENGINES
    first, *others = (score_rows(proved, rows, 2, name) for name in ("auto", *ENGINES))
    assert all(first.equals(other) for other in others)


def test_lightgbm_scores_a_version_whose_proof_is_of_an_engine_that_is_gone(proved):
    of_before = {"engine": "gone", "version": "0.3.0", "n_rows": 300, "objection": None}
    also_gone = _with(proved, gone={"version": "0.3.0", "objection": None})

    assert choose_engine(replace(proved, engine_proof=of_before), "auto").name == "lightgbm"
    assert choose_engine(also_gone, "auto").name == "quickscorer"


@pytest.mark.parametrize(
    ("choice", "level"), [("auto", logging.INFO), ("quickscorer", logging.ERROR)]
)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (None, "without a proof"),
        ({"version": "0", "objection": "2 of 300 raw scores differ"}, "2 of 300 raw scores differ"),
        ({"version": "0.2.0", "objection": None}, "proved with version 0.2.0"),
    ],
)
def test_the_reference_scores_and_says_why_when_the_proof_is_not_enough(
    proved, caplog, choice, level, changed, reason
):
    model = _with(proved, quickscorer=changed) if changed else replace(proved, engine_proof=None)
    with caplog.at_level(logging.INFO):
        chosen = choose_engine(model, choice)

    assert chosen.name == "lightgbm"
    assert [
        (record.levelno, reason in record.message)
        for record in caplog.records
        if record.name == engine.__name__
    ] == [(level, True)]


def test_the_reference_scores_when_golden_rows_come_out_otherwise(proved, caplog, monkeypatch):
    raw = QuickScorer.raw
    monkeypatch.setattr(
        QuickScorer, "raw", lambda self, matrix: np.nextafter(raw(self, matrix), np.inf)
    )

    assert choose_engine(proved, "quickscorer").name == "lightgbm"
    assert "golden" in caplog.text


def test_a_batch_is_scored_by_the_reference_when_the_accelerated_engine_fails_in_the_middle(
    proved, monkeypatch
):
    chosen, matrix = choose_engine(proved, "quickscorer"), proved.encode(_rows(100))

    def fail(self, matrix):
        raise RuntimeError("out of threads")

    monkeypatch.setattr(QuickScorer, "raw", fail)
    assert chosen.name == "quickscorer"
    assert chosen.raw(matrix).tobytes() == proved.raw(_rows(100)).tobytes()


@pytest.mark.parametrize("damage", ["differs", "dies", "no rows", "too few"])
def test_a_proof_says_no_when_the_accelerated_engine_is_wrong(proved, monkeypatch, damage):
    rows = _rows(50, seed=2)

    def other(self, matrix):
        if damage == "dies":
            raise OSError("signal 11")
        return (
            np.nextafter(proved.raw(rows), np.inf) if damage == "differs" else proved.raw(rows)[:-1]
        )

    monkeypatch.setattr(QuickScorer, "raw", other)
    proof = prove_engines(proved, rows.slice(0, 0) if damage == "no rows" else rows)
    expected = {
        "differs": "50 of 50 raw scores differ",
        "dies": "it cannot score the model (OSError)",
        "no rows": "there is no evaluation row",
        "too few": "50 of 50 raw scores differ",
    }

    assert proof["engines"]["quickscorer"]["objection"] == expected[damage]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_engines_give_the_same_bits_when_trees_have_this_shape(shape):
    booster, matrix = make_booster(11, **dict(SHAPES[shape])), make_matrix(2000, seed=12)
    expected = booster.predict(matrix, raw_score=True, num_threads=1)

    assert QuickScorer(trees_of(booster)).raw(matrix).tobytes() == expected.tobytes()


def test_scoring_nothing_gives_nothing_with_the_accelerated_engine(proved):
    assert (
        score_rows(proved, _rows(10).slice(0, 0), 2, "auto").schema.field("score").type
        == pa.float64()
    )
