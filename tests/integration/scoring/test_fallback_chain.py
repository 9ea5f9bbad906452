"""champion, previous champion, the last score aged, the rule.

One step at a time, and each row names its step.
"""

from __future__ import annotations

import json

import pytest
from tests.integration.scoring.conftest import DAY, make_spec, publish_features
from tests.raw_bucket import overwrite

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.quality.gate_errors import GateError
from nightshift.registry.model_versions import RegistryError
from nightshift.scoring.pipeline import begin, publish, score, score_shard
from nightshift.scoring.plan import PinnedVersion
from nightshift.scoring.planning import DowngradeError
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.scorer import ChampionBrokenError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R18"),
    pytest.mark.usefixtures("quick_gate"),
]
YESTERDAY = PartitionRange.of("2013-06-30")
RECURRING = {
    "shards": 2,
    "reasons": 2,
    "fallback": {"feature": "late_rate_7d", "default": 0.25},
    "carry_over": {"key": ["weight_kg"]},
}


def current(conn, columns: str, day: str = "2013-07-01") -> list[tuple]:
    query = (
        f"select {columns} from analytics.parcel_late_current where partition_date = %s order by"
        " parcel_id"
    )
    return conn.execute(query.encode(), [day]).fetchall()


@pytest.fixture
def recurring_spec():
    """Parcels have a new key each day; the one of the same weight is the same again."""
    return make_spec(scoring=RECURRING)


