"""A night's scoring on a real warehouse, bucket and model.

What is published, and what happens when something is wrong.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from tests.integration.scoring.conftest import DAY, make_spec, publish_features, tiny_model

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import ObjectStoreError, WarehouseError
from nightshift.quality.gate_errors import GateError
from nightshift.scoring.feature_rows import FeaturesMissingError, shard_query
from nightshift.scoring.pipeline import begin, publish, score, score_shard, score_shards
from nightshift.scoring.plan import ScorePlan
from nightshift.scoring.row_checks import IncompletePredictionsError
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]
CURRENT = "select {} from analytics.parcel_late_current order by partition_date, parcel_id"


def _current(conn, columns: str) -> list[tuple]:
    return conn.execute(CURRENT.format(columns).encode()).fetchall()


def _sources(conn) -> set[tuple]:
    return set(_current(conn, "score_source, score_source_reason, model_version"))


def test_every_parcel_has_one_row_by_the_champion(registry, warehouse, scoring_settings, spec, run):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    (published,) = score(scoring_settings, spec, DAY, run)

    assert (published.n_rows, published.is_new) == (50, True)
    assert _sources(warehouse) == {("champion", None, 1)}
    checks = warehouse.execute(
        "select count(*), count(distinct parcel_id), min(decile) >= 1, max(decile) <= 10,"
        " bool_and(probability between 0 and 1),"
        " bool_and(is_positive is not null), max(jsonb_array_length(reasons)),"
        " min(features_as_of) = '2013-07-02'"
        " from analytics.parcel_late_current"
    ).fetchone()
    assert checks == (50, 50, True, True, True, True, 2, True)


def test_published_scores_are_the_models_own_in_every_bit(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01", seed=3)
    plan = begin(scoring_settings, spec, DAY, run)
    score(scoring_settings, spec, DAY, run)

    model = tiny_model(spec, 3)
    expected = {}
    for shard in plan.shards:
        rows = read_arrow(
            scoring_settings, shard_query(spec, plan, plan.days, shard, model.signature.names)
        )
        predicted = model.predictions(rows)
        expected |= dict(
            zip(
                rows["parcel_id"].to_pylist(),
                zip(predicted.score, predicted.probability, strict=True),
                strict=True,
            )
        )
    assert len(expected) == 50
    assert {
        key: (score, probability)
        for key, score, probability in _current(warehouse, "parcel_id, score, probability")
    } == expected


def test_fallback_rule_is_published_and_marked_when_there_is_no_champion(
    warehouse, scoring_settings, spec, run
):
    publish_features(warehouse, n_rows=10)
    score(scoring_settings, spec, DAY, run)

    assert _sources(warehouse) == {
        ("fallback_rule", "no champion is promoted for this partition", None)
    }
    scores = dict(_current(warehouse, "parcel_id, score"))
    assert scores["2013-07-01-10"] == 0.25  # the rate is null: the spec's default
    assert scores["2013-07-01-3"] == 0.3
    first = _current(warehouse, "parcel_id, decile, is_positive, reasons, probability")[0]
    assert first == (
        "2013-07-01-1",
        2,
        False,
        [{"feature": "late_rate_7d", "value": 0.1, "contribution": None}],
        0.1,
    )


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN"])
def test_fallback_rule_takes_its_default_when_the_column_is_not_finite(
    warehouse, scoring_settings, spec, run, value
):
    publish_features(warehouse, n_rows=5, changed=f"late_rate_7d = '{value}' where true")
    score(scoring_settings, spec, DAY, run)

    assert {score for (score,) in _current(warehouse, "score")} == {0.25}


def test_fallback_rule_is_published_when_the_model_file_was_changed(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.corrupt(registry.promote("2013-07-01"))
    (published,) = score(scoring_settings, spec, DAY, run)

    assert published.n_rows == 50
    ((source, reason, version),) = _sources(warehouse)
    assert (source, version) == ("fallback_rule", None)
    assert reason.startswith("version 1 cannot score (NS-LAKE")


def test_fallback_rule_is_published_when_a_feature_of_the_champion_is_gone(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    warehouse.execute("alter table features.feat_parcel rename weight_kg to weight_lb")
    score(scoring_settings, spec, DAY, run)

    ((source, _, _),) = _sources(warehouse)
    assert source == "fallback_rule"


def staged_by_shard(conn) -> dict[int, int]:
    query = "select shard, count(*) from predictions.parcel_late group by shard"
    return dict(conn.execute(query).fetchall())


def test_fallback_rule_is_published_when_the_champion_breaks_between_two_shards(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    champion = registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    score_shard(scoring_settings, spec, plan, 0, run)
    registry.corrupt(champion)
    score_shard(scoring_settings, spec, plan, 1, run)
    assert 1 not in staged_by_shard(warehouse)
    score_shard(scoring_settings, spec, plan, 2, run)
    first = publish(scoring_settings, spec, plan, run)

    ((source, reason, _),) = _sources(warehouse)
    assert source == "fallback_rule"
    assert reason.startswith("version 1 cannot score (NS-LAKE-004: ")
    assert publish(scoring_settings, spec, plan, run) == first
    assert warehouse.execute(
        "select count(distinct load_id) from predictions.parcel_late"
    ).fetchone() == (1,)


def test_fallback_rule_is_published_when_a_row_cannot_be_scored(
    registry, warehouse, scoring_settings, spec, run
):
    last = "(select max(parcel_id) from features.feat_parcel)"
    publish_features(
        warehouse, n_rows=300, changed=f"weight_kg = 'Infinity' where parcel_id = {last}"
    )
    registry.promote("2013-07-01")
    score(scoring_settings, spec, DAY, run)

    ((source, reason, version),) = _sources(warehouse)
    assert (source, version) == ("fallback_rule", None)
    assert reason.startswith("version 1 cannot score (NS-MODEL-002: ")


def test_rerun_has_the_same_content_and_leaves_no_rows(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    first = score(scoring_settings, spec, DAY, run)
    again = score(scoring_settings, spec, DAY, RunContext("another/run", 2, "test"))

    assert again == first
    assert not again[0].is_new
    assert warehouse.execute("select count(*) from predictions.parcel_late").fetchone() == (50,)


def test_rerun_keeps_its_version_when_another_one_was_promoted_since(
    registry, warehouse, scoring_settings, spec, run
):
    days = PartitionRange.of("2013-07-01", "2013-07-03")
    publish_features(warehouse, days)
    registry.promote("2013-07-01", seed=1)
    first = score(scoring_settings, spec, DAY, run)
    registry.promote("2013-07-03", seed=2)
    registry.promote("2013-07-01", seed=4)
    later = score(scoring_settings, spec, days, run)

    versions = dict(_current(warehouse, "partition_date::text, model_version"))
    assert versions == {"2013-07-01": 1, "2013-07-02": 3, "2013-07-03": 2}
    assert later[0] == first[0]


def test_range_has_the_content_of_its_single_nights(
    registry, warehouse, scoring_settings, spec, run
):
    days = PartitionRange.of("2013-07-01", "2013-07-04")
    publish_features(warehouse, days)
    registry.promote("2013-07-01", seed=1)
    registry.promote("2013-07-03", seed=2)
    by_range = {
        load.partition_date: load.content_hash for load in score(scoring_settings, spec, days, run)
    }
    by_night = [score(scoring_settings, spec, PartitionRange.single(day), run)[0] for day in days]

    assert {load.partition_date: load.content_hash for load in by_night} == by_range
    assert not any(load.is_new for load in by_night)


def test_number_of_shards_does_not_change_the_content(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    first = score(scoring_settings, spec, DAY, run)
    one_shard = make_spec(
        scoring={
            "shards": 1,
            "reasons": 2,
            "fallback": {"feature": "late_rate_7d", "default": 0.25},
        }
    )

    assert score(scoring_settings, one_shard, DAY, run) == first


def test_shards_read_the_planned_load_when_newer_features_are_published(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    before = score(scoring_settings, spec, DAY, run)
    plan = begin(scoring_settings, spec, DAY, run)
    publish_features(warehouse, n_rows=60, shift=5.0)
    for shard in plan.shards:
        score_shard(scoring_settings, spec, plan, shard, run)

    assert publish(scoring_settings, spec, plan, run) == before
    assert score(scoring_settings, spec, DAY, run)[0].n_rows == 60


def test_shard_is_left_alone_when_scored_again_in_any_state(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    plan = ScorePlan.model_validate(begin(scoring_settings, spec, DAY, run).model_dump(mode="json"))
    score_shards(scoring_settings, spec, plan, run)
    counts = staged_by_shard(warehouse)
    assert sum(counts.values()) == 50
    score_shards(scoring_settings, spec, plan, run)
    assert staged_by_shard(warehouse) == counts
    published = publish(scoring_settings, spec, plan, run)

    score_shards(scoring_settings, spec, plan, run)
    assert staged_by_shard(warehouse) == counts
    assert publish(scoring_settings, spec, plan, run) == published


DAMAGES = [
    (
        "delete from predictions.parcel_late where parcel_id = '2013-07-01-7'",
        "1 entities without a prediction on 2013-07-01",
    ),
    (
        "update predictions.parcel_late set parcel_id = 'x' where parcel_id = '2013-07-01-7'",
        "1 predictions without an entity",
    ),
    (
        "update predictions.parcel_late set score = 'NaN' where parcel_id = '2013-07-01-7'",
        "1 scores that are not finite",
    ),
    (
        "update predictions.parcel_late set probability = 1.5 where parcel_id = '2013-07-01-7'",
        "1 probabilities outside",
    ),
    (
        "update predictions.parcel_late set decile = 11 where parcel_id = '2013-07-01-7'",
        "1 deciles outside",
    ),
    (
        "update predictions.parcel_late set model_version = 9 where parcel_id = '2013-07-01-7'",
        "1 predictions of another model",
    ),
    (
        (
            "update predictions.parcel_late set features_as_of = '2013-07-09' where parcel_id ="
            " '2013-07-01-7'"
        ),
        "1 predictions with other times",
    ),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_publish_refuses_when_rows_are_not_one_good_row_an_entity(
    registry, warehouse, scoring_settings, spec, run, damage
):
    statement, problem = damage
    publish_features(warehouse)
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    for shard in plan.shards:
        score_shard(scoring_settings, spec, plan, shard, run)
    warehouse.execute(statement.encode())

    with pytest.raises(IncompletePredictionsError, match=problem):
        publish(scoring_settings, spec, plan, run)
    assert _current(warehouse, "parcel_id") == []


def test_publish_refuses_when_a_shard_never_ran(registry, warehouse, scoring_settings, spec, run):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    score_shard(scoring_settings, spec, plan, 0, run)

    with pytest.raises(IncompletePredictionsError, match="entities without a prediction"):
        publish(scoring_settings, spec, plan, run)


def test_published_rows_stand_when_the_gate_refuses_the_next_load(
    warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    score(scoring_settings, spec, DAY, run)
    before = _current(warehouse, "parcel_id, score")
    publish_features(warehouse, shift=1.0, changed="late_rate_7d = 1.0 where true")

    with pytest.raises(GateError):
        score(scoring_settings, spec, DAY, run)
    assert _current(warehouse, "parcel_id, score") == before


def test_begin_refuses_when_features_are_not_published(warehouse, scoring_settings, spec, run):
    publish_features(warehouse)

    with pytest.raises(FeaturesMissingError, match="2 of 3"):
        begin(scoring_settings, spec, PartitionRange.of("2013-07-01", "2013-07-03"), run)


def test_regression_has_scores_and_no_probability(
    registry, warehouse, scoring_settings, run, tmp_path
):
    spec = make_spec(
        task="regression",
        promotion={"metric": "rmse"},
        monitoring={"metric": "mae", "maximum_metric_loss": 1, "windows": {"n": 1, "m": 1}},
    )
    registry.spec = spec
    publish_features(warehouse)
    registry.promote("2013-07-01")
    score(scoring_settings, spec, DAY, run)

    assert set(_current(warehouse, "score_source, probability, is_positive")) == {
        ("champion", None, None)
    }
    assert np.isfinite([s for (s,) in _current(warehouse, "score")]).all()


def test_a_reader_in_one_snapshot_sees_the_same_rows_while_a_publish_happens(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    score(scoring_settings, spec, DAY, run)
    registry.promote("2013-07-01")
    with connect(scoring_settings, "analyst's export") as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with reader.transaction():
            before = _current(reader, "*")
            score(scoring_settings, spec, DAY, run)
            assert _current(reader, "*") == before
        assert _sources(reader) == {("champion", None, 1)}


def test_first_attempt_fails_and_the_second_falls_back_when_the_bucket_is_away(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    away = scoring_settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(ObjectStoreError):
        score_shard(away, spec, plan, 0, run)
    score_shard(away, spec, plan, 0, RunContext(run.run_id, 2, "test"))
    publish(away, spec, plan, run)

    ((source, reason, _),) = _sources(warehouse)
    assert source == "fallback_rule"
    assert reason.startswith("version 1 cannot score (NS-LAKE-001: ")


def test_two_attempts_of_one_shard_at_once_leave_its_rows_once(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse, n_rows=400)
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    attempts = [
        (shard, RunContext(run.run_id, attempt, "test"))
        for shard in plan.shards
        for attempt in (1, 2)
    ]

    broken: list[int] = []

    def score_one(shard: int, attempt: RunContext) -> None:
        try:
            score_shard(scoring_settings, spec, plan, shard, attempt)
        except WarehouseError:
            broken.append(attempt.attempt)

    with ThreadPoolExecutor(len(attempts)) as pool:
        list(pool.map(lambda attempt: score_one(*attempt), attempts))

    # A second attempt that finds the first one at work ends its session, never the other way.
    assert set(broken) <= {1}
    assert publish(scoring_settings, spec, plan, run)[0].n_rows == 400


@pytest.mark.parametrize("has_champion", [True, False])
def test_a_night_without_entities_is_published_without_rows(
    registry, warehouse, scoring_settings, spec, run, has_champion
):
    if has_champion:
        registry.promote("2013-07-01")
    publish_features(warehouse, n_rows=0)
    _allow_no_rows(scoring_settings)

    (published,) = score(scoring_settings, spec, DAY, run)
    (again,) = score(scoring_settings, spec, DAY, run)

    assert (published.n_rows, published.is_new, again.is_new, again.load_id) == (
        0,
        True,
        False,
        published.load_id,
    )
    assert _current(warehouse, "parcel_id") == []


def test_an_empty_night_is_refused_when_the_suite_wants_rows(
    registry, warehouse, scoring_settings, spec, run
):
    registry.promote("2013-07-01")
    publish_features(warehouse, n_rows=0)

    with pytest.raises(GateError, match="no rows"):
        score(scoring_settings, spec, DAY, run)


def test_no_night_with_entities_is_published_without_rows(
    registry, warehouse, scoring_settings, spec, run
):
    registry.promote("2013-07-01")
    publish_features(warehouse)
    _allow_no_rows(scoring_settings)
    plan = begin(scoring_settings, spec, DAY, run)

    with pytest.raises(IncompletePredictionsError, match="50 entities without a prediction"):
        publish(scoring_settings, spec, plan, run)


def _allow_no_rows(settings) -> None:
    path = settings.expectations_dir / "predictions" / "parcel_late.json"
    suite = json.loads(path.read_text())
    suite["expectations"].append(
        {
            "type": "expect_table_row_count_to_be_between",
            "kwargs": {"min_value": 0},
            "severity": "critical",
        }
    )
    path.write_text(json.dumps(suite))
