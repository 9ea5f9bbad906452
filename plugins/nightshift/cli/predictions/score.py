"""``nightshift score``: score and publish partitions of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.arguments import First, Last, Model, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.settings import Settings


def _names_a_version(arguments: dict[str, Any]) -> bool:
    """Return whether the version bypasses the promotion gate: that needs a reason."""
    return bool(arguments["version"])


@recorded("score", needs_reason=_names_a_version)
def score(
    model: Model,
    first: First,
    last: Last = "",
    version: Annotated[
        int,
        typer.Option(
            help="Score with this version; by default the champion of each partition scores."
        ),
    ] = 0,
) -> None:
    """Score and publish a range of partitions as their nights would, or with a version you name."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.scoring.pipeline import score as score_range
    from nightshift.scoring.plan import PinnedVersion

    settings = load_settings()
    partitions = PartitionRange.of(first, last)
    spec = load_spec(settings.models_dir, model)
    run = command_run(f"score__{model}/{partitions}")
    # Recorded with the person's name: the choice of a version bypasses the promotion gate.
    pinned = PinnedVersion(version, run.actor) if version else None
    published = score_range(settings, spec, partitions, run, named=pinned)

    n_rows = sum(load.n_rows for load in published)
    n_partitions = len(published)
    typer.echo(f"predictions/{model}: {n_rows:,} rows in {n_partitions} partition(s)")
    for line in _describe_sources(settings, model, partitions):
        typer.echo(f"      {line}")


def _describe_sources(
    settings: Settings,
    model: str,
    partitions: PartitionRange,
) -> list[str]:
    """Return for each score source of a range how many rows it made, and its reason."""
    from psycopg import sql

    from nightshift.warehouse.connection import connect

    view = sql.Identifier("analytics", f"{model}_current")
    query = sql.SQL(
        """
        select score_source, model_version, score_source_reason, count(*) from {}
        where partition_date between %s and %s group by 1, 2, 3 order by 1, 2, 3
        """
    ).format(view)
    # Read back from the view that analysts read, not from what was meant to be written.
    days = [partitions.first.day, partitions.last.day]
    with connect(settings, "nightshift score") as conn:
        rows = conn.execute(query, days).fetchall()
    lines = []
    for source, version, reason, n_rows in rows:
        words = source.replace("_", " ")
        line = f"{n_rows:,} by {words}"
        if version:
            line += f" v{version}"
        if reason:
            line += f": {reason}"
        lines.append(line)
    return lines
