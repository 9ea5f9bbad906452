"""A share of the entities gets the challenger first: marked, never waited for, and returned."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import TYPE_CHECKING

import pytest
from tests.integration.scoring.conftest import Registry, make_spec, publish_features

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.incidents.context import EvaluationContext
from nightshift.incidents.rules.models import returned_canaries
from nightshift.provenance.predictions import find_prediction
from nightshift.provenance.records import read_model
from nightshift.registry.canary import decision as canary_decision
from nightshift.registry.canary.membership import hash_bound, in_canary, in_canary_condition
from nightshift.registry.canary.record import canary_for
from nightshift.registry.streams.nightly_decision import decide_night
from nightshift.registry.streams.nights import record_nights
from nightshift.registry.streams.paired_rows import read_pairs
from nightshift.scoring.canary import choice as canary_choice
from nightshift.scoring.canary import rows as canary_rows
from nightshift.scoring.pipeline import begin, publish, score, score_shard
from nightshift.scoring.planning import DowngradeError
from nightshift.scoring.shadow.shadow_scores import score_shadows

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FIRST = Partition(dt.date(2013, 7, 1))
RUN = RunContext("canary/test", 1, "test")
SHARE = 0.2
N_ROWS = 200
PROMOTION = {
    "metric": "roc_auc",
    "canary": {"share": SHARE, "after_nights": 1, "maximum_loss": 0.001},
}


class World:
    """A champion since June, a sound challenger since the first night, and features of nights."""

    def __init__(self, settings: Settings, conn: Connection, n_nights: int = 7) -> None:
        self.settings, self.conn = settings, conn
        self.spec = make_spec(promotion=PROMOTION)
        self.registry = Registry(settings, conn, self.spec)
        self.registry.promote("2013-06-20", seed=1)
        self.challenger = self.registry.promote(FIRST.key, seed=2, verdict="shadowed")
        nights = PartitionRange(FIRST, FIRST.shift(n_nights - 1))
        publish_features(conn, nights, n_rows=N_ROWS)

    def query(self, query: str, *values: object) -> list[tuple]:
        return self.conn.execute(query.encode(), values).fetchall()

    def score(self, night: Partition, last: Partition | None = None, spec=None):
        partitions = PartitionRange(night, last or night)
        return score(self.settings, spec or self.spec, partitions, RUN)

    def live(self, night: Partition):
        """Do what the night's DAGs do; return the decisions."""
        self.score(night)
        score_shadows(self.settings, self.spec, night, RUN)
        record_nights(self.settings, self.spec, night, RUN)
        return decide_night(self.settings, self.spec, night, RUN)

    def deliver_labels(self, night: Partition, winner: int) -> None:
        """Deliver outcomes by which one version's probability is the better one in every row."""
        sign = ">" if winner == 2 else "<"
        self.conn.execute(
            "insert into marts.fct_parcel_labels"
            " select s.parcel_id, %s, now(), %s, null,"
            f" (s.probability {sign} c.probability)::int"
            " from shadow.parcel_late s join ("
            "   select parcel_id, probability from predictions.parcel_late t"
            "   join ops.published p using (partition_date, load_id)"
            "   where dataset = 'predictions/parcel_late' and partition_date = %s"
            "     and score_source = 'champion'"
            "   union all select parcel_id, probability from shadow.parcel_late"
            "   where stream = 'champion' and partition_date = %s) c using (parcel_id)"
            " where s.partition_date = %s and s.stream = 'trained'".encode(),
            [
                night.shift(1).day,
                dt.datetime.combine(night.shift(2).day, dt.time(1), dt.UTC),
                night.day,
                night.day,
                night.day,
            ],
        )

    def open(self, since: Partition) -> None:
        """Put a canary on record, as a night that found the challenger's stream good does."""
        self.conn.execute(
            "insert into ml.promotions (model, version, verdict, champion_version, partition_date,"
            " effective_partition, reasons, numbers, run_id, actor)"
            " values (%s, 2, 'canary', 1, %s, %s, '{good}', %s, 'r', 'test')",
            [self.spec.name, since.shift(-1).day, since.day, json.dumps({"share": SHARE})],
        )

    def rows(self, night: Partition) -> dict[str, tuple]:
        return {
            key: row
            for key, *row in self.query(
                "select parcel_id, score_source, model_version, probability, reasons::text,"
                " score_source_reason from analytics.parcel_late_current"
                " where partition_date = %s order by 1",
                night.day,
            )
        }

    def sources(self, night: Partition) -> set[tuple]:
        return {(source, version) for source, version, *_ in self.rows(night).values()}

    def content(self, night: Partition) -> tuple:
        [row] = self.query(
            "select load_id, content_hash from ops.published p"
            " join ops.loads l using (dataset, partition_date, load_id)"
            " where dataset = 'predictions/parcel_late' and partition_date = %s",
            night.day,
        )
        return row

    def shadow(self, night: Partition, stream: str) -> dict[str, tuple]:
        return {
            key: tuple(row)
            for key, *row in self.query(
                "select t.parcel_id, t.model_version, t.probability from shadow.parcel_late t"
                " join ops.published p using (partition_date, load_id)"
                " where p.dataset = 'shadow/parcel_late' and partition_date = %s and stream = %s",
                night.day,
                stream,
            )
        }


