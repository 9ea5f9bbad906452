"""Train from a snapshot in the object store, against LightGBM alone on an array in memory.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.training [--rows 5000000] [--trees 300]
    [--repeats 3]

Both sides grow the same number of trees with the same parameters and watch the same validation rows
after each. Ours reads and verifies the Parquet snapshot, learns the levels, encodes, bins and keeps
the bins, grows in segments with a checkpoint after each, and calibrates; ``nightshift again`` finds
the bins that it has kept. The last side does so on Dask workers on this machine, which shows what
distribution costs before more machines pay for it; its peak is without the workers. Each side runs
in a process of its own, A B A B, medians; peak memory is that of the process as the kernel counted
it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from benchmarks.result import Limited, Result, peak_mib
from benchmarks.scoring.made_up import make_spec
from benchmarks.shape import CATEGORICAL, N_CATEGORICAL, N_LEVELS, N_NUMERIC, NUMERIC, SHAPE

from nightshift.settings import load_settings
from nightshift_local.local_env import LocalServers

LARGEST_TIME, LARGEST_MEMORY = 1.15, 1.3
VALIDATION_SHARE = 20
LEAVES = 63


def make_rows(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix, categories as codes, some values missing, and labels."""
    dice = np.random.default_rng(1)
    matrix = np.empty((n_rows, N_NUMERIC + N_CATEGORICAL))
    for index in range(N_NUMERIC + N_CATEGORICAL):
        matrix[:, index] = (
            dice.normal(size=n_rows) if index < N_NUMERIC else dice.integers(0, N_LEVELS, n_rows)
        )
        matrix[dice.random(n_rows) < SHAPE.missing, index] = np.nan
    signal = (
        np.nan_to_num(matrix[:, 0])
        + np.nan_to_num(matrix[:, 1]) * np.nan_to_num(matrix[:, 2])
        + np.nan_to_num(matrix[:, -1]) % 3
    )
    return matrix, (signal + dice.normal(size=n_rows) > 1).astype(float)


def prepare(home: Path, n_rows: int) -> None:
    """Store the rows twice: as a snapshot in the bucket, and as arrays; both parts in one order."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.lake.snapshots import write_snapshot

    store = ObjectStore.open(load_settings())
    store.ensure_bucket()
    matrix, label = make_rows(n_rows)
    np.save(home / "matrix.npy", matrix)
    np.save(home / "label.npy", label)
    columns: dict[str, pa.Array] = {
        name: pa.array(matrix[:, index], from_pandas=True) for index, name in enumerate(NUMERIC)
    }
    levels = pa.array([f"level {number:02d}" for number in range(N_LEVELS)])
    for index, name in enumerate(CATEGORICAL, start=N_NUMERIC):
        codes = pa.array(
            np.nan_to_num(matrix[:, index]).astype(np.int32), mask=np.isnan(matrix[:, index])
        )
        columns[name] = levels.take(codes)
    snapshot = write_snapshot(store, pa.table({**columns, "is_late": label}), "bench")
    (home / "snapshot.json").write_text(json.dumps([snapshot.key, snapshot.sha256]))


def lightgbm_alone(home: Path, trees: int) -> float:
    """Bin and grow from arrays in memory; return the seconds."""
    import lightgbm as lgb

    from nightshift.kernels import thread_count
    from nightshift.training.trees.boosting import FitPlan, params_of

    matrix, label = np.load(home / "matrix.npy"), np.load(home / "label.npy")
    n_train = len(label) - len(label) // VALIDATION_SHARE
    spec = make_spec("auto", 0, trees=trees, leaves=LEAVES)
    indices = list(range(N_NUMERIC, N_NUMERIC + N_CATEGORICAL))
    plan = FitPlan(
        "binary",
        spec.training.params,
        spec.training.seed,
        trees,
        trees,
        indices,
        [*NUMERIC, *CATEGORICAL],
        thread_count(),
    )
    started = time.perf_counter()
    data = lgb.Dataset(
        matrix[:n_train], label[:n_train], params=params_of(plan, 0), categorical_feature=indices
    )
    watched = lgb.Dataset(
        matrix[n_train:], label[n_train:], reference=data, params=params_of(plan, 0)
    )
    lgb.train(params_of(plan, 0), data, trees, valid_sets=[watched])
    return time.perf_counter() - started


def on_dask(home: Path, trees: int) -> float:
    """Train with ``training.engine: dask``, one local worker per thread; return the seconds."""
    return nightshift(home, trees, "dask")


def again(home: Path, trees: int) -> float:
    """Fit rows that are binned already, as a second trial does; return the seconds."""
    return nightshift(home, trees, is_first=False)


def nightshift(home: Path, trees: int, engine: str = "local", *, is_first: bool = True) -> float:
    """Read the snapshot and fit a model; return the seconds."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.lake.snapshots import read_snapshot
    from nightshift.training.model_fit import fit_model
    from nightshift.training.recipe.members import FitPaths

    if is_first:
        shutil.rmtree(home / "binned_rows", ignore_errors=True)

    spec = make_spec("auto", 0, trees=trees, leaves=LEAVES)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"engine": engine})})
    key, sha256 = json.loads((home / "snapshot.json").read_text())
    started = time.perf_counter()
    rows = read_snapshot(ObjectStore.open(load_settings()), key, sha256)
    n_train = rows.num_rows - rows.num_rows // VALIDATION_SHARE
    checkpoints = home / f"checkpoints-{os.getpid()}"
    model = fit_model(
        spec,
        rows.slice(0, n_train),
        rows.slice(n_train),
        FitPaths(checkpoints, home / "binned_rows"),
    )
    seconds = time.perf_counter() - started
    assert len(model.text) > 1000
    return seconds


