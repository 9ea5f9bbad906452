"""Short memory gives a named error or a dead process; published rows stay, a rerun succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nightshift.ingestion.load import ingest
from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.promise("R12"), pytest.mark.integration]

FIRST, SECOND = "2013-03-09", "2013-03-10"
MIB = 1024**2
CHILD = """
import os, resource, signal, sys
import boto3, great_expectations, numpy, psycopg, pyarrow.compute, pyarrow.csv
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.resource_errors import translate_resource_errors
from nightshift.ingestion import load, raw_load
from nightshift.settings import load_settings

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

day, room = PartitionRange.of(sys.argv[1]), sys.argv[2]
if room == "killed":
    raw_load.audit = die
else:
    limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + int(room)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with translate_resource_errors():
    print(load.ingest(load_settings(), "weather", day, RunContext("test/memory", 1, "test")).n_rows)
"""


def run_child(settings, day: str, room: str) -> subprocess.CompletedProcess[str]:
    """Ingest a day in a process of its own, as a task does."""
    names = ("home", "warehouse_database", "s3_bucket")
    mine = {f"NIGHTSHIFT_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment = os.environ | mine | {"PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    return subprocess.run(
        [sys.executable, "-c", CHILD, day, room],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def visible(conn):
    return conn.execute(
        """
        select partition_date::text, count(*) from raw.weather \
join ops.published using (partition_date, load_id)
        where dataset = 'raw/weather' group by 1 order by 1
        """
    ).fetchall()


@pytest.mark.parametrize(
    "room_mib",
    [0, pytest.param(8, marks=pytest.mark.long), pytest.param(24, marks=pytest.mark.long)],
)
def test_ingest_names_the_memory_or_dies_and_a_rerun_succeeds_when_memory_is_short(
    settings, conn, run, play, room_mib
):
    """The limit counts from what the imports have taken.

    Memory is short at once, in the middle, or near the end.
    """
    ingest(settings, "weather", play(FIRST), run)
    second = play(SECOND)

    child = run_child(settings, SECOND, str(room_mib * MIB))

    is_dead, has_name = child.returncode < 0, "[NS-MEMORY-001]" in child.stderr
    assert child.returncode != 0
    assert is_dead or has_name, child.stderr[-3000:]
    assert visible(conn) == [(FIRST, 72)]
    assert ingest(settings, "weather", second, run).n_rows == 69
    assert visible(conn) == [(FIRST, 72), (SECOND, 69)]


@pytest.mark.long
def test_ingest_leaves_nothing_visible_and_a_rerun_succeeds_when_the_kernel_ends_it(
    settings, conn, run, play
):
    ingest(settings, "weather", play(FIRST), run)
    second = play(SECOND)

    child = run_child(settings, SECOND, "killed")

    assert child.returncode == -signal.SIGKILL
    assert visible(conn) == [(FIRST, 72)]
    assert conn.execute("select count(*) from raw.weather").fetchone() == (72 + 69,)
    assert ingest(settings, "weather", second, run).n_rows == 69
    assert visible(conn) == [(FIRST, 72), (SECOND, 69)]
