"""Published rows say how sure they are: by what was known then, the same at every rerun."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.integration.scoring import test_level
from tests.integration.scoring.conftest import (
    DAY,
    Registry,
    make_spec,
    publish_features,
    tiny_model,
)
from tests.integration.scoring.test_level import MATURE, NIGHT, World

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.models.predictions import Predictions
from nightshift.models.unseen_nights import summarise_nights
from nightshift.monitoring.outcomes import read_outcomes
from nightshift.monitoring.performance import measure_performance
from nightshift.scoring.interval.night_interval import NightInterval
from nightshift.scoring.level import level_finder, mature_nights
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

EARLIEST = NIGHT.shift(-25)
RUN = RunContext("interval/test", 1, "test")
COLUMNS = "parcel_id, score, median, interval_low, interval_high"


class DelayWorld(World):
    """A regression that was fitted in May, with outcomes of every night since."""

    def __init__(self, settings: Settings, conn: Connection) -> None:
        self.settings, self.conn = settings, conn
        self.spec = make_spec(
            task="regression",
            training={"schedule": "nightly", "params": {"num_leaves": 4}},
            promotion={"metric": "rmse"},
            monitoring={
                "metric": "mae", "maximum_metric_loss": 1.0, "windows": {"n": 2, "m": 3},
            },
        )  # fmt: skip
        self.registry = Registry(settings, conn, self.spec)
        self.champion = self.registry.promote("2013-05-10", seed=1)
        nights = PartitionRange(EARLIEST, NIGHT)
        publish_features(conn, nights)
        for day in nights.days:
            self.deliver(day)

    def deliver(self, day: dt.date, factor: float = 1.0, late_days: int = 0) -> None:
        """Deliver the outcomes of a night: skewed within it, and each night has its own level."""
        known_at = dt.datetime.combine(day + dt.timedelta(days=1 + late_days), dt.time(23), dt.UTC)
        self.conn.execute(
            "update marts.fct_parcel_labels set superseded_at = %s"
            " where partition_date = %s and superseded_at is null",
            [known_at, day + dt.timedelta(days=1)],
        )
        dice = np.random.default_rng(day.toordinal())
        outcome = factor * (dice.exponential(4.0, 50) + dice.normal(0, 3.0))
        self.conn.execute(
            "insert into marts.fct_parcel_labels"
            " select parcel_id, %s, event_timestamp, %s, null, (%s::float8[])[i] from ("
            " select f.*, row_number() over (order by parcel_id) i"
            " from features.feat_parcel f join ops.published p using (partition_date, load_id)"
            " where p.dataset = 'features/parcel' and partition_date = %s) r",
            [day + dt.timedelta(days=1), known_at, outcome.tolist(), day],
        )

    def stored(self) -> list[tuple]:
        return self.rows(
            f"select t.partition_date, {COLUMNS} from predictions.parcel_late t"
            " join ops.published p using (partition_date, load_id)"
            " where p.dataset = 'predictions/parcel_late' order by 1, 2"
        )

    def forget(self) -> None:
        """Let the nights be scored as if they never were."""
        self.conn.execute("delete from ops.score_levels")
        self.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")

    def intervals(self) -> list[tuple]:
        return self.rows(
            "select v.partition_date, v.interval, v.interval_reason from ops.score_levels v"
            " join ops.published p using (dataset, partition_date, load_id)"
            " where dataset = 'predictions/parcel_late' order by 1"
        )


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine is not what these tests are about.
    monkeypatch.setattr(mature_nights, "BUDGET_SECONDS", 120.0)
    monkeypatch.setattr(mature_nights, "STATEMENT_SECONDS", 60)


@pytest.fixture
def warehouse(warehouse: Connection) -> Connection:
    # The outcomes of these parcels are hours.
    for view in ("current", "history", "outcomes"):
        warehouse.execute(f"drop view if exists analytics.parcel_late_{view} cascade".encode())
    warehouse.execute("drop function if exists predictions.parcel_late_labels() cascade")
    warehouse.execute("alter table marts.fct_parcel_labels alter is_late type double precision")
    return warehouse


@pytest.fixture
def world(scoring_settings: Settings, warehouse: Connection) -> DelayWorld:
    return DelayWorld(scoring_settings, warehouse)


def test_rows_have_a_median_and_an_interval_and_the_record_says_how(world: DelayWorld) -> None:
    world.score()
    [(_, document, reason)] = world.intervals()
    interval = NightInterval.model_validate(document)
    assert reason is None
    assert (interval.level, interval.n_nights, interval.n_unseen) == (0.8, 24, 0)
    assert (interval.first_night, interval.last_night) == (EARLIEST.day, MATURE.last.day)

    rows = world.stored()
    value = np.array([score for _, _, score, *_ in rows])
    stored = np.array([answers for _, _, _, *answers in rows])
    assert np.array_equal(interval.answers(Predictions(value)), stored)
    median, low, high = stored.T
    assert ((low < median) & (median < high)).all()
    shown = world.rows(
        "select value, median, value_low, value_high from analytics.parcel_late_current"
        " order by parcel_id"
    )
    assert shown == [tuple(answers) for _, _, *answers in rows]


def test_rerun_gives_the_same_bytes_though_outcomes_were_corrected(world: DelayWorld) -> None:
    [first] = world.score()
    rows, intervals = world.stored(), world.intervals()
    for day in MATURE.days:
        world.deliver(day, factor=9.0)
    [again] = world.score()
    assert (again.load_id, again.is_new) == (first.load_id, False)
    assert (world.stored(), world.intervals()) == (rows, intervals)


def test_one_range_and_single_nights_give_equal_bytes(world: DelayWorld) -> None:
    nights = PartitionRange(NIGHT.shift(-2), NIGHT)
    world.score(nights)
    together, intervals = world.stored(), world.intervals()
    assert len({str(document) for _, document, _ in intervals}) == 3, "each night has its own"
    world.forget()
    for night in nights:
        world.score(PartitionRange(night, night))
    assert world.stored() == together
    assert world.intervals() == intervals


def test_what_was_not_known_changes_nothing(world: DelayWorld) -> None:
    world.score()
    before = world.intervals()
    world.forget()
    # By the second clock: corrected a month later. By the first: a night that is not mature.
    for day in MATURE.days:
        world.deliver(day, factor=9.0, late_days=30)
    world.deliver(NIGHT.shift(-1).day, factor=9.0)
    world.score()
    assert world.intervals() == before
    world.forget()
    world.conn.execute("delete from marts.fct_parcel_labels")
    for day in PartitionRange(EARLIEST, NIGHT).days:
        world.deliver(day, factor=2.0)
    world.score()
    assert world.intervals() != before


def test_monitor_reads_coverage_width_and_losses(world: DelayWorld) -> None:
    world.score(PartitionRange(NIGHT.shift(-2), NIGHT.shift(-2)))
    as_of = dt.datetime.combine(NIGHT.day + dt.timedelta(days=1), dt.time(12), dt.UTC)
    with connect(world.settings, "test") as conn:
        rows = read_outcomes(world.settings, conn, world.spec, NIGHT, as_of)
    assert rows is not None
    measured = {
        part.metric: part.value
        for part in measure_performance(world.spec, rows)
        if part.slice_name == "all"
    }
    label = np.array(rows.column("label").to_pylist())
    low, high = (np.array(rows.column(f"interval_{end}").to_pylist()) for end in ("low", "high"))
    assert measured["interval_coverage"] == ((low <= label) & (label <= high)).mean()
    assert measured["interval_width"] == pytest.approx((high - low).mean())
    assert 0 < measured["pinball_median"] < measured["mae"]
    assert {"pinball_low", "pinball_high", "median_bias", "bias"} <= measured.keys()


def test_new_version_is_sure_by_its_out_of_fold_nights(world: DelayWorld) -> None:
    dice = np.random.default_rng(1)
    last = NIGHT.shift(-1).day
    days = np.repeat(np.arange(-20, 0) + (last - dt.date(1970, 1, 1)).days, 100)
    score = dice.uniform(0, 5, days.size)
    summary = summarise_nights(days, score + dice.normal(0, 50, days.size), Predictions(score))
    promote = world.registry.promote

    def summarised(spec, seed):
        model = tiny_model(spec, seed)
        return replace(model, training={**model.training, "unseen_nights": summary})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.integration.scoring.conftest.tiny_model", summarised)
        promote(NIGHT.key, seed=7)
    world.score()
    [(_, document, reason)] = world.intervals()
    assert reason is None
    assert (document["n_nights"], document["n_unseen"], document["read_from"]) == (20, 20, None)
    # A version without a summary has no such night.
    promote(NIGHT.shift(1).key, seed=8)
    publish_features(world.conn, PartitionRange(NIGHT.shift(1), NIGHT.shift(1)))
    world.score(PartitionRange(NIGHT.shift(1), NIGHT.shift(1)))
    [_, (_, document, reason)] = world.intervals()
    assert (document, reason) == (None, "0 night(s) that no fit has seen, 10 needed")
    assert all(answers == [None] * 3 for day, _, _, *answers in world.stored() if day > NIGHT.day)


def test_interval_that_waits_or_breaks_keeps_neither_level_nor_night(
    world: DelayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(level_finder, "find_interval", broken)
        [published] = world.score()
    assert published.n_rows == 50
    [(_, document, reason)] = world.intervals()
    assert (document, reason) == (None, "not estimated (MemoryError)")
    [(_, shift, *_)] = world.levels()
    assert shift != 0.0

    # The nights before those of the level take too long: the level stands.
    original = mature_nights.NightReader.read

    def slow(reader, scorer, version, window, features, kept_from):
        if window.last < MATURE.first:
            raise mature_nights.SlowLevelError("too long", expected="", got="", todo="")
        return original(reader, scorer, version, window, features, kept_from)

    monkeypatch.setattr(mature_nights.NightReader, "read", slow)
    world.forget()
    world.score()
    [(_, document, reason)] = world.intervals()
    assert document is None
    assert "NS-SCORE-010" in reason
    [(_, again, *_)] = world.levels()
    assert again == shift


def test_warehouse_of_before_publishes_without_intervals(world: DelayWorld) -> None:
    for table in ("predictions.parcel_late", "ops.score_levels"):
        names = "interval_reason, drop column interval"
        if table != "ops.score_levels":
            names = "median cascade, drop column interval_low cascade, drop column interval_high"
        world.conn.execute(f"alter table {table} drop column {names} cascade".encode())
    [published] = world.score()
    assert published.n_rows == 50
    [(_, shift, *_)] = world.levels()
    assert shift != 0.0
    assert world.rows("select distinct value_low from analytics.parcel_late_current") == [(None,)]


def test_binary_night_has_a_band_around_each_probability(
    scoring_settings: Settings, warehouse: Connection
) -> None:
    world = test_level.World(scoring_settings, warehouse)
    world.spec = make_spec()
    world.score(DAY)
    rows = world.rows(
        "select probability, probability_low, probability_high from analytics.parcel_late_current"
    )
    assert len(rows) == 50
    assert all(low <= probability <= high for probability, low, high in rows)
    [(document,)] = world.rows("select interval from ops.score_levels")
    assert (document["n_nights"], len(document["low"])) == (14, 1)
