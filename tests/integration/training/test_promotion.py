from __future__ import annotations

import psycopg
import pytest
from tests.integration.training.conftest import train_once
from tests.raw_bucket import overwrite

from nightshift.lake.object_store import ObjectStore
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.sandboxed_load import LoadTimeoutError
from nightshift.registry import champions, evidence_page, promotion
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import RegistryError, find_version, load_model, register
from nightshift.registry.promotion import PromotionRaceError, decide
from nightshift.training.pipeline import train
from nightshift.training.splits import split_window
from nightshift.training.training_set import build_training_set, mature_window

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_figures")]


def make_version(world, night=None, **training):
    """Return a registered version; ``n_rounds`` of trees decide how good it is."""
    spec = world.spec_with(
        training={**world.spec.training.model_dump(), "backtest_folds": 0, **training}
    )
    training_set = build_training_set(world.settings, spec, night or world.night, world.run)
    return register(world.settings, train_once(world, spec, training_set), world.run)


def make_weak_version(world, night=None):
    # The line of the default recipe would repair a tree that learnt next to nothing.
    return make_version(
        world,
        night,
        params=world.spec.training.params | {"num_leaves": 2, "learning_rate": 0.01},
        num_boost_round=1,
        recipe={"linear": {"shares": [0]}},
    )


def seat_weak_champion(world):
    """Return a weak version that a spec without limits has let through."""
    lenient = {
        "metric": "roc_auc",
        "non_inferiority_margin": 1,
        "minimum_gain_over_baseline": -1,
        "calibration_margin": 1,
        "maximum_calibration_slope": 1e9,
    }
    version = make_weak_version(world)
    assert judge(world, version, world.spec_with(promotion=lenient)).verdict == "first"
    return version


def seat(world, version):
    """Make a version champion as a person would, without a judgement."""
    world.conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date, effective_partition,"
        " reasons, numbers, run_id, actor)"
        " values (%s, %s, 'first', %s, %s, '{}', '{}', 'test', 'test')",
        [version.model, version.version, version.partition_date, world.night.shift(1).day],
    )


def judge(world, version, spec=None):
    return decide(world.settings, spec or world.spec, version.version, world.run)


def n_promotions(world):
    return world.conn.execute("select count(*) from ml.promotions").fetchone()[0]


def test_first_version_is_champion_from_the_next_partition_on(world):
    decision = judge(world, make_version(world))
    assert (decision.verdict, decision.champion_version, decision.is_promoted) == (
        "first",
        None,
        True,
    )
    assert decision.effective_partition == world.night.shift(1).day
    assert champion_for(world.conn, "parcel_late", world.night) is None
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)).version == 1
    assert champion_for(world.conn, "parcel_late", world.night.shift(99)).version == 1


def test_better_challenger_goes_into_the_shadow_and_is_compared_on_the_same_rows(world):
    seat_weak_champion(world)
    decision = judge(world, make_version(world))
    assert (decision.verdict, decision.version, decision.champion_version) == ("shadowed", 2, 1)
    assert not decision.is_promoted
    numbers = decision.numbers
    auc = {source: values["roc_auc"] for source, values in numbers["overall"].items()}
    assert numbers["rows"] == {"first": "2020-01-26", "last": "2020-01-30", "n_rows": 285}
    assert auc["challenger"] > auc["champion"] > auc["baseline"]
    assert sorted(numbers["slices"]["carrier"]) == ["A", "B", "C"]
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)).version == 1


def test_worse_challenger_is_refused_and_champion_stays(world):
    judge(world, make_version(world))
    decision = judge(world, make_weak_version(world))
    assert decision.verdict == "refused"
    assert decision.numbers["criteria"]["non_inferiority"] == "failed"
    assert decision.reasons[0].startswith("non_inferiority: The gain in roc_auc is -0.")
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)).version == 1


def test_first_version_is_refused_when_worse_than_the_rule(world):
    world.conn.execute(
        "update features.feat_parcel f set late_rate_7d = l.is_late::int"
        " from marts.fct_parcel_labels l where f.parcel_id = l.parcel_id"
    )
    decision = judge(world, make_version(world))
    assert decision.verdict == "refused"
    assert decision.numbers["overall"]["baseline"]["roc_auc"] == 1.0
    assert decision.reasons[0].startswith(
        "baseline[rule]: The gain in roc_auc over the rule baseline is -0."
    )
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)) is None


def test_rerun_returns_the_recorded_decision(world):
    version = make_version(world)
    first = judge(world, version)
    assert judge(world, version) == first
    assert n_promotions(world) == 1


def test_decisions_cannot_be_changed(world):
    judge(world, make_version(world))
    for statement in (
        "update ml.promotions set verdict = 'refused'",
        "delete from ml.promotions",
        "truncate ml.promotions",
    ):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            world.conn.execute(statement)


def test_old_night_trained_late_does_not_replace_the_later_champion(world):
    judge(world, make_version(world))
    old_night = world.night.shift(-5)
    decision = judge(world, make_version(world, old_night))
    assert (decision.verdict, decision.effective_partition) == ("first", old_night.shift(1).day)
    assert champion_for(world.conn, "parcel_late", world.night).version == 2
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)).version == 1


