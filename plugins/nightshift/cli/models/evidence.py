"""``nightshift evidence``: verify and fetch the record of a promotion decision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nightshift.cli.arguments import Into, Model
from nightshift.cli.console import print_table
from nightshift.settings import load_settings

HEADERS = ("criterion", "verdict", "limit", "number", "interval")


def evidence(
    model: Model,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version that was decided about; default: the last."),
    ] = None,
    into: Into = Path(),
) -> None:
    """Verify the chain of evidence records, show one decision, and download its record and page."""
    from nightshift.lake.content_keys import digest_in
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.evidence import find_entry, read_record, verify_chain
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    store = ObjectStore.open(settings)
    with connect(settings, "nightshift evidence") as conn:
        entry = find_entry(conn, model, version)
        # A record proves something only if the chain before it is intact.
        n_records = verify_chain(settings, store, conn, model)
    proofs = "its digest and its predecessor"
    # Without the key of the signatures nobody can verify them, so they prove nothing here.
    if entry.signature and settings.evidence_key.get_secret_value():
        proofs = "its digest, its predecessor and its signature"
    typer.echo(f"{model}: {n_records} records verified, each by {proofs}.")

    record = read_record(settings, store, entry)
    decided = record["version"]
    reasons = " ".join(record["reasons"])
    typer.echo(f"Version {decided} was {record['verdict']}: {reasons}")
    print_table(HEADERS, map(_criterion_row, record["criteria"]))

    target = into / f"{model}-v{decided}"
    # The key of a page contains its digest; a record's digest is in the warehouse.
    objects = {entry.key: entry.sha256, entry.page: digest_in(entry.page)}
    for key, digest in objects.items():
        path = target.with_name(target.name + Path(key).suffix)
        path.write_bytes(store.get(key, digest))
        typer.echo(str(path.resolve()))


def _criterion_row(criterion: dict[str, Any]) -> tuple[str, ...]:
    interval = criterion.get("interval")
    bounds = ""
    if interval:
        low, high = map(_number, interval)
        bounds = f"{low} .. {high}"
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
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
