"""Keep what the marked tests measured: a pytest plugin, switched on by ``--evidence FILE``.

Each test with a ``promise`` or ``mlts`` marker has one entry in the file: outcome, seconds,
figures, day. A run replaces the entries of the tests that it ran and leaves the others.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest

MARKERS = ("promise", "mlts")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption(
        "--evidence",
        type=Path,
        help="Keep the outcome and figures of promise and mlts tests in this JSON file.",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each report carry what its test stands for, also from another process."""
    for item in items:
        for marker in MARKERS:
            item.user_properties += [(marker, mark.args[0]) for mark in item.iter_markers(marker)]


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that sees all reports."""
    if config.getoption("--evidence") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config.getoption("--evidence")))


class Recorder:
    """Collects entries during a run and merges them into the file at its end.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the call, or the phase that failed or skipped it."""
        stands_for = [(name, value) for name, value in report.user_properties if name in MARKERS]
        if stands_for and (report.when == "call" or report.outcome != "passed"):
            self._entries[report.nodeid.partition("@")[0]] = {
                **{
                    marker: sorted({value for name, value in stands_for if name == marker})
                    for marker in MARKERS
                },
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
                "figures": {
                    name: value for name, value in report.user_properties if name not in MARKERS
                },
                "day": dt.datetime.now(dt.UTC).date().isoformat(),
                "cores": os.cpu_count(),
            }

    def pytest_sessionfinish(self) -> None:
        """Merge and write, sorted by test."""
        known = json.loads(self._path.read_text()) if self._path.exists() else {}
        merged = dict(sorted((known | self._entries).items()))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
