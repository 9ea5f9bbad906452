"""Draw the state of a model's predictions as a tile that a team puts on its own dashboard.

Every figure on it is a column of ``analytics.health``, so that SQL and tile say the same.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

MAX_BYTES = 10_000
"""Size of a tile: small enough to be part of a page."""


class NoTableError(NightshiftError):
    """No table of predictions of this model is known to analysts."""

    code = "NS-WAREHOUSE-013"


@dataclass(frozen=True)
class Line:
    """One fact of a tile.

    Attributes:
        label: What it is about.
        value: What is true.
        is_good: Whether it is as promised; None if nothing was promised.
    """

    label: str
    value: str
    is_good: bool | None = None


def read_health(conn: Connection, model: str) -> dict[str, Any]:
    """Return the row of ``analytics.health`` of a model.

    Raises:
        NoTableError: There is none.
    """
    from psycopg.rows import dict_row

    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("select * from analytics.health where model = %s", [model]).fetchone()
    if row is None:
        raise NoTableError(
            f"analytics.health has no row of {model!r}.",
            expected="a model whose views exist",
            todo="`nightshift psql -c 'select model from analytics.health'` lists them;"
            " `nightshift migrate` makes the views of a new spec.",
        )
    return row


def facts(health: dict[str, Any]) -> list[Line]:
    """Return what a tile says of a row of ``analytics.health``, the most important first."""
    if health["partition_date"] is None:
        return [Line("Published", "nothing yet", is_good=False)]
    due = "" if not health["is_late"] else f", {health['due_day']} is missing"
    share = health["share_of_entities"]
    complete = "features are not published" if share is None else f"{_percent(share)} of entities"
    by_champion = _percent(health["share_by_champion"])
    version = health["champion_version"]
    champion = "no champion" if version is None else f"champion version {version}"
    # Each value fits into the width of the tile.
    return [
        Line("Predicted", f"{_day(health['predicted_day'])}{due}", is_good=not health["is_late"]),
        Line("Published", _published(health), is_good=health["is_deadline_kept"]),
        Line(
            "Complete",
            f"{health['n_predictions']:,} rows, {complete}",
            is_good=share is not None and share >= 1,
        ),
        Line("Scored by", f"{champion}, {by_champion} of rows", is_good=not health["is_degraded"]),
        Line("Knows", f"until {_instant(health['fresh_as_of'])}"),
    ]


def _published(health: dict[str, Any]) -> str:
    deadline = health["deadline_at"]
    kept = "in time" if health["is_deadline_kept"] else "late"
    return f"{_instant(health['published_at'])}, {kept} for {_local(deadline):%H:%M}"


def _percent(share: float | None) -> str:
    if share is None:
        return "none"
    # Rounded down: what is not complete never reads as 100 %.
    return f"{math.floor(1000 * share) / 10:g} %"


def _day(day: dt.date) -> str:
    return f"{day:%a} {day.isoformat()}"


def _local(instant: dt.datetime) -> dt.datetime:
    return instant.astimezone(ZoneInfo(operating_timezone()))


def _instant(instant: dt.datetime | None) -> str:
    return "unknown" if instant is None else f"{_local(instant):%Y-%m-%d %H:%M %Z}"


def render_svg(health: dict[str, Any], at: dt.datetime) -> str:
    """Return the tile as an SVG image, at most ``MAX_BYTES``.

    It needs no script, font or file of another host, and follows the reader's light or dark theme.

    Args:
        health: Row of ``analytics.health``.
        at: When it was read, with a timezone.
    """
    return str(_environment().from_string(_SVG).render(**_words(health, at)))


def render_html(health: dict[str, Any], at: dt.datetime) -> str:
    """Return the tile as an HTML page that holds the image; see ``render_svg``."""
    svg = render_svg(health, at)
    return str(_environment().from_string(_HTML).render(svg=svg, model=health["model"]))


def _words(health: dict[str, Any], at: dt.datetime) -> dict[str, Any]:
    lines = facts(health)
    return {
        "model": health["model"],
        "status": health["status"],
        "mark": _MARKS[health["status"]],
        "lines": lines,
        "height": 92 + 22 * len(lines),
        "at": _instant(at),
        "owner": health["owner"],
    }


def _environment() -> Any:  # noqa: ANN401 - jinja2 is imported when a tile is drawn
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


# A shape for each status: colour alone would be lost on some readers.
_MARKS = {
    "ok": "M4 9l4 4 8-9",
    "degraded": "M10 3v8M10 15v1",
    "late": "M10 4v7l4 3",
    "unknown": "M4 10h12",
}
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 {{ height }}" width="400" \
height="{{ height }}" role="img" aria-labelledby="t">
<title id="t">{{ model }}: {{ status }}</title>
<style>
.c{fill:#fff;stroke:#c9d1d9}.m{fill:#1b1f24}.s{fill:#57606a}
.ok{fill:#1a7f37}.degraded{fill:#9a6700}.late{fill:#c62828}.unknown{fill:#57606a}
.k{fill:none;stroke:#fff;stroke-width:2.4;stroke-linecap:round;stroke-linejoin:round}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.h{font-size:15px;font-weight:600}.w{font-weight:600}.n{font-size:11px}
@media(prefers-color-scheme:dark){
.c{fill:#161b22;stroke:#3d444d}.m{fill:#e6edf3}.s{fill:#9ea7b3}
.ok{fill:#3fb950}.degraded{fill:#d8a31f}.late{fill:#ff7b72}.unknown{fill:#9ea7b3}.k{stroke:#161b22}
}
</style>
<rect class="c" x=".5" y=".5" width="399" height="{{ height - 1 }}" rx="8"/>
<circle class="{{ status }}" cx="28" cy="31" r="13"/>
<path class="k" d="{{ mark }}" transform="translate(18 21)"/>
<text class="m h" x="52" y="28">{{ model }}</text>
<text class="{{ status }} w" x="52" y="46">{{ status }}</text>
{% for line in lines %}
<text class="s" x="18" y="{{ 76 + 22 * loop.index0 }}">{{ line.label }}</text>
<text class="{{ 'late w' if line.is_good is false else 'm' }}" x="92" \
y="{{ 76 + 22 * loop.index0 }}">{{ line.value }}</text>
{% endfor %}
<text class="s n" x="18" y="{{ height - 12 }}">As of {{ at }} · owner {{ owner }}</text>
</svg>
"""
_HTML = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ model }}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>body{margin:0}svg{display:block;max-width:100%;height:auto}</style></head>
<body>{{ svg | safe }}</body></html>
"""
