"""Score and publish a partition: nightshift against what a person would write instead.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.scoring [--rows 5000000] [--trees 300]
    [--leaves 63] [--repeats 3] [--json FILE]

Ways, each in a process of its own, A B C A B C …, medians:

- ``predict only``: ``LightGBM.predict`` on an array that is in memory already; the floor.
- ``pandas``: ``read_sql`` → ``predict`` → ``to_sql`` in chunks of 10,000 rows, the script that one
  writes first, and the faster one of its ways to write; it publishes nothing safely.
- ``spark_udf``: MLflow's, on local PySpark (``spark_peer.py``), in an environment of its own that
  is made for it, from and to the warehouse by JDBC (Debian's ``libpostgresql-jdbc-java``, or
  ``--jdbc``). ``spark_udf on Parquet`` is spared the warehouse in both directions. What needs Java
  or the driver is left out without, and the result says so. They are compared by raw scores.
- ``nightshift`` and the name of an engine: plan, stream, audit, gate, publish, read back, by
  ``nightshift.scoring``.

Loops are compiled before, by a round of ours that does not count: that is done once a machine, not
once a night.

Rows, features and model are made up, of the shape of the real ones or of another one
(``shape.py``). Every score that was published is compared with LightGBM's own, bit by bit. Peak
memory is that of the process as the kernel counted it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from benchmarks.result import Limited, Result, peak_mib
from benchmarks.shape import CATEGORICAL, N_CATEGORICAL, N_LEVELS, N_NUMERIC, NUMERIC, SHAPE

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.settings import PROJECT_ROOT, Settings, load_settings
from nightshift_local.local_env import LocalServers

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy

    from nightshift.models.trained_model import TrainedModel

DAY = PartitionRange.of("2013-07-01")
N_TRAIN = 60_000
LIMITS: dict[str, tuple[float, Literal["at least", "at most"]]] = {
    "pandas / nightshift quickscorer": (8.0, "at least"),
    "spark_udf / nightshift quickscorer": (4.5, "at least"),
    "nightshift lightgbm / predict only": (1.3, "at most"),
    "nightshift quickscorer / predict only": (0.42, "at most"),
}
PEAK_MIB = 450
JDBC = "NIGHTSHIFT_BENCH_JDBC"
JDBC_OF_DEBIAN = Path("/usr/share/java/postgresql.jar")


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
    trained, rows = fit(spec)
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


def predict_only(settings: Settings, home: Path) -> dict[str, Any]:
    """Predict from an array in memory; keep the scores for the comparison."""
    model = champion(settings)
    matrix = model.encode(read_features(settings))
    started = time.perf_counter()
    raw = model.booster.predict(matrix, raw_score=True)
    seconds = time.perf_counter() - started
    np.save(home / "expected.npy", model.from_raw(raw).score)
    np.save(home / "expected_raw.npy", raw)
    return {"seconds": seconds}


def champion(settings: Settings) -> TrainedModel:
    """Return the model as scoring loads it."""
    from nightshift.scoring.model_loading import load_version
    from nightshift.warehouse.connection import connect

    with connect(settings, "bench") as conn:
        return load_version(settings, conn, make_spec("auto", 0), 1)


def read_features(settings: Settings) -> pa.Table:
    """Return all feature rows, ordered by key."""
    from psycopg import sql

    from nightshift.warehouse.fast_io.arrow_io import stream_arrow

    names = sql.SQL(", ").join(map(sql.Identifier, [*NUMERIC, *CATEGORICAL]))
    query = sql.SQL("select thing_id, {} from features.feat_bench order by thing_id").format(names)
    return pa.Table.from_batches(list(stream_arrow(settings, query)))


def sql_engine(settings: Settings) -> sqlalchemy.Engine:
    """Return the engine that a script would make."""
    import sqlalchemy as sa

    url = sa.URL.create(
        "postgresql+psycopg",
        settings.warehouse_user,
        settings.warehouse_password.get_secret_value(),
        settings.warehouse_host,
        settings.warehouse_port,
        settings.warehouse_database,
    )
    return sa.create_engine(url)


def pandas_script(settings: Settings) -> dict[str, Any]:
    """Do what one writes first: everything in memory, categories by hand, rows back in chunks."""
    import lightgbm as lgb
    import pandas as pd
    import sqlalchemy as sa

    model = champion(settings)
    booster, levels = lgb.Booster(model_str=model.text), dict(model.signature.categorical)
    engine = sql_engine(settings)
    names = ", ".join(["thing_id", *NUMERIC, *CATEGORICAL])
    started = time.perf_counter()
    frame = pd.read_sql(
        sa.text(f"select {names} from features.feat_bench where partition_date = '2013-07-01'"),
        engine,
    )
    for name in CATEGORICAL:
        frame[name] = pd.Categorical(frame[name], categories=levels[name]).codes.astype(float)
        frame.loc[frame[name] < 0, name] = np.nan
    score = booster.predict(frame[[*NUMERIC, *CATEGORICAL]], raw_score=True)
    out = pd.DataFrame(
        {"partition_date": dt.date(2013, 7, 1), "thing_id": frame["thing_id"], "score": score}
    )
    out.to_sql(
        "pandas_predictions",
        engine,
        schema="predictions",
        if_exists="replace",
        index=False,
        chunksize=10_000,
    )
    return {"seconds": time.perf_counter() - started}


def ours(settings: Settings, engine: str, reasons: int) -> dict[str, Any]:
    """Score and publish the night, and compare every published score with LightGBM's."""
    from nightshift.scoring.pipeline import begin, publish, score_shard
    from nightshift.scoring.prediction_tables import ensure_prediction_relations
    from nightshift.warehouse.connection import connect

    spec, run = make_spec(engine, reasons), RunContext(f"bench/{engine}", 1, "bench")
    with connect(settings, "bench") as conn:
        ensure_prediction_relations(conn, spec)
        conn.execute("truncate predictions.bench")
        conn.execute("delete from ops.published where dataset = 'predictions/bench'")
    marks = [time.perf_counter()]
    plan = begin(settings, spec, DAY, run)
    marks.append(time.perf_counter())
    for shard in plan.shards:
        score_shard(settings, spec, plan, shard, run)
    marks.append(time.perf_counter())
    (load,) = publish(settings, spec, plan, run)
    marks.append(time.perf_counter())
    steps = dict(zip(("begin", "shards", "publish"), np.diff(marks).tolist(), strict=True))
    return {"seconds": marks[-1] - marks[0], "steps": steps, "n_rows": load.n_rows}


