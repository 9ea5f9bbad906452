"""``nightshift redo``: find late and corrected data, and do again what it touches, in order."""

from __future__ import annotations

import datetime as dt
import getpass
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.reprocess.execution import ReprocessResult
    from nightshift.reprocess.plan import ReprocessPlan

_SHOWN = 40
_HASH_LENGTH = 12


def redo(
    dataset: Annotated[
        str, typer.Option(help="Only late drops of this dataset; all by default.")
    ] = "",
    first: Annotated[
        str, typer.Option("--from", help="Only late drops of this operating day and later.")
    ] = "",
    last: Annotated[
        str, typer.Option("--to", help="Only late drops up to this operating day.")
    ] = "",
    reread: Annotated[
        bool,
        typer.Option(
            "--reread", help="Read drops again that came in under another contract than today's."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only show holes, late arrivals and what they touch; write nothing."
        ),
    ] = False,
) -> None:
    """Find late and corrected data and do again what it touches: ingest, transform, score, monitor. Safe to repeat.

    Exits with 1 when something was left.
    """
    from nightshift.contracts.datasets import load_contract
    from nightshift.reprocess.plan import make_plan
    from nightshift.reprocess.scope import Scope
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    if dataset:
        load_contract(settings.datasets_dir, dataset)
    scope = Scope(dataset, _day(first), _day(last), reread)
    with connect(settings, "nightshift redo") as conn:
        found = make_plan(settings, conn, scope)
    print_plan(found)
    if plan or found.is_empty:
        return
    from nightshift.reprocess.execution import reprocess as do_again

    say("")
    result = do_again(
        settings,
        scope,
        RunContext(f"redo/{dataset or 'all'}", actor=f"cli:{getpass.getuser()}"),
        say,
    )
    print_result(result)
    if result.left:
        raise typer.Exit(1)


def _day(key: str) -> dt.date | None:
    return Partition.parse(key).day if key else None


def print_plan(plan: ReprocessPlan) -> None:
    """Print holes, late arrivals, and the partitions to do again in their order, each with its reason."""
    say(f"holes: {len(plan.missing_drops)} drop(s) that upstream still owes")
    _table(
        ("dataset", "day", "there is", "nights that wait"),
        [(d.dataset, str(d.day), d.status, str(d.n_waiting)) for d in plan.missing_drops],
    )
    say(f"late arrivals: {len(plan.late)} drop(s) that landed and are not in")
    _table(
        ("dataset", "day", "known at", "file"),
        [
            (d.dataset, str(d.partition), f"{d.delivered_at:%Y-%m-%d %H:%M} UTC", d.data_key)
            for d in plan.late
        ],
    )
    steps = [("transform", plan.features), ("score", plan.predictions), ("monitor", plan.verdicts)]
    say(f"to do again: {sum(len(stale) for _, stale in steps)} partition(s), in this order")
    rows = [
        (stage, one.dataset, str(one.day), one.reason) for stage, stale in steps for one in stale
    ]
    _table(("stage", "dataset", "day", "because"), rows)
    for note in plan.notes:
        say(f"left alone: {note}")


def _table(headers: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        print_table(headers, rows[:_SHOWN])
    if len(rows) > _SHOWN:
        say(f"… and {len(rows) - _SHOWN} more")


def print_result(result: ReprocessResult) -> None:
    """Print what readers see changed, with the hashes before and after, and what was left."""
    say(f"\n{result.n_done} partition(s) done again, {len(result.changes)} changed for readers")
    rows = [
        (c.dataset, str(c.day), (c.before or "-")[:_HASH_LENGTH], c.after[:_HASH_LENGTH])
        for c in result.changes
    ]
    _table(("dataset", "day", "before", "after"), rows)
    if len(rows) > _SHOWN:
        say(
            ", ".join(
                f"{dataset}: {n}"
                for dataset, n in Counter(c.dataset for c in result.changes).items()
            )
        )
    say("left: nothing" if not result.left else "left:")
    for line in result.left:
        say(f"  {line}")
