"""``nightshift deliver``: put a file of your own into the lake as one drop."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Dataset, Day, instant_or_now
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.lake.drops import NewDrop
    from nightshift.settings import Settings


@recorded("deliver", must_be_recorded=False, unless="dry_run")
def deliver(
    dataset: Dataset,
    partition: Day,
    file: Annotated[
        Path,
        typer.Argument(
            help="A CSV file with a header, plain or compressed (.csv.gz), or a Parquet file.",
            exists=True,
            dir_okay=False,
        ),
    ],
    delivered_at: Annotated[
        str, typer.Option(help="When it became known, ISO time with offset; now by default.")
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only check the file against its contract, as ingest does."),
    ] = False,
) -> None:
    """Put a file of your own into the lake as one drop: data file and manifest."""
    from nightshift.contracts.datasets import load_contract

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    # The day is one of the contract's zone, whatever the operating zone is.
    day = Partition.parse(partition, contract.timezone)
    delivery = FileDelivery(day, file, instant_or_now(delivered_at))
    if dry_run:
        typer.echo(describe_check(contract, delivery))
    else:
        write_drops(settings, contract, [delivery])


@dataclass(frozen=True)
class FileDelivery:
    """A file that becomes one drop.

    Attributes:
        partition: The operating day that it holds.
        file: CSV, compressed CSV or Parquet.
        delivered_at: When it became known, UTC.
    """

    partition: Partition
    file: Path
    delivered_at: dt.datetime


def write_drops(
    settings: Settings, contract: DatasetContract, deliveries: Sequence[FileDelivery]
) -> None:
    """Write one drop per file and print its key."""
    from nightshift.lake.drops import write_drop
    from nightshift.lake.object_store import ObjectStore

    store = ObjectStore.open(settings)
    for delivery in deliveries:
        drop = write_drop(store, new_drop(contract, delivery))
        delivered_at = delivery.delivered_at.isoformat()
        typer.echo(f"{drop.data_key}: {drop.n_rows:,} rows, delivered at {delivered_at}")


def new_drop(contract: DatasetContract, delivery: FileDelivery) -> NewDrop:
    """Return the drop of a file; its name contains the time of the delivery.

    Raises:
        typer.BadParameter: The file is not what its suffix says.
    """
    from nightshift.lake.drops import NewDrop
    from nightshift.quality.files.decompression import OverLimitError
    from nightshift.quality.files.file_blocks import UnreadableFileError, count_rows, suffix_of

    file = delivery.file
    suffix = suffix_of(file.name) or ".csv"
    try:
        n_rows = count_rows(file, file.name)
    except (UnreadableFileError, OverLimitError) as error:
        raise typer.BadParameter(f"{file} cannot be read as {suffix}: {error}") from None
    # Objects are never replaced: the time keeps two deliveries of one file apart.
    stamp = f"{delivery.delivered_at:%Y%m%dT%H%M%SZ}"
    return NewDrop(
        contract.name,
        delivery.partition.day,
        delivery.delivered_at,
        file.read_bytes(),
        n_rows,
        f"{file.name.removesuffix(suffix)}-{stamp}",
        contract.schema_version,
        suffix,
    )


def describe_check(contract: DatasetContract, delivery: FileDelivery) -> str:
    """Return what ingest would make of a file; nothing is written.

    Raises:
        ContractError: Ingest would refuse the file.
    """
    from nightshift.ingestion.rows.row_check import check_rows
    from nightshift.lake.drops import manifest_of
    from nightshift.quality.contract_check import LargeFileError, check_file

    file = delivery.file
    new = new_drop(contract, delivery)
    drop = manifest_of(new)
    try:
        delivered = check_file(contract, drop, new.data)
    except LargeFileError:
        # Ingest streams such a file into the warehouse and checks its rows there.
        return (
            f"{file}: columns and number of rows are right; it is too large to check its rows"
            " without a load. Nothing was written."
        )
    rows = check_rows(contract, [drop], [delivered])
    for error in rows.errors.values():
        raise error
    n_rows, n_refused = rows.values.num_rows, len(rows.refused[0])
    counts = f"{n_rows:,} rows, {n_refused} distinct refused, {rows.n_duplicated[0]} repeated"
    summary = f"{file} would be loaded: {counts}. Nothing was written."
    return "\n".join([summary, *delivered.notes])
