"""Create and upgrade the warehouse: numbered SQL files, each applied once, then one raw table per contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.contracts.document_folder import combined_error
from nightshift.errors import SpecError, WarehouseError
from nightshift.warehouse.schema_lock import change_schema

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.warehouse.connection import Connection

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(conn: Connection, contracts: dict[str, DatasetContract]) -> list[str]:
    """Bring the warehouse to the newest schema; safe at any time and from several places at once.

    A contract that does not fit its raw table changes nothing of it, and all others are set up.

    Returns:
        The names of the migrations that this call applied.

    Raises:
        SpecError: Contracts do not fit their raw tables; everything else was done.
        WarehouseError: An applied migration is not among ours: the code is older than the
            warehouse.
    """
    pending, problems = change_schema(conn, lambda: _apply_pending(conn, contracts))
    if problems:
        raise combined_error(problems)
    return pending


def _apply_pending(
    conn: Connection, contracts: dict[str, DatasetContract]
) -> tuple[list[str], list[SpecError]]:
    """Apply the migrations, make the raw tables, and return the migrations and which contracts do not fit."""
    conn.execute("create schema if not exists ops")
    conn.execute(
        "create table if not exists ops.schema_migrations (name text primary key, applied_at timestamptz not null default now())"
    )
    applied = {name for (name,) in conn.execute("select name from ops.schema_migrations")}
    files = {path.name: path for path in sorted(MIGRATIONS.glob("*.sql"))}
    _refuse_newer_warehouse(applied - files.keys())
    pending = [name for name in files if name not in applied]
    for name in pending:
        conn.execute(files[name].read_bytes())
        conn.execute("insert into ops.schema_migrations (name) values (%s)", [name])
    problems = [problem for contract in contracts.values() if (problem := _unfit(conn, contract))]
    return pending, problems


def _unfit(conn: Connection, contract: DatasetContract) -> SpecError | None:
    """Bring one raw table to its contract; return why that cannot be done, and leave the table as it was then."""
    try:
        with conn.transaction():
            ensure_raw_table(conn, contract)
    except SpecError as error:
        return error
    return None


def _refuse_newer_warehouse(unknown: set[str]) -> None:
    if unknown:
        raise WarehouseError(
            "The warehouse is newer than this code.",
            got=", ".join(sorted(unknown)),
            todo="Deploy the code that made it, or a newer one.",
            code="NS-WAREHOUSE-002",
        )


def ensure_raw_table(conn: Connection, contract: DatasetContract) -> None:
    """Create the raw table of a contract, or add the columns that the contract gained.

    Grain: one delivered row of one version. Columns: ``partition_date, load_id, known_at,
    source_row`` and the contract's. The file of a version stands in ``raw.ingested_drops``; tables
    of before keep two columns for it, which new rows leave null.

    Raises:
        SpecError: A column has another type there: views stand on it, and old rows have been read
            with it.
    """
    from psycopg import sql

    table = sql.Identifier("raw", contract.name)
    columns = [(column.name, column.type.sql) for column in contract.columns]
    conn.execute(
        sql.SQL(
            "create table if not exists {} (partition_date date not null, load_id bigint not null, known_at timestamptz not null,"
            " source_row bigint not null)"
        ).format(table)
    )
    _leave_null(conn, contract, ("source_uri", "source_sha256"))
    for name, sql_type in columns:
        conn.execute(
            sql.SQL("alter table {} add column if not exists {} {}").format(
                table, sql.Identifier(name), sql.SQL(sql_type)
            )
        )
    _refuse_changed_types(conn, contract)
    index = sql.Identifier(f"{contract.name}_by_partition")
    conn.execute(
        sql.SQL("create index if not exists {} on {} (partition_date, load_id)").format(
            index, table
        )
    )


def ensure_large_table(conn: Connection, contract: DatasetContract) -> str:
    """Create the part of a raw table that takes very many rows at once, and return its name; whoever reads the raw table reads it too.

    A load lies together in it, so a block range index finds it; an entry for each row would cost
    nearly as much as the row. PostgreSQL brings such an index up to date when it vacuums, which a
    load of such a size brings about. Source: docs/adr/0032-large-raw-loads.md.
    """
    name = f"{contract.name}$large"  # no contract can have this name
    change_schema(conn, lambda: _create_large_table(conn, contract, name))
    return name


def _create_large_table(conn: Connection, contract: DatasetContract, name: str) -> None:
    from psycopg import sql

    table, raw = sql.Identifier("raw", name), sql.Identifier("raw", contract.name)
    query = "select to_regclass(format('raw.%%I', %s::text))"
    if conn.execute(query, [name]).fetchone() != (None,):
        return
    settings = (
        "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000"
    )
    conn.execute(
        sql.SQL("create table {} () inherits ({}) with ({})").format(table, raw, sql.SQL(settings))
    )
    index = sql.Identifier(f"{name}_by_partition")
    conn.execute(
        sql.SQL("create index {} on {} using brin (partition_date, load_id)").format(index, table)
    )
    comment = sql.Literal(f"Large loads of raw.{contract.name}: read that.")
    conn.execute(sql.SQL("comment on table {} is {}").format(table, comment))


def _leave_null(conn: Connection, contract: DatasetContract, columns: tuple[str, ...]) -> None:
    """Let rows come without columns that only older code fills; they stay for as long as it may still run."""
    from psycopg import sql

    there = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(format('raw.%%I', %s::text)) and attname = any(%s) and attnotnull",
        [contract.name, list(columns)],
    ).fetchall()
    for (name,) in there:
        query = sql.SQL("alter table {} alter column {} drop not null")
        conn.execute(query.format(sql.Identifier("raw", contract.name), sql.Identifier(name)))


def _refuse_changed_types(conn: Connection, contract: DatasetContract) -> None:
    rows = conn.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('raw.%%I', %s::text)) and attnum > 0 and not attisdropped
        """,
        [contract.name],
    )
    there = {
        name: {"timestamp with time zone": "timestamptz"}.get(kind, kind) for name, kind in rows
    }
    if changed := [column for column in contract.columns if there[column.name] != column.type.sql]:
        column = changed[0]
        raise SpecError(
            f"raw.{contract.name}.{column.name} has another type in the warehouse than in the contract.",
            expected=there[column.name],
            got=column.type.sql,
            todo="Keep `type` and say in `delivered_as` what files have; or add a column of another name and list this one as removed.",
            code="NS-SPEC-002",
        )