@pytest.fixture
def world(scoring_settings: Settings, warehouse: Connection) -> World:
    return World(scoring_settings, warehouse)


def own_keys(rows: dict[str, tuple]) -> set[str]:
    keys = list(rows)
    inside = in_canary("parcel_late", SHARE, keys)
    return {key for key, is_in in zip(keys, inside, strict=True) if is_in}


@pytest.mark.mlts("infra-6")
def test_challenger_is_given_its_share_and_returned_when_its_rows_lose(world: World) -> None:
    nights = [FIRST.shift(n) for n in range(7)]
    assert world.live(FIRST) == []
    world.deliver_labels(FIRST, winner=2)
    assert world.live(nights[1]) == [], "no night has matured"
    [opened] = world.live(nights[2])
    assert (opened.verdict, opened.version, opened.champion_version) == ("canary", 2, 1)
    assert "Stream trained has 1 matured night(s) against version 1" in opened.reasons[0]
    assert {source for source, _ in world.sources(nights[2])} == {"champion"}

    # The first night of the canary: exactly its share is its own, marked, with its own reasons.
    canary = nights[3]
    assert world.live(canary) == []
    rows = world.rows(canary)
    own = {key for key, row in rows.items() if row[0] == "canary"}
    assert own == own_keys(rows)
    assert 20 < len(own) < 60
    assert {rows[key][1] for key in own} == {2}
    assert {rows[key][1] for key in rows.keys() - own} == {1}
    assert {rows[key][4] for key in own} == {
        "version 2 scores 20 % of the entities since 2013-07-04"
    }
    challengers = world.shadow(canary, "trained")
    assert {key: row[2] for key, row in rows.items() if key in own} == {
        key: challengers[key][1] for key in own
    }
    [detail] = world.query(
        "select version, champion_version, share, first_partition, problem from ops.canary_nights"
    )
    assert detail == (2, 1, SHARE, canary.day, None)

    # Every stream keeps both versions on all entities.
    beside = world.shadow(canary, "champion")
    assert beside.keys() == own
    assert {version for version, _ in beside.values()} == {1}
    world.deliver_labels(canary, winner=1)
    known_on = canary.shift(2)
    pairs = read_pairs(
        world.settings,
        world.conn,
        world.spec,
        "trained",
        PartitionRange.single(canary),
        known_on,
    ).to_pylist()
    assert [row["parcel_id"] for row in pairs] == sorted(rows)
    assert {row["champion_version"] for row in pairs} == {1}
    assert {row["challenger_version"] for row in pairs} == {2}

    assert world.live(nights[4]) == []
    published = world.content(canary)
    [returned] = world.live(known_on)
    assert returned.verdict == "returned"
    assert "On its own rows of 1 night(s) it lost" in returned.reasons[0]
    measured = world.query(
        "select n_rows, champion_version, challenger_version, champion_loss < challenger_loss"
        " from monitoring.stream_nights where stream = 'canary_rows'"
    )
    assert measured == [(len(own), 1, 2, True)]
    assert world.live(nights[6]) == []
    assert world.sources(nights[6]) == {("champion", 1)}

    # What was decided since changes no old night, nor does a spec without canaries.
    world.score(canary)
    assert world.content(canary) == published
    world.score(nights[2], nights[4], make_spec(promotion={"metric": "roc_auc"}))
    assert world.content(canary) == published
    assert world.sources(nights[2]) == {("champion", 1)}
    assert world.rows(canary) == rows
    [shown] = world.query("select ended_by, last_partition from ml.canaries")
    assert shown == ("returned", known_on.day)
    # A rerun of the night that decided decides nothing.
    assert decide_night(world.settings, world.spec, known_on, RUN) == []
    assert decide_night(world.settings, world.spec, nights[2], RUN) == []


