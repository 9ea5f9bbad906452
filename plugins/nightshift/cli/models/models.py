"""``nightshift models``: which version was champion when, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.registry.rollback import Succession

DECISIONS = {
    "first": "first champion",
    "promoted": "promoted over",
    "refreshed": "refreshed in place of",
    "shadowed": "in the shadow of",
    "refused": "refused against",
    "canary": "canary alongside",
    "returned": "returned alongside",
    "rolled_back": "restored in place of",
}
HEADERS = ("from partition", "version", "decision", "decided at", "by", "why")


def models(
    model: Annotated[
        str,
        typer.Argument(help="Name of a spec; all specs when left out."),
    ] = "",
) -> None:
    """Show which version was champion from which partition on, who decided, when and why."""
    from nightshift.contracts.model_spec import load_spec, read_specs
    from nightshift.registry.rollback import history
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    if model:
        names = [load_spec(settings.models_dir, model).name]
    else:
        # The record of champions does not need the spec: a model whose file is wrong is shown too.
        specs = read_specs(settings.models_dir)
        names = sorted([*specs.documents, *specs.broken])
    with connect(settings, "nightshift models") as conn:
        for name in names:
            typer.echo(name)
            print_table(HEADERS, map(_row, history(conn, name)))


def _row(entry: Succession) -> tuple[str, ...]:
    from nightshift.registry.rollback import NOT_SERVING

    decision = DECISIONS[entry.verdict]
    if entry.champion_version:
        decision += f" v{entry.champion_version}"
    # A challenger that never served has no first partition, and nothing to revoke.
    since = "-"
    if entry.verdict not in NOT_SERVING:
        since = entry.effective_partition.isoformat()
        if not entry.stands:
            decision += ", revoked later"
    return (
        since,
        f"v{entry.version}",
        decision,
        f"{entry.at:%Y-%m-%d %H:%M} UTC",
        entry.actor,
        next(iter(entry.reasons), ""),
    )
