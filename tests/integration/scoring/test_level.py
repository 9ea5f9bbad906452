"""Published scores are moved by the newest mature nights, and are on time when that fails."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.optimize import brentq
from tests.integration.scoring.conftest import DAY, Registry, make_spec, publish_features

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.models.shapley.shap_values import Contributions
from nightshift.scoring.level import level_finder, mature_nights
from nightshift.scoring.level.level_finder import LevelFinder
from nightshift.scoring.model_loading import load_version
from nightshift.scoring.pipeline import score
from nightshift.scoring.plan import PinnedVersion
from nightshift.scoring.republish import plan_rollback, roll_back
from nightshift.scoring.shadow.shadow_scores import score_shadows
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import published_records, void_loads

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

NIGHT = DAY.first
MATURE = PartitionRange(NIGHT.shift(-15), NIGHT.shift(-2))
RUN = RunContext("level/test", 1, "test")


class World:
    """A champion that was fitted in May, features until the night, outcomes until its evening."""

    def __init__(self, settings: Settings, conn: Connection) -> None:
        self.settings, self.conn = settings, conn
        self.spec = make_spec()
        self.registry = Registry(settings, conn, self.spec)
        self.champion = self.registry.promote("2013-06-01", seed=1)
        publish_features(conn, PartitionRange(MATURE.first, NIGHT))
        self.deliver_outcomes(PartitionRange(MATURE.first, NIGHT.shift(-1)), every=2)

    def deliver_outcomes(
        self, nights: PartitionRange, every: int, known_after_days: int = 0
    ) -> None:
        """Deliver the outcomes of some nights; every so many-th parcel was late."""
        for day in nights.days:
            known_at = dt.datetime.combine(
                day + dt.timedelta(days=1 + known_after_days), dt.time(23), dt.UTC
            )
            self.conn.execute(
                "update marts.fct_parcel_labels set superseded_at = %s"
                " where partition_date = %s and superseded_at is null",
                [known_at, day + dt.timedelta(days=1)],
            )
            self.conn.execute(
                "insert into marts.fct_parcel_labels"
                " select parcel_id, %s, event_timestamp, %s, null, (i %% %s = 0)::int from ("
                " select f.*, row_number() over (order by parcel_id) i"
                " from features.feat_parcel f join ops.published p using (partition_date, load_id)"
                " where p.dataset = 'features/parcel' and partition_date = %s) r",
                [day + dt.timedelta(days=1), known_at, every, day],
            )

    def score(self, partitions: PartitionRange = DAY, **arguments: object):
        return score(self.settings, self.spec, partitions, RUN, **arguments)

    def rows(self, query: str, *values: object) -> list[tuple]:
        return self.conn.execute(query.encode(), values).fetchall()

    def levels(self, dataset: str = "predictions/parcel_late") -> list[tuple]:
        """Return what is recorded of published levels, by night and load."""
        return self.rows(
            "select v.model_version, v.shift, v.estimate, v.n_nights, v.n_rows, v.first_night,"
            " v.last_night, v.reason from ops.score_levels v"
            " join ops.published p using (dataset, partition_date, load_id)"
            " where dataset = %s order by partition_date, load_id",
            dataset,
        )

    def probabilities(self) -> dict[str, float]:
        return dict(
            self.rows("select parcel_id, probability from analytics.parcel_late_current order by 1")
        )

    def model(self):
        return load_version(self.settings, self.conn, self.spec, 1)

    def table(self, night: Partition):
        """Return the published feature rows of a night, in the order of their keys."""
        import pyarrow as pa

        rows = self.rows(
            "select f.parcel_id, weight_kg, late_rate_7d, depot from features.feat_parcel f"
            " join ops.published p using (partition_date, load_id)"
            " where p.dataset = 'features/parcel' and partition_date = %s order by 1",
            night.day,
        )
        keys, weight, rate, depot = zip(*rows, strict=True)
        return pa.table(
            {
                "parcel_id": pa.array(keys),
                "weight_kg": pa.array(weight, pa.float64()),
                "late_rate_7d": pa.array(rate, pa.float64()),
                "depot": pa.array(depot),
            }
        )

    def expected_shift(
        self, nights: PartitionRange = MATURE, half_life: float = float("inf")
    ) -> float:
        """Compute the shift in another way: by a root finder, from the view of labels."""
        labels = dict(
            self.rows(
                "select parcel_id, is_late from marts.fct_parcel_labels"
                " where superseded_at is null and known_at <= %s",
                dt.datetime.combine(NIGHT.day + dt.timedelta(days=1), dt.time(0), dt.UTC),
            )
        )
        predicted, outcome, weight = [], [], []
        for night in nights:
            table = self.table(night)
            age = (nights.last.day - night.day).days
            weight += [0.5 ** (age / half_life)] * table.num_rows
            predicted.append(self.model().predictions(table).probability)
            outcome += [labels[key] for key in table.column("parcel_id").to_pylist()]
        log_odds = np.log(np.concatenate(predicted) / (1 - np.concatenate(predicted)))

        def missing(shift: float) -> float:
            moved = 1 / (1 + np.exp(-log_odds - shift))
            return float(np.average(moved - np.array(outcome), weights=weight))

        # Nights' worth of evidence; each night has as many rows.
        n = len(nights) * np.mean(weight)
        return brentq(missing, -9, 9, xtol=1e-13) * n / (n + 14)


@pytest.fixture
def world(scoring_settings: Settings, warehouse: Connection) -> World:
    return World(scoring_settings, warehouse)


def test_probabilities_are_moved_by_what_matured_and_the_record_says_so(world: World) -> None:
    world.score()
    expected = world.expected_shift()
    assert abs(expected) > 0.05, "the test would see no level"
    [(version, shift, estimate, n_nights, n_rows, first, last, reason)] = world.levels()
    assert shift == pytest.approx(expected, abs=1e-9)
    assert estimate == pytest.approx(expected * 2, abs=1e-8)
    assert (version, n_nights, n_rows, reason) == (1, 14, 700, None)
    assert (first, last) == (MATURE.first.day, MATURE.last.day)

    table = world.table(NIGHT)
    before = world.model().predictions(table).probability
    moved = 1 / (1 + np.exp(-np.log(before / (1 - before)) - shift))
    published = world.probabilities()
    assert list(published) == table.column("parcel_id").to_pylist()
    assert np.abs(np.array(list(published.values())) - moved).max() < 1e-12


def test_reasons_add_up_and_the_level_is_part_of_the_base(world: World) -> None:
    world.score()
    [(_, shift, *_)] = world.levels()
    [(base_raw, base_probability)] = world.rows(
        "select base_raw, base_probability from ml.version_explanations"
    )
    table = world.table(NIGHT)
    model = world.model()
    added = Contributions(model).of(model.encode(table)).sum(axis=1)
    scores = world.rows(
        "select score, probability, base_probability, effect_1, effect_2, other_effects"
        " from analytics.parcel_late_current order by parcel_id"
    )
    base = 1 / (1 + np.exp(-np.log(base_probability / (1 - base_probability)) - shift))
    for (value, probability, shown_base, *effects), contribution in zip(scores, added, strict=True):
        # The score of a binary model is not moved, so contributions explain it alone.
        assert np.log(value / (1 - value)) - base_raw == pytest.approx(contribution, abs=1e-9)
        assert shown_base == pytest.approx(base, abs=1e-12)
        total = shown_base + sum(effect or 0.0 for effect in effects) / 100
        assert total == pytest.approx(probability, abs=1e-12)
        # Effects are parts of a difference: none is larger than everything.
        assert max(abs(effect or 0.0) for effect in effects) < 100


def test_what_was_not_known_changes_nothing(world: World) -> None:
    version = world.champion
    with connect(world.settings, "test") as conn:
        [features] = published_records(conn, "features/parcel", [NIGHT.day])

        def shift() -> float:
            finder = LevelFinder(world.settings, conn, world.spec, "predictions/x", "test")
            return finder.find(version, world.model(), features).level.shift

        before = shift()
        # A correction that came a week later, by the second clock.
        world.deliver_outcomes(MATURE, every=10, known_after_days=30)
        assert shift() == before
        # An outcome of a night that is not mature yet, by the first clock.
        world.deliver_outcomes(PartitionRange(NIGHT.shift(-1), NIGHT.shift(-1)), every=1)
        assert shift() == before
        # The same correction, delivered in time.
        world.conn.execute("delete from marts.fct_parcel_labels")
        world.deliver_outcomes(MATURE, every=10)
        assert shift() < before


def test_rerun_gives_the_same_content_though_its_evidence_was_published_again(
    world: World,
) -> None:
    [first] = world.score()
    [again] = world.score()
    assert (again.load_id, again.is_new) == (first.load_id, False)
    levels = world.levels()
    # A later correction of an earlier night's features: new loads, other scores.
    publish_features(world.conn, MATURE, shift=3.0)
    [later] = world.score()
    assert (later.load_id, later.content_hash) == (first.load_id, first.content_hash)
    assert world.levels() == levels


def test_newer_nights_count_more_where_the_spec_says_so(world: World) -> None:
    # The newest night was a storm.
    world.deliver_outcomes(PartitionRange(MATURE.last, MATURE.last), every=1)
    [plain] = world.score()
    [(_, slow, slow_estimate, *_)] = world.levels()
    assert slow == pytest.approx(world.expected_shift(), abs=1e-9)

    recipe = world.spec.training.recipe
    level = recipe.level.model_copy(update={"half_life_nights": 2})
    changed = recipe.model_copy(update={"level": level})
    training = world.spec.training.model_copy(update={"recipe": changed})
    world.spec = world.spec.model_copy(update={"training": training})
    [first] = world.score()
    [(_, fast, fast_estimate, n_nights, *_)] = levels = world.levels()
    assert fast == pytest.approx(world.expected_shift(half_life=2), abs=1e-9)
    # The storm moves the estimate more; but there is less evidence, and as much doubt.
    assert fast_estimate > slow_estimate + 0.05
    assert n_nights == len(MATURE)
    assert first.content_hash != plain.content_hash
    # Its evidence is corrected later: what was published stays.
    publish_features(world.conn, MATURE, shift=3.0)
    [again] = world.score()
    assert (again.load_id, again.content_hash) == (first.load_id, first.content_hash)
    assert world.levels() == levels


def test_one_range_and_single_nights_give_equal_levels(world: World) -> None:
    nights = PartitionRange(NIGHT.shift(-1), NIGHT)
    world.score(nights)
    [together, alone] = world.levels()
    assert together != alone, "each night has its own"
    world.conn.execute("delete from ops.score_levels")
    world.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    for night in nights:
        world.score(PartitionRange(night, night))
    assert world.levels() == [together, alone]


def test_only_nights_after_the_fit_count(world: World) -> None:
    world.registry.promote("2013-06-26", seed=2)
    world.score()
    [(version, shift, _, n_nights, _, first, *_)] = world.levels()
    assert (version, n_nights, first) == (2, 4, dt.date(2013, 6, 26))
    world.registry.promote("2013-06-30", seed=3)
    world.score(DAY, named=PinnedVersion(3, "ann"))
    [(version, shift, *_, reason)] = world.levels()
    assert (version, shift) == (3, 0.0)
    assert reason == "no night after 2013-06-29, the end of the fit, is mature"


def test_without_outcomes_the_version_scores_as_it_was_trained(world: World) -> None:
    world.conn.execute("delete from marts.fct_parcel_labels")
    world.score()
    [(_, shift, *_, reason)] = world.levels()
    assert (shift, reason) == (0.0, "0 mature night(s) since the version's fit, 1 needed")
    plain = world.model().predictions(world.table(NIGHT)).probability
    assert list(world.probabilities().values()) == plain.tolist()
    [inputs] = world.rows(
        "select inputs from ops.loads where dataset = 'predictions/parcel_late'"
        " and state = 'published'"
    )
    assert "levels" not in inputs[0]


def test_level_that_waits_is_left_alone_and_the_night_is_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mature_nights, "STATEMENT_SECONDS", 1)
    nights = PartitionRange(NIGHT.shift(-4), NIGHT)
    with connect(world.settings, "blocker") as other, other.transaction():
        other.execute("lock table marts.fct_parcel_labels in access exclusive mode")
        started = time.monotonic()
        world.score(nights)
    # One wait for all five nights, and not one for each.
    assert time.monotonic() - started < 20
    levels = world.levels()
    assert [shift for _, shift, *_ in levels] == [0.0] * 5
    assert all("not estimated (NS-" in reason for *_, reason in levels)
    # What was published stays when it is asked for again: the same inputs, the same content.
    world.score(nights)
    assert world.levels() == levels


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("boom"), KeyError("x")])
def test_level_that_breaks_in_any_way_does_not_keep_the_night(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(level_finder, "estimate_level", broken)
    [published] = world.score()
    assert published.n_rows == 50
    [(_, shift, *_, reason)] = world.levels()
    assert shift == 0.0
    assert reason.startswith("not estimated (")


def test_a_void_load_keeps_no_level(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(level_finder, "estimate_level", None)
        world.score()
    [(_, shift, *_)] = world.levels()
    assert shift == 0.0
    void_loads(world.conn, "predictions/parcel_late", NIGHT.day, "no level", RUN)
    world.score()
    [(_, shift, *_)] = world.levels()
    assert shift == pytest.approx(world.expected_shift(), rel=1e-8)


def test_a_night_that_knows_more_than_the_partition_is_left_out(world: World) -> None:
    world.conn.execute(
        "update features.feat_parcel set as_of = as_of + interval '100 days'"
        " where partition_date = %s",
        [MATURE.last.day],
    )
    world.score()
    [(_, shift, _, n_nights, *_)] = world.levels()
    assert n_nights == 13
    assert shift != 0.0


def test_damaged_night_moves_nothing(world: World) -> None:
    world.conn.execute(
        "update features.feat_parcel set weight_kg = weight_kg + 1 where partition_date = %s",
        [MATURE.last.day],
    )
    world.score()
    [(_, shift, *_, reason)] = world.levels()
    assert shift == 0.0
    assert "NS-" in reason


def test_warehouse_of_before_publishes_without_levels(world: World) -> None:
    world.conn.execute("alter table ops.score_levels rename to score_levels_of_later")
    [published] = world.score()
    assert published.n_rows == 50
    plain = world.model().predictions(world.table(NIGHT)).probability
    stored = world.rows("select probability from predictions.parcel_late order by parcel_id")
    assert [value for (value,) in stored] == plain.tolist()


def test_warehouse_of_before_publishes_without_causes(world: World) -> None:
    world.spec = make_spec(analytics={"causes": [{"name": "size", "features": ["weight_kg"]}]})
    world.conn.execute("drop view if exists analytics.parcel_late_causes")
    world.conn.execute("alter table predictions.parcel_late drop column if exists causes cascade")
    [published] = world.score()
    assert published.n_rows == 50
    assert world.rows("select distinct score_source from predictions.parcel_late") == [
        ("champion",)
    ]


def test_challenger_gets_the_same_level_as_if_it_served(world: World) -> None:
    world.score()
    world.registry.promote("2013-06-10", seed=2, verdict="shadowed")
    score_shadows(world.settings, world.spec, NIGHT, RUN)
    [(version, shift, _, n_nights, *_)] = world.levels("shadow/parcel_late")
    assert (version, n_nights) == (2, 14)
    world.score(DAY, named=PinnedVersion(2, "ann"))
    [(served, served_shift, *_)] = world.levels()
    assert (served, served_shift) == (2, shift)
    shadow = world.rows("select parcel_id, probability from shadow.parcel_late order by 1")
    assert dict(shadow) == world.probabilities()


def test_rollback_publishes_the_retained_load_with_its_level(world: World) -> None:
    world.score()
    before, levels = world.probabilities(), world.levels()
    world.registry.promote(NIGHT.key, seed=2)
    world.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    world.score()
    assert world.levels()[0][0] == 2
    plan = plan_rollback(world.settings, world.spec, 1, NIGHT, RUN)
    [partition_run] = plan.partition_runs
    assert partition_run.reusable_loads
    roll_back(world.settings, world.spec, plan, "level", RUN)
    assert world.probabilities() == before
    assert world.levels() == levels


def test_plan_carries_the_level_as_plain_json(world: World) -> None:
    from nightshift.scoring.pipeline import begin
    from nightshift.scoring.plan import ScorePlan

    plan = begin(world.settings, world.spec, DAY, RUN)
    document = json.loads(json.dumps(plan.model_dump(mode="json")))
    assert ScorePlan.model_validate(document) == plan
    assert plan.days[0].level_shift == pytest.approx(world.expected_shift(), abs=1e-9)
    # Tasks of a release of before passed plans on without a level.
    del document["days"][0]["level_shift"]
    assert ScorePlan.model_validate(document).days[0].level_shift == 0.0
