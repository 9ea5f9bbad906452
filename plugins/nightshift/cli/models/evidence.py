"""``nightshift evidence``: verify and fetch the record of a promotion decision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.arguments import Into, Model
from nightshift.cli.console import print_table
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore

HEADERS = ("criterion", "verdict", "limit", "number", "interval")


def evidence(
    model: Model,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version that was decided about; default: the last.")
    ] = None,
    into: Into = Path(),
) -> None:
    """Verify the chain of evidence records, show one decision, and download its record and page."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.evidence import find_entry, read_record, verify_chain
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    store = ObjectStore.open(settings)
    with connect(settings, "nightshift evidence") as conn:
        entry = find_entry(conn, model, version)
        # A record proves something only if the chain before it is intact.
        n_records = verify_chain(settings, store, conn, model)
    has_signature = entry.signature and settings.evidence_key.get_secret_value()
    proofs = "its digest, its predecessor and its signature"
    if not has_signature:
        proofs = "its digest and its predecessor"
    typer.echo(f"{model}: {n_records} records verified, each by {proofs}.")

    record = read_record(settings, store, entry)
    typer.echo(
        f"Version {record['version']} was {record['verdict']}: {' '.join(record['reasons'])}"
    )
    print_table(HEADERS, [_criterion_row(criterion) for criterion in record["criteria"]])
    target = into / f"{model}-v{record['version']}"
    for key, digest in ((entry.key, entry.sha256), (entry.page, None)):
        typer.echo(str(_download(store, key, digest, target)))


def _criterion_row(criterion: dict[str, Any]) -> tuple[str, ...]:
    interval = criterion.get("interval")
    bounds = ""
    if interval:
        low, high = interval
        bounds = f"{_number(low)} .. {_number(high)}"
    return (
        criterion["name"],
        criterion["verdict"].replace("_", " "),
        _number(criterion.get("limit")),
        _number(criterion.get("number")),
        bounds,
    )


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _download(store: ObjectStore, key: str, digest: str | None, target: Path) -> Path:
    """Write an object next to ``target`` under its own suffix; return the path."""
    from nightshift.lake.content_keys import digest_in

    # The key of a page contains its digest; a record's digest is in the warehouse.
    path = target.with_name(target.name + Path(key).suffix)
    path.write_bytes(store.get(key, digest or digest_in(key)))
    return path.resolve()
