"""A small world with a champion: parcels are late when the wind blows. Nights can be quiet or
stormy, outcomes fair or turned around."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from psycopg import sql
from pydantic import SecretStr
from tests.databases import copied, own_database
from tests.hand_made_features import hand_made_features
from tests.reference_profiles import store_reference

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.monitor import monitor
from nightshift.monitoring.verdict import Verdict
from nightshift.registry.model_versions import find_version, load_model, register
from nightshift.registry.promotion import decide
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import Settings
from nightshift.training.pipeline import train
from nightshift.training.training_set import build_training_set
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

__all__ = ["hand_made_features"]

FIRST_DAY = dt.date(2020, 1, 1)
TRAINED_ON = Partition.parse("2020-02-01")
ROWS_A_DAY = 120
SPEC = {
    "name": "parcel_late",
    "description": "Will this parcel be late?",
    "task": "binary",
    "owner": "parcels",
    "runbook": "docs/runbooks/README.md",
    "deadline": "04:00",
    "entity": {"name": "parcel", "key": "parcel_id"},
    "event_timestamp": "event_timestamp",
    "feature_view": "parcel",
    "features": {
        "numeric": ["wind", "weight", "is_fragile"],
        "categorical": [{"name": "carrier", "minimum_rows": 5}],
    },
    "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
    "training": {
        "schedule": "weekly",
        "window_days": 30,
        "minimum_days": 20,
        "validation_days": 5,
        "holdout_days": 5,
        "backtest_folds": 0,
        "num_boost_round": 30,
        "params": {"num_leaves": 7, "min_data_in_leaf": 20},
        # `World.score_night` publishes what the version alone answers.
        "recipe": {"level": {"mature_nights": 0}},
    },
    # The labels are linear in the wind, so a linear model is proved better than trees.
    "promotion": {
        "metric": "roc_auc",
        "slices": [{"column": "carrier"}],
        "minimum_gain_over_baseline": -0.05,
    },
    "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.3}},
    "monitoring": {
        "metric": "log_loss",
        "maximum_metric_loss": 0.3,
        "windows": {"n": 2, "m": 3},
        "cooldown_days": 7,
        "minimum_labels": 50,
        "report_rows": 100,
        "triggers": {"may_act_on_drift_alone": True, "shock_nights": 1},
    },
}


@dataclass
class World:
    """Thirty days of history; nights are added by the tests."""

    settings: Settings
    conn: Connection
    run: RunContext
    spec: ModelSpec

    def add_night(
        self, key: str, *, wind: float = 0.0, is_turned: bool = False, load_id: int = 1_000_000
    ) -> None:
        """Publish features of a night, and their labels, which become known a day later."""
        day = dt.date.fromisoformat(key)
        random = np.random.default_rng(day.toordinal())
        outcome = Partition(day).shift(1)
        features, labels = [], []
        for i in range(ROWS_A_DAY):
            speed, weight, carrier = (
                random.normal() + wind,
                random.normal(),
                random.choice(["A", "B", "C"]),
            )
            is_late = bool(2 * speed + random.normal() > 1) != is_turned
            parcel, at = f"{day}-{i:03d}", outcome.start + dt.timedelta(hours=6)
            features.append(
                (
                    day,
                    load_id,
                    parcel,
                    at,
                    Partition(day).cutoff,
                    speed,
                    weight,
                    bool(i % 2),
                    0.3,
                    carrier,
                )
            )
            known_at = outcome.cutoff - dt.timedelta(minutes=5)
            labels.append(
                (outcome.day, load_id, parcel, at, known_at, None, None if i % 20 == 0 else is_late)
            )
        self.copy("features.feat_parcel", features)
        self.copy("marts.fct_parcel_labels", labels)
        self.flip("features/parcel", day, load_id)
        self.flip("marts/fct_parcel_labels", outcome.day, load_id)

    def copy(self, table: str, rows: list[tuple[object, ...]]) -> None:
        with self.conn.cursor() as cursor, cursor.copy(f"copy {table} from stdin".encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def flip(self, dataset: str, day: dt.date, load_id: int) -> None:
        """Move the pointer as the write path would."""
        self.conn.execute(
            "insert into ops.loads (dataset, partition_date, load_id, token, state, "
            "run_id, attempt, actor, code_version, inputs,"
            " inputs_digest, content_hash) values (%s, %s, %s, 1, 'published', "
            "'test', 1, 'test', 'test', '{}', 'test', %s)",
            [dataset, day, load_id, f"hash of {load_id}"],
        )
        self.conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token) "
            "values (%s, %s, %s, 1)"
            " on conflict (dataset, partition_date) do update set load_id = excluded.load_id",
            [dataset, day, load_id],
        )

    def train_champion(self) -> None:
        """Train version 1 on the history; it serves from the day after ``TRAINED_ON``."""
        training_set = build_training_set(self.settings, self.spec, TRAINED_ON, self.run)
        version = register(
            self.settings, train(self.settings, self.spec, training_set.key, self.run), self.run
        )
        assert decide(self.settings, self.spec, version.version, self.run).is_promoted

    def score_night(self, key: str, *, load_id: int = 1_000_000, is_fallback: bool = False) -> None:
        """Publish the champion's predictions of a night, or the rule's."""
        query = sql.SQL(
            "select * from features.feat_parcel where partition_date = {} order by parcel_id"
        ).format(sql.Literal(key))
        rows = read_arrow(self.settings, query)
        trained = load_model(
            ObjectStore.open(self.settings), find_version(self.conn, "parcel_late", 1)
        )
        found = trained.predictions(rows)
        source, version = ("fallback_rule", None) if is_fallback else ("champion", 1)
        records = [
            (
                key,
                load_id,
                0,
                row["parcel_id"],
                row["event_timestamp"],
                float(score),
                float(p),
                5,
                bool(p >= 0.5),
                version,
                row["as_of"],
                source,
                "test",
            )
            for row, score, p in zip(rows.to_pylist(), found.score, found.probability, strict=True)
        ]
        columns = (
            "partition_date, load_id, shard, parcel_id, event_timestamp, score, "
            "probability, decile, is_positive, model_version"
        )
        self.copy(
            f"predictions.parcel_late ({columns}, features_as_of, score_source, run_id)", records
        )
        self.flip("predictions/parcel_late", dt.date.fromisoformat(key), load_id)

    def measure(self, first: str, last: str | None = None, **changes: object) -> Verdict:
        """Measure, without reports unless ``report_rows`` asks for them."""
        spec = (
            self.spec.model_copy(
                update={"monitoring": self.spec.monitoring.model_copy(update=changes)}
            )
            if changes
            else self.spec
        )
        return monitor(self.settings, spec, PartitionRange.of(first, last), self.run)

    def decisions(self) -> list[tuple[str, str]]:
        rows = self.conn.execute(
            "select partition_date::text, state from monitoring.retrain_decisions order by 1"
        )
        return [(day, state) for day, state in rows]


def create_history(world: World) -> None:
    """Publish thirty nights of features and labels."""
    world.conn.execute(
        """
        create table features.feat_parcel (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz,
            as_of timestamptz, wind double precision, weight double precision, is_fragile boolean,
                late_rate_7d double precision,
            carrier text);
        create table marts.fct_parcel_labels (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz,
            known_at timestamptz, superseded_at timestamptz, is_late boolean);
        """
    )
    ObjectStore.open(world.settings).ensure_bucket()
    ensure_prediction_relations(world.conn, world.spec)
    for number in range(32):
        world.add_night((FIRST_DAY + dt.timedelta(days=number)).isoformat())


@contextmanager
def open_world(settings: Settings, home: Path) -> Iterator[World]:
    """Open a world in a database; MLflow is switched off."""
    quiet = settings.model_copy(update={"mlflow_tracking_uri": SecretStr(""), "home": home})
    with pytest.MonkeyPatch.context() as patch, connect(settings, "test") as conn:
        patch.setenv("NIGHTSHIFT_CODE_VERSION", "test")
        code_version.cache_clear()
        yield World(quiet, conn, RunContext("test/run", 1, "test"), ModelSpec.model_validate(SPEC))
    code_version.cache_clear()


@pytest.fixture(scope="session")
def history_state(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Return a database of the history, to be copied."""
    with own_database(session_settings, template_database) as own:
        with open_world(own, tmp_path_factory.mktemp("history")) as world:
            create_history(world)
        yield own


@pytest.fixture(scope="session")
def champion_state(
    history_state: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Return a database of the history with a champion, to be copied."""
    with copied(history_state) as own:
        with open_world(own, tmp_path_factory.mktemp("champion")) as world:
            world.train_champion()
            tonight = TRAINED_ON.shift(1)
            store_reference(world.settings, world.conn, world.spec, tonight, world.run)
        yield own


@pytest.fixture
def history(history_state: Settings, tmp_path: Path) -> Iterator[World]:
    """Return thirty nights of features and labels, without a champion."""
    with copied(history_state) as own, open_world(own, tmp_path) as world:
        yield world


@pytest.fixture
def world(champion_state: Settings, tmp_path: Path) -> Iterator[World]:
    """Return the history with a champion that serves from 2020-02-02 on."""
    with copied(champion_state) as own, open_world(own, tmp_path) as world:
        yield world


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report away: Evidently takes seconds and has its own test."""
    from nightshift.monitoring import verdict_report as module
    from nightshift.monitoring.report import Report

    monkeypatch.setattr(module, "make_report", lambda *_: Report(b"<html></html>", b"{}"))
