"""Made-up rows, features and a model of full size, of the shape that ``shape.py`` names."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from benchmarks.shape import CATEGORICAL, N_CATEGORICAL, N_LEVELS, N_NUMERIC, NUMERIC, SHAPE

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.contracts.training_spec import Linear
from nightshift.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from nightshift.models.trained_model import TrainedModel

DAY = PartitionRange.of("2013-07-01")
N_TRAIN = 60_000


def make_spec(
    engine: str, reasons: int, shards: int = 1, trees: int = 300, leaves: int = 63
) -> ModelSpec:
    """Return the model's spec."""
    return ModelSpec.model_validate(
        {
            "name": "bench",
            "description": "Made up.",
            "task": "binary",
            "owner": "bench",
            "runbook": "docs/runbooks/README.md",
            "deadline": "04:00",
            "entity": {"name": "thing", "key": "thing_id"},
            "event_timestamp": "event_timestamp",
            "feature_view": "bench",
            "features": {
                "numeric": NUMERIC,
                "categorical": [{"name": name} for name in CATEGORICAL],
            },
            "label": {"relation": "fct_bench_labels", "column": "is_late", "maturity_days": 1},
            "training": {
                "schedule": "nightly",
                "num_boost_round": trees,
                "early_stopping_rounds": trees,
                "params": {"num_leaves": leaves, "min_data_in_leaf": 20, "learning_rate": 0.02},
            },
            "promotion": {"metric": "roc_auc"},
            "scoring": {
                "shards": shards,
                "reasons": reasons,
                "engine": engine,
                "fallback": {"feature": "n00", "default": 0.25},
            },
            "monitoring": {
                "metric": "log_loss",
                "maximum_metric_loss": 0.1,
                "windows": {"n": 2, "m": 3},
            },
        }
    )


def make_features(conn: psycopg.Connection[Any], n_rows: int) -> None:
    """Create the feature table and publish one partition of it by the write path."""
    from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

    columns = ", ".join(
        [
            *(f"{name} double precision" for name in NUMERIC),
            *(f"{name} text" for name in CATEGORICAL),
        ]
    )
    conn.execute(
        "create table features.feat_bench (partition_date date not null, load_id bigint not null,"
        " thing_id text not null, event_timestamp timestamptz not null,"
        f" as_of timestamptz not null, {columns})".encode()
    )
    conn.execute("create index on features.feat_bench (load_id, partition_date)")
    conn.execute(
        "create table marts.fct_bench_labels (thing_id text, partition_date date,"
        " event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,"
        " is_late integer)"
    )
    write = begin(
        conn,
        [Target("features/bench", "features", "feat_bench", ("thing_id",))],
        DAY,
        LoadManifest(RunContext("bench", 1, "bench"), {}),
    )
    numbers = ", ".join(
        f"case when random() >= {SHAPE.missing} then random_normal() end" for _ in NUMERIC
    )
    categories = ", ".join(
        f"case when random() >= {SHAPE.missing}"
        f" then 'level ' || floor(random() * {N_LEVELS})::int end"
        for _ in CATEGORICAL
    )
    conn.execute("set statement_timeout = 0")
    conn.execute("select setseed(0.5)")
    conn.execute(
        f"insert into features.feat_bench select '2013-07-01', {write.load_id},"
        " 'thing ' || lpad(i::text, 9, '0'),"
        f" '2013-07-02 12:00+00', '2013-07-02 04:30+00', {numbers}, {categories}"
        f" from generate_series(1, {n_rows}) i".encode()
    )
    audit(conn, write)
    publish(conn, write)
    conn.execute("analyze features.feat_bench")


def train_champion(
    settings: Settings, conn: psycopg.Connection[Any], given: argparse.Namespace
) -> None:
    """Train on made-up rows, store, register and promote."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.engines.equivalence import prove_engines
    from nightshift.registry.model_versions import register
    from nightshift.training.candidate import Provenance, store_candidate

    spec, day = (
        make_spec("auto", 0, trees=given.trees, leaves=given.leaves),
        Partition.parse("2013-06-30"),
    )
    # The peers score the trees alone, and each score is compared with LightGBM's own.
    recipe = spec.training.recipe.model_copy(update={"linear": Linear(shares=(0.0,))})
    training = spec.training.model_copy(update={"recipe": recipe})
    trained, rows = fit(spec.model_copy(update={"training": training}))
    conn.execute(
        "insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,"
        " last_day, n_rows, sha256, spec_digest, code_version, manifest, run_id)"
        " values ('bench', 'bench', %s, now(), %s, %s, 1, '', '', '', '{}', 'r')",
        [day.day] * 3,
    )
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    candidate = store_candidate(
        store, trained, Provenance("bench", day, day.day, spec.digest, "bench"), [], {}
    )
    candidate = replace(candidate, engine_proof=prove_engines(trained, rows.slice(0, 20_000)))
    version = register(settings, candidate, RunContext("train/bench", 1, "bench"))
    conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date, effective_partition,"
        " reasons, numbers, run_id, actor)"
        " values ('bench', %s, 'promoted', %s, '2013-07-01', '{}', '{}', 'r', 'bench')",
        [version.version, day.day],
    )


def fit(spec: ModelSpec) -> tuple[TrainedModel, pa.Table]:
    """Return a model of full size, and the rows that it was fitted on."""
    from nightshift.training.model_fit import fit_model

    dice = np.random.default_rng(1)
    values = dice.normal(size=(N_TRAIN, N_NUMERIC))
    levels = dice.integers(0, N_LEVELS, (N_TRAIN, N_CATEGORICAL))
    signal = values[:, :4].sum(axis=1) + values[:, 5] * values[:, 6] + levels[:, 0] % 3
    label = (signal + dice.normal(size=N_TRAIN) > 1).astype(float)
    values[dice.random(values.shape) < SHAPE.missing] = np.nan
    categories = {
        name: pa.array([f"level {level}" for level in levels[:, i]])
        for i, name in enumerate(CATEGORICAL)
    }
    rows = pa.table(
        {name: pa.array(values[:, i], from_pandas=True) for i, name in enumerate(NUMERIC)}
        | categories
        | {"is_late": label}
    )
    model = fit_model(spec, rows.slice(0, N_TRAIN - 10_000), rows.slice(N_TRAIN - 10_000))
    return replace(model, decile_edges=tuple(i / 10 for i in range(1, 10))), rows


def write_suite(home: Path) -> None:
    """Give the gate the suite of the flights."""
    text = (PROJECT_ROOT / "expectations" / "predictions" / "flight_delayed.json").read_text(
        encoding="utf-8"
    )
    folder = home / "expectations" / "predictions"
    folder.mkdir(parents=True)
    (folder / "bench.json").write_text(
        text.replace("flight_delayed", "bench").replace("flight_id", "thing_id")
    )
