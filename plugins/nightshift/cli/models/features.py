"""``nightshift features``: what the features of a model are worth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.arguments import AsJson, Model, command_run
from nightshift.settings import load_settings

app = typer.Typer(
    help="What the features of a model are used for, worth and cost.",
    no_args_is_help=True,
)


@app.command("report")
def report(
    model: Model,
    to: Annotated[
        Path | None, typer.Option("--to", help="Markdown file; by default it is printed.")
    ] = None,
    budget_seconds: Annotated[
        float, typer.Option(min=0, help="No fit is begun after so many seconds.")
    ] = 1800.0,
    if_due: Annotated[
        bool,
        typer.Option("--if-due", help="Do nothing without a champion, or a second time a month."),
    ] = False,
    stored: Annotated[
        bool, typer.Option("--stored", help="Show the newest kept report; nothing is fitted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Report importance over time, benefit, redundancy and cost of features, and learning curves.

    The numbers are kept in ml.feature_reports and ml.feature_findings; a repeated run of the same
    partition replaces them.
    """
    from nightshift.contracts.model_spec import load_spec
    from nightshift.studies.feature_page import render_markdown
    from nightshift.studies.feature_report import report_features
    from nightshift.studies.report_store import is_due, read_report
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    with connect(settings, "nightshift features report") as conn:
        # A scheduled run of every night makes one report a month.
        if if_due and not is_due(conn, spec):
            typer.echo(f"No report on {model} is due: nothing serves, or this month has one.")
            return
        kept = read_report(conn, model) if stored else None
    if stored and kept is None:
        typer.echo(f"No report on {model} is kept yet.")
        raise typer.Exit(1)

    if kept is None:
        kept = report_features(settings, spec, command_run(f"features/{model}"), budget_seconds)
    page = render_markdown(kept)
    if as_json:
        document = asdict(kept)
        # A range has no form in JSON.
        document["window"] = str(kept.window)
        page = json.dumps(document, indent=1, default=str)
    if to is None:
        typer.echo(page)
        return
    to.write_text(page, encoding="utf-8")
    typer.echo(str(to.resolve()))
