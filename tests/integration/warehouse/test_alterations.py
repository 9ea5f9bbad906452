"""A policy, a trigger, a rule or a revoked column takes rows away: never a success, always a code.

Whatever is done to a table, a load ends in one of two ways: readers have every row of the drop, or
it failed with a code and readers have what they had.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from tests.integration.ingestion.hostile_world import HostileWorld, good_file, hostile_world
from tests.integration.warehouse.test_connection_faults import codes_of

from nightshift.cli.services.migrate import as_admin
from nightshift.errors import NightshiftError, RowsAlteredError, WarehouseRightsError
from nightshift.ingestion import large_drop
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.copy_stream import append_stream

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]
N_ROWS = 24


@pytest.fixture
def world(session_settings, template_database, tmp_path) -> Iterator[HostileWorld]:
    with hostile_world(session_settings, template_database, tmp_path) as one:
        yield one


@pytest.fixture
def day() -> dt.date:
    return dt.date(2013, 2, 1)


def as_superuser(world: HostileWorld, *statements: str) -> None:
    with connect(as_admin(world.settings), "dba") as dba:
        for statement in statements:
            dba.execute(statement.encode())


ROW_SECURITY = (
    "create policy part on raw.visits using (visitors < 5) with check (true)",
    "alter table raw.visits enable row level security",
    "alter table raw.visits force row level security",
)


def test_a_load_has_a_code_when_a_policy_hides_its_rows(world, day):
    world.bring(day, good_file(day), N_ROWS)
    assert world.ingest(day).n_rows == N_ROWS
    after = day + dt.timedelta(days=1)
    world.bring(after, good_file(after), N_ROWS)
    as_superuser(world, *ROW_SECURITY)

    for one in (day, after):
        with pytest.raises(RowsAlteredError, match="policy") as caught:
            world.ingest(one)
        assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-015", False)
    late = "select count(*) from quarantine.refused_drops"
    with pytest.raises(RowsAlteredError):
        world.sweep(day, after)
    assert world.conn.execute(late).fetchone() == (0,)

    as_superuser(world, "alter table raw.visits disable row level security")
    assert world.ingest(day, after).n_rows == 2 * N_ROWS
    assert not world.ingest(day, after).is_new


def test_every_way_to_read_and_write_names_the_policy(world):
    import pyarrow as pa

    as_superuser(world, *ROW_SECURITY)
    assert codes_of(world.settings, "select shop from raw.visits") == {"NS-WAREHOUSE-015"}
    world.conn.execute("create view public.seen as select shop from raw.visits")
    assert codes_of(world.settings, "select shop from public.seen") == {"NS-WAREHOUSE-015"}
    rows = pa.table({"shop": ["hill"]})
    with pytest.raises(RowsAlteredError):
        append_stream(world.settings, "raw", "visits", [rows], lambda _: True, "test")


def test_a_policy_that_does_not_hold_for_us_is_no_fault(world, day):
    as_superuser(world, *ROW_SECURITY[:2])  # the owner of a table is above its policies
    world.bring(day, good_file(day), N_ROWS)
    assert world.ingest(day).n_rows == N_ROWS


def test_a_column_that_we_may_not_read_has_its_code(world, day):
    world.bring(day, good_file(day), N_ROWS)
    world.ingest(day)
    owner = world.settings.warehouse_user
    revoked = [
        f"revoke select on raw.visits from {owner}",
        f"grant select (partition_date, load_id, known_at, shop, hour_at) on raw.visits to {owner}",
    ]
    as_superuser(world, *revoked)
    for load in (world.ingest, world.sweep):
        world.bring(day, good_file(day, 20), 20, f"b{load.__name__}", hour=9)
        with pytest.raises(WarehouseRightsError, match="right"):
            load(day)
    as_superuser(world, f"grant select on raw.visits to {owner}")
    assert world.ingest(day).n_rows == 20


DROPS = "begin return null; end"
ALTERS = "begin new.visitors := 0; return new; end"
DELETES = "begin delete from raw.visits where shop = 'hill' and visitors < 5; return null; end"
NOTES = "begin insert into public.noted values (1); return null; end"
REFUSED = "NS-WAREHOUSE-015"


def trigger(world: HostileWorld, table: str, event: str, body: str) -> None:
    for_each = "row" if event.startswith("before") else "statement"
    as_superuser(
        world,
        "create table if not exists public.noted (n integer)",
        "grant all on public.noted to public",
        f"create function public.meddle() returns trigger language plpgsql as $$ {body} $$",
        f"create trigger meddles {event} on {table} for each {for_each}"
        " execute function public.meddle()",
    )


RECORDS = [
    "ops.loads",
    "ops.fences",
    "ops.published",
    "ops.ledger",
    "ops.received_drops",
    "raw.ingested_drops",
    "quarantine.refused_rows",
    "quarantine.refused_drops",
]
MEDDLING = {
    "drops rows": ("raw.visits", "before insert", DROPS, REFUSED),
    "alters rows": ("raw.visits", "before insert", ALTERS, REFUSED),
    "deletes rows that were stored": ("raw.visits", "after insert", DELETES, "NS-WRITE-003"),
    **{f"drops rows of {name}": (name, "before insert", DROPS, REFUSED) for name in RECORDS},
    "drops changes of ops.loads": ("ops.loads", "before update", DROPS, REFUSED),
    "drops changes of ops.published": ("ops.published", "before update", DROPS, REFUSED),
}


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("meddling", MEDDLING)
def test_a_load_has_a_code_when_a_trigger(world, day, monkeypatch, meddling, size):
    table, event, body, code = MEDDLING[meddling]
    if size == "large":
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1)
        world.bring(day - dt.timedelta(days=1), good_file(day - dt.timedelta(days=1)), N_ROWS)
        world.ingest(day - dt.timedelta(days=1))
        table = table.replace("raw.visits", 'raw."visits$large"')
        body = body.replace("from raw.visits", 'from raw."visits$large"')
    trigger(world, table, event, body)
    world.bring(day, good_file(day), N_ROWS)

    with pytest.raises(NightshiftError) as caught:
        world.ingest(day)

    assert caught.value.code == code
    assert code != REFUSED or "meddles" in str(caught.value)
    assert world.rows(day) == 0
    as_superuser(world, f"drop trigger meddles on {table}")
    assert world.ingest(day).n_rows == N_ROWS


@pytest.mark.parametrize("meddling", ["notes", "is switched off", "is of a replica"])
def test_a_trigger_that_takes_nothing_away_is_no_fault(world, day, meddling):
    trigger(world, "raw.visits", "after insert" if meddling == "notes" else "before insert", NOTES)
    how = {"is switched off": "disable", "is of a replica": "enable replica"}.get(meddling)
    if how:
        as_superuser(world, f"alter table raw.visits {how} trigger meddles")
    world.bring(day, good_file(day), N_ROWS)
    assert world.ingest(day).n_rows == N_ROWS


def test_a_rule_instead_of_the_insert_has_its_code(world, day):
    as_superuser(world, "create rule nowhere as on insert to raw.visits do instead nothing")
    world.bring(day, good_file(day), N_ROWS)
    with pytest.raises(RowsAlteredError, match="nowhere"):
        world.ingest(day)


CONSTRAINTS = {
    "check": "alter table {table} add constraint theirs check (visitors < 5) not valid",
    "unique": "create unique index theirs on {table} (partition_date, load_id, shop)",
    "not null": "alter table {table} add column region text not null",
}


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_constraint_of_others_refuses_the_file_and_no_other_one(
    world, day, monkeypatch, kind, size
):
    table = "raw.visits"
    if size == "large":
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1)
        world.bring(day - dt.timedelta(days=1), good_file(day - dt.timedelta(days=1), 1), 1)
        world.ingest(day - dt.timedelta(days=1))
        table = 'raw."visits$large"' if kind == "unique" else table
        world.conn.execute("truncate raw.visits cascade")
    as_superuser(world, CONSTRAINTS[kind].format(table=table))
    after = day + dt.timedelta(days=1)
    world.bring(day, good_file(day), N_ROWS)
    world.bring(after, good_file(after, 1), 1)

    late = world.sweep(day, after)

    ((code, reason),) = world.refusals(day)
    assert code == "NS-CONTRACT-008"
    assert "hill" not in reason
    assert kind == "not null" or "theirs" in reason
    assert world.unfinished() == []
    # Every row lacks a column that somebody added: then no file can be stored.
    assert len(late.loaded) == (kind != "not null")


def test_our_own_tables_have_no_such_trigger(conn):
    """Else every load would be refused: what migrations make is known here."""
    from nightshift.warehouse.partition_write import Target, refuse_alterations

    names = conn.execute(
        "select schemaname, tablename from pg_tables where schemaname in ('raw', 'features',"
        " 'predictions', 'shadow', 'monitoring', 'ml', 'ops', 'quarantine')"
    ).fetchall()
    assert len(names) > 30
    refuse_alterations(conn, [Target("x", schema, table, ()) for schema, table in names])
