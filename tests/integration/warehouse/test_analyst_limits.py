"""No analyst, by any login, can hold up a run; and many deployments at once cannot either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import Connection, errors, sql
from tests.databases import own_database, run_as_admin
from tests.integration.scoring.conftest import make_spec

from nightshift.cli.services.migrate import as_admin
from nightshift.contracts.datasets import load_contracts
from nightshift.errors import WarehouseError
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.analysts import sessions
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.analysts.logins import (
    ANALYST,
    LIMITS,
    MAX_CONNECTIONS,
    add_login,
    gaps,
    logins,
    remove_login,
)
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate
from nightshift.warehouse.schema_lock import set_up_alone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
PASSWORD = "only-of-this-test"
N_ROUNDS, N_DEPLOYMENTS = 2, 6


@pytest.fixture
def admin(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(as_admin(settings), "test admin") as connection:
        yield connection


@pytest.fixture
def member(settings, admin) -> Iterator[str]:
    """Return the name of a login that nobody has given more than the membership."""
    name = f"member_{settings.warehouse_database[-12:]}"
    apply_grants(admin)
    admin.execute(
        f"create role {name} login password '{PASSWORD}'; grant {ANALYST} to {name}".encode()
    )
    yield name
    admin.execute(f"drop owned by {name}; drop role {name}".encode())


def test_an_empty_database_has_no_sessions_to_end(conn: Connection):
    conn.execute("drop function if exists ops.end_hindering_sessions()")
    assert sessions.end_hindering_sessions(conn) == []
    # Before the first migration even the schema is missing.
    conn.execute("alter schema ops rename to not_yet")
    assert sessions.end_hindering_sessions(conn) == []


def session(settings: Settings, login: str) -> psycopg.Connection:
    secret = settings.analyst_password.get_secret_value() if login == ANALYST else PASSWORD
    place = {"host": settings.warehouse_host, "port": settings.warehouse_port}
    place |= {"dbname": settings.warehouse_database, "user": login, "password": secret}
    return psycopg.connect(**place, autocommit=True)


@pytest.fixture(params=["the analyst", "a member"])
def login(request, admin, member) -> str:
    """Return a login after ``nightshift migrate``."""
    apply_grants(admin)
    return ANALYST if request.param == "the analyst" else member


ATTEMPTS = [
    "select pg_advisory_lock(hashtextextended('sweep raw/airports', 0))",
    "select pg_advisory_lock_shared(1)",
    "select pg_try_advisory_lock(1)",
    "select pg_try_advisory_xact_lock_shared(1, 2)",
    "select pg_advisory_xact_lock(1)",
    "do $$ begin perform pg_advisory_lock(1); end $$",
    "select pg_logical_emit_message(false, 'x', repeat('x', 1000))",
    "select pg_logical_emit_message(true, 'x', '\\x00'::bytea)",
    "select lo_create(0)",
    "select lo_from_bytea(0, 'x')",
    "set temp_file_limit = -1",
    "reset temp_file_limit",
    "alter role current_user set temp_file_limit = -1",
    "alter role current_user connection limit -1",
    "create temporary table mine (a int)",
    "do $$ begin lock table analytics.seen in exclusive mode; end $$",
    "select * from ops.end_hindering_sessions()",
]


def test_no_statement_of_an_analyst_takes_a_lock_or_fills_the_disk(settings, conn, login):
    conn.execute("create view analytics.seen as select 1 as value")
    with session(settings, login) as reader:
        assert reader.execute("select value from seen").fetchone() == (1,)
        reader.execute("set default_transaction_read_only = off")
        for statement in ATTEMPTS:
            with pytest.raises(errors.InsufficientPrivilege):
                reader.execute(statement.encode())
        assert reader.execute("show temp_file_limit").fetchone() == ("10GB",)


def test_every_login_begins_with_the_limits(settings, login):
    with session(settings, login) as reader:
        found = {name: reader.execute(f"show {name}".encode()).fetchone()[0] for name in LIMITS}
    assert found == LIMITS


def test_a_login_has_so_many_connections_and_the_owner_still_has_one(settings, login):
    with ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(session(settings, login))
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            session(settings, login)
        with connect(settings) as own:
            assert own.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_no_login_of_an_analyst_reaches_a_database_without_limits(settings, login, database):
    """Messages, temporary tables and time would have no limit there, and fill the same disk."""
    with pytest.raises(psycopg.OperationalError, match="CONNECT privilege"):
        session(settings.model_copy(update={"warehouse_database": database}), login)


def test_another_database_is_reported_until_analysts_may_not_connect_to_it(settings, admin):
    apply_grants(admin)
    with own_database(settings) as other:

        def is_open() -> bool:
            open_databases = [gap for gap in gaps(admin) if "may connect" in gap]
            return any(other.warehouse_database in gap for gap in open_databases)

        assert is_open()
        run_as_admin(settings, f"revoke connect on database {other.warehouse_database} from public")
        assert not is_open()


def test_a_member_made_by_hand_is_reported_until_it_has_limits(admin, member):
    assert any(member in gap for gap in gaps(admin))
    apply_grants(admin)
    # Databases of other tests are open.
    missing = [gap for gap in gaps(admin) if "may connect" not in gap]
    assert [gap for gap in missing if member in gap or ANALYST in gap] == []


def test_the_owner_keeps_its_locks_and_gets_no_limit(settings, conn, admin, login):
    admin.execute(f"grant {ANALYST} to {settings.warehouse_user}".encode())
    try:
        apply_grants(admin)
        assert settings.warehouse_user not in {found.name for found in logins(admin)}
    finally:
        admin.execute(f"revoke {ANALYST} from {settings.warehouse_user}".encode())
    assert conn.execute("select pg_try_advisory_lock(1)").fetchone() == (True,)


def test_a_login_is_added_with_its_limits_and_removed(settings, admin):
    apply_grants(admin)
    name = f"added_{settings.warehouse_database[-12:]}"
    add_login(admin, name, PASSWORD)
    assert [found.missing_limits for found in logins(admin) if found.name == name] == [[]]
    with session(settings, name) as reader:
        remove_login(admin, name)
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        session(settings, name)
    admin.execute(f"drop owned by {name}; drop role {name}".encode())
    with pytest.raises(WarehouseError, match="owns the warehouse"):
        add_login(admin, settings.warehouse_user, PASSWORD)


def test_an_open_transaction_of_an_analyst_does_not_hold_up_a_deployment(settings, conn, login):
    """It took off its limits and read a view: replacing that view would wait for it for ever."""
    conn.execute("create view analytics.seen as select 1 as value")
    with session(settings, login) as reader:
        reader.execute("set idle_in_transaction_session_timeout = 0; set statement_timeout = 0")
        reader.execute("begin")
        reader.execute("select * from seen")
        with sessions.hindering_sessions_ended(settings), connect(settings) as own:
            own.execute("create or replace view analytics.seen as select 1 as value, 2 as more")
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select 1")


def shorten_rule(conn: Connection, admin: Connection, interval: str) -> None:
    """Put an interval in the place of the rule's 30 minutes, for which no test waits."""
    guard = "select pg_get_functiondef('ops.end_hindering_sessions'::regproc)"
    (rule,) = conn.execute(guard).fetchone()
    assert rule.count("interval '30 minutes'") == 1
    admin.execute(rule.replace("interval '30 minutes'", f"interval '{interval}'").encode())


