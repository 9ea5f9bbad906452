"""Fifteen nights through the real scheduler beside twenty busy processes, each with another fault
of upstream."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.flights.faults import Fault, FaultType
from examples.flights.flights_2013 import DATASETS
from examples.flights.upstream import deliver
from tests.chaos.scheduler.disturbance import ENDED, eventually
from tests.whole_night import Whole, open_whole

from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.timeout(4 * 3600, func_only=True),
]

FIRST_NIGHT = "2013-02-05"
N_BUSY = int(os.environ.get("NIGHTSHIFT_TEST_BUSY", "20"))
"""Processes that do nothing but use a processor; the nights have two cores, so they get a tenth
of each.
"""
N_NIGHTS = int(os.environ.get("NIGHTSHIFT_TEST_NIGHTS", "15"))
FIRST_TROUBLE = int(os.environ.get("NIGHTSHIFT_TEST_FIRST_TROUBLE", "0"))
"""Position of the first night's trouble: three runs side by side take a third of them each."""
LONGEST_SECONDS = 3600
"""Longest life of a busy process whose test was killed, renewed with each night."""
BETWEEN_SECONDS = 20
"""From the start of a night to the drop that comes too late for it."""


@dataclass(frozen=True)
class Trouble:
    """What upstream does wrong in a night, and what it does about it.

    Attributes:
        kind: The fault.
        dataset: Whose drop.
        column: The delivered column that it concerns.
        value: What the rows get there.
        is_repaired: Whether upstream delivers the good file a moment after the wrong one.
    """

    kind: FaultType
    dataset: str
    column: str = ""
    value: str = "?"
    is_repaired: bool = False


TROUBLES = (
    Trouble(FaultType.TWICE, "weather"),
    Trouble(FaultType.ABSENT, "flight_schedules", is_repaired=True),
    Trouble(FaultType.BAD_ROWS, "weather", "temperature_f", "warm"),
    Trouble(FaultType.CORRUPTED, "flight_outcomes", is_repaired=True),
    Trouble(FaultType.REORDERED_COLUMNS, "flight_schedules"),
    Trouble(FaultType.TRUNCATED, "weather", is_repaired=True),
    Trouble(FaultType.DUPLICATED_ROWS, "flight_outcomes"),
    Trouble(FaultType.MISSING_COLUMN, "flight_schedules", "destination", is_repaired=True),
    Trouble(FaultType.ADDED_COLUMN, "weather", "lucky_number", "7"),
    Trouble(FaultType.ABSENT, "flight_outcomes", is_repaired=True),
    Trouble(FaultType.RENAMED, "flight_schedules", value="another_name"),
    Trouble(FaultType.WRONG_TYPE, "weather", "temperature_f", "cold", is_repaired=True),
    Trouble(FaultType.REORDERED_ROWS, "flight_outcomes"),
    Trouble(FaultType.ABSENT, "weather", is_repaired=True),
    Trouble(FaultType.LATE, "flight_schedules"),
)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep processors busy as long as the block lasts."""
    code = f"import os, time\nend = time.monotonic() + {LONGEST_SECONDS}\nparent = os.getppid()\n"
    # Nobody may be left busy when the test is killed: a new parent ends it.
    code += "while time.monotonic() < end and os.getppid() == parent: sum(range(100_000))"
    busy = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(N_BUSY)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Open a nightshift that no other test has touched."""
    kept = os.environ.get("NIGHTSHIFT_TEST_OWN")
    base = Path(kept) if kept else tmp_path_factory.mktemp("busy nights")
    with open_whole(base, is_kept=bool(kept)) as opened:
        yield opened


