"""Predictions are made again bit by bit from raw rows, also after corrections; what differs is
shown; the chain names every link."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pydantic import SecretStr
from tests.databases import own_database
from tests.integration.transformation.conftest import FIRST, World
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.model_spec import CategoricalFeature, ModelSpec, load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.provenance.lineage import explain, reasons_in_words
from nightshift.provenance.predictions import (
    NoPredictionError,
    Prediction,
    find_prediction,
    sample_predictions,
)
from nightshift.provenance.repro import NotReplayableError, replay_predictions
from nightshift.provenance.training_set import rebuild_training_set
from nightshift.registry.model_versions import register
from nightshift.scoring.pipeline import score
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.candidate import Provenance, store_candidate
from nightshift.training.model_fit import fit_model
from nightshift.training.training_set import TrainingSet, build_training_set, read_rows
from nightshift.transformation.build import build
from nightshift.transformation.feature_manifest import OriginLostError, loads_named
from nightshift.warehouse.connection import connect

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

RUN = RunContext("test/replay", 1, "test")
DAYS = [FIRST + dt.timedelta(days=i) for i in range(13)]
NUMERIC = (
    "departure_minute_of_day",
    "all_delay_rate_7d",
    "carrier_delay_rate_7d",
    "route_delay_rate_28d",
    "temperature_f_last",
    "aircraft_arrival_delay_last_3d",
)


def small_spec() -> ModelSpec:
    """Return the real spec, for a world of five flights a day."""
    spec = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")
    features = spec.features.model_copy(
        update={
            "numeric": NUMERIC,
            "categorical": (CategoricalFeature(name="carrier", minimum_rows=1),),
        }
    )
    days = {"minimum_days": 8, "cold_start_days": None, "validation_days": 2, "holdout_days": 2}
    trees = {"num_boost_round": 12, "params": {"num_leaves": 4, "min_data_in_leaf": 5}}
    return spec.model_copy(
        update={"features": features, "training": spec.training.model_copy(update=days | trees)}
    )


@dataclass(frozen=True)
class Played:
    """What is left of three nights: a world, its spec, and the champion's training set."""

    world: World
    spec: ModelSpec
    training_set: TrainingSet

    @property
    def made(self) -> Prediction:
        """Return one prediction that readers see, of the last night."""
        row = self.world.conn.execute(
            "select min(flight_id) from analytics.flight_delayed_current where partition_date = %s",
            [DAYS[12]],
        )
        return find_prediction(self.world.conn, self.spec, str((row.fetchone() or [""])[0]))

    @contextmanager
    def changed(self, table: str, column: str, value: str, flight_id: str) -> Iterator[None]:
        """Change a column of one flight by hand, and put it back."""
        kept = (
            f"create table kept as select load_id, partition_date, {column} as was "
            f"from {table} where flight_id = '{flight_id}'"
        )
        conn = self.world.conn
        conn.execute(kept.encode())
        conn.execute(
            f"update {table} set {column} = {value} where flight_id = '{flight_id}'".encode()
        )
        yield
        conn.execute(
            f"update {table} t set {column} = was from kept k where t.flight_id = '{flight_id}'"
            " and (t.load_id, t.partition_date) = (k.load_id, k.partition_date); "
            "drop table kept".encode()
        )


@pytest.fixture(scope="module")
def played(
    session_settings: Settings, dbt_database: tuple[str, str], warm_dbt: None
) -> Iterator[Played]:
    """Return three nights that a champion scored: two in one range, one alone; then a correction
    and a late drop, and two nights again."""
    quiet = session_settings.model_copy(update={"mlflow_tracking_uri": SecretStr("")})
    with (
        own_database(quiet, *dbt_database) as settings,
        pytest.MonkeyPatch.context() as patch,
        connect(settings, "test") as conn,
    ):
        patch.setattr("nightshift.quality.gates.run_gate", lambda *_: None)
        yield play(World(settings, conn, load_contracts(settings.datasets_dir)), small_spec())


