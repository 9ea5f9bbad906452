from __future__ import annotations

import copy
import datetime as dt
import math
import shutil
from collections.abc import Iterator

import pytest
import yaml

from nightshift.contracts.metrics import METRICS
from nightshift.contracts.model_spec import is_skipped_by_clock, load_spec, load_specs
from nightshift.errors import SpecError
from nightshift.settings import PROJECT_ROOT

MODELS = PROJECT_ROOT / "dags" / "models"


@pytest.fixture
def edited(tmp_path):
    """Return a function that copies flight_delayed.yaml with one line replaced.

    Loads it and returns the error's text.
    """

    def edit(old, new):
        text = (MODELS / "flight_delayed.yaml").read_text()
        assert text.count(old) == 1
        (tmp_path / "flight_delayed.yaml").write_text(text.replace(old, new))
        line = next(
            number
            for number, found in enumerate(text.replace(old, new).splitlines(), 1)
            if new.splitlines()[-1] in found
        )
        with pytest.raises(SpecError) as refusal:
            load_spec(tmp_path, "flight_delayed")
        return str(refusal.value), line

    return edit


def test_both_specs_load_and_name_metrics_of_their_task():
    specs = load_specs(MODELS)
    assert {name: spec.task.value for name, spec in specs.items()} == {
        "flight_delayed": "binary",
        "arrival_delay_minutes": "regression",
    }
    assert all(spec.task in METRICS[spec.promotion.metric].tasks for spec in specs.values())


def test_digest_does_not_depend_on_comments_and_order_of_keys(tmp_path):
    lines = (MODELS / "flight_delayed.yaml").read_text().splitlines()
    moved = [
        "# a comment",
        *(line for line in lines if not line.startswith("owner:")),
        "owner: flight-operations",
    ]
    (tmp_path / "flight_delayed.yaml").write_text("\n".join(moved))
    assert (
        load_spec(tmp_path, "flight_delayed").digest == load_spec(MODELS, "flight_delayed").digest
    )


def test_unknown_key_is_refused_with_file_and_line(edited):
    text, line = edited("  window_days: 120", "  windowdays: 120")
    assert f"flight_delayed.yaml:{line}: training.windowdays: expected a known key" in text
    assert "docs/specs.md" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  schedule: nightly",
            "  schedule: hourly",
            "training.schedule: expected Input should be 'nightly', 'weekly' or 'never'",
        ),
        (
            "  gap_days: 1",
            "  gap_days: -1",
            "training.gap_days: expected Input should be greater than or equal to 0 (got -1)",
        ),
        (
            "task: binary",
            "task: guess",
            "task: expected Input should be 'binary', 'regression', 'multiclass' or 'ranking'",
        ),
        ("label: {relation:", "label: {relations:", "label.relations: expected a known key"),
        (
            "feature_view: flight",
            "feature_view: Flight View",
            "feature_view: expected a name of lower-case letters, digits and _",
        ),
    ],
)
def test_wrong_value_is_refused_with_line_and_expectation(edited, old, new, expected):
    text, line = edited(old, new)
    assert f"flight_delayed.yaml:{line}: {expected}" in text


def test_missing_key_is_refused(edited):
    text, _ = edited("owner: flight-operations\n", "\n# no owner\n")
    assert "owner: expected Field required" in text


@pytest.mark.parametrize(
    "parameter",
    [
        "num_threads",
        "n_jobs",
        "seed",
        "deterministic",
        "force_row_wise",
        "objective",
        "n_estimators",
    ],
)
def test_parameter_that_the_trainer_sets_is_refused(edited, parameter):
    text, line = edited(
        "params: {learning_rate: 0.05", f"params: {{{parameter}: 1, learning_rate: 0.05"
    )
    assert (
        f"flight_delayed.yaml:{line}: training.params: expected Value error, parameters "
        f"that the trainer does not set itself"
    ) in text
    assert f"remove {parameter}" in text