def test_every_night_is_published_by_the_champion_on_a_busy_machine(
    own: Whole, record_figure: Callable[[str, float], None]
) -> None:
    """Each before its deadline, whatever upstream did; nothing is degraded when its run has
    ended."""
    keys = [Partition.parse(FIRST_NIGHT).shift(i).key for i in range(N_NIGHTS)]
    seconds: list[float] = []
    for i, key in enumerate(keys):
        trouble = TROUBLES[(FIRST_TROUBLE + i) % len(TROUBLES)]
        with busy_machine():
            seconds.append(run_troubled_night(own, key, trouble))
        print(f"night {key}: {trouble.kind}, {seconds[-1]:.0f} s", flush=True)
    record_figure("nights_on_a_busy_machine", len(seconds))
    record_figure("longest_night_on_a_busy_machine_seconds", max(seconds))
    for model in load_specs(own.settings.models_dir):
        assert sources_of(own, model, keys) == {(key, "champion") for key in keys}


def run_troubled_night(own: Whole, key: str, trouble: Trouble) -> float:
    """Deliver a night with its trouble, start it, act as upstream and as on-call do, and return
    its seconds to publication."""
    day = PartitionRange.of(key)
    fault = Fault(trouble.kind, trouble.dataset, day.first.day, trouble.column, trouble.value)
    others = [dataset for dataset in DATASETS if dataset != trouble.dataset]
    deliver(own.settings, day, datasets=others)
    deliver(own.settings, day, [fault], [trouble.dataset])
    started = time.monotonic()
    ingest = own.api.run("ingest", own.api.trigger("ingest", key))
    if trouble.is_repaired:
        repair(own, key, trouble, ingest.run_id)
    left = seconds_until_deadline(own, key) - (time.monotonic() - started)
    eventually(lambda: is_published(own, key), left, f"the predictions of {key} are published")
    took = time.monotonic() - started
    eventually(
        lambda: all(run.state in ENDED for run in own.api.runs(key)),
        1800,
        f"the night of {key} ends",
    )
    return took


def repair(own: Whole, key: str, trouble: Trouble, run_id: str) -> None:
    """Deliver the good file under another name a moment later; clear the load that a wrong file
    has failed."""
    if trouble.kind is FaultType.ABSENT:
        time.sleep(BETWEEN_SECONDS)
    else:
        eventually(
            lambda: own.api.run("ingest", run_id).state == "failed", 1200, f"ingest of {key} is red"
        )
    day = PartitionRange.of(key)
    later = dt.timedelta(minutes=1)
    good = Fault(FaultType.RENAMED, trouble.dataset, day.first.day, value=f"{trouble.dataset}_good")
    deliver(
        own.settings,
        day,
        [good, Fault(FaultType.LATE, trouble.dataset, day.first.day, delay=later)],
        [trouble.dataset],
    )
    if trouble.kind is not FaultType.ABSENT:
        run = own.api.run("ingest", run_id)
        red = {
            str(task["task_id"])
            for task in own.api.tasks(run)
            if task["state"] in {"failed", "upstream_failed"}
        }
        own.api.clear(run, sorted(red))


def seconds_until_deadline(own: Whole, key: str) -> float:
    """Return how long the night may take: from its cut-off to the earliest deadline of a model."""
    partition = Partition.parse(key)
    deadlines = [
        spec.deadline_of(partition) for spec in load_specs(own.settings.models_dir).values()
    ]
    return (min(deadlines) - partition.cutoff).total_seconds()


def is_published(own: Whole, key: str) -> bool:
    """Return whether readers have the predictions of every model."""
    datasets = [f"predictions/{model}" for model in load_specs(own.settings.models_dir)]
    query = "select count(*) from ops.published where partition_date = %s and dataset = any(%s)"
    with connect(own.settings, "test") as conn:
        row = conn.execute(query, [key, datasets]).fetchone()
    return row == (len(datasets),)


def sources_of(own: Whole, model: str, keys: list[str]) -> set[tuple[str, str]]:
    """Return who made the rows that readers have, by night."""
    query = (
        "select distinct partition_date::text, score_source from "
        f"analytics.{model}_current where partition_date = any(%s::date[])"
    )
    with connect(own.settings, "test") as conn:
        return {(key, source) for key, source in conn.execute(query.encode(), [keys])}