def compare(settings: Settings, home: Path) -> int:
    """Return how many published scores are not LightGBM's own, bit by bit."""
    from psycopg import sql

    from nightshift.warehouse.fast_io.arrow_io import stream_arrow

    query = sql.SQL(
        "select score from predictions.bench t join ops.published p using (load_id)"
        " where p.dataset = 'predictions/bench' order by thing_id"
    )
    published = np.concatenate(
        [batch.column("score").to_numpy() for batch in stream_arrow(settings, query)]
    )
    expected = np.load(home / "expected.npy")
    return (
        int((published.view(np.int64) != expected.view(np.int64)).sum())
        if published.shape == expected.shape
        else max(len(published), len(expected))
    )


def spark_script(settings: Settings, home: Path, *, has_warehouse: bool) -> dict[str, Any]:
    """Let the peer score the same rows; compare its raw scores with LightGBM's bit by bit."""
    from psycopg import sql
    from pyarrow import parquet

    from nightshift.warehouse.fast_io.arrow_io import read_arrow

    folder = home / "spark"
    if not folder.exists():
        _prepare_spark(settings, folder)
    command = [
        str(folder / "venv" / "bin" / "python"),
        str(PROJECT_ROOT / "benchmarks" / "scoring" / "spark_peer.py"),
        str(folder),
    ]
    command += [os.environ[JDBC]] if has_warehouse else []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PYSPARK_PYTHON": command[0]
    }
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=output, stderr=complained, env=environment)
        peak = _peak_of_tree(process)
        output.seek(0)
        complained.seek(0)
        if process.wait():
            raise SystemExit(complained.read()[-3000:])
        measured: dict[str, Any] = json.loads(output.read().splitlines()[-1])
    if has_warehouse:
        table = read_arrow(
            settings, sql.SQL("select score from predictions.spark_predictions order by thing_id")
        )
    else:
        table = parquet.read_table(folder / "scores").sort_by("thing_id")
    scores = table.column("score").to_numpy()
    expected = (
        np.load(home / "expected_raw.npy") if (home / "expected_raw.npy").exists() else scores
    )
    return measured | {"peak_mib": peak, "n_different": int((scores != expected).sum())}