def test_python_and_sql_put_the_same_entities_into_a_share(world: World) -> None:
    from psycopg import sql

    keys = [f"ключ {i} ☃ {i * i}" for i in range(5000)]
    for share in (0.003, 0.05, 0.5):
        is_in = in_canary_condition("m", sql.Literal(hash_bound(share)), sql.SQL("key"))
        query = sql.SQL("select {} from unnest(%s::text[]) with ordinality k (key, i) order by i")
        of_sql = [row[0] for row in world.conn.execute(query.format(is_in), [keys])]
        assert of_sql == in_canary("m", share, keys).tolist()
        assert any(of_sql)


def test_range_gives_the_content_of_its_nights(world: World) -> None:
    world.open(FIRST.shift(1))
    nights = [FIRST.shift(n) for n in range(3)]
    for night in nights:
        world.score(night)
    one_by_one = [world.content(night)[1] for night in nights]
    assert [len(world.sources(night)) for night in nights] == [1, 2, 2]
    world.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    world.score(nights[0], nights[-1])
    assert [world.content(night)[1] for night in nights] == one_by_one


def test_damaged_challenger_leaves_every_row_to_the_champion_and_is_returned(world: World) -> None:
    world.score(FIRST)
    alone = world.content(FIRST)
    world.conn.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    world.open(FIRST)
    world.registry.corrupt(world.challenger)
    started = time.monotonic()
    world.score(FIRST)
    assert time.monotonic() - started < 30
    assert world.sources(FIRST) == {("champion", 1)}
    assert world.content(FIRST)[1] == alone[1], "as if there were no canary"
    [(problem,)] = world.query("select problem from ops.canary_nights")
    assert problem.startswith("version 2 cannot score (NS-LAKE-004")
    [decision] = decide_night(world.settings, world.spec, FIRST, RUN)
    assert decision.verdict == "returned"
    assert decision.reasons[0].startswith("It did not score on 2013-07-01: version 2 cannot")
    assert canary_for(world.conn, world.spec.name, FIRST.shift(1)) is None
    context = EvaluationContext(world.settings, world.conn, dt.datetime.now(dt.UTC))
    [fact] = returned_canaries(context)
    assert (fact.code, fact.subject, fact.facts["version"]) == (
        "NS-INCIDENT-012",
        "parcel_late",
        2,
    )
    assert fact.what.startswith("Version 2 of parcel_late scored 20 % of the entities from 2013")


def test_challenger_that_hangs_is_given_up_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(
        promotion={"metric": "roc_auc", "canary": {"share": 0.2, "maximum_seconds": 1}}
    )
    world.open(FIRST)
    monkeypatch.setattr(canary_choice, "try_version", lambda *_: time.sleep(300))
    started = time.monotonic()
    world.score(FIRST, spec=spec)
    assert time.monotonic() - started < 30
    assert world.sources(FIRST) == {("champion", 1)}
    [(problem,)] = world.query("select problem from ops.canary_nights")
    assert problem.startswith("version 2 cannot score (TimeoutError: trying version")


