"""``nightshift train``: train one challenger and decide about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Model, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


@recorded("train")
def train(
    model: Model,
    partition: Annotated[
        str,
        typer.Argument(help="Partition whose night trains, YYYY-MM-DD."),
    ],
) -> None:
    """Train one challenger as the night of that partition would, and promote or refuse it.

    Trains also when no training is due.
    """
    from nightshift.contracts.model_spec import load_spec

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    day = Partition.parse(partition)
    run = command_run(f"train__{model}/{day}")
    outcome = train_and_decide(settings, spec, day, run)
    typer.echo(outcome)


def train_and_decide(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    run: RunContext,
) -> str:
    """Train and register a challenger, and return the promotion decision in one line.

    The steps are those of the DAG ``train__<model>``, without its schedule.
    """
    from nightshift.registry.model_versions import register
    from nightshift.registry.promotion import decide
    from nightshift.training.pipeline import train as fit
    from nightshift.training.point_in_time_probe import probe_features
    from nightshift.training.training_set import build_training_set, mature_window

    window = mature_window(spec, partition)
    # Before the training: a feature that knows the future would look like a good model.
    typer.echo(f"probing the features of {window} for knowledge of the future")
    probe_features(settings, spec, window, run)

    typer.echo(f"building the training set of {window}")
    training_set = build_training_set(settings, spec, partition, run)

    # The training set is a file named by its content: the same inputs train on the same rows.
    typer.echo(f"training on {training_set.n_rows:,} rows of {training_set.window}")
    candidate = fit(settings, spec, training_set.key, run)
    registered = register(settings, candidate, run)
    version = registered.version

    # A registered version does not serve: only a recorded decision makes it champion.
    typer.echo(f"checking version {version}")
    decision = decide(settings, spec, version, run)
    reasons = "; ".join(decision.reasons)
    return f"version {version}, {decision.verdict}: {reasons}"
