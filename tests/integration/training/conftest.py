"""A small world with a known truth: deliveries are late when the wind blows.

More so for carrier B; half the rest is chance.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydantic import SecretStr
from tests.databases import own_database
from tests.hand_made_features import hand_made_features

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext, code_version
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import Settings
from nightshift.training.candidate import Candidate
from nightshift.training.pipeline import train
from nightshift.training.training_set import TrainingSet
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

__all__ = ["hand_made_features"]

FIRST_DAY = dt.date(2020, 1, 1)
ROWS_A_DAY = 60


def tiny_spec(**changes: object) -> ModelSpec:
    """Return a spec that trains in a second; ``changes`` replace whole parts."""
    document: dict[str, object] = {
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
            "weekday": "sunday",
            "window_days": 30,
            "minimum_days": 20,
            "validation_days": 5,
            "holdout_days": 5,
            "backtest_folds": 1,
            "num_boost_round": 80,
            "early_stopping_rounds": 15,
            "params": {
                "num_leaves": 7,
                "min_data_in_leaf": 20,
                "bagging_fraction": 0.8,
                "bagging_freq": 1,
                "feature_fraction": 0.8,
            },
        },
        "promotion": {
            "metric": "roc_auc",
            "slices": [{"column": "carrier", "minimum_rows": 50}],
            "slice_margin": 0.2,
            # The champion of these tests is one stump: whoever is better orders the rows otherwise.
            "maximum_decile_churn": 0.95,
        },
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.3}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 2, "m": 3},
        },
    }
    return ModelSpec.model_validate({**document, **changes})


def create_tables(conn: Connection) -> None:
    """Create the feature view and the label relation as dbt would."""
    conn.execute(
        """
        create table features.feat_parcel (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz, as_of timestamptz, wind double precision,
            weight double precision, is_fragile boolean, late_rate_7d double precision,
            carrier text);
        create table marts.fct_parcel_labels (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,
            is_late boolean, delay_minutes double precision);
        """
    )


def fill(conn: Connection, n_days: int, first: dt.date = FIRST_DAY, seed: int = 1) -> None:
    """Publish ``n_days`` feature partitions and the labels of the day after each."""
    random = np.random.default_rng(seed)
    for number in range(n_days):
        day = first + dt.timedelta(days=number)
        insert_day(conn, day, random)


def insert_day(
    conn: Connection, day: dt.date, random: np.random.Generator, load_id: int = 1
) -> None:
    """Insert and publish one feature partition and the labels that arrive a day later."""
    outcome = Partition(day).shift(1)
    features, labels = [], []
    for i in random.permutation(ROWS_A_DAY):
        wind, weight, carrier = random.normal(), random.normal(), random.choice(["A", "B", "C"])
        delay = 10 * wind + (8 if carrier == "B" else 0) + 10 * random.normal()
        parcel, at = f"{day}-{i:03d}", outcome.start + dt.timedelta(hours=6)
        missing_weight = None if i % 10 == 0 else weight
        features.append(
            (
                day,
                load_id,
                parcel,
                at,
                Partition(day).cutoff,
                wind,
                missing_weight,
                bool(i % 2),
                0.3,
                carrier,
            )
        )
        label = None if i % 20 == 0 else bool(delay > 5)
        labels.append(
            (
                outcome.day,
                load_id,
                parcel,
                at,
                outcome.cutoff - dt.timedelta(minutes=5),
                None,
                label,
                delay,
            )
        )
    with conn.cursor() as cursor:
        cursor.executemany(
            "insert into features.feat_parcel values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            features,
        )
        cursor.executemany(
            "insert into marts.fct_parcel_labels values (%s, %s, %s, %s, %s, %s, %s, %s)", labels
        )
    publish(conn, "features/parcel", day, load_id)
    publish(conn, "marts/fct_parcel_labels", outcome.day, load_id)


def publish(conn: Connection, dataset: str, day: dt.date, load_id: int) -> None:
    """Flip the pointer as the write path would."""
    conn.execute(
        """
        insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
            actor, code_version, inputs,
            inputs_digest, content_hash)
        values (%s, %s, %s, 1, 'published', 'test', 1, 'test', 'test', '{}', 'test', 'hash')
        on conflict do nothing
        """,
        [dataset, day, load_id],
    )
    conn.execute(
        """
        insert into ops.published (dataset, partition_date, load_id, token) values (%s, %s, %s, 1)
        on conflict (dataset, partition_date) do update set load_id = excluded.load_id
        """,
        [dataset, day, load_id],
    )


@dataclass(frozen=True)
class World:
    """Thirty labelled days and two immature ones, and the night that trains on them."""

    settings: Settings
    conn: Connection
    spec: ModelSpec
    run: RunContext
    night: Partition

    def spec_with(self, **changes: object) -> ModelSpec:
        return tiny_spec(**changes)

    def add_day(self, day: str, load_id: int = 1, seed: int = 99) -> None:
        insert_day(self.conn, dt.date.fromisoformat(day), np.random.default_rng(seed), load_id)


_TRAINED: dict[tuple[str, str, str], tuple[Candidate, dict[str, bytes]]] = {}
"""What was trained in this process, with its files, by training set, its content, and spec."""


def train_once(world: World, spec: ModelSpec, training_set: TrainingSet) -> Candidate:
    """Train, or put the files of an equal training into the world's bucket.

    The same training set and spec give the same candidate: that is tested by ``train`` itself.
    """
    key = (training_set.key, training_set.sha256, spec.digest)
    store = ObjectStore.open(world.settings)
    if key not in _TRAINED:
        candidate = train(world.settings, spec, training_set.key, world.run)
        names = list(store.list(f"models/{candidate.model}/{candidate.digest}/"))
        _TRAINED[key] = candidate, {name: store.get(name) for name in names}
    candidate, files = _TRAINED[key]
    for name, content in files.items():
        store.put(name, content)
    return candidate


@pytest.fixture(scope="session")
def filled_database(session_settings: Settings, template_database: str) -> Iterator[str]:
    """Return the name of a database with the days of the world, to be copied."""
    with own_database(session_settings, template_database) as own:
        with connect(own, "test") as conn:
            create_tables(conn)
            fill(conn, 32)
        yield own.warehouse_database


@pytest.fixture
def settings(session_settings: Settings, filled_database: str) -> Iterator[Settings]:
    """Return settings of a database of the test's own with the days of the world."""
    with own_database(session_settings, filled_database) as own:
        yield own


@pytest.fixture
def world(
    settings: Settings,
    conn: Connection,
    run: RunContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Return the world; MLflow is switched off."""
    monkeypatch.setenv("NIGHTSHIFT_CODE_VERSION", "test")
    code_version.cache_clear()
    quiet = settings.model_copy(update={"mlflow_tracking_uri": SecretStr(""), "home": tmp_path})
    return World(quiet, conn, tiny_spec(), run, Partition.parse("2020-02-01"))
