"""``nightshift monitor``: measure drift and performance of past partitions."""

from __future__ import annotations

import typer

from nightshift.cli.arguments import First, Last, Model, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings


@recorded("monitor")
def monitor(
    model: Model,
    first: First,
    last: Last = "",
) -> None:
    """Measure drift and matured performance of a range of partitions, and publish the verdicts.

    Safe to repeat: equal inputs give equal verdicts and request no second retraining.
    """
    from nightshift.contracts.model_spec import load_spec
    from nightshift.monitoring.monitor import monitor

    settings = load_settings()
    partitions = PartitionRange.of(first, last)
    spec = load_spec(settings.models_dir, model)
    run = command_run(f"monitor__{model}/{partitions}")
    # In order: a verdict depends on those of the days before it.
    verdict = monitor(settings, spec, partitions, run)
    typer.echo(
        f"{model} on {partitions.last}: drift {verdict.drift_status},"
        f" score drift {verdict.score_drift_status},"
        f" performance {verdict.performance_status}"
    )
    for reason in verdict.reasons:
        typer.echo(f"      {reason}")
