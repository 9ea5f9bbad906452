"""Whatever an admin has set for our role or database: the same rows, refused rows and hashes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql
from tests.integration.ingestion.hostile_world import HEADER, HostileWorld, hostile_world

from nightshift.cli.services.migrate import as_admin
from nightshift.ingestion import large_drop
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

DAY = dt.date(2013, 2, 1)
SETTINGS = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("client_encoding", "LATIN1"),
    ("intervalstyle", "iso_8601"),
    ("datestyle", "SQL, DMY"),
    ("timezone", "Asia/Kathmandu"),
    ("array_nulls", "off"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("search_path", "pg_temp"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("work_mem", "64kB"),
    ("statement_timeout", "1"),
    ("row_security", "on"),
]


@pytest.fixture
def world(session_settings, template_database, tmp_path) -> Iterator[HostileWorld]:
    with hostile_world(session_settings, template_database, tmp_path) as opened:
        yield opened


def load(world: HostileWorld, day: dt.date) -> dict[str, Any]:
    """Load a day with odd texts and refused rows, and return what is there then."""
    texts = ["hill", "Straße", "a\\b", "NULL", "{x}", "日本", "\\x41", "it's"]
    rows = [
        f'"{text}",{day} 10:{n // 60:02d}:{n % 60:02d},{n},\n' for n, text in enumerate(texts * 10)
    ]
    rows = [row.replace(",,", ",") for row in rows]
    rows[7] = f"late,{day - dt.timedelta(days=9)} 10:00,1,\n"
    world.bring(day, (HEADER + "".join(rows)).encode(), len(rows))
    (partition,) = world.ingest(day).partitions
    where = "where partition_date = %s order by 1"
    hashed = "select content_hash from ops.loads where partition_date = %s and state = 'published'"
    refused = (
        f"select source_row, reason, column_name, delivered from quarantine.refused_rows {where}"
    )
    seen = sql.SQL(
        "select shop, visitors, hour_at from raw.visits where partition_date = {} order by 2"
    )
    return {
        "counts": (partition.n_rows, partition.n_refused),
        "hash": world.conn.execute(hashed, [day]).fetchall(),
        "refused": world.conn.execute(refused.encode(), [day]).fetchall(),
        "by Arrow": read_arrow(world.settings, seen.format(day)).to_pylist(),
    }


def forget_loads(world: HostileWorld) -> None:
    with connect(as_admin(world.settings), "dba") as dba:
        # Corrections refer to refused rows, and their trigger refuses to lose any.
        dba.execute("set session_replication_role = replica")
        dba.execute("truncate raw.visits, raw.ingested_drops, quarantine.refused_rows cascade")
        dba.execute("delete from ops.published")
        dba.execute("delete from ops.loads")


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_load_is_the_same_whatever_the_role_has_set(world, monkeypatch, size):
    if size == "large":
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1)
    expected = load(world, DAY)
    database = sql.Identifier(world.settings.warehouse_database)
    role = sql.Identifier(world.settings.warehouse_user)
    for name, value in SETTINGS:
        with connect(as_admin(world.settings), "dba") as dba:
            for scope in ("role {role} in database {database}", "database {database}"):
                change = sql.SQL(f"alter {scope} set {name} to {{value}}")
                dba.execute(change.format(role=role, database=database, value=sql.Literal(value)))

        forget_loads(world)
        # Another database session each time: a setting of a role holds from the login on.
        assert load(world, DAY) == expected, (name, value)

        with connect(as_admin(world.settings), "dba") as dba:
            for scope in ("role {role} in database {database}", "database {database}"):
                reset = sql.SQL(f"alter {scope} reset all")
                dba.execute(reset.format(role=role, database=database))
