"""``nightshift why-not``: why readers do not have a partition, in one paragraph."""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated

import typer

from nightshift.cli.arguments import AsJson, Day, Model, instant_or_now
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings


def why_not(
    model: Model,
    day: Day,
    *,
    at: Annotated[
        str, typer.Option(help="Compare deadlines with this instant, ISO 8601; now by default.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say why a partition is not published, or how it was, and the one command that helps."""
    from nightshift.contracts.model_spec import load_spec
    from nightshift.incidents.context import EvaluationContext
    from nightshift.incidents.why_not import explain
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    partition = Partition.parse(day)
    now: dt.datetime = instant_or_now(at)
    with connect(settings, "nightshift why-not") as conn:
        context = EvaluationContext(settings, conn, now)
        # A wrong file is a reason too: then the last good spec is explained.
        spec = context.specs.get(model) or load_spec(settings.models_dir, model)
        explanation = explain(context, spec, partition)
    if as_json:
        typer.echo(json.dumps(explanation.document(), indent=2, sort_keys=True))
        return
    typer.echo(explanation.paragraph)
    if explanation.code:
        typer.echo(f"  page:  docs/runbooks/{explanation.code}.md")
    if explanation.command:
        typer.echo(f"  to do: {explanation.command}")
