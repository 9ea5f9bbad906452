"""Translate what the warehouse refused to one error class per cause, and so one runbook page.

psycopg, ADBC and SQLAlchemy carry a SQLSTATE. A refused login and dbt leave only the text.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import (
    ConstraintError,
    LoginRefusedError,
    LostAnswerError,
    NoConnectionLeftError,
    PoolerError,
    ReadOnlyWarehouseError,
    RowsAlteredError,
    StatementCancelledError,
    WarehouseError,
    WarehouseRightsError,
)
from nightshift.redaction import without_values

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

_MAX_LENGTH = 1_500
_SAFE = "No partial data was published. "


@dataclass(frozen=True)
class _Cause:
    """One cause of a refusal.

    Attributes:
        error: The class that names it.
        message: What happened.
        todo: What to do.
        words: Pattern of its text.
        states: Its SQLSTATEs.
        is_in_text: Whether a text alone shows it; a model of dbt may break a constraint of its own.
    """

    error: type[WarehouseError]
    message: str
    todo: str
    words: re.Pattern[str]
    states: frozenset[str] = frozenset()
    is_in_text: bool = True

    def describe(self, text: str) -> WarehouseError:
        """Return the error, with the line of a text that names the cause."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # A driver's message has other lines too, with the text of the statement.
        matching = [line for line in lines if self.words.search(line)]
        got = [*matching, *lines, "no message"][0]
        return self.error(self.message, got=got[:_MAX_LENGTH], todo=self.todo)


# The first one whose words match counts.
_CAUSES = (
    _Cause(
        PoolerError,
        "A connection pooler stands before the warehouse and refuses session parameters.",
        "Let NIGHTSHIFT_WAREHOUSE_HOST and _PORT name PostgreSQL itself, not the pooler.",
        re.compile("unsupported startup parameter"),
    ),
    _Cause(
        NoConnectionLeftError,
        "The warehouse has no connection left.",
        _SAFE + "See who holds the connections (runbook), then rerun the task.",
        re.compile(
            "too many connections|too many clients|remaining connection slots"
            "|no more connections allowed"
        ),
        frozenset({"53300"}),
    ),
    _Cause(
        LoginRefusedError,
        "The warehouse refused the login.",
        "Correct user, password and database in NIGHTSHIFT_WAREHOUSE_*.",
        re.compile(
            "authentication failed|no pg_hba.conf entry|no password supplied"
            "|not permitted to log in|permission denied for database|no such (user|database)"
            '|(FATAL|ERROR): +(role|database) "[^"]*" does not exist'
        ),
        frozenset({"28P01", "28000", "3D000"}),
    ),
    _Cause(
        StatementCancelledError,
        "A statement took longer than its limit, or somebody cancelled it.",
        _SAFE + "Find out what was slow (runbook), then rerun the task.",
        re.compile("canceling statement due to (statement|user)|QueryCanceled"),
        frozenset({"57014"}),
    ),
    _Cause(
        ReadOnlyWarehouseError,
        "The warehouse is read-only: a replica, or a server after a failover.",
        _SAFE + "Let NIGHTSHIFT_WAREHOUSE_HOST name the primary, then rerun the task.",
        re.compile("in a read-only transaction|ReadOnlySqlTransaction"),
        frozenset({"25006"}),
    ),
    _Cause(
        RowsAlteredError,
        "Row-level security hides rows of a table from the warehouse user.",
        _SAFE + "Give the user BYPASSRLS, or switch it off (runbook); then rerun the task.",
        re.compile("row-level security policy"),
        frozenset({"42501"}),
    ),
    _Cause(
        WarehouseRightsError,
        "The warehouse user lacks a right.",
        _SAFE + "Run `nightshift migrate` as the owner, or grant the right; then rerun the task.",
        re.compile("permission denied for|must be owner of|InsufficientPrivilege"),
        frozenset({"42501"}),
    ),
    _Cause(
        ConstraintError,
        "A constraint of the warehouse refuses a row.",
        _SAFE + "If the constraint is not ours, drop it (runbook); then rerun the task.",
        re.compile("violates .* constraint"),
        # Null, foreign key, unique, check, exclusion.
        frozenset({"23502", "23503", "23505", "23514", "23P01"}),
        is_in_text=False,
    ),
    _Cause(
        WarehouseError,
        "The connection to the warehouse broke.",
        _SAFE + "`nightshift status` shows whether it runs; then rerun the task.",
        re.compile(
            "server closed the connection|terminating connection due to|the database system is"
            "|connection (to server|already closed)|Connection (refused|timed out|reset)"
            "|could not (connect|receive data|send data)|SSL connection has been closed"
            "|AdminShutdown|CrashShutdown|CannotConnectNow"
        ),
    ),
)


def fault_of(error: BaseException) -> WarehouseError | None:
    """Return the error that names what the server refused; None for any other SQLSTATE."""
    # SQLAlchemy hides the driver's error in ``orig``; psycopg's and ADBC's are their own.
    driver_error = getattr(error, "orig", None) or error
    state = getattr(driver_error, "sqlstate", None)
    text = str(driver_error)
    causes = [cause for cause in _CAUSES if state in cause.states]
    # Two causes share a state: the words tell them apart, and the last one is the general cause.
    causes = [cause for cause in causes if cause.words.search(text)] or causes[-1:]
    return causes[0].describe(text) if causes else None


def fault_in(text: str) -> WarehouseError | None:
    """Return the error that a text names: of a refused login, or of dbt; None if it names none."""
    causes = [cause for cause in _CAUSES if cause.is_in_text and cause.words.search(text)]
    return causes[0].describe(text) if causes else None


def publish_error(conn: Connection, load_id: int, error: Exception) -> WarehouseError:
    """Return the error that tells a lost answer, which may have committed, from a refusal."""
    if conn.closed:
        return LostAnswerError(
            f"The answer to the commit of load {load_id} was lost.",
            todo="Rerun the task: it reads back what was published and continues.",
        )
    return fault_of(error) or WarehouseError(
        f"Load {load_id} could not be published; nothing changed.",
        got=without_values(str(error)),
        todo="Rerun the task.",
    )
