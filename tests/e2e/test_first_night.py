"""The tutorial docs/tutorials/first-night.md is run, from the page, on a night of the scheduler."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.page_commands import BLOCK, PageCommand, shell_lines
from tests.whole_night import NIGHT, Whole

from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.connection import connect

pytestmark = [pytest.mark.airflow, pytest.mark.integration, pytest.mark.timeout(900)]

PAGE = PROJECT_ROOT / "docs" / "tutorials" / "first-night.md"
DEMO_NIGHT = "2013-09-07"
BY_THE_FIXTURE = ("make demo", "nightshift down")
"""What ``whole`` has done before, and does after all tests."""
TIMEOUT_SECONDS = 120


def run_command(line: str, whole: Whole, folder: Path) -> str:
    """Run a command of the page for the night of the test; return what it printed."""
    written = line.replace(DEMO_NIGHT, NIGHT).replace("--into .nightshift", f"--into '{folder}'")
    program, *arguments = PageCommand(str(PAGE), written, is_advice=True).words
    assert program == "nightshift"
    environment = {
        **os.environ,
        "NIGHTSHIFT_HOME": str(whole.settings.home),
        "NIGHTSHIFT_DAGS_DIR": str(whole.settings.dags_dir),
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
    }
    # The settings of other tests would name other servers than this home's.
    for name in list(environment):
        if name.startswith(("NIGHTSHIFT_WAREHOUSE", "NIGHTSHIFT_S3", "NIGHTSHIFT_ANALYST")):
            del environment[name]
    done = subprocess.run(
        [sys.executable, "-m", "nightshift.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # `status` answers 1 while a service of another test is down; what it prints is what counts.
    assert done.returncode == 0 or arguments == ["status"], f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def loads(whole: Whole) -> list[str]:
    """Return the states of the night's loads of predictions, in order."""
    query = (
        "select state from ops.loads where dataset = 'predictions/flight_delayed'"
        " and partition_date = %s order by load_id"
    )
    with connect(whole.settings, "test") as conn:
        return [state for (state,) in conn.execute(query, [NIGHT])]


def test_every_command_of_the_first_night_runs_as_the_page_says(
    whole: Whole, tmp_path: Path
) -> None:
    blocks = [match[1] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    lines = [line for block in blocks for line in shell_lines(block)]
    assert (lines[0], lines[-1]) == BY_THE_FIXTURE
    before = loads(whole)

    printed = {}
    for line in lines[1:-1]:
        printed[line] = run_command(line, whole, tmp_path)
        if " dags clear " in line:
            _wait_for_load(whole, len(before) + 1)

    outputs = list(printed.values())
    assert "flight_delayed" in outputs[0]
    # No light of Airflow's home page is red on a healthy machine.
    for part in ("scheduler", "dag-processor", "triggerer"):
        assert re.search(rf"airflow-{part} +ok .*healthy", outputs[0]), outputs[0]
    assert NIGHT in outputs[1]
    assert len(re.findall(rf"^ *{NIGHT[:7]}", outputs[2], re.MULTILINE)) == 5
    assert "champion" in outputs[3]
    assert list(tmp_path.glob("*.html"))
    # Readers noticed nothing: the content is equal, so the load is a duplicate.
    assert loads(whole)[-1] == "duplicate"
    assert "duplicate" in outputs[-2]
    assert "airflow.dags.clear" in outputs[-1]


def _wait_for_load(whole: Whole, number: int) -> None:
    """Wait until the night has so many loads, and the last one is over."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        states = loads(whole)
        if len(states) >= number and states[-1] in {"duplicate", "published", "refused"}:
            return
        time.sleep(1)
    pytest.fail(json.dumps(loads(whole)))
