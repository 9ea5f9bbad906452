"""``nightshift contract diff``: what a delivered file has otherwise than its contract, and what adopting it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import say
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.ingestion.schema_diff import SchemaDiff

app = typer.Typer(help="Contracts of delivered data.", no_args_is_help=True)


@app.callback()
def contract() -> None:
    """Contracts of delivered data."""


@app.command()
def diff(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset's contract.")],
    partition: Annotated[
        str, typer.Argument(help="Operating day of the drop, YYYY-MM-DD; its newest drop is read.")
    ],
) -> None:
    """Compare the newest drop of a day with its contract; print the difference and the YAML that adopts it. Writes nothing.

    Shows up to three values of a column whose type is another one. Exits with 1 when they differ,
    with 2 when the file cannot be read.
    """
    from nightshift.contracts.datasets import load_contract
    from nightshift.errors import SpecError
    from nightshift.ingestion.deliveries import read_deliveries
    from nightshift.ingestion.schema_diff import adoption, compare_schema, objections
    from nightshift.lake.landing import read_data
    from nightshift.lake.object_store import ObjectStore
    from nightshift.quality.files.file_blocks import UnreadableFileError
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    days = PartitionRange.single(Partition.parse(partition, contract.timezone))
    with connect(settings, "nightshift contract diff") as conn:
        drops = read_deliveries(conn, store, dataset, days).drops
    if not drops:
        raise SpecError(
            f"{dataset} of {partition} has no drop.",
            todo="Look at `nightshift redo --plan`.",
            code="NS-INGEST-002",
        )
    try:
        found = compare_schema(contract, drops[-1], read_data(store, drops[-1:])[0])
    except UnreadableFileError as error:
        say(f"{drops[-1].data_key} cannot be compared: {error}. Ask upstream to deliver it again.")
        raise typer.Exit(2) from None
    if found.is_empty:
        say(f"{drops[-1].data_key}: as the contract says")
        return
    say(
        f"{drops[-1].data_key}, schema version {contract.version_for(drops[-1].partition, drops[-1].schema_version)}:"
    )
    for line in describe(found):
        say(f"  {line}")
    if obstacles := [*objections(contract, found), *delimiter_note(found)]:
        say("\nThis cannot be adopted:")
        for line in obstacles:
            say(f"  {line}")
        say("\nAsk upstream for the file in its old form; nothing was written.")
        raise typer.Exit(1)
    if found.is_only_noted:
        say("\nNothing of this can be adopted: ask upstream for names. Nothing was written.")
        raise typer.Exit(1)
    say(f"\nTo adopt it, edit dags/datasets/{dataset}.yaml:\n")
    for line in adoption(contract, drops[-1], found):
        say(line)
    say("\nThen: nightshift migrate")
    say(f"      nightshift redo --dataset {dataset} --from {partition} --reread")
    say(
        "A guess at a renaming or a type is a guess: ask upstream. Else ask for the file in its old form; nothing was written."
    )
    raise typer.Exit(1)


def delimiter_note(found: SchemaDiff) -> list[str]:
    """Return a sentence if the only column of a file is many that another delimiter separates."""
    names = [*found.added, *found.renamed.values()]
    if len(names) != 1 or not found.removed:
        return []
    n_found = {delimiter: names[0].count(delimiter) for delimiter in (";", "\t", "|")}
    delimiter = max(n_found, key=lambda each: n_found[each])
    if not n_found[delimiter]:
        return []
    return [
        f"The header is one column with {n_found[delimiter]} {delimiter!r}: another delimiter? Only commas are read."
    ]


def describe(found: SchemaDiff) -> list[str]:
    """Return one line per difference."""
    return [
        *(f"- {column.delivered_name}  (missing)" for column in found.removed),
        *(f"~ {name}  (missing; renamed to {source}?)" for name, source in found.renamed.items()),
        *(
            f"! {name}  (its values are {kind} now{_shown(found, name)})"
            for name, kind in found.retyped.items()
        ),
        *(
            f"+ {name}  (unknown, {kind}; ignored until adopted)"
            for name, kind in found.added.items()
        ),
        *(f"! {note}" for note in found.notes),
    ]


def _shown(found: SchemaDiff, name: str) -> str:
    samples = [
        repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
        for text in found.samples.get(name, ())
    ]
    return f", like {', '.join(samples)}" if samples else ""


_SHOWN = 40
"""Characters of a value that a terminal shows."""