WAYS = {
    "LightGBM alone": lightgbm_alone,
    "nightshift": nightshift,
    "nightshift again": again,
    "nightshift on Dask": on_dask,
}


def run_way(way: str, home: Path, trees: int) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--child",
        way,
        "--home",
        str(home),
        "--trees",
        str(trees),
    ]
    measured: dict[str, Any] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[
            -1
        ]
    )
    return measured


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--ways", default=",".join(WAYS), help="comma separated; the first two are always there"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    if given.child:
        seconds = WAYS[given.child](given.home, given.trees)
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))
        return 0
    ways = [way for number, way in enumerate(WAYS) if number < 2 or way in given.ways.split(",")]
    runs_by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, LocalServers(Path(folder) / "servers") as servers:
        os.environ.update(servers.env)
        prepare(Path(folder), given.rows)
        for number in range(given.repeats):
            for way in ways:
                runs_by_way[way].append(run_way(way, Path(folder), given.trees))
                print(f"round {number + 1} {way:18} {runs_by_way[way][-1]}", flush=True)
    return report(runs_by_way, given)


def report(runs_by_way: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> int:
    """Print and store medians and ratios."""
    seconds = {
        way: statistics.median(run["seconds"] for run in runs) for way, runs in runs_by_way.items()
    }
    peaks = {way: max(run["peak_mib"] for run in runs) for way, runs in runs_by_way.items()}
    result = Result(
        "training",
        f"{given.rows:,} rows, {SHAPE}, {given.trees} trees of {LEAVES} leaves,"
        f" {given.repeats} rounds",
    )
    for way in runs_by_way:
        result.figures |= {f"{way}, s": seconds[way], f"{way}, peak MiB": peaks[way]}
    ours, alone = "nightshift", "LightGBM alone"
    result.limited["nightshift / LightGBM alone, time"] = Limited(
        seconds[ours] / seconds[alone], "at most", LARGEST_TIME
    )
    result.limited["nightshift / LightGBM alone, peak memory"] = Limited(
        peaks[ours] / peaks[alone], "at most", LARGEST_MEMORY
    )
    result.bars, result.unit = (
        {way: given.rows / seconds[way] for way in runs_by_way},
        "rows trained on a second",
    )
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
