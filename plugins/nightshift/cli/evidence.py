"""``nightshift evidence``: verify the records of all decisions about a model, and fetch one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.console import print_table, say
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.evidence import StoredRecord
    from nightshift.settings import Settings

HEADERS = ("criterion", "verdict", "limit", "number", "interval")


def evidence(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version that was judged; the last one by default.")
    ] = None,
    into: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
) -> None:
    """Verify the chain of evidence records, show one decision, and download its record and its page."""
    from nightshift.lake.object_store import ObjectStore
    from nightshift.registry.evidence import find_entry, read_record, verify_chain
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    store = ObjectStore.open(settings)
    with connect(settings, "nightshift evidence") as conn:
        entry = find_entry(conn, model, version)
        n_records = verify_chain(settings, store, conn, model)
    say(
        f"{model}: {n_records} records verified, each by its digest and its predecessor{_signed(settings, entry)}."
    )
    record = read_record(settings, store, entry)
    say(f"Version {record['version']} was {record['verdict']}: {' '.join(record['reasons'])}")
    print_table(HEADERS, [criterion_line(criterion) for criterion in record["criteria"]])
    for key, digest in ((entry.key, entry.sha256), (entry.page, None)):
        say(
            str(
                _fetch(store, key, digest, into / f"{model}-v{record['version']}{Path(key).suffix}")
            )
        )


def criterion_line(criterion: dict[str, Any]) -> tuple[str, ...]:
    """Return one line of the table of criteria."""
    interval = criterion.get("interval")
    return (
        criterion["name"],
        criterion["verdict"].replace("_", " "),
        _number(criterion.get("limit")),
        _number(criterion.get("number")),
        f"{_number(interval[0])} .. {_number(interval[1])}" if interval else "",
    )


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def _signed(settings: Settings, entry: StoredRecord) -> str:
    return (
        " and its signature"
        if entry.signature and settings.evidence_key.get_secret_value()
        else ""
    )


def _fetch(store: ObjectStore, key: str, digest: str | None, path: Path) -> Path:
    from nightshift.lake.content_keys import digest_in

    path.write_bytes(store.get(key, digest or digest_in(key)))
    return path.resolve()
