"""Readers see complete loads, in order, whatever is killed, and catch the usual ways to write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def storm(kills: int, crashes: int, reads: int) -> dict[str, Any]:
    """Run the storm in a process without threads; return what it measured."""
    command = [
        sys.executable,
        "-m",
        "tests.chaos.write_path.storm",
        f"--kills={kills}",
        f"--crashes={crashes}",
        f"--reads={reads}",
    ]
    path = os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "plugins")])
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    print(done.stdout)
    return json.loads(done.stdout)


LONG_KILLS = 200
"""Kills from which a storm is long enough for everything to have happened in it."""


def judge(found: dict[str, Any], kills: int, crashes: int, reads: int) -> None:
    """Compare with the promises; a control that catches nothing means blind readers."""
    assert (
        found["read_violations"],
        found["violations_shown"],
        found["ledger_violations"],
        found["violations_after"],
    ) == (0, [], [], [])
    assert found["kills"] >= kills
    assert found["crashes"] >= crashes
    assert found["kills_while_writing"] >= 0.2 * found["kills"]
    assert sum(found["reads"].values()) >= reads
    assert min(found["reads"].values()) > reads / 10
    assert min(found["loads_published"], found["loads_fenced_out"]) > 0
    # In a short storm on a busy machine the collector may find nothing old enough.
    assert found["rows_collected"] > 0 or kills < LONG_KILLS
    assert found["recovery_seconds_max"] < 60
    assert found["seconds_until_no_backend"] < 10
    assert min(found["control_delete_and_insert"].values()) > 0
    assert found["control_truncate_and_insert"]["repeatable read"] > 0


def keep(found: dict[str, Any], record_figure) -> None:
    """Keep the figures for the generated page."""
    for name, figure in found.items():
        if isinstance(figure, int | float):
            record_figure(f"storm_{name}", figure)
    record_figure("storm_reads", sum(found["reads"].values()))
    for way in ("delete_and_insert", "truncate_and_insert"):
        control = found[f"control_{way}"]
        record_figure(
            f"control_{way}_violations", control["read committed"] + control["repeatable read"]
        )


@pytest.mark.promise("R1")
@pytest.mark.promise("R2")
@pytest.mark.promise("R3")
@pytest.mark.promise("R14")
@pytest.mark.promise("R17")
def test_readers_see_whole_loads_when_writers_are_killed_and_the_database_crashes(record_figure):
    found = storm(kills=40, crashes=5, reads=500)
    keep(found, record_figure)

    judge(found, kills=40, crashes=5, reads=500)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.promise("R1")
@pytest.mark.promise("R2")
@pytest.mark.promise("R3")
@pytest.mark.promise("R14")
@pytest.mark.promise("R17")
def test_readers_see_whole_loads_through_a_thousand_kills(record_figure):
    found = storm(kills=1000, crashes=50, reads=20_000)
    keep(found, record_figure)

    judge(found, kills=1000, crashes=50, reads=20_000)
