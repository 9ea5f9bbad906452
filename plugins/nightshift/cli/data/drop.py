"""``nightshift drop``: what a person decides about delivered files and manifests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Dataset, First, Last, Reason, actor
from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.lake.landing import Landing
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="List delivered files, withdraw one, or set a wrong manifest aside; nothing is deleted.",
    no_args_is_help=True,
)
Key = Annotated[str, typer.Argument(help="landing/<dataset>/dt=<day>/<name>, as `list` shows it.")]


@app.command("list")
def list_drops(dataset: Dataset, first: First, last: Last = "") -> None:
    """List what was delivered for some days: when, how large, and what was decided about it."""
    from nightshift.ingestion.drop_decisions import read_decisions

    partitions = PartitionRange.of(first, last)
    with _landing(dataset, partitions) as (conn, landing):
        decisions = read_decisions(conn, f"raw/{dataset}", partitions)
    decided = {}
    for decision in decisions:
        action = f"{decision.action.value} by {decision.actor}"
        decided[decision.key] = f"{action}: {decision.reason}"
    rows = _landing_rows(landing, decided)
    print_table(("delivered at", "received at", "bytes", "key", "state"), rows)
    typer.echo(f"{len(rows)} drop(s) and manifest(s)")


def _landing_rows(landing: Landing, decided: dict[str, str]) -> list[tuple[str, ...]]:
    """Return one row per drop, per manifest without its file, and per manifest that is wrong."""
    rows: list[tuple[str, ...]] = []

    for drop in landing.drops:
        state = decided.get(drop.data_key, "delivered")
        received_at = landing.received_at(drop).isoformat()
        n_bytes = f"{landing.n_bytes(drop):,}"
        rows.append((drop.delivered_at.isoformat(), received_at, n_bytes, drop.data_key, state))

    for drop in landing.absent:
        state = decided.get(drop.data_key, "its file is absent")
        rows.append((drop.delivered_at.isoformat(), "-", "-", drop.data_key, state))

    # A manifest that cannot be read has no time of delivery, only its object's own time.
    for wrong in landing.wrong:
        manifest = wrong.object
        state = decided.get(manifest.key, wrong.error.code)
        received_at = manifest.received_at.isoformat()
        rows.append(("-", received_at, f"{manifest.n_bytes:,}", manifest.key, state))

    return rows


@app.command()
@recorded("drop.withdraw", needs_reason=True)
def withdraw(key: Key, reason: Reason) -> None:
    """Withdraw a drop: the newest remaining drop of its day counts from now on."""
    from nightshift.ingestion import drop_decisions

    key, dataset, partition = _parse_key(key)
    days = PartitionRange.single(partition)
    with _landing(dataset, days) as (conn, landing):
        withdrawn = drop_decisions.withdraw(conn, landing, key, actor(), reason)
    # The key may name the manifest: a drop is compared by its data file.
    remaining = {drop.data_key for drop in landing.drops} - {withdrawn.data_key}
    typer.echo(f"{withdrawn.data_key} is withdrawn; the file is not deleted.")
    if not remaining:
        typer.echo(
            f"{partition} has no other drop: readers keep what is published until one comes."
        )
    scope = f"--dataset {dataset} --from {partition} --to {partition}"
    typer.echo(f'Then: nightshift redo {scope} --reason "…"')


@app.command("set-aside")
@recorded("drop.set-aside", needs_reason=True)
def set_aside(key: Key, reason: Reason) -> None:
    """Set a wrong manifest aside, so that it does not block its day any more."""
    from nightshift.ingestion import drop_decisions

    key, dataset, partition = _parse_key(key)
    days = PartitionRange.single(partition)
    with _landing(dataset, days) as (conn, landing):
        drop_decisions.set_aside(conn, dataset, landing, key, (actor(), reason))
    typer.echo(f"{key} is set aside; the object is not deleted.")
    typer.echo(
        f"Then: nightshift airflow dags clear ingest --partition-key {partition}"
        " --only-failed --yes"
    )


@contextmanager
def _landing(dataset: str, partitions: PartitionRange) -> Iterator[tuple[Connection, Landing]]:
    """Yield a connection, and the delivered objects of a range."""
    from nightshift.lake.landing import read_landing
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift drop") as conn:
        store = ObjectStore.open(settings)
        yield conn, read_landing(store, dataset, partitions)


def _parse_key(key: str) -> tuple[str, str, Partition]:
    """Return a key without its bucket, its dataset and its day."""
    # People paste keys with and without the bucket.
    if key.startswith("s3://") and "landing/" in key:
        key = key[key.index("landing/") :]
    match key.split("/"):
        case ["landing", dataset, folder, _] if folder.startswith("dt="):
            return key, dataset, Partition.parse(folder.removeprefix("dt="))
    raise typer.BadParameter(f"{key}: expected landing/<dataset>/dt=<day>/<name>.")
