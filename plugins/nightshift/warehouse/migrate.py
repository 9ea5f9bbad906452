"""Create and upgrade the warehouse: numbered SQL files, each applied once, and raw tables.

A raw table belongs to one contract.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.document_folder import combined_error
from nightshift.errors import SpecError, WarehouseError
from nightshift.warehouse.relations.columns import TableColumn, table_columns
from nightshift.warehouse.relations.schema_views import MIGRATIONS, create_missing_views
from nightshift.warehouse.schema_lock import change_schema

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.warehouse.connection import Connection


def migrate(conn: Connection, contracts: dict[str, DatasetContract]) -> list[str]:
    """Bring the warehouse to the newest schema; safe at any time and from several places at once.

    A contract that does not fit its raw table changes nothing of it; all others are set up.

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
    """Apply pending migrations and make raw tables; return the migrations and the problems."""
    conn.execute("create schema if not exists ops")
    conn.execute(
        """
        create table if not exists ops.schema_migrations (
            name text primary key, applied_at timestamptz not null default now()
        )
        """
    )
    applied = {name for (name,) in conn.execute("select name from ops.schema_migrations")}
    files = {path.name: path for path in sorted(MIGRATIONS.glob("*.sql"))}
    # An older deployment that runs late must not work on a schema that it does not know.
    _refuse_newer_warehouse(applied - files.keys())
    pending = [name for name in files if name not in applied]
    for name in pending:
        conn.execute(files[name].read_bytes())
        conn.execute("insert into ops.schema_migrations (name) values (%s)", [name])
    create_missing_views(conn)
    problems: list[SpecError] = []
    for contract in contracts.values():
        # A contract that does not fit leaves its table as it was, and does not stop the next.
        try:
            with conn.transaction():
                ensure_raw_table(conn, contract)
        except SpecError as error:
            problems.append(error)
    return pending, problems


def pending_changes(conn: Connection, contracts: dict[str, DatasetContract]) -> list[str]:
    """Return what ``migrate`` would change, one line each: files with their digests, raw tables."""
    lines = []
    row = conn.execute("select to_regclass('ops.schema_migrations')").fetchone()
    applied: set[str] = set()
    # An empty database has not even this table.
    if row != (None,):
        applied = {name for (name,) in conn.execute("select name from ops.schema_migrations")}
    for path in sorted(MIGRATIONS.glob("*.sql")):
        if path.name not in applied:
            digest = sha256(path.read_bytes()).hexdigest()[:12]
            lines.append(f"migration {path.name} ({digest})")
    for name, contract in sorted(contracts.items()):
        existing = table_columns(conn, "raw", name)
        if not existing:
            lines.append(f"new table raw.{name}")
            continue
        # A changed type is refused by the migration itself.
        new = [column for column in contract.columns if column.name not in existing]
        lines += [f"new column raw.{name}.{column.name} {column.type.sql}" for column in new]
    return lines


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
    source_row`` and the contract's. The file of a version stands in ``raw.ingested_drops``.

    Raises:
        SpecError: A column has another type there: views read it, and old rows were read with it.
    """
    from psycopg import sql

    table = sql.Identifier("raw", contract.name)
    create = """
        create table if not exists {} (
            partition_date date not null, load_id bigint not null, known_at timestamptz not null,
            source_row bigint not null
        )
    """
    conn.execute(sql.SQL(create).format(table))
    add_column = sql.SQL("alter table {} add column if not exists {} {}")
    for column in contract.columns:
        name, sql_type = sql.Identifier(column.name), sql.SQL(column.type.sql)
        conn.execute(add_column.format(table, name, sql_type))
    existing = table_columns(conn, "raw", contract.name)
    _refuse_changed_types(contract, existing)
    for existing_name, existing_column in existing.items():
        # Only older code fills these two columns; they stay as long as it may still run.
        if existing_name in {"source_uri", "source_sha256"} and existing_column.is_not_null:
            drop_not_null = sql.SQL("alter table {} alter column {} drop not null")
            conn.execute(drop_not_null.format(table, sql.Identifier(existing_name)))
    create_index = sql.SQL("create index if not exists {} on {} (partition_date, load_id)")
    conn.execute(create_index.format(sql.Identifier(f"{contract.name}_by_partition"), table))


def _refuse_changed_types(contract: DatasetContract, existing: dict[str, TableColumn]) -> None:
    for column in contract.columns:
        sql_type = existing[column.name].sql_type
        if sql_type != column.type.full_sql:
            raise SpecError(
                f"raw.{contract.name}.{column.name} has another type in the warehouse than in the"
                " contract.",
                expected=sql_type,
                got=column.type.sql,
                todo="Keep `type`, and put what files have in `delivered_as`; or add a column of"
                " another name and list this one as removed.",
                code="NS-SPEC-002",
            )


def ensure_large_table(conn: Connection, contract: DatasetContract) -> str:
    """Create the part of a raw table that takes very many rows at once, and return its name.

    Queries of the raw table read it too. Source: docs/adr/0027-large-drops.md.
    """
    name = f"{contract.name}$large"  # no contract can have this name
    change_schema(conn, lambda: _create_large_table(conn, contract, name))
    return name


def _create_large_table(conn: Connection, contract: DatasetContract, name: str) -> None:
    from psycopg import sql

    query = "select to_regclass(format('raw.%%I', %s::text))"
    if conn.execute(query, [name]).fetchone() != (None,):
        return
    # A load is contiguous in it, so a block range index finds it; an entry for each row would cost
    # nearly as much as the row. Vacuum brings such an index up to date: a load of this size starts
    # it.
    statements = (
        """
        create table {table} () inherits ({raw}) with (
            autovacuum_vacuum_insert_scale_factor = 0,
            autovacuum_vacuum_insert_threshold = 100000
        )
        """,
        "create index {index} on {table} using brin (partition_date, load_id)",
        "comment on table {table} is {comment}",
    )
    names = {
        "table": sql.Identifier("raw", name),
        "raw": sql.Identifier("raw", contract.name),
        "index": sql.Identifier(f"{name}_by_partition"),
        "comment": sql.Literal(f"Large loads of raw.{contract.name}: read that."),
    }
    for statement in statements:
        conn.execute(sql.SQL(statement).format(**names))
