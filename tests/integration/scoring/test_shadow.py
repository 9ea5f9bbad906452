"""Challengers score in the shadow: after the predictions, beside them, and seen by nobody."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.integration.scoring.conftest import DAY, Registry, make_spec, publish_features

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.registry.streams.nightly_decision import decide_on_evidence
from nightshift.registry.streams.nights import read_evidence, record_nights
from nightshift.scoring.pipeline import score
from nightshift.scoring.shadow import shadow_scores, shadow_tables
from nightshift.scoring.shadow.challengers import ShadowError
from nightshift.scoring.shadow.shadow_scores import score_shadows
from nightshift.scoring.shadow.shadow_tables import IncompleteShadowError

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

NIGHT = DAY.first
KNOWN_ON = NIGHT.shift(2)
RUN = RunContext("shadow/test", 1, "test")


class World:
    """A champion since June, a challenger since the night, features of three nights."""

    def __init__(self, settings: Settings, conn: Connection, **changed: object) -> None:
        self.settings, self.conn, self.spec = settings, conn, make_spec(**changed)
        self.registry = Registry(settings, conn, self.spec)
        self.champion = self.registry.promote("2013-06-20", seed=1)
        self.challenger = self.registry.promote(NIGHT.key, seed=2, verdict="shadowed")
        publish_features(conn, PartitionRange(NIGHT, KNOWN_ON))
        score(settings, self.spec, DAY, RUN)

    def shadow(self, night: Partition = NIGHT, attempt: int = 1):
        run = RunContext(RUN.run_id, attempt, "test")
        return score_shadows(self.settings, self.spec, night, run)

    def rows(self, query: str, *values: object) -> list[tuple]:
        return self.conn.execute(query.encode(), values).fetchall()

    def shadow_rows(self) -> list[tuple]:
        """Return what readers of the shadow would see of the night, by stream and key."""
        return self.rows(
            "select t.stream, t.parcel_id, t.model_version, t.probability"
            " from shadow.parcel_late t join ops.published p using (partition_date, load_id)"
            " where p.dataset = 'shadow/parcel_late' and t.partition_date = %s"
            " order by t.stream, t.parcel_id",
            NIGHT.day,
        )

    def predictions(self) -> list[tuple]:
        return self.rows(
            "select parcel_id, model_version, probability from analytics.parcel_late_current"
            " order by parcel_id"
        )

    def deliver_labels(self) -> None:
        """Deliver the outcomes of the night; every tenth parcel never gets one."""
        self.conn.execute(
            "insert into marts.fct_parcel_labels"
            " select parcel_id, %s, event_timestamp, %s, null,"
            " case when i %% 10 = 0 then null else i %% 3 = 0 end::int"
            " from (select t.*, row_number() over (order by parcel_id) i"
            "       from analytics.parcel_late_current t where partition_date = %s) r",
            [
                NIGHT.shift(1).day,
                dt.datetime.combine(KNOWN_ON.day, dt.time(1), dt.UTC),
                NIGHT.day,
            ],
        )


@pytest.fixture
def world(scoring_settings: Settings, warehouse: Connection) -> World:
    return World(scoring_settings, warehouse)


def test_challenger_scores_the_champions_rows_and_nobody_sees_it(world: World) -> None:
    before = world.predictions()
    published = world.shadow()
    assert (published.dataset, published.n_rows) == ("shadow/parcel_late", 50)
    rows = world.shadow_rows()
    assert [key for _, key, *_ in rows] == [key for key, *_ in before]
    assert {(stream, version) for stream, _, version, _ in rows} == {("trained", 2)}
    assert [probability for *_, probability in rows] != [value for *_, value in before]
    assert world.predictions() == before
    seen = world.rows(
        "select count(*) from pg_views where schemaname = 'analytics' and definition ~ 'shadow'"
    )
    granted = world.rows(
        "select count(*) from information_schema.role_table_grants"
        " where table_schema = 'shadow' and grantee <> current_user"
    )
    assert (seen, granted) == ([(0,)], [(0,)])


def test_rerun_scores_with_the_versions_that_scored_and_gives_equal_content(world: World) -> None:
    first, rows = world.shadow(), world.shadow_rows()
    world.registry.promote(NIGHT.key, seed=3, verdict="shadowed")
    again = world.shadow(attempt=2)
    assert (again.load_id, again.content_hash) == (first.load_id, first.content_hash)
    assert world.shadow_rows() == rows


def test_nothing_is_visible_when_it_is_killed_before_the_audit_and_the_rerun_is_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shadow_scores, "refuse_incomplete", killed)
        with pytest.raises(KeyboardInterrupt):
            world.shadow()
    assert world.shadow_rows() == []
    assert len(world.rows("select from shadow.parcel_late")) == 50
    world.shadow(attempt=2)
    assert len(world.shadow_rows()) == 50


def test_incomplete_scores_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = shadow_tables.refuse_incomplete

    def lose_rows(conn: Connection, spec, write, shares, features) -> None:
        conn.execute("delete from shadow.parcel_late where parcel_id like '%-7'")
        refuse(conn, spec, write, shares, features)

    monkeypatch.setattr(shadow_scores, "refuse_incomplete", lose_rows)
    with pytest.raises(IncompleteShadowError, match="trained: 49 of 50 rows"):
        world.shadow()
    assert world.shadow_rows() == []


def test_broken_challenger_fails_alone_and_the_predictions_stand(world: World) -> None:
    before = world.predictions()
    world.registry.corrupt(world.challenger)
    with pytest.raises(ShadowError, match="version 2"):
        world.shadow()
    assert world.predictions() == before


def test_named_version_is_a_stream_of_its_own_and_is_scored_when_another_one_is_broken(
    scoring_settings: Settings, warehouse: Connection
) -> None:
    promotion = {"metric": "roc_auc", "shadow_versions": [3]}
    world = World(scoring_settings, warehouse, promotion=promotion)
    world.registry.promote("2013-06-25", seed=3, verdict="refused")
    world.shadow()
    assert {(stream, version) for stream, _, version, _ in world.shadow_rows()} == {
        ("trained", 2),
        ("version_3", 3),
    }
    publish_features(warehouse, DAY, n_rows=60)
    world.registry.corrupt(world.challenger)
    world.shadow(attempt=2)
    streams = [stream for stream, *_ in world.shadow_rows()]
    assert streams == ["version_3"] * 60


def test_without_a_challenger_nothing_is_scored(world: World) -> None:
    assert world.shadow(NIGHT.shift(-3)) is None
    world.registry.promote(NIGHT.key, seed=4)
    assert world.shadow() is None, "the champion is newer than every challenger"


def test_matured_night_has_the_paired_loss_and_an_early_or_second_run_records_nothing(
    world: World,
) -> None:
    world.shadow()
    assert record_nights(world.settings, world.spec, KNOWN_ON, RUN) == [], "no label is known"
    world.deliver_labels()
    assert record_nights(world.settings, world.spec, KNOWN_ON.shift(-1), RUN) == []
    [night] = record_nights(world.settings, world.spec, KNOWN_ON, RUN)
    assert (night.partition_date, night.champion_version, night.challenger_version) == (
        NIGHT.day,
        1,
        2,
    )
    assert (night.loss, night.n_rows) == ("log_loss", 45)

    label = np.array(
        world.rows(
            "select is_late::int from marts.fct_parcel_labels where is_late is not null"
            " order by parcel_id"
        )
    )[:, 0]
    never = {
        key
        for (key,) in world.rows(
            "select parcel_id from marts.fct_parcel_labels where is_late is null"
        )
    }
    for rows, loss in (
        (world.predictions(), night.champion_loss),
        ([row[1:] for row in world.shadow_rows()], night.challenger_loss),
    ):
        p = np.array([value for key, _, value in rows if key not in never])
        by_hand = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))
        assert loss == pytest.approx(by_hand, rel=1e-12)

    assert record_nights(world.settings, world.spec, KNOWN_ON, RUN) == []
    [shown] = world.rows("select stream, n_nights, e_value, gain from monitoring.streams")
    assert shown[:2] == ("trained", 1)
    assert shown[2] <= 1.0, "one night proves nothing"
    assert shown[3] == pytest.approx(night.champion_loss - night.challenger_loss)
    assert decide_on_evidence(world.settings, world.spec, KNOWN_ON, RUN) is None


def test_night_of_a_fallback_or_of_other_features_is_no_night_of_the_stream(world: World) -> None:
    world.shadow()
    world.deliver_labels()
    world.conn.execute("update predictions.parcel_late set score_source = 'previous_champion'")
    assert record_nights(world.settings, world.spec, KNOWN_ON, RUN) == []
    world.conn.execute("update predictions.parcel_late set score_source = 'champion'")
    world.conn.execute("update shadow.parcel_late set features_as_of = '2013-01-01'")
    assert record_nights(world.settings, world.spec, KNOWN_ON, RUN) == []
    assert world.rows("select from monitoring.stream_nights") == []


def test_a_stream_that_misses_nights_is_not_complete_and_is_again_once_they_are_scored(
    world: World,
) -> None:
    """A challenger that fails on some rows would be compared on all other nights only."""
    nights = [NIGHT, NIGHT.shift(1), NIGHT.shift(2)]
    for night in nights[1:]:
        score(world.settings, world.spec, PartitionRange(night, night), RUN)
    world.shadow()
    world.deliver_labels()
    record_nights(world.settings, world.spec, KNOWN_ON, RUN)

    def evidence():
        decides = NIGHT.shift(4)
        return read_evidence(world.conn, world.spec, "trained", decides, world.champion.version)

    assert (evidence().n_unscored, evidence().is_complete) == (2, False)
    world.shadow(nights[1])
    assert (evidence().n_unscored, evidence().is_complete) == (1, True)
    world.shadow(nights[2])
    assert evidence().n_unscored == 0
