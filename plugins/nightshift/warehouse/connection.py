"""Connections to the warehouse: named after their run, in UTC, with server-side time limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from nightshift.errors import PoolerError, TableShapeError, WarehouseError
from nightshift.resource_errors import translate_resource_errors
from nightshift.warehouse.faults import fault_in, fault_of

if TYPE_CHECKING:
    import datetime as dt

    import psycopg

    from nightshift.settings import Settings

    Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT_SECONDS = 10
CANCEL_TIMEOUT_SECONDS = 2
IDLE_IN_TRANSACTION_SECONDS = 120
_TRANSIENT = {
    "55P03": "A lock was not free in time: another session works on the same rows or tables.",
    "40P01": "Two transactions waited for each other, and the warehouse ended this one.",
}
"""Errors that pass by themselves, by SQLSTATE."""
_ABSENT = {"42P01", "42703", "3F000", "42704"}
"""A table or view, a column, a schema, another object that is not there."""
_OUR_SESSION = "nightshift.session"
"""A parameter of no other meaning: who has set our limits for the role cannot have set it."""
# PostgreSQL expects one row of a label view over versions with a window function. Once its tables
# are analysed it would join 500,000 labels row by row, and not end.
PLAN_LABELS = "set local enable_nestloop = off"


def connection_options(settings: Settings) -> str:
    """Return the session parameters of every connection.

    They end the work of a lost client, and give every run the same text forms of values.
    """
    # The server checks every two seconds whether the client is still there, and keep-alives find a
    # network that is gone within a minute: the locks of a killed task do not wait for a timeout.
    values = {
        _OUR_SESSION: "on",
        "statement_timeout": f"{settings.statement_timeout_seconds}s",
        "lock_timeout": f"{settings.lock_timeout_seconds}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
        "client_connection_check_interval": "2s",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "timezone": "UTC",
        "datestyle": "ISO",
        "extra_float_digits": "1",
        # A policy that would hide rows from us is an error: a part would look like the whole.
        "row_security": "off",
        # An admin may have set these for the role or the database: they change what a string means,
        # or let the fencing tokens fail that writers wait for.
        "default_transaction_isolation": r"read\ committed",
        "client_encoding": "UTF8",
        "intervalstyle": "postgres",
        "array_nulls": "on",
        "standard_conforming_strings": "on",
        "quote_all_identifiers": "off",
        "transform_null_equals": "off",
    }
    return " ".join(f"-c {name}={value}" for name, value in values.items())


def conninfo(settings: Settings, application_name: str) -> dict[str, Any]:
    """Return libpq parameters; hold them no longer than needed, they contain the password."""
    return {
        "host": settings.warehouse_host,
        "port": settings.warehouse_port,
        "dbname": settings.warehouse_database,
        "user": settings.warehouse_user,
        "password": settings.warehouse_password.get_secret_value(),
        "sslmode": settings.warehouse_sslmode,
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "options": connection_options(settings),
    }


@contextmanager
def connect(settings: Settings, application_name: str = "nightshift") -> Iterator[Connection]:
    """Open a connection in autocommit mode: a transaction is an explicit ``conn.transaction()``.

    Raises:
        WarehouseError: The server cannot be reached; the password is in no message.
        LoginRefusedError: It refuses user, password or database.
        NoConnectionLeftError: It takes no further connection.
        PoolerError: A pooler in between drops the limits of the session.
        WarehouseError: In the block the connection broke or a lock was not free in time.
        StatementCancelledError: A statement of the block took too long.
        WarehouseRightsError: A statement of the block lacks a right.
        ConstraintError: A statement of the block broke a constraint.
        RowsAlteredError: Row-level security would hide rows from a statement of the block.
        ReadOnlyWarehouseError: A statement of the block wrote, and the server is a replica.
        TableShapeError: A statement of the block reads what is not there.
        WarehouseFullError: A statement of the block found the warehouse's disk full.
        MemoryShortError: A statement of the block got no more memory.
    """
    import psycopg

    conn = _open(settings, application_name)
    try:
        with translate_resource_errors():
            _refuse_lost_limits(conn, settings)
            yield conn
    except psycopg.Error as error:
        if fault := fault_of(error):
            raise fault from error
        if error.sqlstate in _ABSENT:
            # The other lines are text of the statement.
            raise TableShapeError(
                "A table, view or column of the warehouse is not there.",
                got=str(error).splitlines()[0],
                todo="Run `nightshift migrate`, then rerun the task: what it makes again is filled"
                " from the drops, or by the stage that writes it.",
            ) from error
        # An error of our own SQL or data is not the warehouse's: it keeps its class.
        if not isinstance(error, psycopg.OperationalError):
            raise
        raise WarehouseError(
            _TRANSIENT.get(error.sqlstate or "", "The connection to the warehouse broke."),
            got=str(error).strip(),
            todo="Rerun the task: no partial data was published. `nightshift status` shows whether"
            " the warehouse runs.",
        ) from error
    finally:
        _end(conn)


def _open(settings: Settings, application_name: str) -> Connection:
    import psycopg

    try:
        return psycopg.connect(**conninfo(settings, application_name), autocommit=True)
    except psycopg.OperationalError as error:
        # A refused login has no SQLSTATE, only text.
        if (fault := fault_in(str(error))) and type(fault) is not WarehouseError:
            raise fault from None
        server = f"{settings.warehouse_host}:{settings.warehouse_port}"
        raise WarehouseError(
            f"Cannot connect to the warehouse at {server}/{settings.warehouse_database}.",
            got=str(error).strip().splitlines()[-1],
            todo="Run `nightshift status`; for the local services `nightshift up`.",
        ) from None


def _refuse_lost_limits(conn: Connection, settings: Settings) -> None:
    """Refuse a session without our limits.

    Raises:
        PoolerError: The session has none of the parameters that were requested.
    """
    # A pooler with ``ignore_startup_parameters = options`` drops them silently. In transaction mode
    # it also spreads one session's advisory locks over several servers: two writers would meet. A
    # time limit of the role, which a person has set to get along, repairs neither.
    query = """
        select current_setting(%s, true) is not distinct from 'on',
            current_setting('statement_timeout')
    """
    ((is_ours, limit),) = conn.execute(query, [_OUR_SESSION]).fetchall()
    if not is_ours:
        raise PoolerError(
            "The session does not have the requested limits: a connection pooler drops them.",
            expected=f"the parameters of every session, statement_timeout of"
            f" {settings.statement_timeout_seconds} s among them",
            got=f"none of them; statement_timeout is {limit}",
            todo="Let NIGHTSHIFT_WAREHOUSE_HOST and _PORT name PostgreSQL itself, not the pooler.",
        )


def warehouse_time(conn: Connection) -> dt.datetime:
    """Return the present by the warehouse's clock, UTC."""
    ((now,),) = conn.execute("select clock_timestamp()").fetchall()
    at: dt.datetime = now
    return at


@contextmanager
def label_queries(conn: Connection) -> Iterator[None]:
    """Plan the queries of the block for label relations, whose size PostgreSQL misjudges."""
    with conn.transaction():
        conn.execute(PLAN_LABELS)
        yield


def _end(conn: Connection) -> None:
    """Close the connection, and cancel what still runs on the server after an interruption."""
    from psycopg import Error
    from psycopg.pq import TransactionStatus

    if not conn.closed and conn.info.transaction_status == TransactionStatus.ACTIVE:
        # If this fails, the server ends it by itself: every two seconds it checks the client.
        with suppress(Error):
            conn.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
    conn.close()


def lose(conn: Connection) -> NoReturn:
    """Behave as if the network had failed after the last statement; for failpoints."""
    from psycopg import OperationalError

    conn.close()
    raise OperationalError("the connection is lost")
