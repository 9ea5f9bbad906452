"""A small model of parcels on a real warehouse: spec, feature view, labels."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr
from tests.databases import own_database
from tests.raw_bucket import overwrite

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.models.trained_model import TrainedModel
from nightshift.registry.model_versions import ModelVersion, register
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import Settings
from nightshift.training.candidate import Provenance, store_candidate
from nightshift.training.model_fit import fit_model
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PublishedLoad,
    Target,
    audit,
    begin,
    publish,
)

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

FEATURES = Target("features/parcel", "features", "feat_parcel", ("parcel_id",), may_be_empty=True)
DAY = PartitionRange.of("2013-07-01")


def make_spec(**changed: object) -> ModelSpec:
    """Return a binary model's spec with two numeric features and a categorical one."""
    document = {
        "name": "parcel_late",
        "description": "Will this parcel be late?",
        "task": "binary",
        "owner": "post",
        "runbook": "docs/runbooks/README.md",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {
            "numeric": ["weight_kg", "late_rate_7d"],
            "categorical": [{"name": "depot", "minimum_rows": 1}],
        },
        "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
        "training": {
            "schedule": "nightly",
            "num_boost_round": 20,
            "params": {"num_leaves": 4, "min_data_in_leaf": 20},
        },
        "promotion": {"metric": "roc_auc"},
        "scoring": {
            "shards": 3,
            "reasons": 2,
            "fallback": {"feature": "late_rate_7d", "default": 0.25},
        },
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 2, "m": 3},
        },
    }
    return ModelSpec.model_validate(document | changed)


def publish_features(
    conn: Connection,
    partitions: PartitionRange = DAY,
    n_rows: int = 50,
    shift: float = 0.0,
    changed: str = "",
) -> list[PublishedLoad]:
    """Publish feature rows.

    Weight rises with the number, the rate is null for every tenth, depots alternate; ``changed``
    replaces columns.
    """
    run = RunContext("transform/test", 1, "test")
    write = begin(
        conn, [FEATURES], partitions, LoadManifest(run, {"raw": f"{n_rows} {shift} {changed}"})
    )
    for day in partitions.days:
        conn.execute(
            "insert into features.feat_parcel select %s, %s, format('%%s-%%s', %s::date, i),"
            " %s::timestamptz + i * interval '1 minute', %s,"
            " i * 0.25 + %s, case when i %% 10 = 0 then null else (i %% 7) / 10.0 end,"
            " (array['north', 'south'])[1 + i %% 2]"
            " from generate_series(1, %s) i",
            [
                day,
                write.load_id,
                day,
                day + dt.timedelta(days=1),
                day + dt.timedelta(days=1),
                shift,
                n_rows,
            ],
        )
    if changed:
        conn.execute(
            f"update features.feat_parcel set {changed} and load_id = {write.load_id}".encode()
        )
    audit(conn, write)
    return publish(conn, write)


@pytest.fixture
def spec() -> ModelSpec:
    return make_spec()


@pytest.fixture(scope="session")
def parcel_templates(
    session_settings: Settings, template_database: str
) -> Iterator[Callable[[ModelSpec], str]]:
    """Return a function that names a database with a spec's relations; tests get copies of it."""
    names: dict[str, str] = {}
    with ExitStack() as databases:

        def name_of(spec: ModelSpec) -> str:
            # The digest leaves out what only the views of analysts depend on.
            key = spec.model_dump_json()
            if key not in names:
                made = databases.enter_context(own_database(session_settings, template_database))
                with connect(made, "test") as conn:
                    create_relations(conn, spec)
                names[key] = made.warehouse_database
            return names[key]

        yield name_of


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    session_settings: Settings,
    template_database: str,
    parcel_templates: Callable[[ModelSpec], str],
    spec: ModelSpec,
) -> Iterator[Settings]:
    """Return settings of a fresh database, with the model's relations if ``warehouse`` is used."""
    has_relations = "warehouse" in request.fixturenames
    template = parcel_templates(spec) if has_relations else template_database
    with own_database(session_settings, template) as own:
        yield own


@pytest.fixture
def warehouse(conn: Connection) -> Connection:
    """Return a warehouse with the feature table, the labels' relation and the model's relations."""
    return conn


