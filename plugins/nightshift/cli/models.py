"""``nightshift models`` and ``rollback``: who was champion when and why, and how to put an earlier one back."""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.registry.rollback import Succession
    from nightshift.scoring.republish import RollbackPlan

_WORDS = {
    "first": "first champion",
    "promoted": "promoted over",
    "refused": "refused against",
    "rolled_back": "put back for",
}


def models(
    model: Annotated[str, typer.Argument(help="Name of a spec; all specs when left out.")] = "",
) -> None:
    """Show who was champion from which partition on, decided when, by whom, and why."""
    from nightshift.contracts.model_spec import load_spec, read_specs
    from nightshift.registry.rollback import history
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    # The record of champions does not need the spec: a model whose file is wrong is shown too.
    specs = read_specs(settings.models_dir)
    names = (
        [load_spec(settings.models_dir, model).name]
        if model
        else sorted([*specs.documents, *specs.broken])
    )
    with connect(settings, "nightshift models") as conn:
        for name in names:
            say(name)
            entries = history(conn, name)
            print_table(
                ("from partition", "version", "decision", "decided at", "by", "why"),
                [_line(entry) for entry in entries],
            )


def _line(entry: Succession) -> tuple[str, ...]:
    decision = f"{_WORDS[entry.verdict]} {'v' + str(entry.champion_version) if entry.champion_version else ''}".strip()
    is_revoked = not entry.stands and entry.verdict != "refused"
    return (
        "-" if entry.verdict == "refused" else entry.effective_partition.isoformat(),
        f"v{entry.version}",
        f"{decision}{', revoked later' if is_revoked else ''}",
        f"{entry.at:%Y-%m-%d %H:%M} UTC",
        entry.actor,
        entry.reasons[0] if entry.reasons else "",
    )


def rollback(
    model: Annotated[str, typer.Argument(help="Name of the spec.")],
    to: Annotated[int, typer.Option("--to", help="The former champion's version.")],
    since: Annotated[
        str,
        typer.Option(
            help="First partition to repair; by default the one from which others took over."
        ),
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; kept in the record.")] = "",
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only try the version and show what would be published again."),
    ] = False,
) -> None:
    """Put an earlier champion back, and publish again what its successors scored. Safe to repeat."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.scoring.republish import plan_rollback, roll_back

    settings, started = load_settings(), time.monotonic()
    spec = load_spec(settings.models_dir, model)
    run = RunContext(f"rollback/{model}/v{to}", actor=f"cli:{getpass.getuser()}")
    found = plan_rollback(settings, spec, to, Partition.parse(since) if since else None, run)
    _show(found)
    if plan:
        return
    repaired = roll_back(settings, spec, found, reason or "no reason given", run, say)
    n_changed = sum(load.is_new for load in repaired.published)
    n_same = len(repaired.published) - n_changed
    say(f"Version {to} is champion from {found.since} on (record {repaired.promotion_id}).")
    say(
        f"{n_changed} partition(s) changed, {n_same} held its predictions before; {time.monotonic() - started:.1f} s."
    )


def _show(plan: RollbackPlan) -> None:
    say(
        f"Version {plan.version} loads, passes its guard and scores; it serves from {plan.since} on."
    )
    say(f"{plan.n_partitions} published partition(s) to repair:")
    for partition_run in plan.partition_runs:
        how = "from kept loads" if partition_run.reusable_loads else "to be scored again"
        say(f"  {partition_run.partitions}: {how}")