def test_a_transaction_of_an_analyst_that_is_open_for_over_30_minutes_is_ended(
    settings, conn, admin, login
):
    with session(settings, login) as reader, connect(settings) as own, own.transaction():
        own.execute("select 1")
        reader.execute("begin")
        reader.execute("select 1")
        assert sessions.end_hindering_sessions(conn) == []
        assert reader.execute("select 2").fetchone() == (2,)

        # Both transactions are older than that: the replacement alone takes longer.
        shorten_rule(conn, admin, "1 microsecond")

        reason = "its transaction was open for over 30 minutes"
        assert sessions.end_hindering_sessions(conn) == [f"session of {login} ended: {reason}"]
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            reader.execute("select 3")
        # The owner's transaction is older than the analyst's.
        assert own.execute("select 3").fetchone() == (3,)


def test_an_analyst_without_an_open_transaction_is_left(settings, conn, admin, login):
    with session(settings, login) as reader:
        reader.execute("select 1")
        shorten_rule(conn, admin, "1 microsecond")
        assert sessions.end_hindering_sessions(conn) == []
        assert reader.execute("select 2").fetchone() == (2,)


def test_other_sessions_are_left(settings, conn, admin, login):
    conn.execute("create table raw.own (n int)")
    with connect(settings) as first, session(settings, login) as reader:
        with first.transaction():
            first.execute("lock table raw.own")
            reader.execute("select 1")
            assert sessions.end_hindering_sessions(conn) == []
        assert reader.execute("select 1").fetchone() == (1,)


def at_once(actions: list[Callable[[], object]]) -> list[BaseException]:
    """Run actions in threads that begin together; return what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> None:
        start.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_deployments_and_a_night_change_relations_at_once(settings, conn):
    contracts = load_contracts(PROJECT_ROOT / "dags" / "datasets")
    spec = make_spec()
    conn.execute(
        "create table marts.fct_parcel_labels (parcel_id text, partition_date date,"
        " event_timestamp timestamptz, known_at timestamptz, superseded_at timestamptz,"
        " is_late integer)"
    )

    def change() -> None:
        with connect(settings) as own, connect(as_admin(settings)) as granting:
            migrate(own, contracts)
            ensure_prediction_relations(own, spec, replace_views=True)
            apply_grants(granting)

    def deploy() -> None:
        with set_up_alone(settings):
            change()

    def score() -> None:
        with connect(settings) as own:
            ensure_prediction_relations(own, spec)

    for _ in range(N_ROUNDS):
        # Half of them are of older code, which knows no lock of the whole set-up.
        half = N_DEPLOYMENTS // 2
        assert at_once([*[deploy] * half, *[change] * half, score]) == []
        for view in ("current", "history", "outcomes"):
            drop = sql.SQL("drop view {}")
            conn.execute(drop.format(sql.Identifier("analytics", f"parcel_late_{view}")))
