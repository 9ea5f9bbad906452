"""The linear member is exact: its terms add up, in files, engines and reasons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.models.test_shap_values import SPEC, _rows

from nightshift.models.engines.engine import choose_engine
from nightshift.models.engines.equivalence import prove_engines
from nightshift.models.linear_member import LevelTerm, LinearMember, NumericTerm
from nightshift.models.model_document import SEAL, seal
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.shapley.shap_values import Contributions
from nightshift.models.trained_model import TrainedModel
from nightshift.training.model_fit import fit_model

MEMBER = LinearMember(
    intercept=0.5,
    numeric=[NumericTerm(slope=2.0, offset=-1.0, lowest=0.0, highest=3.0, missing=0.25)],
    categorical=[LevelTerm(levels=[0.1, -0.2], missing=0.05)],
)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a model whose linear member has a share."""
    rows = _rows(900)
    linear = SPEC.training.recipe.linear.model_copy(update={"shares": (0.5,)})
    recipe = SPEC.training.recipe.model_copy(update={"linear": linear, "seeds": 2})
    training = SPEC.training.model_copy(update={"recipe": recipe})
    spec = SPEC.model_copy(update={"training": training})
    return fit_model(spec, rows.slice(0, 600), rows.slice(600))


def test_terms_clip_numbers_and_know_missing_and_unknown_levels():
    matrix = np.array([[1.0, 0.0], [9.0, 1.0], [-4.0, np.nan], [np.nan, 7.0]])

    added = MEMBER.contributions(matrix)

    assert added.tolist() == [[1.0, 0.1], [5.0, -0.2], [-1.0, 0.05], [0.25, 0.05]]
    assert np.allclose(MEMBER.raw(matrix), 0.5 + added.sum(axis=1), rtol=0, atol=1e-15)
    assert np.allclose(MEMBER.scaled(0.5).raw(matrix), 0.5 * MEMBER.raw(matrix))
    assert np.allclose(MEMBER.shifted(2.0).raw(matrix), 2 + MEMBER.raw(matrix))
    assert not LinearMember.empty(1, [2]).raw(matrix).any()


def test_a_rows_bits_do_not_depend_on_the_other_rows():
    matrix = np.column_stack([np.random.default_rng(1).normal(size=5000), np.zeros(5000)])

    together = MEMBER.raw(matrix)

    parts = [MEMBER.raw(matrix[start : start + 7]) for start in range(0, 5000, 7)]
    assert together.tobytes() == np.concatenate(parts).tobytes()


def test_both_engines_give_the_same_bits_and_reasons_add_up(model):
    assert model.linear is not None
    stored = TrainedModel.from_files(*model.files.values())
    proved = replace(stored, engine_proof=prove_engines(stored, _rows(300, seed=9)))
    rows = _rows(3000, seed=4)
    matrix = proved.encode(rows)

    engines = [choose_engine(proved, name) for name in ("lightgbm", "quickscorer")]

    assert [engine.name for engine in engines] == ["lightgbm", "quickscorer"]
    raw = proved.raw(rows)
    assert [engine.raw(matrix).tobytes() for engine in engines] == [raw.tobytes()] * 2
    base = raw - Contributions(proved).of(matrix).sum(axis=1)
    assert np.ptp(base) < 1e-12


def test_files_keep_every_byte_and_a_changed_member_is_refused(model):
    files = model.files
    assert TrainedModel.from_files(*files.values()).files == files

    document = json.loads(files["model.json"])
    document.pop(SEAL)
    document["linear"]["intercept"] += 1e-12
    with pytest.raises(ModelTextError, match="linear member scores differently"):
        TrainedModel.from_files(files["model.lgb"], json.dumps(seal(document)).encode())
    del document["linear"]["numeric"][0]
    with pytest.raises(ModelTextError, match="cannot be read"):
        TrainedModel.from_files(files["model.lgb"], json.dumps(seal(document)).encode())


def test_files_of_the_format_before_are_read_and_written_as_they_were(model):
    before = replace(model, linear=None, format=3)

    read = TrainedModel.from_files(*before.files.values())

    assert read.files == before.files
    assert b'"format": 3' in read.files["model.json"]
    assert read.raw(_rows(20)).tobytes() == before.raw(_rows(20)).tobytes()
