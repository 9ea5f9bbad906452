"""A small model of parcels on a real warehouse: spec, feature view, labels."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.scoring.relations import ensure_prediction_relations
from nightshift.warehouse.partition_write import LoadManifest, PublishedLoad, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

FEATURES = Target("features/parcel", "features", "feat_parcel", ("parcel_id",))
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
        "features": {"numeric": ["weight_kg", "late_rate_7d"], "categorical": [{"name": "depot", "minimum_rows": 1}]},
        "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
        "training": {"schedule": "nightly"},
        "promotion": {"metric": "roc_auc"},
        "scoring": {"shards": 3, "reasons": 2, "fallback": {"feature": "late_rate_7d", "default": 0.25}},
        "monitoring": {"metric": "log_loss", "maximum_metric_loss": 0.1, "windows": {"n": 2, "m": 3}},
    }
    return ModelSpec.model_validate(document | changed)


def publish_features(conn: Connection, partitions: PartitionRange = DAY, n_rows: int = 50, shift: float = 0.0) -> list[PublishedLoad]:
    """Publish feature rows: weight rises with the number, the rate is null for every tenth, depots alternate."""
    run = RunContext("transform/test", 1, "test")
    write = begin(conn, [FEATURES], partitions, LoadManifest(run, {"raw": f"{n_rows} {shift}"}))
    for day in partitions.days:
        conn.execute(
            "insert into features.feat_parcel select %s, %s, format('%%s-%%s', %s::date, i), %s::timestamptz + i * interval '1 minute', %s,"
            " i * 0.25 + %s, case when i %% 10 = 0 then null else (i %% 7) / 10.0 end, (array['north', 'south'])[1 + i %% 2]"
            " from generate_series(1, %s) i",
            [day, write.load_id, day, day + dt.timedelta(days=1), day + dt.timedelta(days=1), shift, n_rows],
        )
    audit(conn, write)
    return publish(conn, write)


@pytest.fixture
def spec() -> ModelSpec:
    return make_spec()


@pytest.fixture
def warehouse(conn: Connection, spec: ModelSpec) -> Connection:
    """Return a warehouse with the feature table, the labels' relation and the model's relations."""
    conn.execute(
        "create table features.feat_parcel (partition_date date not null, load_id bigint not null, parcel_id text not null,"
        " event_timestamp timestamptz not null, as_of timestamptz not null,"
        " weight_kg double precision, late_rate_7d double precision, depot text)"
    )
    conn.execute(
        "create table marts.fct_parcel_labels (parcel_id text, partition_date date, event_timestamp timestamptz,"
        " known_at timestamptz, superseded_at timestamptz, is_late integer)"
    )
    ensure_prediction_relations(conn, spec)
    return conn
