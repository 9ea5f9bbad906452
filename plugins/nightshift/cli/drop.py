"""``nightshift drop list | withdraw | set-aside``: what a person decides about delivered files and manifests."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.lake.landing import Landing
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="Delivered files: list them, withdraw one, set a wrong manifest aside. Nothing is deleted.",
    no_args_is_help=True,
)
Dataset = Annotated[str, typer.Argument(help="Name of the dataset's contract.")]
Key = Annotated[str, typer.Argument(help="landing/<dataset>/dt=<day>/<name>, as `list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why; kept with your name.")]


@contextmanager
def _landing(dataset: str, partitions: PartitionRange) -> Iterator[tuple[Connection, Landing]]:
    """Yield a connection, and what lies in the folders of a range."""
    from nightshift.lake.landing import read_landing
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift drop") as conn:
        yield conn, read_landing(ObjectStore.open(settings), dataset, partitions)


def _place(key: str) -> tuple[str, str, Partition]:
    """Return a key without its bucket, its dataset and its day."""
    key = key[key.index("landing/") :] if key.startswith("s3://") and "landing/" in key else key
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != "landing" or not parts[2].startswith("dt="):  # noqa: PLR2004
        raise typer.BadParameter(f"{key}: expected landing/<dataset>/dt=<day>/<name>.")
    return key, parts[1], Partition.parse(parts[2].removeprefix("dt="))


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


@app.command("list")
def list_drops(
    dataset: Dataset,
    first: Annotated[str, typer.Argument(help="First operating day, YYYY-MM-DD.")],
    last: Annotated[
        str, typer.Argument(help="Last operating day, included; the first by default.")
    ] = "",
) -> None:
    """List what was delivered for some days: when, how large, and what was decided about it."""
    from nightshift.ingestion.drop_decisions import read_decisions

    partitions = PartitionRange.of(first, last or None)
    with _landing(dataset, partitions) as (conn, landing):
        decisions = read_decisions(conn, f"raw/{dataset}", partitions)
    decided = {one.key: f"{one.action.value} by {one.actor}: {one.reason}" for one in decisions}
    rows = [
        (
            drop.delivered_at.isoformat(),
            landing.received_at(drop).isoformat(),
            f"{landing.n_bytes(drop):,}",
            drop.data_key,
            decided.get(drop.data_key, "delivered"),
        )
        for drop in landing.drops
    ]
    rows += [
        (
            drop.delivered_at.isoformat(),
            "-",
            "-",
            drop.data_key,
            decided.get(drop.data_key, "its file is not there"),
        )
        for drop in landing.absent
    ]
    rows += [
        (
            "-",
            wrong.object.received_at.isoformat(),
            f"{wrong.object.n_bytes:,}",
            wrong.object.key,
            decided.get(wrong.object.key, wrong.error.code),
        )
        for wrong in landing.wrong
    ]
    print_table(("delivered at", "received at", "bytes", "key", "state"), rows)
    say(f"{len(rows)} drop(s) and manifest(s)")


@app.command()
def withdraw(key: Key, reason: Reason) -> None:
    """Take a drop back: the next best drop of its day counts from now on; what was known before stays on record."""
    from nightshift.ingestion import drop_decisions

    key, dataset, partition = _place(key)
    with _landing(dataset, PartitionRange.single(partition)) as (conn, landing):
        drop = drop_decisions.withdraw(conn, landing, key, _actor(), reason)
        others = [one for one in landing.drops if one.data_key != drop.data_key]
    say(f"{drop.data_key} is withdrawn; the file stays where it is.")
    if not others:
        say(
            f"There is no other drop of {partition}: readers keep what is published until one comes."
        )
    say(f"Then: nightshift redo --dataset {dataset} --from {partition} --to {partition}")


@app.command("set-aside")
def set_aside(key: Key, reason: Reason) -> None:
    """Say that a wrong manifest stands for nothing: it does not stop its day any more."""
    from nightshift.ingestion import drop_decisions

    key, dataset, partition = _place(key)
    with _landing(dataset, PartitionRange.single(partition)) as (conn, landing):
        drop_decisions.set_aside(conn, dataset, landing, key, (_actor(), reason))
    say(f"{key} is set aside; the object stays where it is.")
    say(
        f"Then: nightshift airflow dags clear ingest --partition-key {partition} --only-failed --yes"
    )
