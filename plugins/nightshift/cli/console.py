"""Print tables: coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "ok": "green",
    "healthy": "green",
    "warning": "yellow",
    "caution": "yellow",
    "unknown": "yellow",
    "degraded": "bold red",
    "starting": "yellow",
    "broken": "bold red",
    "down": "bold red",
}
PLAIN_WIDTH = 200
"""Columns when the output is no terminal: wide enough that no line wraps."""


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns; the words of STYLES are coloured."""
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(_styled, row))
    # A pipe has no width of its own; rich would wrap at 80 columns, and `grep` would miss.
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(highlight=False, width=width)
    console.print(table)


def _styled(value: object) -> Text:
    # Text, since rich would read markup in a value such as `[b]`.
    word = str(value)
    return Text(word, style=STYLES.get(word, ""))
