"""``nightshift backfill``: load a range of the past without Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightshift.cli.arguments import First, Last, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


@recorded("backfill")
def backfill(first: First, last: Last = "") -> None:
    """Ingest and transform a range of partitions at once; Airflow runs one a night.

    Safe to repeat: equal content is not published again.
    """
    from nightshift.contracts.datasets import read_contracts, require_history

    settings = load_settings()
    partitions = PartitionRange.of(first, last)
    contracts = read_contracts(settings.datasets_dir).documents.values()
    require_history(partitions.first, contracts)
    run = command_run(f"backfill/{partitions}")
    ingest_datasets(settings, partitions, run)
    build_features(settings, partitions, run)


def ingest_datasets(
    settings: Settings,
    partitions: PartitionRange,
    run: RunContext,
) -> None:
    """Ingest every dataset over a range; reference data from its first delivery on.

    Raises:
        NightshiftError: A dataset failed; the ones before it are loaded.
    """
    from nightshift.contracts.datasets import read_contracts
    from nightshift.ingestion.load import ingest

    contracts = read_contracts(settings.datasets_dir)
    # One wrong contract does not keep the remaining datasets from being loaded.
    for problem in contracts.problems.values():
        typer.echo(f"      not loaded: {problem}")
    for name, contract in contracts.documents.items():
        first = partitions.first
        # The newest delivery of reference data may be older than the range that reads it.
        if not contract.is_daily:
            history_start = Partition(contract.history_start)
            first = min(history_start, first)
        delivered = PartitionRange(first, partitions.last)
        result = ingest(settings, name, delivered, run)
        # Refused rows do not stop a load: `nightshift quarantine` lists them.
        counts = f"{result.n_rows:>9,} rows, {result.n_refused} refused"
        typer.echo(f"      raw/{name:<18} {counts}")


def build_features(
    settings: Settings,
    partitions: PartitionRange,
    run: RunContext,
) -> None:
    """Build and publish the feature views of a range.

    Raises:
        NightshiftError: The error of a view that was not published; all others were.
    """
    from nightshift.transformation.build import build

    result = build(settings, partitions, run)
    n_partitions = len(partitions)
    typer.echo(f"      {result.n_rows:,} rows of features in {n_partitions} partition(s)")
    # A view that failed does not keep the remaining views from being published.
    result.require_all()
