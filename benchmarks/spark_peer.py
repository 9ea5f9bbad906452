"""The peer of a team with Spark: MLflow's ``spark_udf`` on local PySpark; run by ``scoring.py`` in an environment of its own.

    python -m benchmarks.spark_peer <folder>

The folder has ``features/`` in Parquet, ``model.txt`` and ``levels.json``; scores go to ``scores/``. Spark is spared the warehouse in both
directions, since its driver for PostgreSQL is no Python package: it reads Parquet and writes Parquet. Starting Spark and saving the model
are not in the time either.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("pyspark==4.0.1", "mlflow-skinny=={mlflow}", "lightgbm=={lightgbm}", "pandas==2.3.3", "pyarrow=={pyarrow}", "numpy=={numpy}")
"""What its environment has; the versions in braces are ours."""
N_PARTITIONS = 8


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

        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:  # noqa: ANN401, ARG002
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
        mlflow.pyfunc.save_model(str(saved), python_model=Model(), artifacts=artifacts, pip_requirements=["lightgbm"])
    spark = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", "6g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    score = mlflow.pyfunc.spark_udf(spark, str(saved), result_type="double", env_manager="local")
    spark.range(10).count()
    started = time.perf_counter()
    rows = spark.read.parquet(str(folder / "features")).repartition(N_PARTITIONS)
    names = [name for name in rows.columns if name != "thing_id"]
    rows.select("thing_id", score(struct(*names)).alias("score")).write.mode("overwrite").parquet(str(folder / "scores"))
    print(json.dumps({"seconds": time.perf_counter() - started}))
    spark.stop()


if __name__ == "__main__":
    main()
