"""Hostile files kill no worker, stay within a gigabyte and a minute, and get a code if refused."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.chaos.hostile_files.files import (
    allowed_refusals,
    every_key_twice,
    hostile_file,
    one_row_repeated,
)
from tests.integration.ingestion.hostile_world import HostileWorld, good_file, hostile_world

from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

MOST_MIB = 1024
MOST_SECONDS = 60
FIRST = dt.date(2013, 1, 2)


@pytest.fixture
def world(session_settings, template_database, tmp_path) -> Iterator[HostileWorld]:
    with hostile_world(session_settings, template_database, tmp_path) as one:
        yield one


def in_child(world: HostileWorld, task: str, days: list[str]) -> tuple[int, list[dict]]:
    """Return the exit code of a process that loads these days, and what it said of each."""
    said = world.settings
    env = os.environ | {
        "NIGHTSHIFT_WAREHOUSE_DATABASE": said.warehouse_database,
        "NIGHTSHIFT_S3_BUCKET": said.s3_bucket,
        "NIGHTSHIFT_HOME": str(said.home),
        "NIGHTSHIFT_DAGS_DIR": str(said.dags_dir),
        "NIGHTSHIFT_EXPECTATIONS_DIR": str(said.expectations_dir),
        "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "plugins")]),
    }
    command = [sys.executable, "-m", "tests.chaos.hostile_files.child", task, "visits", *days]
    done = subprocess.run(
        command, env=env, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
    ]


def bring(world: HostileWorld, seeds: range) -> dict[str, str]:
    """Deliver one hostile file for each seed on a day of its own, and return its kind by day."""
    kinds = {}
    for seed in seeds:
        day = FIRST + dt.timedelta(days=seed)
        kind, (data, n_rows, suffix) = hostile_file(seed, str(day))
        world.bring(day, data, n_rows, suffix=suffix)
        kinds[str(day)] = kind
    return kinds


def check(world: HostileWorld, kinds: dict[str, str], record_figure) -> None:
    exit_code, said = in_child(world, "late", list(kinds))
    assert exit_code == 0
    assert [one["day"] for one in said] == list(kinds)
    uncoded = [
        (kinds[one["day"]], one)
        for one in said
        if one["outcome"].startswith("uncoded") or one["outcome"] == "?"
    ]
    assert uncoded == []
    slowest, peak = max(one["seconds"] for one in said), max(one["peak_mib"] for one in said)
    record_figure("hostile files", len(said))
    record_figure("slowest hostile file, s", slowest)
    record_figure("peak memory over all hostile files, MiB", peak)
    worst = sorted(((one["seconds"], kinds[one["day"]]) for one in said), reverse=True)[:3]
    print(
        len(said),
        f"slowest {slowest:.1f} s",
        worst,
        f"peak {peak:.0f} MiB",
        Counter(one["outcome"] for one in said),
    )
    assert slowest <= MOST_SECONDS
    assert peak <= MOST_MIB
    assert world.unfinished() == []
    (n_refused,) = world.conn.execute(
        "select count(distinct partition_date) from quarantine.refused_drops"
    ).fetchone()
    assert n_refused == sum(one["outcome"] != "loaded" for one in said)


def test_hostile_files_kill_no_worker(world, record_figure):
    check(world, bring(world, range(48)), record_figure)


@pytest.mark.long
def test_500_hostile_files_kill_no_worker(world, record_figure):
    check(world, bring(world, range(500)), record_figure)


MANY_ROWS = {
    "refused, in one piece": (allowed_refusals, 400_000, (1, 0, 399_999)),
    "refused, streamed": (allowed_refusals, 1_000_000, (1, 0, 999_999)),
    "one row a million times": (one_row_repeated, 1_500_000, (1, 1_499_999, 0)),
    "every key twice": (every_key_twice, 1_500_000, (750_000, 750_000, 0)),
}
"""What a file has, its rows, and how many of them are accepted, repeated and refused."""
MOST_MIB_OF_ONE = 768


@pytest.mark.long
@pytest.mark.parametrize("kind", MANY_ROWS)
def test_one_drop_holds_a_bounded_number_of_its_rows_in_memory(world, kind, record_figure):
    """The contract allows all of it, so all is kept: an hour's work of Python objects."""
    make, n_rows, books = MANY_ROWS[kind]
    world.contract(maximum_refused_ratio=1)
    world.bring(FIRST, make(n_rows, str(FIRST)), n_rows)

    exit_code, said = in_child(world, "late", [str(FIRST)])

    assert (exit_code, [one["outcome"] for one in said]) == (0, ["loaded"])
    query = "select n_accepted, n_duplicated, n_refused from raw.ingested_drops"
    assert world.conn.execute(query).fetchall() == [books]
    kept = "select count(*) from quarantine.refused_rows"
    assert world.conn.execute(kept).fetchone() == (books[2],)
    record_figure(f"peak memory, {kind}, MiB", said[0]["peak_mib"])
    print(kind, said)
    assert said[0]["peak_mib"] <= MOST_MIB_OF_ONE
    assert said[0]["seconds"] <= MOST_SECONDS


def test_a_range_of_many_drops_holds_a_few_in_memory(world, record_figure):
    """One drop of it alone, and forty: the difference is what a range adds."""
    n_rows = 1_440 * 8
    days = [FIRST + dt.timedelta(days=n) for n in range(40)]
    for day in days:
        data = b"".join(
            [good_file(day, 1_440)]
            + [good_file(day, 1_440).replace(b"hill", b"mill%d" % n)[31:] for n in range(7)]
        )
        world.bring(day, data, n_rows)
    few, some = (
        in_child(world, "range", [str(days[0])]),
        in_child(world, "range", [str(days[0]), str(days[-1])]),
    )
    assert (few[0], some[0]) == (0, 0)
    assert some[1][0]["n_rows"] == n_rows * len(days)
    record_figure("peak memory of a range of 40 drops, MiB", some[1][0]["peak_mib"])
    print(few, some)
    assert some[1][0]["peak_mib"] < few[1][0]["peak_mib"] + 250
