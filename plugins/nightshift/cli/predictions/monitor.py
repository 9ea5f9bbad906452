"""``nightshift monitor``: measure drift and performance of past partitions."""

from __future__ import annotations

import typer

from nightshift.cli.arguments import First, Last, Model, command_run
from nightshift.contracts.partitions import PartitionRange
from nightshift.settings import load_settings


def monitor(model: Model, first: First, last: Last = "") -> None:
    """Measure drift and matured performance of a range of partitions, and publish the verdicts."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.monitoring.monitor import monitor

    settings = load_settings()
    partitions = PartitionRange.of(first, last or None)
    spec = load_spec(settings.models_dir, model)
    verdict = monitor(settings, spec, partitions, command_run(f"monitor__{model}/{partitions}"))
    typer.echo(
        f"{model} on {partitions.last}: drift {verdict.drift_status},"
        f" score drift {verdict.score_drift_status},"
        f" performance {verdict.performance_status}"
    )
    for reason in verdict.reasons:
        typer.echo(f"      {reason}")
