"""Time and memory of one promotion decision on 100,000 hold-out rows, with record and page.

``python -m benchmarks.evidence_gate [--rows 100000] [--days 28]`` starts its own PostgreSQL and S3
server, makes the rows and both models, and runs ``decide`` in a fresh process whose seconds and
peak memory are printed: what the nightly task costs, imports included.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Limited, Result, peak_mib

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec

os.environ.setdefault("OMP_NUM_THREADS", "1")
LIMIT_SECONDS, LIMIT_MB = 30, 1024
N_FEATURES, N_CARRIERS = 40, 16
FIRST_DAY = dt.date(2020, 1, 1)


def main() -> int:
    """Run the benchmark; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="hold-out rows")
    parser.add_argument("--days", type=int, default=28, help="hold-out days")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--decide", metavar="VERSION", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.decide:
        return _decide(given.days, given.decide)
    from nightshift_local.local_env import LocalServers

    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        versions = _prepare(given.rows, given.days)
        command = [
            sys.executable,
            "-m",
            "benchmarks.evidence_gate",
            "--days",
            str(given.days),
            "--decide",
        ]
        measured = [
            json.loads(subprocess.check_output([*command, str(version)])) for version in versions
        ]
    result = Result(
        "evidence_gate",
        f"{given.rows:,} hold-out rows of {given.days} days, {N_FEATURES + 1} features",
    )
    for what, costs in zip(("first champion", "against a champion"), measured, strict=True):
        result.figures |= {
            f"{what}, criteria": costs["n_criteria"],
            f"{what}, processor s": costs["processor_seconds"],
        }
        result.limited[f"{what}, whole decision"] = Limited(
            costs["seconds"], "at most", LIMIT_SECONDS, "s"
        )
        result.limited[f"{what}, peak memory"] = Limited(
            costs["peak_mb"], "at most", LIMIT_MB, "MiB"
        )
    return result.tell(given.json)


def _decide(n_days: int, version: int) -> int:
    started, cpu = time.perf_counter(), time.process_time()
    from nightshift.contracts.run import RunContext
    from nightshift.registry.promotion import decide
    from nightshift.settings import load_settings

    decision = decide(
        load_settings(), _spec(n_days), version, RunContext("benchmark", 1, "benchmark")
    )
    costs = {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": round(peak_mib()),
        "verdict": decision.verdict,
        "n_criteria": len(decision.numbers["criteria"]),
        **decision.numbers["rows"],
    }
    print(json.dumps(costs))
    return 0


def _spec(n_days: int) -> ModelSpec:
    from nightshift.contracts.model_spec import ModelSpec

    return ModelSpec.model_validate(
        {
            "name": "bench",
            "description": "Benchmark",
            "task": "binary",
            "owner": "nobody",
            "runbook": "docs/runbooks/README.md",
            "deadline": "04:00",
            "entity": {"name": "row", "key": "row_id"},
            "event_timestamp": "event_timestamp",
            "feature_view": "bench",
            "features": {
                "numeric": [f"f{i}" for i in range(N_FEATURES)],
                "categorical": [{"name": "carrier"}],
            },
            "label": {"relation": "fct_bench", "column": "label"},
            "training": {
                "schedule": "nightly",
                "window_days": 3 * n_days + 2,
                "minimum_days": 2 * n_days + 3,
                "gap_days": 1,
                "validation_days": n_days,
                "holdout_days": n_days,
                "backtest_folds": 0,
                "num_boost_round": 200,
            },
            "promotion": {
                "metric": "roc_auc",
                "slices": [{"column": "carrier"}],
                "fairness": [{"column": "carrier"}],
            },
            "scoring": {"fallback": {"feature": "f0", "default": 0.3}},
            "monitoring": {
                "metric": "log_loss",
                "maximum_metric_loss": 0.1,
                "windows": {"n": 2, "m": 3},
            },
        }
    )


