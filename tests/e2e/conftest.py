"""A whole nightshift in a home of its own: PostgreSQL, S3 and Airflow with the real scheduler, a month of history, trained models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nightshift.cli.night import Night, run_night
from nightshift.contracts.model_spec import load_specs
from nightshift.services.airflow_api import AirflowApi
from nightshift.services.local_env import read_env
from nightshift.settings import PROJECT_ROOT, Settings

FIRST_DAY, LAST_DAY, NIGHT = "2013-01-01", "2013-02-03", "2013-02-04"
_HISTORY = f"""
from nightshift.cli.demo import Stopwatch, load_history
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.replay.upstream import deliver
from nightshift.settings import load_settings
settings = load_settings()
history = PartitionRange.of("{FIRST_DAY}", "{LAST_DAY}")
load_history(settings, load_specs(settings.models_dir), history, RunContext("test/history", actor="test"), Stopwatch())
deliver(settings, PartitionRange.of("{NIGHT}"))
"""


@dataclass(frozen=True)
class Whole:
    """A running nightshift.

    Attributes:
        settings: Its endpoints.
        api: Its Airflow.
        night: The night that went through the scheduler.
    """

    settings: Settings
    api: AirflowApi
    night: Night


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Start everything, load a history in one range, train, and run one night through Airflow."""
    base = tmp_path_factory.mktemp("whole night")
    home, dags = base / "home", base / "dags"
    _copy_small_dags(dags)
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    env |= {"NIGHTSHIFT_HOME": str(home), "NIGHTSHIFT_DAGS_DIR": str(dags), "PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    try:
        _run(env, "-m", "nightshift.cli", "up", "--only", "postgres,s3,airflow")
        _run(env, "-c", _HISTORY)
        settings = Settings(dags_dir=dags, **{name.removeprefix("NIGHTSHIFT_").lower(): value for name, value in read_env(home).items()})
        api = AirflowApi.local(home)
        yield Whole(settings, api, run_night(api, NIGHT, expected_dags(settings), timeout_seconds=420))
    finally:
        _run(env, "-m", "nightshift.cli", "down", "--delete-data")


def expected_dags(settings: Settings) -> set[str]:
    """Return the DAGs that a night wakes."""
    stages = ("score", "monitor", "train")
    return {"ingest", "transform"} | {f"{stage}__{name}" for name in load_specs(settings.models_dir) for stage in stages}


def _copy_small_dags(folder: Path) -> None:
    """Copy the DAG folder with specs whose training fits a month."""
    shutil.copytree(PROJECT_ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "models").glob("*.yaml"):
        text = path.read_text()
        for key, value in {"minimum_days": 25, "validation_days": 5, "holdout_days": 5, "num_boost_round": 30}.items():
            text = "\n".join(f"  {key}: {value}" if line.strip().startswith(f"{key}:") else line for line in text.splitlines())
        path.write_text(text + "\n")


def _run(env: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