@pytest.mark.parametrize("breaks", ["load_version", "scorer"])
def test_challenger_that_breaks_in_a_shard_refuses_the_load_and_the_champion_scores_all(
    world: World, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    class Broken:
        feature_names = ()

        def score(self, *_: object) -> None:
            raise MemoryError

    def fail(*_: object) -> None:
        raise OSError("the bucket is away")

    world.open(FIRST)
    partitions = PartitionRange.single(FIRST)
    plan = begin(world.settings, world.spec, partitions, RUN)
    assert plan.canary_versions == [2]
    score_shard(world.settings, world.spec, plan, 0, RUN)
    if breaks == "scorer":
        monkeypatch.setattr(canary_rows, "load_scorer", lambda *_: Broken())
    else:
        monkeypatch.setattr(canary_rows, "load_version", fail)
    for shard in (1, 2):
        score_shard(world.settings, world.spec, plan, shard, RUN)
    publish(world.settings, world.spec, plan, RUN)
    assert world.sources(FIRST) == {("champion", 1)}
    assert len(world.rows(FIRST)) == N_ROWS


def test_suite_that_refuses_the_canary_leaves_every_row_to_the_champion(world: World) -> None:
    suite = world.settings.expectations_dir / "predictions" / "parcel_late.json"
    document = json.loads(suite.read_text())
    document["expectations"].append(
        {
            "type": "expect_column_values_to_be_in_set",
            "kwargs": {"column": "score_source", "value_set": ["champion", "previous_champion"]},
            "severity": "critical",
        }
    )
    suite.write_text(json.dumps(document))
    world.open(FIRST)
    world.score(FIRST)
    assert world.sources(FIRST) == {("champion", 1)}
    [(problem,)] = world.query("select problem from ops.canary_nights")
    assert problem == "the scores of version 2 failed their gate (NS-GATE-001)"


def test_rerun_that_cannot_repeat_the_canary_leaves_its_rows_and_corrected_features_do_not_wait(
    world: World,
) -> None:
    world.open(FIRST)
    world.score(FIRST)
    rows = world.rows(FIRST)
    # The lineage of a row names its own version, and the decision that let it in.
    verdicts = {}
    for key in (min(own_keys(rows)), min(rows.keys() - own_keys(rows))):
        prediction = find_prediction(world.conn, world.spec, key)
        model = read_model(world.conn, world.spec, prediction)
        verdicts[prediction.score_source] = (model["version"], model["promotion"]["verdict"])
    assert verdicts == {"canary": (2, "canary"), "champion": (1, "promoted")}
    world.registry.corrupt(world.challenger)
    with pytest.raises(DowngradeError, match="cannot be repeated"):
        world.score(FIRST)
    assert world.rows(FIRST) == rows
    publish_features(world.conn, PartitionRange.single(FIRST), n_rows=N_ROWS, shift=0.5)
    world.score(FIRST)
    assert world.sources(FIRST) == {("champion", 1)}


def test_another_champion_has_no_canary_beside_it(world: World) -> None:
    world.open(FIRST)
    world.registry.promote(FIRST.shift(1).key, seed=3)
    world.score(FIRST, FIRST.shift(1))
    assert world.sources(FIRST) == {("champion", 1), ("canary", 2)}
    assert world.sources(FIRST.shift(1)) == {("champion", 3)}
    [decision] = decide_night(world.settings, world.spec, FIRST, RUN)
    assert decision.reasons[0].startswith("The champion is version 3, not version 1 any more")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"share": SHARE, "maximum_nights": 2}, "2 nights have decided nothing."),
        ({"share": 0.0}, "The spec has switched canaries off."),
    ],
)
def test_canary_that_nobody_decides_about_or_wants_is_returned(
    world: World, limits: dict[str, float], reason: str
) -> None:
    spec = make_spec(promotion={"metric": "roc_auc", "canary": limits})
    world.open(FIRST)
    second = FIRST.shift(1)
    decided = [decide_night(world.settings, spec, night, RUN) for night in (FIRST, second)]
    [decision] = [decision for of_night in decided for decision in of_night]
    assert (decision.verdict, decision.reasons) == ("returned", [reason])
    assert canary_for(world.conn, spec.name, FIRST) is not None, "an old night keeps its canary"


def test_broken_input_returns_a_canary_and_keeps_the_next_from_opening(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open(FIRST)
    monkeypatch.setattr(canary_decision, "broken_nights", lambda *_: [(FIRST.day, 2)])
    [decision] = decide_night(world.settings, world.spec, FIRST, RUN)
    assert decision.reasons == ["2 column(s) of the input of 2013-07-01 are broken."]
