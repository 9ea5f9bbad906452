"""``docs/DAGS.md`` says what Airflow reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightshift.settings import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "DAGS.md"


def generate(folder: Path, tmp_path: Path) -> str:
    """Run the generator as ``make docs`` does, in a process of its own with an Airflow home of its
    own."""
    target = tmp_path / "DAGS.md"
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
    }
    argv = [sys.executable, "-m", "nightshift.orchestration.dag_docs", str(folder), str(target)]
    done = subprocess.run(
        argv, env=env, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target.read_text(encoding="utf-8")


def test_page_is_current(tmp_path: Path):
    """Renew it with ``make docs``."""
    assert PAGE.read_text(encoding="utf-8") == generate(PROJECT_ROOT / "dags", tmp_path)


def test_page_has_every_dag_with_its_assets_and_whether_a_rerun_is_safe(parsed: dict[str, Any]):
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        row[0]: row
        for row in re.findall(
            r"^\| `([a-z_]+)` \| (.+) \| (.*) \| ([a-z-]+) \|$", text, re.MULTILINE
        )
    }
    assert set(parsed["dags"]) <= set(rows)
    for dag_id, dag in parsed["dags"].items():
        emitted = sorted(name for task in dag["tasks"].values() for name in task["outlets"])
        assert rows[dag_id][2] == ", ".join(f"`{name}`" for name in emitted)
    assert (
        rows["transform"][1] == "`raw/flight_outcomes` and `raw/flight_schedules` and `raw/weather`"
    )
    assert rows["train__flight_delayed"][1] == "`features/flight` or `retrain/flight_delayed`"
    assert text.count("**Rerun, clear, backfill**") == text.count("\n## `dags/")


def test_generator_refuses_a_folder_without_dags(tmp_path: Path):
    (tmp_path / "dags").mkdir()
    with pytest.raises(AssertionError, match="no DAG"):
        generate(tmp_path / "dags", tmp_path)
