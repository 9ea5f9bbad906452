"""The DAGs as Airflow's own processor reads them, in a process of its own with a home of its
own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightshift.settings import PROJECT_ROOT

_READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = {"pandas", "numpy", "lightgbm", "boto3", "great_expectations", "evidently", "mlflow",
    "pyarrow", "psycopg", "sklearn", "openlineage"}
print("RESULT" + json.dumps({
    "errors": bag.import_errors,
    "heavy": sorted(heavy & set(sys.modules)),
    "dags": {dag.dag_id: {
        "doc": dag.doc_md, "tags": sorted(dag.tags), "max_active_runs": dag.max_active_runs,
            "catchup": dag.catchup,
        "longest_run_seconds": dag.dagrun_timeout.total_seconds() if dag.dagrun_timeout else 0,
        "start_date": str(dag.start_date) if dag.start_date else None,
        "timetable": type(dag.timetable).__name__,
        "tasks": {task.task_id: {
            "owner": task.owner, "retries": task.retries, "pool": task.pool,
                "policy": type(task.retry_policy).__name__,
            "timeout_seconds": task.execution_timeout.total_seconds() if task.execution_timeout
                else None,
            "outlets": sorted(outlet.name for outlet in task.outlets),
                "downstream": sorted(task.downstream_task_ids),
            "trigger_rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
        } for task in dag.tasks},
    } for dag in bag.dags.values()},
}))
"""


def read_dags(folder: Path, home: Path) -> dict[str, Any]:
    """Parse a DAG folder in a fresh interpreter."""
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(folder)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT"))


@pytest.fixture(scope="session")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what Airflow reads from ``dags/``."""
    return read_dags(PROJECT_ROOT / "dags", tmp_path_factory.mktemp("airflow"))
