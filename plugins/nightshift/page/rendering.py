"""Render documents with templates that escape everything, and the filters for times and numbers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence, Sized
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nightshift.page import drawings
from nightshift.page.charts.svg import NOTHING, number
from nightshift.page.palette import stylesheet_variables

if TYPE_CHECKING:
    from starlette.requests import Request

NOT_GIVEN: tuple[object, ...] = (
    None,
    "",
    {},
    [],
)
FOLDER = Path(__file__).parent / "templates"
PAGES = (
    ("Now", "/"),
    ("Models", "/models"),
    ("Drift", "/drift"),
    ("Nights", "/partitions"),
    ("Data", "/data"),
    ("People's acts", "/acts"),
)
"""The navigation: title and path."""
SECTIONS = {
    "now": "/",
    "models": "/models",
    "model": "/models",
    "drift": "/drift",
    "cell": "/drift",
    "calendar": "/partitions",
    "partition": "/partitions",
    "datasets": "/data",
    "dataset": "/data",
    "acts": "/acts",
}
"""Which entry of the navigation a template belongs to."""


def render(request: Request, template: str, document: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        request: Tells under which prefix the application is mounted.
        template: Name of the template.
        document: What the page says.
    """
    # Airflow mounts the application below a prefix, and may have one of its own.
    root = request.scope.get("root_path", "").rstrip("/")
    context = {
        **document,
        "root": root,
        "pages": PAGES,
        "section": SECTIONS.get(template),
        "here": f"{root}{_path_within(request, root)}",
        "query": dict(request.query_params),
        "now": dt.datetime.now(dt.UTC),
        "draw": drawings.Drawings(root),
    }
    return _environment().get_template(f"{template}.html").render(context)


@cache
def stylesheet() -> str:
    """Return the style sheet: the colours of both themes, and the rules."""
    rules = (FOLDER / "style.css").read_text(encoding="utf-8")
    return stylesheet_variables() + rules


def _path_within(request: Request, root: str) -> str:
    path = request.scope["path"]
    return quote(path.removeprefix(root))


@cache
def _environment() -> Environment:
    # Everything is escaped; what is not known fails in a test instead of showing nothing.
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "instant": instant,
        "number": number,
        "percent": percent,
        "part": lambda text: quote(str(text), safe=""),
        "path": lambda text: quote(str(text)),
        "ago": ago,
        "duration": duration,
        "distance": distance,
        "words": words,
        "count_of": count_of,
        "arguments": arguments,
    }
    return environment


def instant(value: dt.datetime | None) -> str:
    """Return an instant as ``2013-03-05 04:30``, UTC."""
    if value is None:
        return NOTHING
    return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M}"


def count_of(items: Sized, noun: str) -> str:
    """Return how many there are: 1 model, 2 models."""
    return f"{len(items)} {noun if len(items) == 1 else f'{noun}s'}"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return NOTHING if share is None else f"{share:.1%}"


def ago(value: dt.datetime | None, now: dt.datetime) -> str:
    """Return how long ago an instant was, in one unit."""
    if value is None:
        return NOTHING
    return f"{duration(now - value)} ago"


def duration(span: dt.timedelta | float | None) -> str:
    """Return a span of time in the largest unit that fits twice: 90 min, 3 days."""
    if span is None:
        return NOTHING
    seconds = span.total_seconds() if isinstance(span, dt.timedelta) else span
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def distance(span: dt.timedelta) -> str:
    """Return how far before or after a deadline something was."""
    side = "before" if span.total_seconds() >= 0 else "after"
    return f"{duration(abs(span))} {side} it"


def arguments(given: Mapping[str, object]) -> str:
    """Return what an act was asked for: `dataset weather, first 2013-03-10`."""
    parts = []
    for name, value in sorted(given.items()):
        # What nobody filled in says nothing; a zero does.
        if value in NOT_GIVEN:
            continue
        parts.append(f"{name} {value}")
    return ", ".join(parts)


def words(values: Sequence[object] | None) -> str:
    """Return a list as text; a dash for an empty one."""
    return ", ".join(map(str, values or ())) or NOTHING
