"""``nightshift tile``: the state of a model's predictions as an image for a dashboard."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightshift.atomic_file import replacing
from nightshift.cli.arguments import Model
from nightshift.settings import load_settings


class TileFormat(StrEnum):
    """How a tile is written."""

    svg = "svg"
    html = "html"


def tile(
    model: Model,
    tile_format: Annotated[
        TileFormat, typer.Option("--format", help="An image, or a page that holds it.")
    ] = TileFormat.svg,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to replace; printed without one.")
    ] = None,
) -> None:
    """Draw whether a model's predictions are fresh, complete and not degraded, under 10 KB."""
    from nightshift.warehouse.analysts.tile import read_health, render_html, render_svg
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift tile") as conn:
        health = read_health(conn, model)
    render = render_html if tile_format is TileFormat.html else render_svg
    content = render(health, dt.datetime.now(dt.UTC))
    if output is None:
        typer.echo(content)
        return
    # A web server may read the file at any moment: it is replaced in one step.
    with replacing(output, mode=0o644) as draft:
        draft.write_text(content, encoding="utf-8")
