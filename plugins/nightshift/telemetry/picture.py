"""A trace as a picture: one bar a span below the span around it, as viewers of traces draw it."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.telemetry.spans import NightTrace, Span

# All in pixels.
WIDTH, LABELS, SECONDS = 1100, 380, 70
ROW, INDENT, TOP, TEXT = 20, 14, 44, 14
SHORTEST_STAGE = dt.timedelta(seconds=0.05)
"""Shorter ones would be most of the rows, and none of the time."""
# A span of milliseconds is still seen.
SMALLEST = 2.0
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2933 } .title { font-size: 14px }
.page { fill: #fff } .grid { stroke: #e4e7eb } .night { fill: #486581 } .run { fill: #627d98 }
.try { fill: #2f80c1 } .part { fill: #56b4e9 } .load { fill: #009e73 } .error { fill: #d55e00 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e7eb } .page { fill: #16202b } .grid { stroke: #33475b } }
"""


def draw(trace: NightTrace) -> str:
    """Return a trace with at least one span as an SVG document."""
    rows = [row for row in _in_order(trace) if _is_shown(row[0])]
    root = rows[0][0]
    # Spans of a rerun may lie after the end of the root.
    end = max(span.ended_at for span, _ in rows)
    total = max((end - root.started_at).total_seconds(), 1e-6)
    height = TOP + ROW * len(rows) + ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Trace of {trace.day}</title><style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        f'<text class="title" x="8" y="20">Night {trace.day}, trace {trace.trace_id:032x}</text>',
        *_grid(total, height),
    ]
    for number, (span, depth) in enumerate(rows):
        y = TOP + ROW * number
        offset = (span.started_at - root.started_at).total_seconds()
        parts += _row(span, depth, y, offset / total, total)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _in_order(trace: NightTrace) -> Iterator[tuple[Span, int]]:
    """Yield each span with its depth, children by their start."""
    children: dict[str | None, list[Span]] = defaultdict(list)
    for span in trace.spans:
        children[span.parent].append(span)

    def walk(span: Span, depth: int) -> Iterator[tuple[Span, int]]:
        yield span, depth
        for child in sorted(children[span.key], key=_start):
            yield from walk(child, depth + 1)

    for root in children[None]:
        yield from walk(root, 0)


def _is_shown(span: Span) -> bool:
    """Return whether a span gets a row: all but stages too short to be seen."""
    return " stage " not in span.key or span.ended_at - span.started_at >= SHORTEST_STAGE


def _start(span: Span) -> dt.datetime:
    return span.started_at


def _grid(total: float, height: float) -> Iterator[str]:
    n_parts = 4
    for index in range(n_parts + 1):
        x = LABELS + (WIDTH - LABELS - SECONDS) * index / n_parts
        seconds = total * index / n_parts
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - ROW}"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle">{seconds:.0f} s</text>'


def _row(span: Span, depth: int, y: float, offset: float, total: float) -> Iterator[str]:
    room = WIDTH - LABELS - SECONDS
    seconds = (span.ended_at - span.started_at).total_seconds()
    width = max(SMALLEST, room * seconds / total)
    x = LABELS + room * offset
    words = f"{span.name} {seconds:.1f} s {span.error}".strip()
    yield f'<text x="{8 + INDENT * depth}" y="{y + TEXT}">{escape(span.name)}</text>'
    yield (
        f'<rect class="{_class_of(span)}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}"'
        f' height="{ROW - 6}" rx="2"><title>{escape(words)}</title></rect>'
    )
    yield f'<text x="{WIDTH - 8}" y="{y + TEXT}" text-anchor="end">{seconds:.1f} s</text>'


def _class_of(span: Span) -> str:
    if span.error:
        return "error"
    # The first word of a key says what a span is about; a stage hangs below a try.
    word = span.key.partition(" ")[0]
    return "part" if " stage " in span.key else word