def _rows(n_holdout: int, n_days: int) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    dice, all_days = np.random.default_rng(1), 3 * n_days + 2
    n = n_holdout // n_days * all_days
    day = np.sort(np.arange(n) % all_days)
    features = dice.normal(size=(n, N_FEATURES))
    features[:, 0] = dice.random(n)
    logit = (
        features[:, 1] + features[:, 2] * features[:, 3] + 0.3 * dice.normal(size=all_days)[day] - 1
    )
    dates = np.datetime64(FIRST_DAY) + day
    return pa.table(
        {
            "partition_date": pa.array(dates, pa.date32()),
            "row_id": [f"{i:08d}" for i in range(n)],
            "event_timestamp": pa.array(
                (dates + 1).astype("datetime64[s]"), pa.timestamp("us", "UTC")
            ),
            "as_of": pa.array((dates + 1).astype("datetime64[s]"), pa.timestamp("us", "UTC")),
            **{f"f{i}": features[:, i] for i in range(N_FEATURES)},
            "carrier": np.array([f"c{i:02d}" for i in range(N_CARRIERS)])[
                dice.integers(0, N_CARRIERS, n)
            ],
            "label": dice.random(n) < 1 / (1 + np.exp(-logit)),
        }
    )


def _prepare(n_holdout: int, n_days: int) -> list[int]:
    """Publish the rows, train two models, and return their versions."""
    from dataclasses import replace

    import numpy as np
    import pyarrow as pa

    from nightshift.contracts.datasets import load_contracts
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.model_versions import register
    from nightshift.settings import load_settings
    from nightshift.training.candidate import Provenance, store_candidate
    from nightshift.training.model_fit import fit_model
    from nightshift.training.splits import rows_of, split_window
    from nightshift.training.training_set import build_training_set, read_rows
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.fast_io.arrow_io import copy_in
    from nightshift.warehouse.migrate import migrate

    settings, spec, rows, run = (
        load_settings(),
        _spec(n_days),
        _rows(n_holdout, n_days),
        RunContext("benchmark", 1, "benchmark"),
    )
    partition = Partition(FIRST_DAY).shift(3 * n_days + 3)
    with connect(settings, "benchmark") as conn:
        migrate(conn, load_contracts(settings.datasets_dir))
        columns = ", ".join(f"f{i} double precision" for i in range(N_FEATURES))
        conn.execute(
            f"create table features.feat_bench (partition_date date, load_id bigint, row_id text,"
            f" event_timestamp timestamptz, as_of timestamptz, {columns}, carrier text);"
            " create table marts.fct_bench (partition_date date, row_id text,"
            " event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,"
            " label boolean)"
        )
        with conn.transaction():
            loads = pa.array(np.ones(rows.num_rows, np.int64))
            copy_in(
                conn,
                "features",
                "feat_bench",
                rows.drop_columns(["label"]).append_column("load_id", loads),
            )
            labels = rows.select(
                ["partition_date", "row_id", "event_timestamp", "label"]
            ).append_column("known_at", rows["as_of"])
            copy_in(conn, "marts", "fct_bench", labels)
        conn.execute("create index on features.feat_bench (partition_date, load_id, row_id)")
        conn.execute("analyze features.feat_bench, marts.fct_bench")
        conn.execute(
            "insert into ops.loads (dataset, partition_date, load_id, token, state, run_id,"
            " attempt, actor, code_version, inputs, inputs_digest, content_hash)"
            " select distinct 'features/bench', partition_date, 1, 1, 'published', 'b', 1, 'b',"
            " 'b', '{}'::jsonb, 'b', 'b' from features.feat_bench"
        )
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token)"
            " select distinct 'features/bench', partition_date, 1, 1 from features.feat_bench"
        )
    training_set = build_training_set(settings, spec, partition, run)
    store = ObjectStore.open(settings)
    known, split = read_rows(store, training_set), split_window(training_set.window, spec.training)
    versions = []
    for n_leaves in (7, 31):
        changed = spec.model_copy(
            update={
                "training": spec.training.model_copy(update={"params": {"num_leaves": n_leaves}})
            }
        )
        model = fit_model(changed, rows_of(known, split.train), rows_of(known, split.validation))
        edges = tuple(
            np.quantile(
                model.predictions(rows_of(known, split.holdout)).score, np.arange(1, 10) / 10
            ).tolist()
        )
        model = replace(
            model,
            decile_edges=edges,
            training={"training_set": training_set.key, "split": str(split)},
        )
        origin = Provenance(
            training_set.key, partition, split.validation.last.day, spec.digest, "benchmark"
        )
        versions.append(
            register(settings, store_candidate(store, model, origin, [], {}), run).version
        )
    return versions


if __name__ == "__main__":
    sys.exit(main())
