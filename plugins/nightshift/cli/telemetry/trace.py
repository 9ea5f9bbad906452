"""``nightshift trace``: a night as one trace, on the terminal, as a file or at a receiver."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.telemetry.spans import NightTrace, Span

TO_RECEIVER = "otlp"
"""Value of --to that takes the receiver of OTEL_EXPORTER_OTLP_ENDPOINT."""


class NoTraceError(NightshiftError):
    """The ledger has no record of the partition."""

    code = "NS-TELEMETRY-003"


def trace(
    partition: Annotated[str, typer.Argument(help="Partition, YYYY-MM-DD.")],
    to: Annotated[
        str,
        typer.Option(
            help="A receiver (http://host:4318), otlp for that of OTEL_EXPORTER_OTLP_ENDPOINT,"
            " or a file: *.json in OTLP's format, *.svg as a picture."
        ),
    ] = "",
) -> None:
    """Show what a night did as one trace over all DAGs, or give it to a receiver or a file.

    It is made from the ledger, so it can be made at any time; sending it again gives the same
    spans.
    """
    day = Partition.parse(partition).day
    made = make_trace_of(day)
    typer.echo(f"trace {made.trace_id:032x}: {len(made.spans)} spans")
    if not to:
        print_table(("span", "began (UTC)", "seconds", "state"), _rows(made))
        return
    _give(made, to)


def make_trace_of(day: dt.date) -> NightTrace:
    """Return the trace of a partition.

    Raises:
        NoTraceError: The ledger has no record of it.
    """
    from nightshift.telemetry.identifiers import deployment_of
    from nightshift.telemetry.night_records import read_night
    from nightshift.telemetry.spans import make_trace
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift trace") as conn:
        records = read_night(conn, day)
    made = make_trace(deployment_of(settings), records, dt.datetime.now(dt.UTC))
    if not made.spans:
        raise NoTraceError(
            f"The ledger has no record of {day}.",
            expected="a partition of which a task or a load has begun",
            todo="`nightshift status` shows which partitions ran.",
        )
    return made


def _give(made: NightTrace, to: str) -> None:
    from nightshift.telemetry import otlp

    service = load_settings().telemetry_name
    # The form of the target says what it is: a picture, a receiver, or else a file.
    if to.endswith(".svg"):
        from nightshift.telemetry.picture import draw

        Path(to).write_text(draw(made), encoding="utf-8")
    elif to == TO_RECEIVER or "://" in to:
        otlp.send(service, made, made.spans, "" if to == TO_RECEIVER else to)
    else:
        otlp.write_file(service, made, Path(to))
    typer.echo(f"Given to {to}")


def _rows(made: NightTrace) -> list[tuple[object, ...]]:
    children: dict[str | None, list[Span]] = defaultdict(list)
    for span in made.spans:
        children[span.parent].append(span)

    rows: list[tuple[object, ...]] = []

    def add(span: Span, depth: int) -> None:
        seconds = (span.ended_at - span.started_at).total_seconds()
        state = span.error or ("" if span.is_complete else "open")
        name = "  " * depth + span.name
        rows.append((name, f"{span.started_at:%Y-%m-%d %H:%M:%S}", f"{seconds:.1f}", state))
        for child in sorted(children[span.key], key=_start):
            add(child, depth + 1)

    # One root; a loop, so that a trace without spans has no rows.
    for root in children[None]:
        add(root, 0)
    return rows


def _start(span: Span) -> dt.datetime:
    return span.started_at