def play(world: World, spec: ModelSpec) -> Played:
    for day in DAYS:
        world.deliver_day(day, seed=1)
    build_days(world, 0, 11)
    training_set = promote(world, spec, Partition(DAYS[10]))
    score_days(world, spec, 10, 11)
    build_days(world, 12, 12)
    score_days(world, spec, 12, 12)
    world.deliver(
        "flight_outcomes",
        DAYS[11],
        world.outcomes(DAYS[11], seed=5),
        Partition(DAYS[11]).cutoff + dt.timedelta(hours=2),
    )
    world.deliver(
        "flight_outcomes",
        DAYS[10],
        world.outcomes(DAYS[10], seed=6),
        Partition(DAYS[10]).cutoff - dt.timedelta(minutes=1),
    )
    build_days(world, 11, 12)
    score_days(world, spec, 11, 12)
    return Played(world, spec, training_set)


def build_days(world: World, first: int, last: int) -> None:
    build(world.settings, PartitionRange(Partition(DAYS[first]), Partition(DAYS[last])), RUN)


def score_days(world: World, spec: ModelSpec, first: int, last: int) -> None:
    score(world.settings, spec, PartitionRange(Partition(DAYS[first]), Partition(DAYS[last])), RUN)


def promote(world: World, spec: ModelSpec, night: Partition) -> TrainingSet:
    """Train a tiny model on the night's real training set and make it champion from the first
    night that is scored."""
    training_set = build_training_set(world.settings, spec, night, RUN)
    store = ObjectStore.open(world.settings)
    rows = read_rows(store, training_set)
    model = replace(
        fit_model(spec, rows.slice(0, 28), rows.slice(28)),
        decile_edges=tuple(i / 10 for i in range(1, 10)),
    )
    origin = Provenance(training_set.key, night, night.day, spec.digest, "test")
    version = register(world.settings, store_candidate(store, model, origin, [], {}), RUN).version
    world.conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date, "
        "effective_partition, reasons, numbers, run_id, actor)"
        " values (%s, %s, 'promoted', %s, %s, '{}', '{}', 'r', 'test')",
        [spec.name, version, night.day, night.day],
    )
    return training_set


@pytest.mark.promise("R6")
@pytest.mark.promise("R7")
@pytest.mark.mlts("infra-5")
@pytest.mark.mlts("mon-3")
def test_every_prediction_is_replayed_when_corrections_came_in_since_and_superseded_ones_too(
    played: Played,
) -> None:
    world, spec = played.world, played.spec
    counted = (
        "select (select count(*) from ops.loads), (select sum(token) from "
        "ops.fences), (select count(*) from features.feat_flight)"
    )
    before = world.conn.execute(counted).fetchone()

    replays = replay_predictions(
        world.settings, spec, sample_predictions(world.conn, spec, 1000, seed=1)
    )

    assert len(replays) == 25
    assert sum(not replay.prediction.is_current for replay in replays) == 10
    assert [replay for replay in replays if not replay.is_equal] == []
    assert {replay.published_hash for replay in replays} == {replay.row_hash for replay in replays}
    assert len({replay.row_hash for replay in replays}) == 25
    assert world.conn.execute(counted).fetchone() == before


@pytest.mark.promise("R6")
@pytest.mark.mlts("infra-1")
def test_a_training_set_is_rebuilt_from_its_manifest_when_its_features_were_published_anew(
    played: Played,
) -> None:
    rebuilt = rebuild_training_set(played.world.settings, played.spec.name, 1)
    assert (rebuilt.key, rebuilt.sha256_rebuilt) == (
        played.training_set.key,
        played.training_set.sha256,
    )
    assert rebuilt.n_rows_rebuilt == rebuilt.n_rows == played.training_set.n_rows > 0


