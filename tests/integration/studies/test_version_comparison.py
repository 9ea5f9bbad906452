"""Versions on the same rows: the numbers, their intervals, and what is refused."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import ObjectStoreError
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.model_loader import RegistryError
from nightshift.studies.known_rows import NoKnownRowsError
from nightshift.studies.version_comparison import ComparisonError, compare_versions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def versions(court):
    """Return a blind and a good version, and their models."""
    blind = court.fit(rows=court.with_column("wind", np.zeros(court.rows.num_rows)))
    good = court.fit(num_leaves=5)
    return {court.register(blind).version: blind, court.register(good).version: good}


def unseen(court) -> np.ndarray:
    # The fit ends with the validation days; a gap and ten days of hold-out follow.
    days = court.rows["partition_date"].to_numpy()
    return days > np.datetime64("2020-02-02")


def test_numbers_are_those_of_the_rows_that_no_version_has_seen(court, versions):
    blind, good = versions
    result = compare_versions(court.settings, court.spec, [blind, good])
    assert result.window == PartitionRange.of("2020-02-03", "2020-02-13")
    assert [version.n_seen_days for version in result.versions] == [0, 0]

    mask = unseen(court)
    rows = court.rows.filter(mask)
    assert result.n_rows == rows.num_rows == 3300
    label = rows["is_late"].to_numpy(zero_copy_only=False).astype(int)
    for number, model in versions.items():
        predictions = model.predictions(rows)
        expected = {
            "roc_auc": roc_auc_score(label, predictions.score),
            "log_loss": log_loss(label, predictions.probability),
        }
        for metric, value in expected.items():
            (found,) = [
                part
                for part in result.numbers
                if (part.slice_column, part.metric, part.version) == ("", metric, number)
            ]
            assert found.value == pytest.approx(value, abs=1e-9)
            low, high = found.interval
            assert low < found.value < high
    (gain,) = [
        part
        for part in result.numbers
        if (part.slice_column, part.metric, part.version) == ("", "log_loss", good)
    ]
    # Wind decides: the version that knows it loses less, whatever days are drawn.
    assert gain.difference < gain.difference_interval[1] < 0

    levels = {part.slice_level for part in result.numbers if part.slice_column == "carrier"}
    assert levels == {"A", "B", "C"}
    by_level = {part.slice_level: part.n_rows for part in result.numbers if part.slice_column}
    assert sum(by_level.values()) == 3300


def test_the_interval_of_a_difference_holds_by_day(court, versions):
    """Paired differences by day, with Student's t, give about the same interval."""
    from scipy.stats import t

    blind, good = versions
    result = compare_versions(court.settings, court.spec, [blind, good])
    rows = court.rows.filter(unseen(court))
    label = rows["is_late"].to_numpy(zero_copy_only=False).astype(int)
    losses = []
    for model in versions.values():
        probability = model.predictions(rows).probability
        losses.append(-np.log(np.where(label == 1, probability, 1 - probability)))
    days = rows["partition_date"].to_numpy()
    daily = np.array([(losses[1] - losses[0])[days == day].mean() for day in np.unique(days)])
    error = daily.std(ddof=1) / np.sqrt(daily.size)
    width = 2 * error * t.ppf(result.confidence, daily.size - 1)
    (number,) = [
        part
        for part in result.numbers
        if (part.slice_column, part.metric, part.version) == ("", "log_loss", good)
    ]
    low, high = number.difference_interval
    assert number.difference == pytest.approx(daily.mean(), abs=1e-9)
    assert high - low == pytest.approx(width, rel=0.25)


def test_seen_days_are_marked_and_too_few_unseen_ones_refused(court, versions):
    blind, good = versions
    window = PartitionRange.of("2020-01-30", "2020-02-05")
    result = compare_versions(court.settings, court.spec, [blind, good], window)
    assert [version.n_seen_days for version in result.versions] == [4, 4]

    late = court.register(court.fit(num_leaves=3), fit_end="2020-02-13").version
    with pytest.raises(ComparisonError, match="too few mature days"):
        compare_versions(court.settings, court.spec, [good, late])
    with pytest.raises(ComparisonError, match="compared with each other"):
        compare_versions(court.settings, court.spec, [good])
    with pytest.raises(RegistryError, match="no version 99"):
        compare_versions(court.settings, court.spec, [good, 99])
    # Its labels are not mature yet.
    future = PartitionRange.of("2020-02-14", "2020-02-15")
    with pytest.raises(NoKnownRowsError):
        compare_versions(court.settings, court.spec, [blind, good], future)


def test_the_command_prints_json_and_writes_nothing(court, versions, monkeypatch):
    monkeypatch.setattr("nightshift.cli.models.compare.load_settings", lambda: court.settings)
    monkeypatch.setattr("nightshift.contracts.model_spec.load_spec", lambda *_: court.spec)
    before = _state(court)
    numbers = list(map(str, versions))
    result = CliRunner().invoke(app, ["compare", "parcel_late", *numbers, "--days", "5", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["window"] == ["2020-02-09", "2020-02-13"]
    assert document["n_rows"] == 1500
    assert {part["n_days"] for part in document["numbers"]} == {5}
    shown = CliRunner().invoke(app, ["compare", "parcel_late", *numbers, "--days", "5"])
    assert "1,500 labelled rows of 2020-02-09..2020-02-13" in shown.stdout
    wrong = CliRunner().invoke(app, ["compare", "parcel_late", *numbers, "--days", "many"])
    assert wrong.exit_code == 2
    assert _state(court) == before


def _state(court) -> tuple:
    query = "select count(*), (select count(*) from ml.training_sets) from ml.model_versions"
    objects = sorted(ObjectStore.open(court.settings).list(""))
    return court.conn.execute(query).fetchone(), objects


def test_the_as_of_is_that_of_the_newest_partition(court, versions):
    result = compare_versions(court.settings, court.spec, list(versions))
    assert result.as_of == dt.datetime(2020, 2, 16, 5, tzinfo=dt.UTC)


def test_without_the_bucket_it_ends_with_the_buckets_code_and_mlflow_is_not_needed(court, versions):
    # The court has no MLflow at all.
    assert not court.settings.mlflow_tracking_uri.get_secret_value()
    away = {"s3_endpoint_url": "http://127.0.0.1:9", "s3_request_attempts": 1}
    with pytest.raises(ObjectStoreError) as raised:
        compare_versions(court.settings.model_copy(update=away), court.spec, list(versions))
    assert raised.value.code == "NS-LAKE-001"
