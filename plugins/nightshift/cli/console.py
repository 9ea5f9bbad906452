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
        words = map(str, row)
        # Text, since rich would read markup in a value such as `[b]`.
        table.add_row(*(Text(word, style=STYLES.get(word, "")) for word in words))
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    Console(highlight=False, width=width).print(table)