@pytest.mark.mlts("infra-5")
def test_differences_are_shown_column_by_column_when_rows_were_changed_by_hand(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nightshift.cli.predictions.repro.load_settings", lambda: played.world.settings
    )
    monkeypatch.setattr("nightshift.contracts.model_spec.load_spec", lambda *_: played.spec)
    made = played.made
    command = ["repro", played.spec.name, made.key]
    assert CliRunner().invoke(app, command).exit_code == 0

    with played.changed("predictions.flight_delayed", "score", "score + score * 1e-15", made.key):
        (replay,) = replay_predictions(
            played.world.settings,
            played.spec,
            [find_prediction(played.world.conn, played.spec, made.key)],
        )
        assert [(d.column, d.replayed) for d in replay.differences] == [
            ("score", made.values["score"])
        ]
        assert replay.published_hash != replay.row_hash
        told = CliRunner().invoke(app, [*command, "--json"])
        assert told.exit_code == 1
        assert [found["differences"][0]["column"] for found in json.loads(told.output)] == ["score"]
    with played.changed("features.feat_flight", "temperature_f_last", "-1", made.key):
        told = CliRunner().invoke(app, command)
        assert told.exit_code == 1
        assert "feature temperature_f_last" in told.output
    assert CliRunner().invoke(app, command).exit_code == 0


def test_a_training_set_that_was_changed_by_hand_is_not_equal(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nightshift.cli.predictions.repro.load_settings", lambda: played.world.settings
    )
    flight = read_rows(ObjectStore.open(played.world.settings), played.training_set)["flight_id"][
        0
    ].as_py()
    with played.changed("features.feat_flight", "all_delay_rate_7d", "0.123", flight):
        assert not rebuild_training_set(played.world.settings, played.spec.name, 1).is_equal
        assert (
            CliRunner().invoke(app, ["repro", played.spec.name, "--training-set", "1"]).exit_code
            == 1
        )
    assert (
        CliRunner().invoke(app, ["repro", played.spec.name, "--training-set", "1"]).exit_code == 0
    )


def test_predictions_that_cannot_be_replayed_are_named(played: Played) -> None:
    world, made = played.world, played.made
    with pytest.raises(NoPredictionError, match="2013-01-03"):
        find_prediction(world.conn, played.spec, made.key, Partition(DAYS[2]))
    with pytest.raises(NotReplayableError, match="fallback_rule"):
        replay_predictions(
            world.settings, played.spec, [replace(made, version=None, score_source="fallback_rule")]
        )
    edit = (
        "update ops.loads set content_hash = reverse(content_hash) where dataset "
        "= 'features/flight' and partition_date = %s"
    )
    world.conn.execute(edit, [made.day])
    with pytest.raises(OriginLostError, match=f"load {made.load_id}"):
        replay_predictions(world.settings, played.spec, [made])
    world.conn.execute(edit, [made.day])


@pytest.mark.mlts("infra-5")
def test_the_chain_names_every_link(played: Played) -> None:
    made = played.made
    chain: dict[str, Any] = explain(played.world.settings, played.spec, made)

    assert chain["prediction"]["score"] == made.values["score"]
    assert (chain["publication"]["run_id"], chain["publication"]["token"]) == ("test/replay", 2)
    assert chain["features"]["as_of"] == str(Partition(DAYS[12]).cutoff)
    assert set(chain["features"]["row"]) == {*NUMERIC, "carrier"}
    names = ("flight_outcomes", "flight_schedules", "weather")
    assert [(f["dataset"], f["partition"]) for f in chain["files"]] == [
        (f"raw/{name}", str(day)) for name in names for day in DAYS
    ]
    (own,) = chain["rows"]
    assert (own["dataset"], own["partition"], own["source_uri"], own["source_row"]) == (
        "raw/flight_schedules",
        str(DAYS[12]),
        "s3://b/k",
        1,
    )
    assert (chain["model"]["version"], chain["model"]["promotion"]["actor"]) == (1, "test")
    assert chain["training_set"]["sha256"] == played.training_set.sha256
    assert len(chain["reasons"]) == len(made.values["reasons"])


def test_reasons_are_sentences():
    reasons = [
        {"feature": "a", "value": 0.25, "contribution": 0.5},
        {"feature": "b", "value": None, "contribution": -0.125},
    ]
    assert reasons_in_words(reasons, {"a": "Share of late flights."}) == [
        "a is 0.25 and raises the raw score by 0.5000 (Share of late flights).",
        "b is unknown and lowers the raw score by 0.1250.",
    ]


def test_a_manifest_names_its_raw_loads():
    inputs = {"raw/a": "5f loads 3-5,9", "raw/b": "77 loads 11", "as_of": "loads 99"}
    assert loads_named(inputs) == {3, 4, 5, 9, 11}
