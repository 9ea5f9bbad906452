"""Processor seconds of the servers of a home: a figure that a busy machine hardly changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from nightshift_local.stack import compose

SCHEDULER, TASKS = "airflow-scheduler", "tasks"
# What a night's stages use; Airflow's standing processes take their time without a night too.
STAGES = (TASKS, "postgres", "s3")


def processor_seconds(home: Path) -> dict[str, float]:
    """Return what each part of a home has used since its start, with all that it has started.

    A process inherits the times of its ended children, so no short task is missed. The scheduler's
    children are the tasks of nights, which have an entry of their own.
    """
    seconds: dict[str, float] = {}
    for part in compose(home, environment={}).parts:
        root = part.process.find()
        if root is None:
            continue
        own = root.cpu_times()
        children = own.children_user + own.children_system
        for process in root.children(recursive=True):
            children += _used(process)
        seconds[part.name] = own.user + own.system + children
        if part.name == SCHEDULER:
            seconds |= {SCHEDULER: own.user + own.system, TASKS: children}
    return seconds


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each part has used in between."""
    return {name: used - before.get(name, 0.0) for name, used in after.items()}


def _used(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        # Its parent has inherited its times, or will: it is counted by the next look.
        return 0.0
    return times.user + times.system + times.children_user + times.children_system