@pytest.mark.parametrize(
    ("old", "part"), [("  metric: roc_auc", "promotion"), ("  metric: log_loss", "monitoring")]
)
def test_metric_of_another_task_is_refused(edited, old, part):
    text, _ = edited(old, "  metric: rmse")
    assert f": {part}: expected Value error, a metric of task binary: roc_auc," in text
    assert "not 'rmse'" in text


def test_name_must_be_the_files(tmp_path):
    shutil.copy(MODELS / "flight_delayed.yaml", tmp_path / "other.yaml")
    with pytest.raises(SpecError, match=r"other.yaml names the model 'flight_delayed'"):
        load_spec(tmp_path, "other")


def test_window_must_hold_all_parts(edited):
    text, _ = edited("  minimum_days: 40", "  minimum_days: 19")
    assert "minimum_days > validation_days + holdout_days + 2 * gap_days" in text


def test_promotion_needs_a_metric_with_a_better_side(edited):
    text, _ = edited("  metric: roc_auc", "  metric: calibration_slope")
    assert "calibration_slope has a best value in between" in text


def test_deadline_is_refused_when_the_rescue_would_fall_into_the_hour_that_is_skipped(edited):
    text, _ = edited('deadline: "04:00"', 'deadline: "03:30"')
    assert (
        "02:30 does not exist in America/New_York on the night on which clocks go forward" in text
    )


@pytest.mark.parametrize(
    ("timezone", "skipped"),
    [
        ("America/New_York", "02:30"),
        ("Europe/Berlin", "02:00"),
        ("Australia/Lord_Howe", "02:15"),
        ("Asia/Kolkata", None),
        ("UTC", None),
    ],
)
def test_skipped_times_are_those_that_no_clock_shows_on_some_night(timezone, skipped):
    times = [dt.time(hour, minute) for hour in range(5) for minute in (0, 15, 30, 45)]
    found = [f"{at:%H:%M}" for at in times if is_skipped_by_clock(at, timezone)]
    assert (skipped in found) if skipped else (found == [])
    assert "01:45" not in found
    assert "03:00" not in found


def test_causes_group_the_features_of_the_model(edited):
    spec = load_spec(MODELS, "flight_delayed")
    assert set(spec.analytics.cause_of) == set(spec.features.names)
    assert len(spec.analytics.causes) == 7
    message, _ = edited(
        "    - name: aircraft\n", "    - {name: x, features: [snow]}\n    - name: a\n"
    )
    assert "snow is no feature of the model" in message


def _numbers(
    part: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], int | float]]:
    """Yield path and value of each number in a document."""
    if isinstance(part, dict | list):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            yield from _numbers(value, (*path, key))
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield path, part


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2**63 - 1])
def test_no_number_of_a_spec_is_endless(tmp_path, number):
    """NaN passes every comparison with a limit, and no calendar has so many days."""
    complete = load_spec(MODELS, "arrival_delay_minutes").model_dump(mode="json")
    checked, accepted = 0, []
    for path, usual in _numbers(complete):
        # A measurement may be as large as somebody likes; a count is bounded.
        if math.isfinite(number) and isinstance(usual, float):
            continue
        checked += 1
        document = copy.deepcopy(complete)
        part = document
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = number
        text = yaml.dump(document, Dumper=yaml.CSafeDumper)
        (tmp_path / "arrival_delay_minutes.yaml").write_text(text)
        load_spec.cache_clear()
        try:
            load_spec(tmp_path, "arrival_delay_minutes")
        except SpecError:
            continue
        accepted.append(".".join(map(str, path)))
    load_spec.cache_clear()
    assert checked > 30
    # LightGBM judges its own parameters.
    assert [path for path in accepted if ".params." not in path] == []


@pytest.mark.parametrize("shards", ["100000", "2147483648"])
def test_a_number_of_tasks_that_no_machine_holds_is_refused(edited, shards):
    message, _ = edited("  shards: 2", f"  shards: {shards}")
    assert "scoring.shards: expected Input should be less than or equal to 1000" in message
