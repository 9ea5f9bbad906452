"""The ways to score and publish a partition; each runs in a process of its own."""

from __future__ import annotations

import datetime as dt
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.scoring.made_up import DAY, make_spec
from benchmarks.scoring.published import champion, read_features
from benchmarks.scoring.spark import spark_script
from benchmarks.shape import CATEGORICAL, NUMERIC

from nightshift.contracts.run import RunContext
from nightshift.settings import Settings

if TYPE_CHECKING:
    import sqlalchemy


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


WAYS: dict[str, Any] = {
    "predict only": predict_only,
    "pandas": lambda settings, _: pandas_script(settings),
    "spark_udf": partial(spark_script, has_warehouse=True),
    "spark_udf on Parquet": partial(spark_script, has_warehouse=False),
    "nightshift lightgbm": lambda settings, _: ours(settings, "lightgbm", 0),
    "nightshift quickscorer": lambda settings, _: ours(settings, "quickscorer", 0),
    "nightshift quickscorer, 3 reasons": lambda settings, _: ours(settings, "quickscorer", 3),
}
