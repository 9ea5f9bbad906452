"""``nightshift backfill``: load a range of the past without Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightshift.cli.arguments import First, Last, command_run
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


def backfill(first: First, last: Last = "") -> None:
    """Ingest and transform a range of partitions at once; Airflow runs one a night."""
    settings = load_settings()
    partitions = PartitionRange.of(first, last or None)
    run = command_run(f"backfill/{partitions}")
    ingest_datasets(settings, partitions, run)
    build_features(settings, partitions, run)


def ingest_datasets(settings: Settings, partitions: PartitionRange, run: RunContext) -> None:
    """Ingest every dataset over a range; reference data from its first delivery on."""
    from nightshift.contracts.datasets import read_contracts
    from nightshift.ingestion.load import ingest

    contracts = read_contracts(settings.datasets_dir)
    # One wrong contract does not keep the remaining datasets from being loaded.
    for problem in contracts.problems.values():
        typer.echo(f"      not loaded: {problem}")
    for name, contract in contracts.documents.items():
        result = ingest(settings, name, _delivered_range(contract, partitions), run)
        typer.echo(f"      raw/{name:<18} {result.n_rows:>9,} rows, {result.n_refused} refused")


def _delivered_range(contract: DatasetContract, partitions: PartitionRange) -> PartitionRange:
    from nightshift.contracts.datasets import Delivery

    if contract.delivery is not Delivery.ON_CHANGE:
        return partitions
    # The newest delivery of reference data may be older than the range that reads it.
    history_start = Partition(contract.history_start)
    return PartitionRange(min(history_start, partitions.first), partitions.last)


def build_features(settings: Settings, partitions: PartitionRange, run: RunContext) -> None:
    """Build and publish the feature views of a range."""
    from nightshift.transformation.build import build

    result = build(settings, partitions, run)
    typer.echo(f"      {result.n_rows:,} rows of features in {len(partitions)} partition(s)")
    # A view that failed does not keep the remaining views from being published.
    result.require_all()
