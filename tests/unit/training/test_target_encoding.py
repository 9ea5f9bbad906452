"""Encoded categories know no label that was not mature, and score alike everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from tests.unit.backtest.test_nightly_models import N_DAYS, ROWS_A_DAY, SPEC, world
from tests.unit.models.models import class_spec

from nightshift.contracts.model_spec import ModelSpec
from nightshift.models.engines.engine import choose_engine
from nightshift.models.engines.equivalence import prove_engines
from nightshift.models.model_document import SEAL, seal
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.shapley.shap_values import Contributions
from nightshift.models.trained_model import TrainedModel
from nightshift.training.model_fit import Members, fit_model
from nightshift.training.recipe.members import NO_PATHS, FitRows, averaged_trees
from nightshift.training.recipe.out_of_fold import rolling_blocks

ROWS = world()
N_LEVELS = 60


def spec_of(names: list[str], encoded: list[str], **changes: object) -> ModelSpec:
    document = SPEC.model_dump(mode="json") | changes
    document["features"]["categorical"] = [{"name": name, "minimum_rows": 1} for name in names]
    document["training"]["recipe"]["target_encoding"] = {"columns": encoded, "prior_rows": 20}
    return ModelSpec.model_validate_json(json.dumps(document))


def with_depots(*, has_effect: bool) -> pa.Table:
    """Return parcels of many depots, a tenth without one; some depots are late, or none."""
    dice = np.random.default_rng(3)
    n = ROWS.num_rows
    codes = dice.integers(0, N_LEVELS, n)
    depots = [None if dice.random() < 0.1 else f"depot {code}" for code in codes]
    late = ROWS.column("is_late").to_numpy()
    if has_effect:
        late = late ^ ((codes < N_LEVELS / 3) & (dice.random(n) < 0.7))
    position = ROWS.column_names.index("is_late")
    rows = ROWS.set_column(position, "is_late", pa.array(late))
    return rows.append_column("depot", pa.array(depots, pa.string()))


def parts(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return rows to fit on, and later ones."""
    cut = (N_DAYS - 10) * ROWS_A_DAY
    return rows.slice(0, cut), rows.slice(cut)


def fitted(spec: ModelSpec, rows: pa.Table) -> TrainedModel:
    before, _ = parts(rows)
    cut = before.num_rows - 6 * ROWS_A_DAY
    return fit_model(spec, before.slice(0, cut), before.slice(cut))


def loss_of(spec: ModelSpec, rows: pa.Table) -> float:
    """Return the log loss of later days."""
    _, later = parts(rows)
    probability = fitted(spec, rows).predictions(later).probability
    assert probability is not None
    label = later.column("is_late").to_numpy()
    return float(-np.log(np.where(label, probability, 1 - probability)).mean())