def test_rows_that_the_champion_was_fitted_on_are_left_out(world):
    champion = make_version(world, validation_days=1, holdout_days=2, gap_days=0)
    assert str(champion.as_evaluated.fit_end) == "2020-01-28"
    # What serves has seen the hold-out too.
    assert str(champion.fit_end) == "2020-01-30"
    seat(world, champion)
    decision = judge(world, make_version(world))
    assert decision.numbers["rows"] == {"first": "2020-01-30", "last": "2020-01-30", "n_rows": 57}
    assert decision.reasons[0].startswith("evidence_rows: 57 rows of 1 day(s)")


def test_refused_when_no_row_is_later_than_the_champions_fit(world):
    champion = make_version(world, validation_days=1, holdout_days=1, gap_days=0)
    seat(world, champion)
    decision = judge(world, make_version(world))
    seen = str(champion.as_evaluated.fit_end)
    assert (seen, decision.verdict, decision.numbers["rows"]["n_rows"]) == (
        "2020-01-29",
        "refused",
        0,
    )
    reason = (
        "NS-REGISTRY-003: No row is later than everything that champion and challenger were "
        "fitted on."
    )
    assert reason in decision.reasons[0]
    assert decision.reasons[0].startswith("evidence_rows, ")


def test_nobody_is_promoted_without_comparison_when_the_champion_cannot_be_loaded(
    world, monkeypatch
):
    """No decision is recorded while the machine is too busy to load it: the task is retried."""
    champion = make_version(world)
    judge(world, champion)
    challenger = make_version(world, seed=5)
    load, trouble = (
        champions.load_model,
        [LoadTimeoutError("busy"), ModelTextError("broken")],
    )

    def load_all_but_champion(store, version):
        if version.version == champion.version:
            raise trouble[0]
        return load(store, version)

    monkeypatch.setattr(champions, "load_model", load_all_but_champion)
    with pytest.raises(LoadTimeoutError):
        judge(world, challenger)
    assert n_promotions(world) == 1

    trouble.pop(0)
    decision = judge(world, challenger)
    assert (decision.verdict, decision.numbers["champion_status"]) == ("refused", "unreadable")
    assert decision.reasons[0].startswith(
        "non_inferiority: Nothing is compared, and nobody promoted: champion version 1"
    )
    assert champion_for(world.conn, "parcel_late", world.night.shift(1)).version == 1


def test_a_champion_that_reads_a_column_that_the_spec_has_no_more_is_replaced_and_named(world):
    judge(world, make_version(world))
    features = world.spec.features.model_dump(mode="json")
    spec = world.spec_with(features={**features, "numeric": features["numeric"][:-1]})
    training_set = build_training_set(world.settings, spec, world.night, world.run)
    challenger = register(
        world.settings, train(world.settings, spec, training_set.key, world.run), world.run
    )

    decision = judge(world, challenger, spec)

    assert decision.numbers["champion_status"] == "outdated"
    assert f"reads {world.spec.features.numeric[-1]}, which the spec has no more" in " ".join(
        decision.reasons
    )


def test_race_is_refused_when_champion_changes_during_the_comparison(world, monkeypatch):
    seat_weak_champion(world)
    challenger, other = make_version(world), make_version(world, seed=5)
    compare = promotion.evaluate_challenger

    def compare_while_other_is_promoted(*args):
        seat(world, other)
        return compare(*args)

    monkeypatch.setattr(promotion, "evaluate_challenger", compare_while_other_is_promoted)
    with pytest.raises(PromotionRaceError):
        judge(world, challenger)
    assert n_promotions(world) == 2


def test_changed_file_is_refused_when_loaded(world):
    version = make_version(world)
    store = ObjectStore.open(world.settings)
    overwrite(world.settings, version.model_key, store.get(version.model_key)[:-100])
    with pytest.raises(Exception, match="NS-LAKE-004"):
        load_model(store, version)


def test_unknown_version_is_refused(world):
    with pytest.raises(RegistryError, match="no version 7"):
        find_version(world.conn, "parcel_late", 7)


def test_holdout_of_one_class_and_an_empty_category_are_judged_and_refused(world):
    """Every check gives a verdict, none crashes, and the decision has its page."""
    world.conn.execute("update features.feat_parcel set carrier = null")
    split = split_window(mature_window(world.spec, world.night), world.spec.training)
    world.conn.execute(
        "update marts.fct_parcel_labels set is_late = false where partition_date between %s and %s",
        [split.holdout.first.shift(1).day, split.holdout.last.shift(1).day],
    )
    decision = judge(world, make_version(world))
    assert decision.verdict == "refused"
    reasons = "; ".join(decision.reasons)
    assert "all with one label" in reasons
    assert "crashed" not in reasons


def test_columns_that_say_nothing_do_not_refuse_a_challenger(world):
    world.conn.execute(
        "update features.feat_parcel set carrier = null, weight = null, is_fragile = false"
    )
    decision = judge(world, make_version(world))
    assert (decision.verdict, len(decision.reasons)) == ("first", 1)


def test_page_shows_a_number_that_is_undefined():
    assert evidence_page.short_number(float("nan")) == "undefined"
    assert evidence_page.short_number(float("inf")) == "undefined"
