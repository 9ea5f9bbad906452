"""Views of the warehouse's own schemas: which there are, and how a dropped one comes back.

A migration is applied once. So a view that somebody drops later is made again from the newest
migration that defines it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

MIGRATIONS = Path(__file__).parents[1] / "migrations"
# A statement about a view begins a line, and the semicolon of its end ends one.
_STATEMENT = re.compile(
    r"^(?P<verb>create view|create or replace view|drop view|comment on view) "
    r"(?P<name>[a-z_]+\.[a-z_]+)\b.*?;$",
    re.MULTILINE | re.DOTALL,
)


@cache
def schema_views() -> dict[str, str]:
    """Return the statements that make each view, as its newest definition has them."""
    views: dict[str, str] = {}
    comments: dict[str, str] = {}
    for path in sorted(MIGRATIONS.glob("*.sql")):
        for match in _STATEMENT.finditer(path.read_text(encoding="utf-8")):
            name = match["name"]
            if match["verb"] == "comment on view":
                comments[name] = match[0]
                continue
            if match["verb"] == "drop view":
                del views[name]
            else:
                views[name] = match[0]
    return {name: f"{view}\n{comments.get(name, '')}" for name, view in views.items()}


def missing_schema_views(conn: Connection) -> list[str]:
    """Return the views that this code's migrations made and that are not there any more."""
    rows = conn.execute(
        "select name from unnest(%s::text[]) name where to_regclass(name) is null order by name",
        [list(schema_views())],
    )
    return [name for (name,) in rows]


def create_missing_views(conn: Connection) -> None:
    """Make the missing views again, in the caller's transaction.

    Raises:
        UndefinedTable: What a view reads is gone too, and is no view.
    """
    from psycopg.errors import UndefinedTable

    missing = missing_schema_views(conn)
    while missing:
        waiting: list[str] = []
        for name in missing:
            # One that reads another missing one has its turn after it.
            try:
                with conn.transaction():
                    conn.execute(schema_views()[name].encode())
            except UndefinedTable:
                waiting.append(name)
                if len(waiting) == len(missing):
                    raise
        missing = waiting
