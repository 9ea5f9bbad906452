"""Arrow in and out of the warehouse: every double keeps its bits in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.fault_points import FaultPoint, reach
from nightshift.warehouse.connection import conninfo, lose

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def read_arrow(settings: Settings, query: sql.Composed | sql.SQL, application_name: str = "nightshift") -> pa.Table:
    """Run one query in its own read-only connection and return all rows.

    Args:
        settings: Where the warehouse is.
        query: Values are composed in with ``psycopg.sql.Literal``, identifiers with ``Identifier``.
        application_name: Shown by the warehouse.

    Returns:
        One column per selected column; ``double precision`` arrives bit by bit (binary protocol).
    """
    from urllib.parse import quote, urlencode

    import adbc_driver_postgresql.dbapi as adbc

    info = conninfo(settings, application_name)
    user, password = quote(info.pop("user"), safe=""), quote(info.pop("password"), safe="")
    host, port, dbname = info.pop("host"), info.pop("port"), quote(info.pop("dbname"), safe="")
    uri = f"postgresql://{user}:{password}@{host}:{port}/{dbname}?{urlencode(info, quote_via=quote)}"
    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(None))
        return cursor.fetch_arrow_table()


def copy_in(conn: Connection, schema: str, table: str, rows: pa.Table) -> int:
    """Append an Arrow table by one COPY within the caller's transaction, columns matched by name.

    Returns:
        Number of rows that the server says it took.
    """
    from psycopg import sql
    from pyarrow import BufferOutputStream, csv

    sink = BufferOutputStream()
    csv.write_csv(rows, sink, csv.WriteOptions(include_header=False, quoting_style="needed"))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    )
    with conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(memoryview(sink.getvalue()))
        reach(FaultPoint.COPY_AFTER, lambda: lose(conn))
        return cursor.rowcount
