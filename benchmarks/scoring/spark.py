"""The peer on PySpark (``spark_peer.py``): its environment, its run, its scores and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.scoring.published import champion, read_features

from nightshift.settings import PROJECT_ROOT, Settings

JDBC = "NIGHTSHIFT_BENCH_JDBC"
JDBC_OF_DEBIAN = Path("/usr/share/java/postgresql.jar")


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
