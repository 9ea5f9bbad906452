"""Print tables and lines: coloured on a terminal, plain elsewhere."""

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


def console() -> Console:
    """Return the console of standard output, wide enough to wrap no line when it is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; words of STYLES are coloured."""
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console().print(table)


def say(line: str) -> None:
    """Print one line at once, as it is."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
