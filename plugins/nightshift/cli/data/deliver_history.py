"""``nightshift deliver-history``: put a folder of your own files into the lake."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.arguments import Dataset
from nightshift.cli.data.deliver import FileDelivery, write_drops
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings


@recorded("deliver-history", must_be_recorded=False)
def deliver_history(
    dataset: Dataset,
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of files named <day>.csv, <day>.csv.gz or <day>.parquet.",
            exists=True,
            file_okay=False,
        ),
    ],
    at_cutoff: Annotated[
        bool,
        typer.Option(
            "--at-cutoff",
            help="Each file became known at the cut-off of its day; now by default.",
        ),
    ] = False,
) -> None:
    """Put a folder of your own files, one for each day, into the lake: one drop a day."""
    from nightshift.contracts.datasets import load_contract
    from nightshift.quality.files.file_blocks import suffix_of

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    now = dt.datetime.now(dt.UTC)
    deliveries = []
    for file in sorted(folder.iterdir()):
        suffix = suffix_of(file.name)
        if not suffix:
            continue
        partition = Partition.parse(file.name.removesuffix(suffix), contract.timezone)
        known_at = partition.cutoff if at_cutoff else now
        deliveries.append(FileDelivery(partition, file, known_at))
    if not deliveries:
        raise typer.BadParameter(
            f"{folder} holds no data file; expected <day>.csv, such as 2013-02-01.csv,"
            " or .csv.gz, or .parquet."
        )
    # Every name was parsed before the first drop is written: a wrong name delivers nothing.
    write_drops(settings, contract, deliveries)
