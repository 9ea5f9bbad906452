"""The peer of a team with Spark: MLflow's ``spark_udf`` on local PySpark; run by ``scoring.py``.

    python -m benchmarks.scoring.spark_peer <folder> [<jar>]

The folder has ``model.txt`` and ``levels.json``. With PostgreSQL's JDBC driver it does what we do,
from and to the warehouse, by eight connections and batched inserts. Without, it is spared the
warehouse in both directions: it reads ``features/`` and writes ``scores/``, in Parquet. Starting
Spark and saving the model are not in the time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = (
    "pyspark==4.0.1",
    "mlflow-skinny=={mlflow}",
    "lightgbm=={lightgbm}",
    "pandas==2.3.3",
    "pyarrow=={pyarrow}",
    "numpy=={numpy}",
)
"""What its environment has; the versions in braces are ours."""
N_PARTITIONS = 8
KEYS = ("thing_id", "partition_date", "load_id", "event_timestamp", "as_of")
SCORES = "predictions.spark_predictions"


def main() -> None:
    """Score and print the seconds."""
    import mlflow
    import pandas as pd
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import struct

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # without types here
        """The trees, and the codes of their categories."""

        def load_context(self, context: Any) -> None:  # noqa: ANN401
            """Read trees and levels once a worker."""
            import lightgbm as lgb

            self.booster = lgb.Booster(model_file=context.artifacts["trees"])
            self.levels = json.loads(Path(context.artifacts["levels"]).read_text(encoding="utf-8"))

        def predict(
            self,
            context: Any,  # noqa: ANN401, ARG002
            model_input: pd.DataFrame,
            params: Any = None,  # noqa: ANN401, ARG002
        ) -> Any:  # noqa: ANN401
            """Return raw scores."""
            frame = model_input.copy()
            for name, levels in self.levels.items():
                codes = pd.Categorical(frame[name], categories=levels).codes.astype(float)
                codes[codes < 0] = float("nan")
                frame[name] = codes
            return self.booster.predict(frame.astype(float), raw_score=True, num_threads=1)

    folder = Path(sys.argv[1]).resolve()
    saved = folder / "mlflow_model"
    if not saved.exists():
        artifacts = {"trees": str(folder / "model.txt"), "levels": str(folder / "levels.json")}
        mlflow.pyfunc.save_model(
            str(saved), python_model=Model(), artifacts=artifacts, pip_requirements=["lightgbm"]
        )
    jars = sys.argv[2:]
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", "6g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.jars", ",".join(jars))
        .getOrCreate()
    )
    score = mlflow.pyfunc.spark_udf(spark, str(saved), result_type="double", env_manager="local")
    spark.range(10).count()
    started = time.perf_counter()
    rows = (
        _from_warehouse(spark)
        if jars
        else spark.read.parquet(str(folder / "features")).repartition(N_PARTITIONS)
    )
    names = [name for name in rows.columns if name not in KEYS]
    scores = rows.select("thing_id", score(struct(*names)).alias("score")).write.mode("overwrite")
    if jars:
        scores.option("batchsize", 10_000).option("truncate", "true").jdbc(
            _url() + "?reWriteBatchedInserts=true", SCORES, properties=_login()
        )
    else:
        scores.parquet(str(folder / "scores"))
    print(json.dumps({"seconds": time.perf_counter() - started}))
    spark.stop()


def _from_warehouse(spark: Any) -> Any:  # noqa: ANN401  (without types here)
    """Return the feature rows, read by as many connections as there are partitions."""
    parts = [
        f"abs(mod(hashtext(thing_id), {N_PARTITIONS})) = {part}" for part in range(N_PARTITIONS)
    ]
    return spark.read.option("fetchsize", 10_000).jdbc(
        _url(), "features.feat_bench", predicates=parts, properties=_login()
    )


def _url() -> str:
    address = (os.environ[f"NIGHTSHIFT_WAREHOUSE_{part}"] for part in ("HOST", "PORT", "DATABASE"))
    return "jdbc:postgresql://{}:{}/{}".format(*address)


def _login() -> dict[str, str]:
    user, password = (os.environ[f"NIGHTSHIFT_WAREHOUSE_{part}"] for part in ("USER", "PASSWORD"))
    return {"user": user, "password": password, "driver": "org.postgresql.Driver"}


if __name__ == "__main__":
    main()
