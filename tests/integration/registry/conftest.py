"""One world for all challengers: 46 days of parcels with a known truth.

There is one training set, and one champion that the challengers want to replace.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pydantic import SecretStr
from tests.databases import own_database
from tests.hand_made_features import hand_made_features
from tests.integration.registry.record_reader import contradictions

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.snapshots import write_snapshot
from nightshift.models.trained_model import TrainedModel
from nightshift.registry.evidence import find_entry, read_record
from nightshift.registry.model_versions import ModelVersion, register
from nightshift.registry.promotion import Decision, decide
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.streams.members import TRAINED
from nightshift.registry.streams.nights import read_evidence
from nightshift.settings import Settings
from nightshift.training.candidate import Provenance, store_candidate
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_of, split_window
from nightshift.training.training_set import (
    TrainingSet,
    build_training_set,
    find_training_set,
    read_rows,
)
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import copy_in

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

__all__ = ["hand_made_features"]

FIRST_DAY, N_DAYS, ROWS_A_DAY = dt.date(2020, 1, 1), 46, 300
NIGHT = Partition.parse("2020-02-15")
RUN = RunContext("test/gate", 1, "test")
FEATURES = ["wind", "weight", "is_fragile", "distance", "hint"]


def make_spec(name: str = "parcel_late", **changes: Any) -> ModelSpec:
    """Return the gate's spec with its own defaults; ``changes`` replace keys of parts."""
    document: dict[str, Any] = {
        "name": name,
        "description": "Will this parcel be late?",
        "task": "binary",
        "owner": "parcels",
        "runbook": "docs/runbooks/README.md",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {"numeric": FEATURES[:4], "categorical": [{"name": "carrier"}]},
        "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
        "training": {
            "schedule": "nightly",
            "window_days": 44,
            "minimum_days": 30,
            "validation_days": 8,
            "holdout_days": 10,
            "backtest_folds": 0,
            "num_boost_round": 60,
            "early_stopping_rounds": 20,
            "params": {"num_leaves": 7, "min_data_in_leaf": 50, "learning_rate": 0.15},
        },
        "promotion": {"metric": "roc_auc", "slices": [{"column": "carrier"}]},
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.3}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 2, "m": 3},
        },
    }
    for part, keys in changes.items():
        document[part] = {**document[part], **keys} if isinstance(keys, dict) else keys
    return ModelSpec.model_validate(document)


def make_rows(seed: int = 1) -> tuple[pa.Table, pa.Table]:
    """Return features and labels.

    Lateness comes from wind, its square, carrier, and fragile parcels in the wind; each day adds
    its own.
    """
    dice = np.random.default_rng(seed)
    n = N_DAYS * ROWS_A_DAY
    number = np.repeat(np.arange(N_DAYS), ROWS_A_DAY)
    days = np.datetime64(FIRST_DAY) + number
    wind, weight, distance = dice.normal(size=(3, n))
    is_fragile, carrier = dice.random(n) < 0.5, dice.choice(["A", "B", "C"], n)
    logit = (
        -1.2
        + 0.9 * wind
        + 0.5 * wind**2
        + 0.9 * (carrier == "B")
        + 1.2 * is_fragile * (wind > 0)
        + 0.25 * dice.normal(size=N_DAYS)[number]
    )
    is_late = dice.random(n) < 1 / (1 + np.exp(-logit))
    parcel = [f"{day}-{i:04d}" for i, day in enumerate(days)]
    at = (days + 1).astype("datetime64[s]") + np.timedelta64(11, "h")
    features = pa.table(
        {
            "partition_date": pa.array(days, pa.date32()),
            "load_id": np.ones(n, np.int64),
            "parcel_id": parcel,
            "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "as_of": pa.array(at - np.timedelta64(6, "h"), pa.timestamp("us", "UTC")),
            "wind": wind,
            "weight": pa.array(np.where(dice.random(n) < 0.1, np.nan, weight), from_pandas=True),
            "is_fragile": is_fragile,
            "distance": distance,
            "hint": np.where(is_late, 1.0, 0.0) + 0.01 * dice.normal(size=n),
            "late_rate_7d": np.full(n, 0.35),
            "carrier": carrier,
            "depot": np.where(dice.random(n) < 0.5, "north", "south"),
        }
    )
    labels = pa.table(
        {
            "partition_date": pa.array(days + 1, pa.date32()),
            "load_id": np.ones(n, np.int64),
            "parcel_id": parcel,
            "event_timestamp": features["event_timestamp"],
            "known_at": pa.array(
                (days + 2).astype("datetime64[s]") + np.timedelta64(1, "h"),
                pa.timestamp("us", "UTC"),
            ),
            "is_late": is_late,
        }
    )
    return features, labels


