"""Name what the warehouse refused: one error class, and so one runbook page, per cause.

psycopg, ADBC and SQLAlchemy carry a SQLSTATE. A refused login and dbt leave only the text.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

import re

from nightshift.errors import (
    LoginRefusedError,
    NoConnectionLeftError,
    PoolerError,
    ReadOnlyWarehouseError,
    StatementCancelledError,
    WarehouseError,
    WarehouseRightsError,
)

_SAFE = "Nothing partial was published. "
_WHAT: dict[type[WarehouseError], tuple[str, str]] = {
    StatementCancelledError: (
        "A statement took longer than its limit, or somebody cancelled it.",
        _SAFE + "Find out what was slow (runbook), then rerun the task.",
    ),
    WarehouseRightsError: (
        "The warehouse user lacks a right.",
        _SAFE + "Run `nightshift migrate` as the owner, or grant the right; then rerun the task.",
    ),
    ReadOnlyWarehouseError: (
        "The warehouse is read-only: a replica, or a server after a failover.",
        _SAFE + "Let NIGHTSHIFT_WAREHOUSE_HOST name the primary, then rerun the task.",
    ),
    NoConnectionLeftError: (
        "The warehouse has no connection left.",
        _SAFE + "See who holds the connections (runbook), then rerun the task.",
    ),
    LoginRefusedError: (
        "The warehouse refused the login.",
        "Correct user, password and database in NIGHTSHIFT_WAREHOUSE_*.",
    ),
    PoolerError: (
        "A connection pooler stands before the warehouse and refuses session parameters.",
        "Let NIGHTSHIFT_WAREHOUSE_HOST and _PORT name PostgreSQL itself, not the pooler.",
    ),
}
_BY_STATE: dict[str, type[WarehouseError]] = {
    "57014": StatementCancelledError,
    "42501": WarehouseRightsError,
    "25006": ReadOnlyWarehouseError,
    "53300": NoConnectionLeftError,
    "28P01": LoginRefusedError,
    "28000": LoginRefusedError,
    "3D000": LoginRefusedError,
}
_LOGIN_WORDS = (
    "authentication failed|no pg_hba.conf entry|no password supplied|not permitted to log in"
    "|permission denied for database|no such (user|database)"
    '|(FATAL|ERROR): +(role|database) "[^"]*" does not exist'
)
_BY_WORDS: tuple[tuple[re.Pattern[str], type[WarehouseError]], ...] = tuple(
    (re.compile(words), fault)
    for words, fault in (
        ("unsupported startup parameter", PoolerError),
        (
            "too many connections|too many clients|remaining connection slots|no more connections allowed",
            NoConnectionLeftError,
        ),
        (
            _LOGIN_WORDS,
            LoginRefusedError,
        ),
        ("canceling statement due to (statement|user)|QueryCanceled", StatementCancelledError),
        ("in a read-only transaction|ReadOnlySqlTransaction", ReadOnlyWarehouseError),
        ("permission denied for|must be owner of|InsufficientPrivilege", WarehouseRightsError),
    )
)
_LOST = re.compile(
    "server closed the connection|terminating connection due to|the database system is"
    "|connection (to server|already closed)|Connection (refused|timed out|reset)"
    "|could not (connect|receive data|send data)|SSL connection has been closed"
    "|AdminShutdown|CrashShutdown|CannotConnectNow"
)
_MAX_LENGTH = 1_500


def fault_of(error: BaseException) -> WarehouseError | None:
    """Return the error that names what the server refused; None if its SQLSTATE is another.

    Args:
        error: An error of psycopg, ADBC or SQLAlchemy.
    """
    driver_error = getattr(error, "orig", None) or error
    fault = _BY_STATE.get(getattr(driver_error, "sqlstate", None) or "")
    return _named(fault, str(driver_error)) if fault else None


def fault_in(text: str) -> WarehouseError | None:
    """Return the error that a text names: of a refused login, or of dbt; None if it names none."""
    for words, fault in _BY_WORDS:
        if words.search(text):
            return _named(fault, text)
    if _LOST.search(text):
        return WarehouseError(
            "The connection to the warehouse broke.",
            got=_first_line(text, _LOST),
            todo=_SAFE + "`nightshift status` says whether it runs; then rerun the task.",
        )
    return None


def _named(fault: type[WarehouseError], text: str) -> WarehouseError:
    what, todo = _WHAT[fault]
    words = next((words for words, named in _BY_WORDS if named is fault), None)
    return fault(what, got=_first_line(text, words), todo=todo)


def _first_line(text: str, words: re.Pattern[str] | None) -> str:
    """Return the line that says it: a driver's message has others, with the statement's text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if words and words.search(line)]
    return next(iter([*telling, *lines]), "no message")[:_MAX_LENGTH]
