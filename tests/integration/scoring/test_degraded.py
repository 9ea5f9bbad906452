"""A partition that fell back because the store was away is found.

And the champion is tried on it again.
"""

from __future__ import annotations

import datetime as dt
import logging

import pytest
from tests.databases import run_as_admin
from tests.integration.scoring.conftest import DAY, publish_features

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.errors import NoConnectionLeftError, WarehouseError
from nightshift.scoring.degraded import (
    LATE_WINDOW,
    DegradedPartition,
    better_choice,
    degraded_partitions,
)
from nightshift.scoring.pipeline import score
from nightshift.scoring.plan import PinnedVersion
from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R18"),
    pytest.mark.usefixtures("quick_gate"),
]

RUN = RunContext("score__parcel_late/2013-07-01/publish", 1, "airflow")
NIGHT = Partition.parse("2013-07-01")


@pytest.fixture
def away(scoring_settings):
    """Return settings whose store does not answer."""
    return scoring_settings.model_copy(
        update={"s3_endpoint_url": "http://127.0.0.1:9", "s3_request_attempts": 1}
    )


@pytest.fixture
def stepped_down(registry, warehouse, away, spec):
    """Publish a night while the store is away."""
    publish_features(warehouse)
    registry.promote("2013-07-01")
    score(away, spec, DAY, RUN)


def test_a_degraded_night_is_found_with_its_cause(stepped_down, warehouse, spec):
    (night,) = degraded_partitions(warehouse, spec)
    assert (night.partition, night.source, night.by_airflow) == (NIGHT, "fallback_rule", True)
    assert night.reason.startswith("version 1 cannot score (NS-LAKE-001: Cannot read s3://")
    error = night.describe()
    assert error.code == "NS-SCORE-007"
    assert "nightshift score parcel_late 2013-07-01" in str(error)


def test_the_champion_is_chosen_as_soon_as_the_store_is_back(
    stepped_down, warehouse, scoring_settings, away, spec
):
    (night,) = degraded_partitions(warehouse, spec)
    assert better_choice(away, spec, warehouse, night) is None
    choice = better_choice(scoring_settings, spec, warehouse, night)
    assert choice is not None
    assert (choice.source, choice.version) == ("champion", 1)
    score(scoring_settings, spec, DAY, RUN)
    assert degraded_partitions(warehouse, spec) == []


def test_nothing_is_better_while_somebody_scores_the_night(
    stepped_down, warehouse, scoring_settings, spec
):
    (night,) = degraded_partitions(warehouse, spec)
    warehouse.execute(
        "insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,"
        " actor, code_version, inputs,"
        " inputs_digest) values ('predictions/parcel_late', '2013-07-01', 99, 9, 'staged', 'r',"
        " 1, 'airflow', 'c', '{}', 'd')"
    )
    assert better_choice(scoring_settings, spec, warehouse, night) is None


def test_nothing_is_better_when_the_champion_is_really_broken(
    registry, warehouse, scoring_settings, spec
):
    publish_features(warehouse)
    registry.corrupt(registry.promote("2013-07-01"))
    score(scoring_settings, spec, DAY, RUN)
    (night,) = degraded_partitions(warehouse, spec)
    assert better_choice(scoring_settings, spec, warehouse, night) is None


@pytest.mark.parametrize("named", [None, PinnedVersion(1, "a_person")])
def test_a_night_of_the_champion_or_of_a_named_version_is_not_degraded(
    registry, warehouse, scoring_settings, spec, named
):
    publish_features(warehouse)
    registry.promote("2013-07-01" if named is None else "2013-08-01")
    score(scoring_settings, spec, DAY, RUN, named=named)
    assert degraded_partitions(warehouse, spec) == []


def test_a_model_without_predictions_has_no_degraded_night(conn, spec):
    assert degraded_partitions(conn, spec) == []


@pytest.mark.parametrize(
    ("published_after_deadline", "looked_at", "expected"),
    [
        (dt.timedelta(hours=-4), dt.timedelta(minutes=-1), True),
        (dt.timedelta(hours=-4), dt.timedelta(minutes=1), False),
        (dt.timedelta(hours=5), dt.timedelta(hours=5) + LATE_WINDOW / 2, True),
        (dt.timedelta(hours=5), dt.timedelta(hours=6) + LATE_WINDOW, False),
    ],
)
def test_a_night_is_looked_after_until_its_deadline_and_a_late_one_for_some_hours(
    spec, published_after_deadline, looked_at, expected
):
    deadline = spec.deadline_of(NIGHT)
    night = DegradedPartition(
        spec.name,
        NIGHT,
        "fallback_rule",
        "why",
        deadline + published_after_deadline,
        by_airflow=True,
    )
    assert night.is_looked_after(spec, deadline + looked_at) is expected


@pytest.mark.mlts("data-5")
def test_the_log_says_where_the_champion_broke_and_quotes_no_value(
    registry, warehouse, scoring_settings, spec, monkeypatch, caplog
):
    publish_features(warehouse)
    registry.promote("2013-07-01")

    message = 'cannot convert "a secret of row 17" at 2013-07-01-1 (depot, north)'

    def quote(*_):
        raise ValueError(message)

    monkeypatch.setattr("nightshift.scoring.model_loading.try_model", quote)
    with caplog.at_level(logging.WARNING):
        score(scoring_settings, spec, DAY, RUN)
    (night,) = degraded_partitions(warehouse, spec)
    assert night.reason == "version 1 cannot score (ValueError: cannot convert … at … …)"
    assert "model_loading.py" in caplog.text
    assert "in quote" in caplog.text
    assert "secret" not in caplog.text


def test_no_model_is_blamed_when_the_warehouse_stops(
    registry, warehouse, scoring_settings, spec, monkeypatch
):
    """Every step of the fallback chain needs the warehouse.

    The try fails with the warehouse's own code and is repeated.
    """
    publish_features(warehouse)
    registry.promote("2013-07-01")

    def end_all(*_):
        with connect(scoring_settings, "a person") as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name"
                " like 'nightshift score%'"
            )
        raise OSError("the stream broke")

    monkeypatch.setattr("nightshift.scoring.model_loading.read_sample", end_all)
    with pytest.raises(WarehouseError) as raised:
        score(scoring_settings, spec, DAY, RUN)
    assert raised.value.code == "NS-WAREHOUSE-001"
    assert degraded_partitions(warehouse, spec) == []


def test_no_model_is_blamed_when_the_warehouse_has_one_connection_left(
    registry, warehouse, scoring_settings, spec
):
    """Scoring reads the sample by a second connection, which the server refuses."""
    publish_features(warehouse)
    registry.promote("2013-07-01")
    # One for the test, one for scoring.
    run_as_admin(
        scoring_settings,
        f"alter database {scoring_settings.warehouse_database} connection limit 2",
    )
    with pytest.raises(NoConnectionLeftError):
        score(scoring_settings, spec, DAY, RUN)
    assert degraded_partitions(warehouse, spec) == []
