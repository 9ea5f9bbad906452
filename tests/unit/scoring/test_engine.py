"""Engines: the accelerated one only where it was proved, the reference in any other case, the same bits either way."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.scoring.models import SHAPES, make_booster, make_matrix
from tests.unit.scoring.test_contributions import SPEC, _rows

from nightshift.scoring import engine
from nightshift.scoring.engine import choose_engine, compile_where_it_pays
from nightshift.scoring.scorer import score_rows
from nightshift.training import engine_proof
from nightshift.training.engine_proof import prove_engine
from nightshift.training.lignum_trees import LignumTrees, has_compiler
from nightshift.training.pipeline import fit_model
from nightshift.training.trained_model import TrainedModel


@pytest.fixture(scope="module")
def proved() -> TrainedModel:
    """Return a stored model with its proof."""
    rows = _rows(900)
    model = fit_model(SPEC, rows.slice(0, 600), rows.slice(600))
    return replace(TrainedModel.from_files(*model.files.values()), engine_proof=prove_engine(model, _rows(300, seed=9)))


def test_the_proof_says_what_was_compared(proved):
    proof = proved.engine_proof

    assert (proof["engine"], proof["version"], proof["n_rows"], proof["is_equal"], proof["objection"]) == (
        "lignum",
        "0.3.0",
        300,
        True,
        None,
    )


def test_auto_takes_the_accelerated_engine_when_it_was_proved(proved):
    rows = _rows(3000, seed=4)

    assert choose_engine(proved, "auto").name == "lignum"
    assert choose_engine(proved, "lightgbm").name == "lightgbm"
    assert score_rows(proved, rows, 2, "auto").equals(score_rows(proved, rows, 2, "lightgbm"))


@pytest.mark.parametrize(("choice", "level"), [("auto", logging.INFO), ("lignum", logging.ERROR)])
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (None, "without a proof"),
        ({"is_equal": False, "objection": "2 of 300 raw scores differ"}, "2 of 300 raw scores differ"),
        ({"version": "0.2.0"}, "proved with version 0.2.0"),
    ],
)
def test_the_reference_scores_and_says_why_when_the_proof_is_not_enough(proved, caplog, choice, level, changed, reason):
    model = replace(proved, engine_proof=changed and {**proved.engine_proof, **changed})
    with caplog.at_level(logging.INFO):
        chosen = choose_engine(model, choice)

    assert chosen.name == "lightgbm"
    assert [(record.levelno, reason in record.message) for record in caplog.records if record.name == engine.__name__] == [(level, True)]


def test_the_reference_scores_when_golden_rows_come_out_otherwise(proved, caplog, monkeypatch):
    raw = LignumTrees.raw
    monkeypatch.setattr(LignumTrees, "raw", lambda self, matrix: np.nextafter(raw(self, matrix), np.inf))

    assert choose_engine(proved, "lignum").name == "lightgbm"
    assert "golden" in caplog.text


def test_the_reference_scores_when_the_accelerated_engine_is_not_installed(proved, caplog, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lignum", None)

    assert choose_engine(proved, "lignum").name == "lightgbm"
    assert "ModuleNotFoundError" in caplog.text or "ImportError" in caplog.text


def test_a_batch_is_scored_by_the_reference_when_the_accelerated_engine_fails_in_the_middle(proved, monkeypatch):
    chosen, matrix = choose_engine(proved, "auto"), proved.encode(_rows(100))

    def fail(self, matrix):
        raise RuntimeError("out of threads")

    monkeypatch.setattr(LignumTrees, "raw", fail)
    assert chosen.name == "lignum"
    assert chosen.raw(matrix).tobytes() == proved.raw(_rows(100)).tobytes()


@pytest.mark.parametrize("damage", ["differs", "dies", "no rows"])
def test_a_proof_says_no_when_the_accelerated_engine_is_wrong(proved, monkeypatch, damage):
    rows = _rows(50, seed=2)

    def other(text, matrix):
        if damage == "dies":
            raise OSError("signal 11")
        return np.nextafter(proved.raw(rows), np.inf) if damage == "differs" else proved.raw(rows.slice(0, 0))

    monkeypatch.setattr(engine_proof, "raw_in_child", other)
    proof = prove_engine(proved, rows.slice(0, 0) if damage == "no rows" else rows)
    expected = {
        "differs": "50 of 50 raw scores differ",
        "dies": "it cannot score the model (OSError)",
        "no rows": "there is no evaluation row",
    }

    assert (proof["is_equal"], proof["objection"]) == (False, expected[damage])


@pytest.mark.parametrize("shape", SHAPES)
def test_both_engines_give_the_same_bits_when_trees_have_this_shape(shape):
    booster, matrix = make_booster(11, **dict(SHAPES[shape])), make_matrix(2000, seed=12)
    expected = booster.predict(matrix, raw_score=True, num_threads=1)

    assert LignumTrees(booster.model_to_string()).raw(matrix).tobytes() == expected.tobytes()


def test_scoring_nothing_gives_nothing_with_the_accelerated_engine(proved):
    assert score_rows(proved, _rows(10).slice(0, 0), 2, "auto").schema.field("score").type == pa.float64()


@pytest.fixture
def many_rows(monkeypatch):
    monkeypatch.setattr(engine, "COMPILE_ROWS", 1_000)
    monkeypatch.setattr(engine, "COMPARED_ROWS", 500)


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C compiler")


@needs_compiler
@pytest.mark.usefixtures("many_rows")
def test_trees_are_compiled_once_for_many_rows_and_give_the_same_bits(proved, tmp_path):
    rows = _rows(3000, seed=4)
    compile_where_it_pays(proved, "auto", tmp_path / "compiled", 999)
    assert not (tmp_path / "compiled").exists()

    compile_where_it_pays(proved, "auto", tmp_path / "compiled", 1_000)
    (library,) = (tmp_path / "compiled").glob("*.so")
    made = library.stat().st_mtime_ns
    compile_where_it_pays(proved, "auto", tmp_path / "compiled", 1_000)

    chosen = choose_engine(proved, "auto", tmp_path / "compiled")
    assert (chosen.name, chosen.is_compiled, library.stat().st_mtime_ns) == ("lignum", True, made)
    assert {path.suffix for path in (tmp_path / "compiled").iterdir()} == {".so", ".sha256"}
    assert chosen.raw(proved.encode(rows)).tobytes() == proved.raw(rows).tobytes()


@needs_compiler
@pytest.mark.usefixtures("many_rows")
@pytest.mark.parametrize("damage", ["truncated", "of another model"])
def test_trees_are_interpreted_when_the_compiled_ones_are_not_theirs(proved, tmp_path, damage):
    compile_where_it_pays(proved, "auto", tmp_path, 1_000)
    (library,) = tmp_path.glob("*.so")
    if damage == "truncated":
        library.write_bytes(library.read_bytes()[:5_000])
    else:
        rows = _rows(500, seed=77)
        model = fit_model(SPEC, rows.slice(0, 300), rows.slice(300))
        other = replace(TrainedModel.from_files(*model.files.values()), engine_proof=prove_engine(model, rows))
        compile_where_it_pays(other, "auto", tmp_path / "other", 1_000)
        for path in (tmp_path / "other").iterdir():
            path.replace(library.with_suffix(path.suffix))

    chosen = choose_engine(proved, "auto", tmp_path)

    assert (chosen.name, chosen.is_compiled) == ("lignum", False)
    assert chosen.raw(proved.encode(_rows(50))).tobytes() == proved.raw(_rows(50)).tobytes()


@pytest.mark.usefixtures("many_rows")
@pytest.mark.parametrize("why", ["no compiler", "it fails", "not proved", "reference", "no proof"])
def test_nothing_is_compiled_when_it_cannot_or_must_not_be(proved, tmp_path, monkeypatch, why):
    model = replace(proved, engine_proof=None) if why == "no proof" else proved
    if why == "no compiler":
        monkeypatch.setattr(engine, "has_compiler", lambda: False)
    if why == "it fails":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(engine, "has_compiler", lambda: True)
    if why == "not proved":
        model = replace(proved, engine_proof={**proved.engine_proof, "is_equal": False, "objection": "x"})

    compile_where_it_pays(model, "lightgbm" if why == "reference" else "auto", tmp_path / "compiled", 5_000)

    assert list(tmp_path.glob("compiled/*")) == []