def _prepare_spark(settings: Settings, folder: Path) -> None:
    """Make the peer's environment, and write rows and model as it reads them."""
    from importlib.metadata import version

    from benchmarks.scoring.spark_peer import N_PARTITIONS, PACKAGES
    from pyarrow import parquet

    (folder / "features").mkdir(parents=True)
    uv = Path(sys.executable).with_name("uv")
    ours = {name: version(name) for name in ("mlflow", "lightgbm", "pyarrow", "numpy")}
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    packages = [package.format(**ours) for package in PACKAGES]
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", folder / "venv" / "bin" / "python", *packages],
        check=True,
    )
    model, rows = champion(settings), read_features(settings)
    (folder / "model.txt").write_text(model.text, encoding="ascii")
    (folder / "levels.json").write_text(
        json.dumps(
            {name: list(levels) for name, levels in dict(model.signature.categorical).items()}
        )
    )
    size = -(-rows.num_rows // N_PARTITIONS)
    for part in range(N_PARTITIONS):
        parquet.write_table(rows.slice(part * size, size), folder / "features" / f"{part}.parquet")


def _peak_of_tree(process: subprocess.Popen[str]) -> float:
    """Return the peak memory of a process and its children in MiB, sampled four times a second."""
    import psutil

    peak, root = 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        for member in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                held += member.memory_full_info().pss
        peak = max(peak, held / 1024**2)
        time.sleep(0.25)
    return peak


WAYS: dict[str, Any] = {
    "predict only": predict_only,
    "pandas": lambda settings, _: pandas_script(settings),
    "spark_udf": partial(spark_script, has_warehouse=True),
    "spark_udf on Parquet": partial(spark_script, has_warehouse=False),
    "nightshift lightgbm": lambda settings, _: ours(settings, "lightgbm", 0),
    "nightshift quickscorer": lambda settings, _: ours(settings, "quickscorer", 0),
    "nightshift quickscorer, 3 reasons": lambda settings, _: ours(settings, "quickscorer", 3),
}


def child(way: str, home: Path) -> None:
    """Run one way in this process and print what it measured."""
    settings = load_settings().model_copy(update={"expectations_dir": home / "expectations"})
    measured = WAYS[way](settings, home)
    measured.setdefault("peak_mib", peak_mib())
    if way.startswith("nightshift") and (home / "expected.npy").exists():
        measured["n_different"] = compare(settings, home)
    print(json.dumps(measured))


def run_way(way: str, home: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scoring", "--child", way, "--home", str(home)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{way} ended with {process.returncode}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--ways", default=",".join(WAYS).replace(", 3", ";3"), help="comma separated"
    )
    parser.add_argument(
        "--jdbc", type=Path, default=JDBC_OF_DEBIAN, help="PostgreSQL's JDBC driver, a jar"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.home)
        return
    ways = [way.replace(";3", ", 3") for way in given.ways.split(",")]
    if unknown := [way for way in ways if way not in WAYS]:
        parser.error(
            f"no such way: {', '.join(unknown)}; there are: {','.join(WAYS).replace(', 3', ';3')}"
        )
    for way in [way for way in ways if way.startswith("spark_udf")]:
        needed = {
            "Java": shutil.which("java"),
            "PostgreSQL's JDBC driver": "Parquet" in way or given.jdbc.is_file(),
        }
        if missing := [name for name, is_there in needed.items() if not is_there]:
            print(f"{way} is left out: there is no {' and no '.join(missing)}", flush=True)
            ways.remove(way)
    os.environ[JDBC] = str(given.jdbc)
    os.environ["NIGHTSHIFT_CODE_VERSION"] = code_version()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home) / "servers") as servers:
        os.environ.update(servers.env)
        prepare(Path(home), given)
        if any(way.startswith("nightshift") for way in ways):
            print(
                f"once, uncounted                {run_way('nightshift quickscorer', Path(home))}",
                flush=True,
            )
        runs_by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for number in range(given.repeats):
            for way in ways:
                runs_by_way[way].append(run_way(way, Path(home)))
                print(f"round {number + 1} {way:30} {runs_by_way[way][-1]}", flush=True)
    sys.exit(report(runs_by_way, given))


def prepare(home: Path, given: argparse.Namespace) -> None:
    """Make everything that is not measured."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.migrate import migrate

    settings = load_settings()
    write_suite(home)
    with connect(settings) as conn:
        migrate(conn, {})
        started = time.perf_counter()
        make_features(conn, given.rows)
        print(
            f"{given.rows:,} feature rows made in {time.perf_counter() - started:.0f} s", flush=True
        )
        train_champion(settings, conn, given)


def report(runs_by_way: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> int:
    """Print and store medians, ratios and limits."""
    medians = {
        way: statistics.median(run["seconds"] for run in runs) for way, runs in runs_by_way.items()
    }
    peaks = {way: max(run["peak_mib"] for run in runs) for way, runs in runs_by_way.items()}
    model = f"{given.trees} trees of {given.leaves} leaves, {SHAPE}"
    result = Result("scoring", f"{given.rows:,} rows, {model}, {given.repeats} rounds")
    for way, seconds in medians.items():
        result.figures |= {f"{way}, s": seconds, f"{way}, peak MiB": peaks[way]}
    for name, (limit, bound) in LIMITS.items():
        first, second = name.split(" / ")
        if first in medians and second in medians:
            result.limited[name] = Limited(medians[first] / medians[second], bound, limit)
    for way in medians:
        if way.startswith("nightshift") and not way.endswith("reasons"):
            result.limited[f"{way}, peak memory"] = Limited(peaks[way], "at most", PEAK_MIB, "MiB")
    compared = [
        run["n_different"] for runs in runs_by_way.values() for run in runs if "n_different" in run
    ]
    if compared:
        result.limited["scores that are not LightGBM's own"] = Limited(sum(compared), "at most", 0)
    result.bars, result.unit = (
        {way: given.rows / seconds for way, seconds in medians.items()},
        "rows scored a second",
    )
    return result.tell(given.json)


if __name__ == "__main__":
    main()
