"""Play the upstream system: ``python -m examples.flights replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.flights.flights_2013 import DATASETS
from examples.flights.upstream import deliver
from nightshift.cli.console import say
from nightshift.cli.history import First, Last
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.settings import Settings

REFERENCE_DATASETS = ("airports", "carriers", "planes")
"""Delivered on the first day and whenever they change."""


def replay(first: First, last: Last = "") -> None:
    """Write the drops of real flights of 2013 into the lake."""
    deliver_range(load_settings(), PartitionRange.of(first, last or None))


def deliver_range(
    settings: Settings, partitions: PartitionRange, datasets: Sequence[str] | None = None
) -> None:
    """Deliver a range of days and print what was delivered; a drop that is there already stays."""
    summary = deliver(settings, partitions, datasets=datasets or DATASETS)
    n_drops, n_rows = sum(summary.n_drops.values()), sum(summary.n_rows.values())
    say(f"      {n_drops} drops, {n_rows:,} rows in landing/")
