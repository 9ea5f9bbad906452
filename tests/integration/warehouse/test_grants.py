"""The analyst's whole reach, by real attempts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors

from nightshift.warehouse.analysts import page_reader
from nightshift.warehouse.analysts.grants import ANALYST, apply_grants
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings

pytestmark = pytest.mark.integration
CLOSED_SCHEMAS = [
    "raw",
    "staging",
    "intermediate",
    "marts",
    "features",
    "ml",
    "predictions",
    "monitoring",
    "quarantine",
    "ops",
    "public",
]


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection]:
    """Return a connection of the role that migrates."""
    user = settings.warehouse_admin_user or settings.warehouse_user
    password = (
        settings.warehouse_admin_password
        if settings.warehouse_admin_user
        else settings.warehouse_password
    )
    with connect(
        settings.model_copy(update={"warehouse_user": user, "warehouse_password": password}),
        "test admin",
    ) as connection:
        yield connection


@pytest.fixture
def analyst(conn, admin, settings) -> Iterator[psycopg.Connection]:
    """Return a connection of the analyst, by password, to a warehouse with secrets."""
    for schema in [*CLOSED_SCHEMAS, "analytics"]:
        admin.execute(f"create table {schema}.secret (value integer)".encode())
    conn.execute("create view analytics.before as select 1 as value")
    apply_grants(admin)
    conn.execute("create view analytics.after as select 2 as value")
    server = {
        "host": settings.warehouse_host,
        "port": settings.warehouse_port,
        "dbname": settings.warehouse_database,
    }
    with psycopg.connect(
        **server,
        user=ANALYST,
        password=settings.analyst_password.get_secret_value(),
        autocommit=True,
    ) as session:
        yield session


def test_analyst_reads_views_made_before_and_after_the_grants(analyst):
    assert analyst.execute(
        "select value from analytics.before union all select value from analytics.after"
    ).fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("schema", CLOSED_SCHEMAS)
def test_analyst_is_refused_in_every_other_schema(analyst, schema):
    analyst.execute("set default_transaction_read_only = off")
    for statement in (
        "select * from {}.secret",
        "insert into {}.secret values (1)",
        "create table {}.mine (a int)",
        "drop table {}.secret",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            analyst.execute(statement.format(schema).encode())


@pytest.mark.parametrize(
    "statement",
    [
        "insert into analytics.secret values (1)",
        "delete from analytics.secret",
        "truncate analytics.secret",
        "create view analytics.mine as select 1",
        "create or replace view analytics.before as select 3 as value",
        "create temporary table mine (a int)",
        "create schema mine",
        "create function analytics.mine() returns int language sql as 'select 1'",
        "create extension pgcrypto schema analytics",
        "create role other",
        "alter role nightshift password 'x'",
        "set role nightshift",
        "set session authorization nightshift",
        "copy analytics.before to '/tmp/x'",
        "copy analytics.secret from program 'id'",
        "select pg_read_file('/etc/passwd')",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'nightshift'",
        "select lo_create(0)",
        "select lo_from_bytea(0, 'x')",
        "select rolpassword from pg_authid",
        "select ops.refuse_change()",
        "select nextval('ops.load_id_seq')",
        "do $$ begin perform 1 from raw.secret; end $$",
        "explain analyze select * from predictions.secret",
    ],
)
def test_analyst_is_refused_when_attempting(conn, analyst, statement):
    analyst.execute("set default_transaction_read_only = off")
    with pytest.raises(errors.InsufficientPrivilege):
        analyst.execute(statement.encode())


def test_the_catalog_knows_no_other_relation_that_the_analyst_can_read(analyst, admin):
    rows = admin.execute(
        "select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and c.relkind in"
        " ('r', 'v', 'm', 'p', 'f', 'S')"
        " and has_schema_privilege(%(role)s, n.oid, 'usage') and has_table_privilege(%(role)s,"
        " c.oid, 'select') group by 1",
        {"role": ANALYST},
    ).fetchall()
    assert rows == [("analytics",)]


def test_analyst_loses_rights_that_somebody_added_when_grants_run_again(analyst, admin):
    admin.execute("grant usage on schema raw to analyst")
    admin.execute("grant select on raw.secret to analyst")
    assert analyst.execute("select * from raw.secret").fetchall() == []
    apply_grants(admin)

    with pytest.raises(errors.InsufficientPrivilege):
        analyst.execute("select * from raw.secret")


def test_analyst_session_is_read_only_and_limited_by_default(analyst):
    assert analyst.execute("show statement_timeout").fetchone() == ("5min",)
    assert analyst.execute("select value from before").fetchone() == (1,)
    with pytest.raises(errors.ReadOnlySqlTransaction):
        analyst.execute("create table analytics.mine (a int)")


def test_a_login_that_may_create_no_role_sets_up_all_but_the_page(conn, admin, monkeypatch, caplog):
    apply_grants(admin)
    # The role that the admin has made serves it, too.
    page_reader.grant_page_reader(conn, "nightshift")
    assert not caplog.records
    monkeypatch.setattr(page_reader, "PAGE_READER", "page_reader_of_nobody")
    page_reader.grant_page_reader(conn, "nightshift")
    assert "NS-PAGE-002" in caplog.text
