"""``nightshift contract diff``: how a delivered file differs from its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Dataset
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.ingestion.schema_diff import SchemaDiff
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore
    from nightshift.settings import Settings

MAX_SAMPLE_CHARACTERS = 40
"""Characters of a value that a terminal shows."""
DELIMITERS = (";", "\t", "|")

app = typer.Typer(help="Compare delivered files with their contracts.", no_args_is_help=True)


# A callback keeps `diff` a subcommand: Typer would else run the only command without its name.
@app.callback()
def contract() -> None:
    """Compare delivered files with their contracts."""


@app.command()
def diff(
    dataset: Dataset,
    partition: Annotated[
        str,
        typer.Argument(help="Operating day of the drop, YYYY-MM-DD; its newest drop is read."),
    ],
) -> None:
    """Compare the newest drop of a day with its contract, and print the YAML that adopts it.

    Writes nothing. Exits with 1 when they differ, with 2 when the file cannot be read. Shows up
    to three values of a column whose type differs. Of a large file the first 8 MiB of text are
    compared.
    """
    from nightshift.contracts.datasets import load_contract
    from nightshift.lake.landing import read_data
    from nightshift.lake.object_store import ObjectStore

    settings = load_settings()
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    drop = _newest_drop(settings, store, contract, partition)
    [data] = read_data(store, [drop])
    difference = compare(contract, drop, data)
    if difference.n_compared is not None:
        typer.echo(f"Only the first {difference.n_compared:,} rows were compared.")
    if difference.is_empty:
        typer.echo(f"{drop.data_key}: matches its contract")
        return
    version = contract.version_for(drop.partition, drop.schema_version)
    typer.echo(f"{drop.data_key}, schema version {version}:")
    for line in describe(difference):
        typer.echo(f"  {line}")
    _print_adoption(contract, drop, difference)
    raise typer.Exit(1)


def _newest_drop(
    settings: Settings,
    store: ObjectStore,
    contract: DatasetContract,
    partition: str,
) -> DropManifest:
    from nightshift.errors import SpecError
    from nightshift.ingestion.deliveries import read_deliveries
    from nightshift.warehouse.connection import connect

    day = Partition.parse(partition, contract.timezone)
    days = PartitionRange.single(day)
    with connect(settings, "nightshift contract diff") as conn:
        drops = read_deliveries(conn, store, contract.name, days).drops
    if not drops:
        raise SpecError(
            f"{contract.name} of {partition} has no drop.",
            todo="Look at `nightshift plan redo`.",
            code="NS-INGEST-002",
        )
    # Sorted by delivery: the newest is the last.
    return drops[-1]


def compare(contract: DatasetContract, drop: DropManifest, data: bytes) -> SchemaDiff:
    """Return the difference; a file that cannot be compared ends the command with a sentence."""
    from nightshift.ingestion.schema_diff import compare_schema
    from nightshift.quality.files.decompression import OverLimitError
    from nightshift.quality.files.file_blocks import UnreadableFileError

    try:
        return compare_schema(contract, drop, data)
    except UnreadableFileError as error:
        typer.echo(f"{drop.data_key} cannot be compared: {error}.")
        typer.echo("Ask upstream to deliver it again.")
    except OverLimitError as error:
        typer.echo(f"{drop.data_key} cannot be compared, it is too large: {error}.")
        typer.echo("Ask upstream whether the file is right; if it is, raise the limit first.")
    raise typer.Exit(2)


def _print_adoption(contract: DatasetContract, drop: DropManifest, difference: SchemaDiff) -> None:
    """Print the YAML that adopts the difference, or why it cannot be adopted."""
    from nightshift.ingestion.schema_diff import adoption_obstacles, adoption_yaml

    obstacles = [*adoption_obstacles(contract, difference), *delimiter_note(difference)]
    # No YAML then: ingest would refuse the file with a part of the change too.
    if obstacles:
        typer.echo("\nThis cannot be adopted:")
        for line in obstacles:
            typer.echo(f"  {line}")
        typer.echo("\nAsk upstream for the file in its old form; nothing was written.")
        return
    if difference.is_only_noted:
        typer.echo(
            "\nNothing of this can be adopted. Ingest passes over such columns; if one is needed,"
        )
        typer.echo("ask upstream for a name, or for one value in each row.")
        typer.echo("Nothing was written.")
        return
    typer.echo(f"\nTo adopt it, edit dags/datasets/{contract.name}.yaml:\n")
    for line in adoption_yaml(contract, drop, difference):
        typer.echo(line)
    day = drop.partition.isoformat()
    # Drops that were loaded under the old contract are read again from this day on.
    typer.echo("\nThen: nightshift migrate")
    redo = f"nightshift redo --dataset {contract.name} --from {day} --reread"
    typer.echo(f'      {redo} --reason "…"')
    typer.echo("A renaming or a type is guessed: confirm it with upstream. Nothing was written.")


def delimiter_note(difference: SchemaDiff) -> list[str]:
    """Return a sentence if the only column of a file holds several, split by another delimiter."""
    names = [*difference.added, *difference.renamed.values()]
    if len(names) != 1 or not difference.removed:
        return []
    [name] = names
    delimiter = max(DELIMITERS, key=name.count)
    n_delimiters = name.count(delimiter)
    if not n_delimiters:
        return []
    note = f"The header is one column with {n_delimiters} {delimiter!r}: another delimiter?"
    return [f"{note} Only commas are read."]


def describe(difference: SchemaDiff) -> list[str]:
    """Return one line per difference."""
    lines = [f"- {column.delivered_name}  (missing)" for column in difference.removed]
    for name, new_name in difference.renamed.items():
        lines.append(f"~ {name}  (missing; renamed to {new_name}?)")
    for name, new_type in difference.retyped.items():
        samples = _samples(difference, name)
        lines.append(f"! {name}  (its values are {new_type} now{samples})")
    for name, added_type in difference.added.items():
        lines.append(f"+ {name}  (unknown, {added_type}; ignored until adopted)")
    lines += [f"! {note}" for note in difference.notes]
    return lines


def _samples(difference: SchemaDiff, name: str) -> str:
    values = difference.samples.get(name, ())
    if not values:
        return ""
    samples = ", ".join(map(_shortened, values))
    return f", like {samples}"


def _shortened(value: str) -> str:
    if len(value) > MAX_SAMPLE_CHARACTERS:
        value = f"{value[:MAX_SAMPLE_CHARACTERS]}…"
    return repr(value)
