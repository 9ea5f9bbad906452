"""``nightshift plan …``: what would run again, what readers notice, what it costs; and a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import AsJson, First, Last, actor, optional_partition
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_admin_settings, load_settings

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.plans.making import Planner
    from nightshift.plans.plan import Plan, Step

MAX_STEPS = 40
"""Steps that a terminal shows; `--json` has all."""
MEGABYTE = 1e6

app = typer.Typer(
    help="Show what would run again and what it costs; `nightshift apply` does exactly that.",
    no_args_is_help=True,
)
DatasetOption = Annotated[
    str,
    typer.Option(help="Only late drops of this dataset; all by default."),
]
ModelOption = Annotated[
    str,
    typer.Option(help="Only this model; all by default."),
]


@app.command()
def rerun(
    first: First,
    last: Last = "",
    stage: Annotated[
        str,
        typer.Option(help="First stage: ingest, transform, score or monitor."),
    ] = "transform",
    model: ModelOption = "",
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Run also what would come out equal."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan to run days again; what has the same inputs and code is reused."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.plans.making import STAGES

    if stage not in STAGES:
        raise typer.BadParameter(f"{stage}: expected one of {', '.join(STAGES)}.")
    if model:
        # A mistyped name is an error, not a plan without scores.
        load_spec(load_settings().models_dir, model)
    days = PartitionRange.of(first, last)
    with _planner() as planner:
        plan = planner.rerun(days, stage, model, everything=everything)
        _offer(planner, plan, as_json)


@app.command()
def backfill(first: First, last: Last = "", as_json: AsJson = False) -> None:
    """Plan to load and build a range of the past."""
    days = PartitionRange.of(first, last)
    with _planner() as planner:
        plan = planner.backfill(days)
        _offer(planner, plan, as_json)


@app.command()
def redo(
    dataset: DatasetOption = "",
    first: Annotated[
        str,
        typer.Option("--from", help="Only late drops of this operating day and later."),
    ] = "",
    last: Annotated[
        str,
        typer.Option("--to", help="Only late drops up to this operating day."),
    ] = "",
    reread: Annotated[
        bool,
        typer.Option("--reread", help="Also drops that were read under another contract."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan to reprocess what late or corrected data touches; names holes, too."""
    from nightshift.contracts.datasets import load_contract
    from nightshift.reprocess.scope import Scope

    if dataset:
        # A mistyped name is an error, not a plan without work.
        load_contract(load_settings().datasets_dir, dataset)
    scope = Scope(dataset, _day(first), _day(last), reread)
    with _planner() as planner:
        plan = planner.redo(scope)
        _offer(planner, plan, as_json)


@app.command()
def rollback(
    model: Annotated[
        str,
        typer.Argument(help="Name of the spec."),
    ],
    to: Annotated[
        int,
        typer.Option("--to", help="The former champion's version."),
    ],
    since: Annotated[
        str,
        typer.Option(help="First partition to repair; by default its successors' first."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Plan to let an earlier champion serve again; the version is tried now."""
    from nightshift.contracts.model_spec import load_spec

    load_spec(load_settings().models_dir, model)
    with _planner() as planner:
        # The first partition that its successors scored, unless a person knows better.
        first = optional_partition(since)
        plan = planner.rollback(model, to, first, actor())
        _offer(planner, plan, as_json)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Plan to upgrade the warehouse: pending migrations, new raw tables and columns."""
    from nightshift.plans.migration import plan_migration
    from nightshift.warehouse.connection import connect

    settings = load_admin_settings()
    with connect(settings, "nightshift plan") as conn:
        pending = plan_migration(settings, conn)
    if as_json:
        typer.echo(json.dumps(asdict(pending), indent=2))
        return
    # A migration is a file with its digest: the very same one is applied.
    for line in pending.lines:
        typer.echo(f"  {line}")
    if pending.lines:
        typer.echo(
            "readers: published rows stay as they are. A query waits while a migration locks its"
            " table, or its view is made again; an analyst's session that holds up the upgrade for"
            " 3 s is ended."
        )
        typer.echo(f"token {pending.token}, then: nightshift apply {pending.token}")
    else:
        typer.echo("nothing is pending")


def _day(key: str) -> dt.date | None:
    partition = optional_partition(key)
    return partition.day if partition else None


@contextmanager
def _planner() -> Iterator[Planner]:
    from nightshift.plans.making import NothingToPlanError, Planner
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift plan") as conn:
        try:
            yield Planner(settings, conn)
        except NothingToPlanError as nothing:
            # No failure: holes and notes are told, and there is no token.
            typer.echo(nothing.what)
            typer.echo(f"  {nothing.got}")


def _offer(
    planner: Planner,
    plan: Plan,
    as_json: bool,
) -> None:
    """Keep a plan and print it with its token."""
    from nightshift.plans.plan import store_plan

    # Kept before it is shown: a token that a person sees can be applied.
    store_plan(planner.conn, plan, actor())
    if as_json:
        typer.echo(json.dumps(asdict(plan), default=str, indent=2))
        return
    print_plan(plan)


def print_plan(plan: Plan) -> None:
    """Print steps, what readers notice, the cost, and the token."""
    rows = [_row(step) for step in plan.steps]
    print_table(("stage", "dataset", "days", "", "because"), rows[:MAX_STEPS])
    if len(rows) > MAX_STEPS:
        typer.echo(f"… and {len(rows) - MAX_STEPS} more (--json)")
    for note in plan.notes:
        typer.echo(f"  {note}")
    cost = plan.cost
    megabytes = cost.n_bytes / MEGABYTE
    typer.echo(
        f"expected: {cost.seconds:.0f} s ({cost.low:.0f} to {cost.high:.0f}),"
        f" {cost.n_rows:,} rows, {megabytes:.1f} MB; learned from {cost.source}"
    )
    typer.echo(f'token {plan.token}, then: nightshift apply {plan.token} --reason "…"')


def _row(step: Step) -> tuple[str, ...]:
    action = "reuse" if step.is_reused else "run"
    return (
        step.stage,
        step.dataset,
        str(step.partitions),
        action,
        step.reason,
    )