@dataclass
class Court:
    """Makes challengers and judges them."""

    settings: Settings
    conn: Connection
    store: ObjectStore
    spec: ModelSpec
    training_set: TrainingSet
    rows: pa.Table

    def fit(
        self, spec: ModelSpec | None = None, rows: pa.Table | None = None, **params: Any
    ) -> TrainedModel:
        """Return a model as the pipeline fits it, on these rows or others."""
        spec, rows = spec or self.spec, self.rows if rows is None else rows
        if params:
            spec = spec.model_copy(
                update={
                    "training": spec.training.model_copy(
                        update={"params": {**spec.training.params, **params}}
                    )
                }
            )
        split = split_window(self.training_set.window, spec.training)
        model = fit_model(spec, rows_of(rows, split.train), rows_of(rows, split.validation))
        edges = tuple(
            np.quantile(
                model.predictions(rows_of(rows, split.validation)).score, np.arange(1, 10) / 10
            ).tolist()
        )
        return replace(
            model,
            decile_edges=edges,
            training={"training_set": self.training_set.key, "split": str(split)},
        )

    def register(
        self,
        model: TrainedModel,
        training_set: TrainingSet | None = None,
        fit_end: str = "",
        night: Partition = NIGHT,
    ) -> ModelVersion:
        """Store and register a model as a candidate of some night."""
        training_set = training_set or self.training_set
        split = split_window(self.training_set.window, self.spec.training)
        end = dt.date.fromisoformat(fit_end) if fit_end else split.validation.last.day
        origin = Provenance(training_set.key, night, end, self.spec.digest, "test")
        return register(self.settings, store_candidate(self.store, model, origin, [], {}), RUN)

    def judge(
        self,
        model: TrainedModel,
        spec: ModelSpec | None = None,
        on: Partition | None = None,
        **origin: Any,
    ) -> Decision:
        """Register and decide, on its own night or a later one."""
        version = self.register(model, **origin).version
        decision = decide(self.settings, spec or self.spec, version, RUN, on)
        entry = find_entry(self.conn, decision.model, version)
        assert contradictions(read_record(self.settings, self.store, entry)) == []
        return decision

    def record_nights(self, gains: npt.NDArray[np.float64], champion: int, first: int = 1) -> None:
        """Record nights of the newest challengers' stream, ``first`` days after ``NIGHT`` on."""
        for number, gain in enumerate(gains):
            self.conn.execute(
                "insert into monitoring.stream_nights (model, stream, partition_date,"
                " champion_version, challenger_version, loss, n_rows, champion_loss,"
                " challenger_loss, predictions_load, shadow_load, known_on, run_id)"
                " values (%s, 'trained', %s, %s, 99, 'log_loss', 300, 0.5, %s, 1, 1, %s, 'test')",
                [
                    self.spec.name,
                    NIGHT.shift(first + number).day,
                    champion,
                    0.5 - float(gain),
                    NIGHT.shift(first + number + 2).day,
                ],
            )

    def keep_rows(self, rows: pa.Table, **facts: Any) -> TrainingSet:
        """Record other rows as a training set of the same night."""
        kept = replace(self.training_set, **facts)
        snapshot = write_snapshot(
            self.store, rows, f"training_sets/{self.spec.name}/{uuid.uuid4().hex}"
        )
        self.conn.execute(
            "insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,"
            " last_day, n_rows, sha256, spec_digest, code_version, manifest, run_id)"
            " select %s, model, partition_date, as_of, %s, %s, %s, %s, spec_digest, code_version,"
            " manifest, run_id from ml.training_sets where training_set = %s",
            [
                snapshot.key,
                kept.window.first.day,
                kept.window.last.day,
                rows.num_rows,
                snapshot.sha256,
                self.training_set.key,
            ],
        )
        return find_training_set(self.conn, snapshot.key)

    def with_column(self, name: str, values: npt.NDArray[Any]) -> pa.Table:
        """Return the training set's rows with one column replaced."""
        return self.rows.set_column(self.rows.column_names.index(name), name, pa.array(values))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one column of the training set."""
        return self.rows[name].to_numpy()

    def record(self, decision: Decision) -> dict[str, Any]:
        """Return the evidence record of a decision as an independent script reads it."""
        key, digest = self.conn.execute(
            "select evidence_key, evidence_sha256 from ml.promotions where promotion_id = %s",
            [decision.promotion_id],
        ).fetchone()
        data = self.store.get(key)
        assert sha256(data).hexdigest() == digest
        return json.loads(data)

    def refusals(self, decision: Decision) -> dict[str, str]:
        """Return the criteria that refuse, with their verdicts."""
        return {
            name: verdict
            for name, verdict in decision.numbers["criteria"].items()
            if verdict in ("failed", "unknown")
        }

    def case(
        self, version: ModelVersion, champion: ModelVersion | None, spec: ModelSpec | None = None
    ) -> PromotionContext:
        """Return a case as ``decide`` makes it."""
        manifest = self.conn.execute(
            "select manifest from ml.training_sets where training_set = %s", [version.training_set]
        ).fetchone()[0]
        training_set = find_training_set(self.conn, version.training_set)
        spec = spec or self.spec
        number = champion.version if champion else None
        evidence = read_evidence(self.conn, spec, TRAINED, version.partition, number)
        return PromotionContext(
            self.settings, self.store, spec, training_set, manifest, version, champion, evidence
        )


@pytest.fixture(scope="module")
def empty_court(
    session_settings: Settings, template_database: str
) -> Iterator[Callable[..., Court]]:
    """Return a function that makes a court of its own database for a spec; without a champion."""
    with ExitStack() as stack:

        def make(spec: ModelSpec) -> Court:
            quiet = session_settings.model_copy(update={"mlflow_tracking_uri": SecretStr("")})
            settings = stack.enter_context(own_database(quiet, template_database))
            conn = stack.enter_context(connect(settings, "test gate"))
            _fill(conn)
            training_set = build_training_set(settings, spec, NIGHT, RUN)
            store = ObjectStore.open(settings)
            return Court(settings, conn, store, spec, training_set, read_rows(store, training_set))

        yield make


@pytest.fixture(scope="module")
def court(empty_court: Callable[..., Court]) -> Court:
    """Return a court with a decent champion.

    What is refused changes nothing, so all tests of a module share it.
    """
    court = empty_court(make_spec())
    assert court.judge(court.fit(num_leaves=5)).verdict == "first"
    return court


def _fill(conn: Connection) -> None:
    features, labels = make_rows()
    conn.execute(
        """
        create table features.feat_parcel (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz, as_of timestamptz, wind double precision,
            weight double precision, is_fragile boolean, distance double precision,
            hint double precision, late_rate_7d double precision, carrier text, depot text);
        create table marts.fct_parcel_labels (partition_date date, load_id bigint, parcel_id text,
            event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,
            is_late boolean);
        """
    )
    with conn.transaction():
        copy_in(conn, "features", "feat_parcel", features)
        copy_in(conn, "marts", "fct_parcel_labels", labels)
    for dataset, table in (
        ("features/parcel", "features.feat_parcel"),
        ("marts/fct_parcel_labels", "marts.fct_parcel_labels"),
    ):
        conn.execute(
            "insert into ops.loads (dataset, partition_date, load_id, token, state, run_id,"
            " attempt, actor, code_version, inputs, inputs_digest, content_hash)"
            " select distinct %s, partition_date, 1, 1, 'published', 'test', 1, 'test', 'test',"
            f" '{{}}'::jsonb, 'test', 'hash' from {table}",
            [dataset],
        )
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token)"
            f" select distinct %s, partition_date, 1, 1 from {table}",
            [dataset],
        )
