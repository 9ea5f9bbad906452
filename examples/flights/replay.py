"""``python -m examples.flights replay``: deliver a range of days as upstream would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from examples.flights.flights_2013 import DATASETS
from examples.flights.upstream import deliver
from nightshift.cli.arguments import First, Last
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings

REFERENCE_DATASETS = ("airports", "carriers", "planes")
"""Delivered on the first day and whenever they change."""


def replay(first: First, last: Last = "") -> None:
    """Write the drops of real flights of 2013 into the lake."""
    partitions = PartitionRange.of(first, last)
    deliver_range(load_settings(), partitions)


def deliver_range(
    settings: Settings,
    partitions: PartitionRange,
    datasets: Sequence[str] = DATASETS,
) -> None:
    """Deliver a range of days and print the counts; a drop that exists already is left alone."""
    summary = deliver(settings, partitions, datasets=datasets)
    n_drops = sum(summary.n_drops.values())
    n_rows = sum(summary.n_rows.values())
    typer.echo(f"      {n_drops} drops, {n_rows:,} rows in landing/")