def test_a_row_knows_what_was_mature_on_its_night():
    """Labels of a night are mature two nights later; two rows speak for no difference."""
    document = spec_of(["depot"], ["depot"]).model_dump(mode="json")
    document["training"]["recipe"]["target_encoding"]["prior_rows"] = 2
    spec = ModelSpec.model_validate_json(json.dumps(document))
    days = ["2020-01-01", "2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03", "2020-01-04"]
    rows = pa.table(
        {
            "partition_date": pa.array(days).cast(pa.date32()),
            "depot": ["a", "b", "a", "a", None, "b"],
            "is_late": [1, 0, 1, 0, 1, 1],
            "wind": np.zeros(6),
            "weight": np.zeros(6),
        }
    )
    columns = FitRows(spec, rows).columns

    # On the third night 1 of 2 parcels was late, on the fourth 2 of 3; a missing depot was unknown.
    expected = [0, 0, 0, (1 - 1 * 0.5) / 3, 0, (0 - 1 * 2 / 3) / 3]
    np.testing.assert_allclose(columns.as_of["depot"], expected, rtol=0, atol=1e-15)
    # Scoring knows all six: 4 of 6 were late.
    [depot] = columns.signature.encoded
    assert depot.levels == ("a", "b")
    np.testing.assert_allclose(
        [*depot.values, depot.missing],
        [(2 - 3 * 4 / 6) / 5, (1 - 2 * 4 / 6) / 4, (1 - 4 / 6) / 3],
        rtol=0,
        atol=1e-15,
    )
    unseen = pa.table({"depot": ["b", "c", None]})
    assert depot.of(unseen).tolist() == [depot.values[1], 0.0, depot.missing]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_labels_of_a_night_and_later_move_no_encoding_up_to_it(task):
    metric = "log_loss" if task == "binary" else "rmse"
    document = SPEC.model_dump(mode="json")
    changes = {
        "task": task,
        "promotion": document["promotion"] | {"metric": "roc_auc" if task == "binary" else metric},
        "monitoring": document["monitoring"] | {"metric": metric},
    }
    spec = spec_of(["depot"], ["depot"], **changes)
    rows = with_depots(has_effect=True)
    day = FitRows(spec, rows).day
    dice = np.random.default_rng(5)
    position = rows.column_names.index("is_late")
    label = rows.column("is_late").to_numpy().astype(float)
    if task == "regression":
        label += dice.normal(size=label.size)
    rows = rows.set_column(position, "is_late", pa.array(label))
    before = FitRows(spec, rows).columns.as_of["depot"]
    for night in (day.min() + 9, day.max()):
        # On its evening the labels of the night before are not mature yet.
        changed = np.where(day >= night - 1, 1 - label, label)
        turned = rows.set_column(position, "is_late", pa.array(changed))
        after = FitRows(spec, turned).columns.as_of["depot"]
        is_known = day <= night
        assert after[is_known].tobytes() == before[is_known].tobytes()
        if night < day.max():
            assert (after[day == night + 1] != before[day == night + 1]).any()


