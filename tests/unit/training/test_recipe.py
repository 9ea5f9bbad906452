"""A recipe: what serves knows all mature days, what is evaluated never saw the hold-out."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from tests.unit.backtest.test_nightly_models import SPEC, world

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.training_spec import Level
from nightshift.contracts.training_spec import Training as TrainingSpec
from nightshift.models.booster import load_booster, predict_raw
from nightshift.models.signature import Signature
from nightshift.training.holdout import TrainingResult, fit_and_evaluate
from nightshift.training.recipe.linear_fit import LinearRows, fit_linear
from nightshift.training.recipe.members import TrainingError
from nightshift.training.recipe.out_of_fold import (
    OutOfFold,
    choose_calibration,
    common_rounds,
    level_offset,
    rolling_blocks,
)
from nightshift.training.recipe.search import searched
from nightshift.training.splits import rows_between, rows_of, split_window

WINDOW = PartitionRange.of("2020-01-01", "2020-01-30")
SPLIT = split_window(WINDOW, SPEC.training)


def spec_with(task: str = "binary", **training: object) -> ModelSpec:
    document = SPEC.model_dump(mode="json")
    document["training"] |= training
    document["task"] = task
    if task == "regression":
        document["promotion"]["metric"] = document["monitoring"]["metric"] = "rmse"
    return ModelSpec.model_validate_json(ModelSpec.model_validate(document).model_dump_json())


def fit(spec: ModelSpec, rows: pa.Table) -> TrainingResult:
    return fit_and_evaluate(spec, rows_of(rows, WINDOW), SPLIT, "a training set")


def with_labels(rows: pa.Table, first: str, last: str) -> pa.Table:
    """Return the rows with turned labels from one day to another."""
    days = rows.column("partition_date").to_numpy().astype("datetime64[D]")
    is_turned = (days >= np.datetime64(first)) & (days <= np.datetime64(last))
    label = rows.column("is_late").to_numpy().astype(bool) ^ is_turned
    return rows.set_column(rows.column_names.index("is_late"), "is_late", pa.array(label))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return world()


@pytest.fixture(scope="module")
def training(rows) -> TrainingResult:
    return fit(SPEC, rows)


@pytest.mark.promise("R4")
def test_hold_out_labels_move_what_serves_and_never_what_is_evaluated(rows, training):
    turned = fit(SPEC, with_labels(rows, "2020-01-26", "2020-01-30"))

    assert training.evaluated is not None
    assert turned.evaluated is not None
    assert turned.evaluated.text == training.evaluated.text
    assert turned.evaluated.linear == training.evaluated.linear
    assert turned.evaluated.calibration == training.evaluated.calibration
    assert turned.served.text != training.served.text
    assert turned.served.linear != training.served.linear


def test_days_of_the_gap_and_of_the_future_move_nothing(rows, training):
    later = fit(SPEC, with_labels(rows, "2020-01-31", "2020-02-13"))
    assert later.served.files == training.served.files
    # January 25 lies between validation and hold-out: the evaluated model never saw it.
    gap = fit(SPEC, with_labels(rows, "2020-01-25", "2020-01-25"))
    assert training.evaluated is not None
    assert gap.evaluated is not None
    assert gap.evaluated.text == training.evaluated.text


def test_the_record_says_which_days_each_model_saw(training):
    assert training.evaluated is not None
    assert training.evaluated.training["fit"] == "2020-01-01..2020-01-24"
    assert training.served.training["fit"] == "2020-01-01..2020-01-30"
    assert training.served.training["evaluated_digest"] == training.evaluated.digest
    assert training.served.metrics == training.evaluated.metrics
    assert len(training.served.decile_edges) == 9


def test_without_a_refit_the_evaluated_model_serves(rows, training):
    alone = fit(spec_with(recipe={"refit": False}), rows)

    assert alone.evaluated is None
    assert training.evaluated is not None
    assert alone.served.text == training.evaluated.text
    assert alone.served.training["fit"] == "2020-01-01..2020-01-24"


def test_the_same_rows_give_the_same_bytes_and_seeds_are_averaged(rows):
    spec = spec_with(recipe={"seeds": 3, "linear": {"shares": [0.0]}})

    first, second = fit(spec, rows), fit(spec, rows)

    assert first.served.files == second.served.files
    assert first.served.training["n_trees"] == 3 * first.served.training["n_rounds"]
    assert load_booster(first.served.text).num_trees() == first.served.training["n_trees"]
    assert first.served.linear is None


def test_each_block_is_predicted_by_the_days_before_it(rows):
    train, validation = rows_of(rows, SPLIT.train), rows_of(rows, SPLIT.validation)

    blocks = list(rolling_blocks(train, validation, 2, gap_days=1))

    seen = []
    for before, block in blocks:
        days = block.column("partition_date").to_pylist()
        assert max(before.column("partition_date").to_pylist()) < min(days) - dt.timedelta(days=1)
        seen += days
    assert seen == validation.column("partition_date").to_pylist()
    assert len(blocks) == 2


def test_rounds_are_those_that_all_blocks_have_grown():
    # The second block stalled after three rounds, so the fourth cannot be compared.
    assert common_rounds([[5.0, 3.0, 2.0, 1.0], [5.0, 4.0, 6.0]], [1, 1]) == (2, 3.5)
    assert common_rounds([[5.0, 3.0, 2.0, 1.0], [5.0, 4.0, 6.0]], [9, 1]) == (3, pytest.approx(2.4))


def scores(label: np.ndarray, raw: np.ndarray, n_days: int) -> OutOfFold:
    day = np.repeat(np.arange(n_days), len(label) // n_days)
    return OutOfFold(label, day, day * 4 // n_days, raw, np.zeros(len(label)))


def test_the_level_follows_the_newest_days_and_is_shrunk():
    label = np.concatenate([np.zeros(800), np.tile([0.0, 1.0], 100)])
    made = scores(label, np.zeros(1000), 10)
    quarter = np.full(1000, 0.25)

    offset = level_offset(quarter, made, Level(days=2, prior_days=2), is_binary=True)

    # Half of the newest rows are positive, a quarter was predicted: log-odds of 3, half of it kept.
    assert offset == pytest.approx(0.5 * np.log(3))
    assert level_offset(quarter, made, Level(days=0), is_binary=True) == 0
    value = level_offset(quarter, made, Level(days=2, prior_days=6), is_binary=False)
    assert value == pytest.approx(0.25 * 0.25)


def test_calibration_is_chosen_on_blocks_that_it_was_not_fitted_on():
    dice = np.random.default_rng(3)
    raw = dice.normal(size=8000)
    label = (dice.random(8000) < 1 / (1 + np.exp(-2 * raw))).astype(float)
    steep = scores(label, raw, 8)
    stepped = scores((dice.random(8000) < np.where(raw > 0, 0.8, 0.3)).astype(float), raw, 8)
    methods = ("platt", "isotonic", "none")

    assert choose_calibration(steep, raw, methods)["method"] == "platt"
    assert choose_calibration(steep, raw, methods)["slope"] == pytest.approx(2, rel=0.1)
    assert choose_calibration(stepped, raw, methods)["method"] == "isotonic"


SIGNATURE = Signature(("row", "night"), (("depot", ("north", "south")),))


def linear_rows(n_days: int = 20, n: int = 400, night_effect: float = 0.0) -> LinearRows:
    """Return rows whose label rises with the first column; the second has one value a day."""
    dice = np.random.default_rng(5)
    day = np.repeat(np.arange(n_days), n)
    row, night = dice.normal(size=n_days * n), np.repeat(dice.normal(size=n_days), n)
    surprise = night_effect * np.repeat(dice.normal(size=n_days), n)
    depot = dice.integers(0, 2, n_days * n).astype(float)
    label = 3 + 2 * row + depot + surprise + 0.1 * dice.normal(size=n_days * n)
    return LinearRows(np.column_stack([row, night, depot]), label, np.ones(len(label)), day)


def test_a_line_is_recovered_and_centred():
    rows = linear_rows()

    member = fit_linear(rows, SIGNATURE, 1.0, {}, is_binary=False)

    assert member.numeric[0].slope == pytest.approx(2, rel=0.01)
    [depot] = member.categorical
    assert depot.levels[1] - depot.levels[0] == pytest.approx(1, rel=0.01)
    assert np.abs(member.contributions(rows.matrix).mean(axis=0)).max() < 0.01
    assert member.intercept == pytest.approx(rows.label.mean(), rel=0.01)


def test_a_value_of_the_night_is_trusted_as_much_as_there_are_nights():
    # 400 rows repeat a night's luck: as 8,000 independent rows it would look like a rule.
    rows = linear_rows(night_effect=1.0)
    alike = LinearRows(rows.matrix, rows.label, rows.weight, np.arange(len(rows.label)))

    by_night = fit_linear(rows, SIGNATURE, 10.0, {}, is_binary=False).numeric[1].slope
    by_row = fit_linear(
        LinearRows(
            np.column_stack(
                [
                    rows.matrix[:, 0],
                    rows.matrix[:, 1] + np.arange(len(rows.label)) * 1e-9,
                    rows.matrix[:, 2],
                ]
            ),
            alike.label,
            alike.weight,
            alike.day,
        ),
        SIGNATURE,
        10.0,
        {},
        is_binary=False,
    )
    assert abs(by_night) < 0.8 * abs(by_row.numeric[1].slope)


def test_directions_hold_in_line_and_trees(rows):
    spec = spec_with(recipe={"decreasing": ["wind"], "linear": {"shares": [0.5]}})

    served = fit(spec, rows).served

    # Parcels are late when the wind blows, so a falling direction leaves the wind nothing to say.
    assert served.linear is not None
    wind = np.linspace(-3, 3, 50)
    matrix = np.column_stack([wind, np.zeros(50)])
    raw = served.with_linear(matrix, predict_raw(served.booster, matrix))
    assert (np.diff(raw) <= 1e-12).all()
    assert served.linear.numeric[0].slope <= 0


def test_weights_and_half_life_change_the_fit_and_bad_weights_are_refused(rows, training):
    weighted = rows.append_column("importance", pa.array(np.linspace(0.1, 5, rows.num_rows)))

    by_column = fit(spec_with(weight_column="importance"), weighted)
    by_age = fit(spec_with(recipe={"half_life_days": 5}), rows)

    texts = {training.served.text, by_column.served.text, by_age.served.text}
    assert len(texts) == 3
    zero = rows.append_column("importance", pa.array(np.zeros(rows.num_rows)))
    with pytest.raises(TrainingError, match="no weight above 0"):
        fit(spec_with(weight_column="importance"), zero)


def test_a_regression_serves_the_mean(rows):
    wind = rows.column("wind").to_numpy()
    # Skewed to the right: its mean lies far above its median.
    label = np.exp(wind + np.random.default_rng(2).normal(size=len(wind)))
    skewed = rows.set_column(rows.column_names.index("is_late"), "is_late", pa.array(label))

    served = fit(spec_with("regression", calibration="none"), skewed).served

    later = rows_between(skewed, dt.date(2020, 1, 31), dt.date(2020, 2, 13))
    value = served.predictions(later).score
    outcome = later.column("is_late").to_numpy()
    assert abs(value.mean() - outcome.mean()) < 0.15 * outcome.mean()
    assert value.mean() > 1.3 * np.median(outcome)


def test_line_and_level_are_off_for_a_loss_that_is_not_the_mean():
    training = SPEC.training.model_dump(mode="json", exclude={"recipe"})

    median = TrainingSpec.model_validate(training | {"objective": "regression_l1"}).recipe
    mean = TrainingSpec.model_validate(training | {"objective": "regression"}).recipe
    declared = TrainingSpec.model_validate(
        training | {"objective": "quantile", "recipe": {"level": {"days": 7}, "seeds": 2}}
    ).recipe

    assert (median.linear.shares, median.level.days) == ((0.0,), 0)
    assert (mean.linear.shares, mean.level.days) == ((0.0, 0.25, 0.5), 14)
    assert (declared.linear.shares, declared.level.days, declared.seeds) == ((0.0,), 7, 2)


def test_a_level_that_the_steps_ignore_is_not_recorded(rows, training):
    stepped = fit(spec_with(calibration="isotonic"), rows).served

    assert training.served.training["level_offset"] != 0
    assert stepped.calibration["method"] == "isotonic"
    assert stepped.training["level_offset"] == 0


def test_costs_give_the_threshold(rows, training):
    spec = spec_with(recipe={"costs": {"false_alarm": 1, "miss": 4}})

    assert fit(spec, rows).served.threshold == pytest.approx(0.2)
    assert training.served.threshold != pytest.approx(0.2)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"increasing": ["depot"]}, "depot is none"),
        ({"increasing": ["wind"], "decreasing": ["wind"]}, "both have wind"),
        ({"linear": {"shares": []}}, "at least one share"),
        ({"linear": {"shares": [1.5]}}, "less than or equal to 1"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(recipe, message):
    with pytest.raises(ValidationError, match=message):
        spec_with(recipe=recipe)


def test_a_weight_is_no_feature_and_dask_has_no_weights():
    with pytest.raises(ValidationError, match="neither feature nor label"):
        spec_with(weight_column="wind")
    with pytest.raises(ValidationError, match="engine: local"):
        spec_with(engine="dask", recipe={"half_life_days": 30})


def test_a_short_history_serves_a_line_that_beats_the_rule(rows):
    spec = spec_with(minimum_days=26, cold_start_days=16)
    window = PartitionRange.of("2020-01-01", "2020-01-16")
    split = split_window(window, spec.training)

    training = fit_and_evaluate(spec, rows_of(rows, window), split, "a training set")

    assert str(split) == (
        "train 2020-01-01..2020-01-06 | validation 2020-01-08..2020-01-10"
        " | hold-out 2020-01-12..2020-01-16"
    )
    served = training.served
    assert served.training["linear_share"] == 1
    assert not predict_raw(served.booster, served.encode(rows)).any()
    assert served.metrics["challenger"]["log_loss"] < served.metrics["baseline"]["log_loss"]


def test_a_cold_start_holds_its_parts_and_ends_at_the_minimum():
    with pytest.raises(ValidationError, match="cold_start_days from 10 to below minimum_days"):
        spec_with(cold_start_days=9)
    training = spec_with(cold_start_days=12).training
    assert (training.first_days, training.for_days(20)) == (12, training)
    assert training.for_days(12).recipe.linear.shares == (1.0,)


SEARCH = {
    "trials": 4,
    "parameters": {
        "num_leaves": {"low": 2, "high": 15},
        "learning_rate": {"low": 0.02, "high": 0.3},
    },
}


@pytest.mark.mlts("model-3")
def test_a_search_looks_at_no_day_that_chooses_or_evaluates(rows):
    spec = spec_with(search=SEARCH)
    train = rows_of(rows, SPLIT.train)

    found, record = searched(spec, train)
    again, _ = searched(spec, train)

    assert found.training.params == again.training.params
    assert record["search"]["trials"] == 4
    assert record["search"]["params"].items() <= found.training.params.items()
    assert isinstance(found.training.params["num_leaves"], int)
    # Whatever validation days and hold-out hold, the same parameters are found and recorded.
    turned = fit(spec, with_labels(rows, "2020-01-20", "2020-01-30")).served
    assert turned.training["search"] == record["search"]
    assert searched(spec_with(), train)[1] == {}


def test_a_search_keeps_the_declared_parameters_if_nothing_is_better(rows):
    declared = {"num_leaves": 7, "learning_rate": 0.1, "min_data_in_leaf": 20}
    spec = spec_with(params=declared, search={**SEARCH, "trials": 1})

    found, _ = searched(spec, rows_of(rows, SPLIT.train))

    assert found.training.params == declared


def test_a_search_of_what_the_trainer_sets_is_refused():
    for parameters in ({"seed": {"low": 1, "high": 9}}, {}):
        with pytest.raises(ValidationError, match="does not set itself"):
            spec_with(search={"trials": 3, "parameters": parameters})
    with pytest.raises(ValidationError, match="low < high"):
        spec_with(search={"parameters": {"num_leaves": {"low": 9, "high": 9}}})
