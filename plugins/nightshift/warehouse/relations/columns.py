"""The columns of a relation, from PostgreSQL's catalog: the only query of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class TableColumn:
    """One column of a table or view.

    Attributes:
        sql_type: As ``create table`` shows it, with its length or precision.
        bare_type: The same without length and precision.
        type_name: PostgreSQL's internal name, such as ``timestamptz``.
        is_not_null: Whether the column is declared so; a view's never is.
    """

    sql_type: str
    bare_type: str
    type_name: str
    is_not_null: bool


def table_columns(conn: Connection, schema: str, relation: str) -> dict[str, TableColumn]:
    """Return the columns of a relation by name, in their order; none if it does not exist."""
    rows = conn.execute(_COLUMNS, [schema, relation])
    return {name: TableColumn(*values) for name, *values in rows}


def text_literal(text: str) -> sql.SQL:
    """Return a text as SQL, also for queries with parameters: a percent sign begins one there."""
    from psycopg import sql

    escaped = text.replace("\\", "\\\\").replace("'", "''")
    # Unicode escapes, which a backslash begins, are the only form without the sign itself.
    without_percent = escaped.replace("%", "\\0025")
    return sql.SQL(f"U&'{without_percent}'")


# The type without its modifier is what content hashes contain: it must stay as it is.
_COLUMNS = """
select
    a.attname,
    format_type(a.atttypid, a.atttypmod),
    format_type(a.atttypid, null),
    t.typname,
    a.attnotnull
from pg_attribute a
join pg_type t on t.oid = a.atttypid
where a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
    and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
