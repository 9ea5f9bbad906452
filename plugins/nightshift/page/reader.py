"""Read the warehouse for a page: one snapshot, as role ``page_reader``, with short time limits.

The night must not suffer from readers of the page: at most ``MAX_SESSIONS`` sessions, and none of
their statements runs longer than ``STATEMENT_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from nightshift.errors import NightshiftError, PoolerError, WarehouseError
from nightshift.warehouse.analysts.page_reader import PAGE_READER
from nightshift.warehouse.connection import conninfo

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.pool import PoolProxiedConnection

    from nightshift.settings import Settings

    Row = dict[str, Any]

MAX_SESSIONS = 3
"""Sessions of one process: a page takes one for some 50 ms, so three serve a team."""
STATEMENT_SECONDS = 3
WAIT_SECONDS = 3
"""How long a request waits for a free session."""
LIFETIME_SECONDS = 600
"""A session is replaced then, so that it never keeps what a long one gathers."""


class PageBusyError(NightshiftError):
    """All sessions of the page were in use, or a query took too long."""

    code = "NS-PAGE-001"
    is_retryable = True


class PageRoleError(NightshiftError):
    """The warehouse has no role ``page_reader`` that this login may take."""

    code = "NS-PAGE-002"


class PageSnapshot:
    """One read-only view of the warehouse: all queries of a page see the same instant.

    Args:
        conn: A connection in a repeatable-read transaction, whose rows are dictionaries.
    """

    def __init__(self, conn: psycopg.Connection[Row]) -> None:
        self._conn = conn
        self.absent: list[str] = []

    def rows(self, query: LiteralString, values: Mapping[str, object] | None = None) -> list[Row]:
        """Return all rows of a query, as dictionaries by column."""
        return self._conn.execute(query, values).fetchall()

    def has(self, relation: str) -> bool:
        """Return whether a relation is there and readable; if not, the page names it as absent."""
        query = """
            select coalesce(has_table_privilege(to_regclass(%(name)s), 'select'), false) as is_there
        """
        # A name alone is not enough: the role may not have the right yet.
        is_there = bool(self.rows(query, {"name": relation})[0]["is_there"])
        if not is_there:
            self.absent.append(relation)
        return is_there

    def has_function(self, signature: str) -> bool:
        """Return whether a function is there and may be called; if not, the page names it."""
        query = """
            select coalesce(has_function_privilege(to_regprocedure(%(name)s), 'execute'), false)
                as is_there
        """
        is_there = bool(self.rows(query, {"name": signature})[0]["is_there"])
        if not is_there:
            self.absent.append(signature)
        return is_there

    def columns(self, relation: str) -> set[str]:
        """Return the names of a relation's columns; none if it is absent."""
        query = """
            select attname as name from pg_attribute
            where attrelid = to_regclass(%(name)s) and attnum > 0 and not attisdropped
        """
        return {row["name"] for row in self.rows(query, {"name": relation})}


class PageReader:
    """The page's few sessions in the warehouse; opened when the first page is requested.

    Args:
        settings: Of the warehouse.
    """

    def __init__(self, settings: Settings) -> None:
        from sqlalchemy.pool import QueuePool

        limits = {
            "statement_timeout_seconds": STATEMENT_SECONDS,
            "lock_timeout_seconds": 1,
        }
        # Settings of its own: a page must not wait as long as a load may.
        self._settings = settings.model_copy(update=limits)
        # Without a dialect the pool cannot ask whether a session lives: `_living_session` does.
        self._pool = QueuePool(
            self._connect,
            pool_size=MAX_SESSIONS,
            max_overflow=0,
            timeout=WAIT_SECONDS,
            recycle=LIFETIME_SECONDS,
        )

    @contextmanager
    def snapshot(self) -> Iterator[PageSnapshot]:
        """Yield one consistent view of the warehouse.

        Raises:
            PageBusyError: No session was free in time, or a query was ended by its limit.
            PageRoleError: The role of the page is missing.
            PoolerError: A pooler drops the limits of the session.
            WarehouseError: The warehouse cannot be reached.
        """
        import psycopg
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        try:
            pooled = self._living_session()
        except PoolTimeoutError:
            raise PageBusyError(
                "All sessions of the page are in use.",
                expected=f"one of {MAX_SESSIONS} within {WAIT_SECONDS} s",
                todo="Load the page again.",
            ) from None
        try:
            # The driver's own connection: its transaction sets the isolation.
            conn: Any = pooled.driver_connection
            with conn.transaction():
                conn.execute("set transaction isolation level repeatable read read only")
                yield PageSnapshot(conn)
        except psycopg.errors.QueryCanceled:
            raise PageBusyError(
                "The warehouse did not answer in time.",
                expected=f"an answer within {STATEMENT_SECONDS} s",
                todo="Load the page again; while a large load is written it may take a minute.",
            ) from None
        except psycopg.OperationalError as error:
            # A session that the server has ended must not be handed out again.
            pooled.invalidate()
            raise WarehouseError(
                "The connection to the warehouse broke.",
                got=str(error).strip().splitlines()[0],
                todo="Load the page again; `nightshift status` shows whether the warehouse runs.",
            ) from None
        finally:
            pooled.close()

    def close(self) -> None:
        """Close all sessions."""
        self._pool.dispose()

    def _living_session(self) -> PoolProxiedConnection:
        """Return a session of the pool that answers; one that the server has ended is replaced."""
        import psycopg

        pooled = self._pool.connect()
        try:
            session: Any = pooled.driver_connection
            session.execute("select 1")
        except psycopg.OperationalError:
            pooled.invalidate()
            pooled.close()
            # A restarted server has ended all of them; a new session tells whether it is back.
            self._pool = self._pool.recreate()
            return self._pool.connect()
        return pooled

    def _connect(self) -> Any:  # noqa: ANN401 - what the pool hands out
        import psycopg
        from psycopg.rows import dict_row

        parameters = conninfo(self._settings, "nightshift page")
        # Compiling a query takes longer than any of the page's queries.
        role = f"-c role={PAGE_READER} -c default_transaction_read_only=on -c jit=off"
        parameters["options"] = f"{parameters['options']} {role}"
        try:
            conn = psycopg.connect(**parameters, autocommit=True, row_factory=dict_row)
        except psycopg.OperationalError as error:
            raise _connection_error(str(error)) from None
        # A pooler that drops the options would leave the owner's rights in place.
        row = conn.execute("select current_user as name").fetchone()
        if row is None or row["name"] != PAGE_READER:
            conn.close()
            raise PoolerError(
                "The session of the page has another role than was requested.",
                expected=PAGE_READER,
                got=str(row and row["name"]),
                todo="Let NIGHTSHIFT_WAREHOUSE_HOST and _PORT name PostgreSQL itself, not a"
                " pooler.",
            )
        return conn


def _connection_error(text: str) -> NightshiftError:
    """Return the error of a connection that could not be opened; no password is in the text."""
    if PAGE_READER in text:
        return PageRoleError(
            f"The warehouse has no role {PAGE_READER} that this login may take.",
            todo="Run `nightshift migrate`.",
        )
    return WarehouseError(
        "Cannot connect to the warehouse.",
        got=text.strip().splitlines()[-1] if text.strip() else "no answer",
        todo="Run `nightshift status`; for the local services `nightshift up`.",
    )
