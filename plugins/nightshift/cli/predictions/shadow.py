"""``nightshift shadow``: score with the challengers where nobody reads, and compare the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightshift.cli.arguments import First, Last, Model, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


@recorded("shadow")
def shadow(
    model: Model,
    first: First,
    last: Last = "",
) -> None:
    """Score a range of partitions in the shadow, record matured nights, decide where one proves.

    The partitions must be published. Safe to repeat: the same versions give the same scores.
    """
    from nightshift.contracts.model_spec import load_spec

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    partitions = PartitionRange.of(first, last)
    run = command_run(f"shadow__{model}/{partitions}")
    # In order: a night may decide who is compared with whom from the next one on.
    for partition in partitions:
        line = shadow_partition(settings, spec, partition, run)
        typer.echo(line)


def shadow_partition(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    run: RunContext,
) -> str:
    """Do what the night's DAG ``shadow__<model>`` does, and say in one line what came of it."""
    from nightshift.registry.streams.nightly_decision import decide_night
    from nightshift.registry.streams.nights import record_nights
    from nightshift.scoring.shadow.shadow_scores import score_shadows

    published = score_shadows(settings, spec, partition, run)
    recorded = record_nights(settings, spec, partition, run)
    decisions = decide_night(settings, spec, partition, run)

    n_rows = published.n_rows if published else 0
    line = f"{partition}: {n_rows:,} shadow scores, {len(recorded)} night(s) recorded"
    for decision in decisions:
        reasons = "; ".join(decision.reasons)
        line += f"; version {decision.version}, {decision.verdict}: {reasons}"
    return line
