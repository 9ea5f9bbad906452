"""How long Airflow's DAG files take to read with many model specs, Airflow itself imported.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.dag_parsing [--specs 50] [--repeats 5]

Each repeat is a process of its own, as each parse of Airflow's is; its DAG processor imports
Airflow before it parts. The limit is 0.5 s for all files together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Limited, Result

from nightshift.settings import PROJECT_ROOT

LIMIT_SECONDS = 0.5
READ = """
import importlib.util, json, pathlib, sys, time
from airflow.sdk import CronTriggerTimetable, DAG, Param, dag, get_current_context, task
seconds, n_dags = {}, 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    started = time.perf_counter()
    spec = importlib.util.spec_from_file_location(f"read_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seconds[path.name] = time.perf_counter() - started
    n_dags += sum(isinstance(value, DAG) for value in vars(module).values())
print(json.dumps({"seconds": seconds, "n_dags": n_dags, "processor": time.process_time()}))
"""


def copy_dags(folder: Path, n_specs: int) -> None:
    """Copy the DAG folder, and the first spec under other names until there are enough."""
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "models" / "flight_delayed.yaml").read_text(encoding="utf-8")
    for number in range(n_specs - len(list((folder / "models").glob("*.yaml")))):
        name = f"copy_{number:03d}"
        (folder / "models" / f"{name}.yaml").write_text(
            re.sub(r"^name: .*$", f"name: {name}", text, flags=re.MULTILINE)
        )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specs", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "dags"
        copy_dags(folder, given.specs)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "NIGHTSHIFT_DAGS_DIR": str(folder),
            "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        }
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", READ, folder],
                    env=environment,
                    capture_output=True,
                    check=True,
                ).stdout
            )
            for _ in range(given.repeats + 1)
        ][1:]
    result = Result(
        "dag_parsing",
        f"{given.specs} specs, {runs[0]['n_dags']} DAGs,"
        f" {given.repeats} processes after one to warm up",
    )
    result.figures = {
        f"{name}, s": statistics.median(run["seconds"][name] for run in runs)
        for name in runs[0]["seconds"]
    }
    together = statistics.median(sum(run["seconds"].values()) for run in runs)
    result.limited["all DAG files together"] = Limited(together, "at most", LIMIT_SECONDS, "s")
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