def test_values_do_not_depend_on_the_rows_of_later_days():
    spec = spec_of(["depot"], ["depot"])
    rows = with_depots(has_effect=True)
    half = rows.slice(0, rows.num_rows // 2)
    complete = FitRows(spec, rows).columns.as_of["depot"]
    assert FitRows(spec, half).columns.as_of["depot"].tobytes() == complete[:880].tobytes()


def test_a_category_of_noise_is_worth_nothing_and_costs_nothing():
    rows = with_depots(has_effect=False)
    without = loss_of(spec_of([], []), rows)
    # Labels of its own night in a row's encoding would make it 0.014 worse.
    assert loss_of(spec_of(["depot"], ["depot"]), rows) == pytest.approx(without, abs=0.005)


def test_a_category_that_tells_something_gains():
    rows = with_depots(has_effect=True)
    assert loss_of(spec_of(["depot"], ["depot"]), rows) < loss_of(spec_of([], []), rows) - 0.03


def test_more_prior_rows_bring_levels_nearer_to_all_rows():
    rows = with_depots(has_effect=True)
    spec = spec_of(["depot"], ["depot"])
    encoding = spec.training.recipe.target_encoding
    spreads = []
    for prior_rows in (1, 20, 1_000_000):
        changed = encoding.model_copy(update={"prior_rows": prior_rows})
        recipe = spec.training.recipe.model_copy(update={"target_encoding": changed})
        training = spec.training.model_copy(update={"recipe": recipe})
        fit_rows = FitRows(spec.model_copy(update={"training": training}), rows)
        spreads.append(np.ptp(fit_rows.signature.encoded[0].values))
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] < 1e-4


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a model with an encoded and a plain category, and a line with a share."""
    rows = with_depots(has_effect=True)
    rows = rows.append_column("lane", rows.column("depot"))
    document = spec_of(["lane", "depot"], ["depot"]).model_dump(mode="json")
    document["training"]["recipe"]["linear"]["shares"] = [0.5]
    return fitted(ModelSpec.model_validate_json(json.dumps(document)), rows)


def rows_to_score() -> pa.Table:
    _, later = parts(with_depots(has_effect=True))
    depots = later.column("depot").to_pylist()
    depots[:3] = ["never seen", None, "depot 1"]
    later = later.drop_columns(["depot"])
    depot = pa.array(depots, pa.string())
    return later.append_column("depot", depot).append_column("lane", depot)


def test_engines_give_the_same_bits_and_reasons_add_up(model):
    assert model.signature.names == ["wind", "weight", "depot", "lane"]
    assert model.signature.categorical_positions == [3]
    stored = TrainedModel.from_files(*model.files.values())
    rows = rows_to_score()
    proved = replace(stored, engine_proof=prove_engines(stored, rows))
    matrix = proved.encode(rows)
    assert matrix[0, 2] == 0.0

    engines = [choose_engine(proved, name) for name in ("lightgbm", "quickscorer")]

    assert [engine.name for engine in engines] == ["lightgbm", "quickscorer"]
    raw = model.raw(rows)
    assert [engine.raw(matrix).tobytes() for engine in engines] == [raw.tobytes()] * 2
    added = Contributions(proved).of(matrix)
    assert np.ptp(raw - added.sum(axis=1)) < 1e-12
    assert np.ptp(added[:, 2]) > 0.1


def test_files_keep_every_byte_and_what_contradicts_itself_is_refused(model):
    files = model.files
    read = TrainedModel.from_files(*files.values())
    assert read.files == files
    assert read.signature == model.signature

    content = json.loads(files["model.json"])
    assert content["format"] == 6
    content.pop(SEAL)
    for change in (
        {"format": 4},
        {"signature": {**content["signature"], "encoded": []}},
        {"signature": {key: content["signature"][key] for key in ("numeric", "categorical")}},
    ):
        changed = seal(content | change)
        with pytest.raises(ModelTextError, match="cannot be read"):
            TrainedModel.from_files(files["model.lgb"], json.dumps(changed).encode())
    content["signature"]["encoded"][0]["values"][0] += 1e-12
    with pytest.raises(ModelTextError, match="contradicts itself"):
        TrainedModel.from_files(files["model.lgb"], json.dumps(seal(content)).encode())
    # A model without an encoding has the file that it had.
    plain = fitted(spec_of(["depot"], []), with_depots(has_effect=True))
    document = json.loads(plain.files["model.json"])
    assert document["format"] == 4
    assert set(document["signature"]) == {"numeric", "categorical"}


def test_blocks_are_encoded_by_the_days_before_them():
    """Labels of the last block move no raw score of an earlier one, nor its own."""
    spec = spec_of(["depot"], ["depot"])
    rows, _ = parts(with_depots(has_effect=True))
    cut = rows.num_rows - 6 * ROWS_A_DAY
    position = rows.column_names.index("is_late")
    label = rows.column("is_late").to_numpy()
    is_last = np.arange(rows.num_rows) >= rows.num_rows - 3 * ROWS_A_DAY
    turned = rows.set_column(position, "is_late", pa.array(label ^ is_last))

    scores = []
    for part in (rows, turned):
        before, block = list(rolling_blocks(part.slice(0, cut), part.slice(cut), 2, 1))[1]
        fit_rows = FitRows(spec, before)
        trees = averaged_trees(fit_rows, 5, NO_PATHS, "block")
        scores.append(Members(fit_rows.signature, trees, None).scores(spec, block))

    assert (scores[0].label != scores[1].label).all()
    assert scores[0].trees.tobytes() == scores[1].trees.tobytes()


def test_only_categories_are_encoded_and_classes_have_no_mean():
    with pytest.raises(ValidationError, match="name categorical features; wind is none"):
        spec_of([], ["wind"])
    training = {"schedule": "nightly", "recipe": {"target_encoding": {"columns": ["x"]}}}
    features = {"numeric": ["y"], "categorical": [{"name": "x"}]}
    with pytest.raises(ValidationError, match=r"no training\.recipe\.target_encoding"):
        class_spec(training=training, features=features)