def create_relations(conn: Connection, spec: ModelSpec) -> None:
    """Create the feature table, the labels' relation and the model's relations."""
    conn.execute(
        "create table features.feat_parcel (partition_date date not null, load_id bigint not"
        " null, parcel_id text not null,"
        " event_timestamp timestamptz not null, as_of timestamptz not null,"
        " weight_kg double precision, late_rate_7d double precision, depot text)"
    )
    conn.execute(
        "create table marts.fct_parcel_labels (parcel_id text, partition_date date,"
        " event_timestamp timestamptz,"
        " known_at timestamptz, superseded_at timestamptz, is_late integer)"
    )
    ensure_prediction_relations(conn, spec)


class Registry:
    """Train, store and promote tiny real models."""

    def __init__(self, settings: Settings, conn: Connection, spec: ModelSpec) -> None:
        self.settings, self.conn, self.spec = settings, conn, spec
        self.store = ObjectStore.open(settings)
        self.store.ensure_bucket()

    def promote(
        self,
        effective: str,
        seed: int = 1,
        proof: dict[str, Any] | None = None,
        verdict: str = "promoted",
    ) -> ModelVersion:
        """Make a new version champion from a partition on, or decide otherwise about it.

        With or without a proof for the accelerated engine.
        """
        trained = tiny_model(self.spec, seed)
        day = Partition.parse(effective).shift(-1)
        training_set = f"training/{seed}"
        self.conn.execute(
            "insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,"
            " last_day, n_rows, sha256, spec_digest,"
            " code_version, manifest, run_id) values (%s, %s, %s, now(), %s, %s, 1, '', '', '',"
            " '{}', 'r') on conflict do nothing",
            [training_set, self.spec.name, day.day, day.day, day.day],
        )
        origin = Provenance(training_set, day, day.day, self.spec.digest, "test")
        candidate = replace(
            store_candidate(self.store, trained, origin, [], {}), engine_proof=proof
        )
        version = register(self.settings, candidate, RunContext("train/test", 1, "test"))
        self.conn.execute(
            "insert into ml.promotions (model, version, verdict, partition_date,"
            " effective_partition, reasons, numbers, run_id, actor)"
            " values (%s, %s, %s, %s, %s, '{}', '{}', 'r', 'test')",
            [self.spec.name, version.version, verdict, day.day, effective],
        )
        return version

    def corrupt(self, version: ModelVersion) -> None:
        """Replace the trees in the bucket by others, as a person with a key could."""
        overwrite(self.settings, version.model_key, b"tree\nversion=v4\n")


_FITTED: dict[tuple[str, int], TrainedModel] = {}


def tiny_model(spec: ModelSpec, seed: int) -> TrainedModel:
    """Return a few trees fitted on made-up parcels, once a spec; other seeds give other trees."""
    key = spec.model_dump_json(), seed
    if key not in _FITTED:
        _FITTED[key] = _fit(spec, seed)
    return _FITTED[key]


def _fit(spec: ModelSpec, seed: int) -> TrainedModel:
    dice = np.random.default_rng(seed)
    n = 600
    weight, rate = dice.uniform(0, 15, n), dice.uniform(0, 0.7, n)
    depot = np.where(dice.random(n) < 0.5, "north", "south")
    late = (dice.random(n) < 0.1 + 0.5 * rate + 0.02 * weight).astype(float)
    rows = pa.table({"weight_kg": weight, "late_rate_7d": rate, "depot": depot, "is_late": late})
    model = fit_model(spec, rows.slice(0, 400), rows.slice(400))
    return replace(model, decile_edges=tuple(i / 10 for i in range(1, 10)))


@pytest.fixture
def scoring_settings(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with a suite for the predictions, and without MLflow."""
    return with_suite(settings, tmp_path)


def with_suite(settings: Settings, folder: Path) -> Settings:
    """Write a suite for the predictions; return settings with it, and without MLflow."""
    suite = {
        "name": "predictions/parcel_late",
        "expectations": [
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "probability", "min_value": 0.0, "max_value": 0.99},
                "severity": "critical",
            }
        ],
        "meta": {},
    }
    (folder / "predictions").mkdir()
    (folder / "predictions" / "parcel_late.json").write_text(json.dumps(suite))
    return settings.model_copy(
        update={"expectations_dir": folder, "mlflow_tracking_uri": SecretStr("")}
    )


@contextmanager
def open_registry(settings: Settings, folder: Path) -> Iterator[Registry]:
    """Open a registry in a migrated database, for a state that tests copy."""
    spec = make_spec()
    with connect(settings, "test") as conn:
        create_relations(conn, spec)
        yield Registry(with_suite(settings, folder), conn, spec)


@pytest.fixture
def registry(scoring_settings: Settings, warehouse: Connection, spec: ModelSpec) -> Registry:
    return Registry(scoring_settings, warehouse, spec)