@pytest.mark.long
def test_previous_champion_scores_when_the_champion_is_broken(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    registry.corrupt(registry.promote("2013-07-01", seed=2))
    score(scoring_settings, spec, DAY, run)

    ((source, reason, version),) = set(
        current(warehouse, "score_source, score_source_reason, model_version")
    )
    assert (source, version) == ("previous_champion", 1)
    assert reason.startswith("version 2 cannot score (NS-LAKE-004: ")


def test_previous_champion_scores_when_the_champion_breaks_between_two_shards(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    champion = registry.promote("2013-07-01", seed=2)
    plan = begin(scoring_settings, spec, DAY, run)
    score_shard(scoring_settings, spec, plan, 0, run)
    registry.corrupt(champion)
    for shard in plan.shards[1:]:
        score_shard(scoring_settings, spec, plan, shard, run)
    first = publish(scoring_settings, spec, plan, run)

    assert {source for (source,) in current(warehouse, "score_source")} == {"previous_champion"}
    assert publish(scoring_settings, spec, plan, run) == first


def test_named_version_scores_and_stays_until_the_champion_is_named(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    registry.promote("2013-06-20", seed=2)
    score(scoring_settings, spec, DAY, run, named=PinnedVersion(1, "cli:ada"))
    expected = {("named_version", "version 1 was named by cli:ada", 1)}
    assert set(current(warehouse, "score_source, score_source_reason, model_version")) == expected

    nightly = RunContext("score__parcel_late/2013-07-01", 1, "airflow")
    assert not any(load.is_new for load in score(scoring_settings, spec, DAY, nightly))
    assert set(current(warehouse, "score_source, score_source_reason, model_version")) == expected

    score(scoring_settings, spec, DAY, run, named=PinnedVersion(2, "cli:ada"))
    assert set(current(warehouse, "score_source, score_source_reason, model_version")) == {
        ("champion", None, 2)
    }


def test_named_version_says_that_it_knows_the_future_of_a_night(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    later = registry.promote("2013-07-09", seed=2)
    score(scoring_settings, spec, DAY, run, named=PinnedVersion(2, "cli:ada"))
    reason = (
        f"version 2 was named by cli:ada, and has learned from nights up to {later.partition_date}"
    )
    assert set(current(warehouse, "score_source, score_source_reason, model_version")) == {
        ("named_version", reason, 2)
    }


def test_champion_scores_when_a_night_of_a_named_version_is_run_again_and_that_is_broken(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    named = registry.promote("2013-06-01", seed=1)
    registry.promote("2013-06-20", seed=2)
    score(scoring_settings, spec, DAY, run, named=PinnedVersion(1, "cli:ada"))
    registry.corrupt(named)
    score(scoring_settings, spec, DAY, run)
    assert set(current(warehouse, "score_source, model_version")) == {("champion", 2)}


def test_nothing_changes_when_the_named_version_is_broken_or_unknown(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    broken = registry.promote("2013-06-01", seed=1)
    registry.promote("2013-06-20", seed=2)
    score(scoring_settings, spec, DAY, run)
    before = current(warehouse, "score, model_version, load_id")
    registry.corrupt(broken)
    with pytest.raises(ChampionBrokenError, match="Version 1 of parcel_late cannot score"):
        score(scoring_settings, spec, DAY, run, named=PinnedVersion(1, "cli:ada"))
    with pytest.raises(RegistryError):
        score(scoring_settings, spec, DAY, run, named=PinnedVersion(77, "cli:ada"))
    assert current(warehouse, "score, model_version, load_id") == before


@pytest.mark.long
def test_version_that_was_rolled_back_is_no_previous_champion(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    good = registry.promote("2013-06-01", seed=1)
    registry.promote("2013-06-20", seed=2)
    warehouse.execute(
        "insert into ml.promotions (model, version, verdict, champion_version, partition_date,"
        " effective_partition, reasons, numbers,"
        " run_id, actor) values ('parcel_late', 1, 'rolled_back', 2, '2013-06-30', '2013-07-01',"
        " '{}', '{}', 'r', 'test')"
    )
    registry.corrupt(good)
    score(scoring_settings, spec, DAY, run)

    assert {source for (source,) in current(warehouse, "score_source")} == {"fallback_rule"}


@pytest.mark.long
def test_champion_replaces_the_previous_one_when_it_is_repaired(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    champion = registry.promote("2013-07-01", seed=2)
    good = registry.store.get(champion.model_key)
    registry.corrupt(champion)
    score(scoring_settings, spec, DAY, run)
    overwrite(scoring_settings, champion.model_key, good)
    score(scoring_settings, spec, DAY, RunContext("test/again", 1, "test"))

    assert set(current(warehouse, "score_source, model_version")) == {("champion", 2)}


def test_yesterdays_score_is_carried_over_and_aged_when_no_model_can_score(
    registry, warehouse, scoring_settings, recurring_spec, run
):
    publish_features(warehouse, YESTERDAY, n_rows=40)
    publish_features(warehouse, DAY, n_rows=50)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, recurring_spec, YESTERDAY, run)
    old = {
        key.removeprefix("2013-06-30-"): rest
        for key, *rest in current(warehouse, "parcel_id, score, probability", "2013-06-30")
    }
    registry.corrupt(champion)
    score(scoring_settings, recurring_spec, DAY, run)

    rows = current(
        warehouse,
        "parcel_id, score, probability, score_source, score_source_reason, model_version,"
        " reasons, decile, is_positive",
    )
    by_source = {
        name: [row for row in rows if row[3] == name] for name in ("carried_over", "fallback_rule")
    }
    assert {name: len(found) for name, found in by_source.items()} == {
        "carried_over": 40,
        "fallback_rule": 10,
    }
    weight = 0.5 ** (1 / 3.5)
    for key, aged, probability, _, reason, version, reasons, decile, is_positive in by_source[
        "carried_over"
    ]:
        number = key.removeprefix("2013-07-01-")
        rule = 0.25 if int(number) % 10 == 0 else (int(number) % 7) / 10
        assert aged == pytest.approx(rule + weight * (old[number][0] - rule))
        assert probability == pytest.approx(
            max(rule, 1e-6) + weight * (old[number][1] - max(rule, 1e-6)), abs=1e-5
        )
        assert reason.startswith("version 1 cannot score (NS-LAKE-004: ")
        assert reason.endswith("); the score of 2013-06-30 by version 1, 1 day(s) old")
        assert (version, 1 <= decile <= 10, is_positive) == (None, True, probability >= 0.5)
        assert reasons == [
            {"feature": "score_of_2013-06-30", "value": old[number][0], "contribution": None}
        ]
    (reason,) = {row[4] for row in by_source["fallback_rule"]}
    assert reason.startswith("version 1 cannot score (NS-LAKE-004: ")


@pytest.mark.long
def test_a_carried_score_is_the_rules_score_when_it_is_old(
    registry, warehouse, scoring_settings, run
):
    spec = make_spec(
        scoring=RECURRING | {"carry_over": {"key": ["weight_kg"], "half_life_days": 0.01}}
    )
    publish_features(warehouse, YESTERDAY)
    publish_features(warehouse)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, spec, YESTERDAY, run)
    registry.corrupt(champion)
    score(scoring_settings, spec, DAY, run)

    scores = dict(current(warehouse, "parcel_id, score"))
    assert (scores["2013-07-01-3"], scores["2013-07-01-10"]) == (
        pytest.approx(0.3),
        pytest.approx(0.25),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("day", "carry_over", "steps"),
    [
        ("2013-07-05", {"key": ["weight_kg"]}, {"carried_over"}),
        ("2013-07-08", {"key": ["weight_kg"]}, {"fallback_rule"}),
        ("2013-07-05", {"key": ["weight_kg"], "maximum_age_days": 4}, {"fallback_rule"}),
        ("2013-07-05", {"key": ["weight_kg"], "maximum_age_days": 0}, {"fallback_rule"}),
        ("2013-07-05", {}, {"fallback_rule"}),
        ("2013-07-05", {"key": ["gone"]}, {"fallback_rule"}),
    ],
    ids=[
        "5 days old",
        "8 days old",
        "too old for the spec",
        "switched off",
        "the key does not recur",
        "the column is gone",
    ],
)
def test_an_old_score_serves_as_long_as_the_spec_says(  # noqa: PLR0917
    registry, warehouse, scoring_settings, run, day, carry_over, steps
):
    spec, night = make_spec(scoring=RECURRING | {"carry_over": carry_over}), PartitionRange.of(day)
    publish_features(warehouse, YESTERDAY)
    publish_features(warehouse, night)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, spec, YESTERDAY, run)
    registry.corrupt(champion)
    score(scoring_settings, spec, night, run)

    assert {source for (source,) in current(warehouse, "score_source", day)} == steps


@pytest.mark.long
def test_carried_scores_are_not_carried_over_again(
    registry, warehouse, scoring_settings, recurring_spec, run
):
    nights = [PartitionRange.of(f"2013-07-0{i}") for i in (1, 2, 3)]
    for night in (YESTERDAY, *nights):
        publish_features(warehouse, night)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, recurring_spec, YESTERDAY, run)
    registry.corrupt(champion)
    for night in nights:
        score(scoring_settings, recurring_spec, night, run)

    (reason,) = set(current(warehouse, "score_source_reason", "2013-07-03"))
    assert reason[0].endswith("the score of 2013-06-30 by version 1, 3 day(s) old")


def test_rerun_of_a_mixed_night_has_the_same_content(
    registry, warehouse, scoring_settings, recurring_spec, run
):
    publish_features(warehouse, YESTERDAY, n_rows=20)
    publish_features(warehouse)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, recurring_spec, YESTERDAY, run)
    registry.corrupt(champion)
    (first,) = score(scoring_settings, recurring_spec, DAY, run)
    (again,) = score(scoring_settings, recurring_spec, DAY, RunContext("test/again", 1, "test"))

    assert (again, again.is_new) == (first, False)


def test_a_models_scores_are_kept_when_it_cannot_be_read_any_more(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    champion = registry.promote("2013-06-01")
    (first,) = score(scoring_settings, spec, DAY, run)
    registry.corrupt(champion)
    with pytest.raises(DowngradeError, match="champion on 2013-07-01"):
        score(scoring_settings, spec, DAY, RunContext("test/again", 1, "test"))

    published = warehouse.execute(
        "select load_id from ops.published where dataset = 'predictions/parcel_late'"
    ).fetchall()
    assert published == [(first.load_id,)]
    assert {source for (source,) in current(warehouse, "score_source")} == {"champion"}


def allow_only(settings, low: float, high: float) -> None:
    suite = settings.expectations_dir / "predictions" / "parcel_late.json"
    document = json.loads(suite.read_text())
    document["expectations"] = [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "score", "min_value": low, "max_value": high},
        }
    ]
    suite.write_text(json.dumps(document))


def test_the_rule_is_published_when_the_gate_refuses_the_models(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse, changed="late_rate_7d = 0.5 where true")
    registry.promote("2013-06-01", seed=1)
    registry.promote("2013-07-01", seed=2)
    allow_only(scoring_settings, 0.5, 0.5)
    score(scoring_settings, spec, DAY, run)

    ((source, reason),) = set(current(warehouse, "score_source, score_source_reason"))
    assert source == "fallback_rule"
    assert reason == "; ".join(
        f"the scores of version {version} failed their gate (NS-GATE-001)" for version in (2, 1)
    )


@pytest.mark.long
def test_nothing_is_published_when_the_gate_refuses_the_last_step_too(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01")
    allow_only(scoring_settings, 2.0, 3.0)
    with pytest.raises(GateError, match="score"):
        score(scoring_settings, spec, DAY, run)

    assert current(warehouse, "score") == []


@pytest.mark.long
def test_regression_ages_its_score_and_has_no_probability(
    registry, warehouse, scoring_settings, run
):
    spec = make_spec(
        task="regression",
        promotion={"metric": "rmse"},
        monitoring={"metric": "mae", "maximum_metric_loss": 1, "windows": {"n": 1, "m": 1}},
        scoring=RECURRING,
    )
    registry.spec = spec
    ensure_prediction_relations(warehouse, spec)
    publish_features(warehouse, YESTERDAY)
    publish_features(warehouse)
    champion = registry.promote("2013-06-01")
    score(scoring_settings, spec, YESTERDAY, run)
    registry.corrupt(champion)
    score(scoring_settings, spec, DAY, run)

    assert set(current(warehouse, "score_source, probability, is_positive")) == {
        ("carried_over", None, None)
    }
