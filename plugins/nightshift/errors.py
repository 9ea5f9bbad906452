"""The exception family: a stable code, what happened, what was expected, and what to do next.

Every code has a runbook page ``docs/runbooks/<code>.md``.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import ClassVar


class NightshiftError(Exception):
    """Report a failure that a person or a retry policy can act on.

    Args:
        what: What happened, in one sentence.
        expected: What the code expected, if that says more.
        got: What came instead.
        todo: The one next step that is safe.
        code: A stable code that is more precise than the class's own.

    Attributes:
        code: The stable code, ``NS-<AREA>-<NNN>``.
        is_retryable: Whether the same call can succeed later without a person.
        is_waiting: Whether the call only waits for something that upstream still owes.
    """

    code: str = "NS-CORE-000"
    is_retryable: ClassVar[bool] = False
    is_waiting: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        todo: str | None = None,
        code: str | None = None,
    ) -> None:
        self.what, self.expected, self.got, self.todo = what, expected, got, todo
        if code is not None:
            self.code = code
        super().__init__(what)

    def __str__(self) -> str:
        """Return one line per known part, the code first."""
        parts = {"expected: ": self.expected, "got:      ": self.got, "to do:    ": self.todo}
        lines = [f"  {name}{text}" for name, text in parts.items() if text is not None]
        return "\n".join([f"[{self.code}] {self.what}", *lines])


class SettingsError(NightshiftError):
    """A setting is missing or wrong."""

    code = "NS-SETTINGS-001"


class SpecError(NightshiftError):
    """A contract or model spec is wrong; names file and line."""

    code = "NS-SPEC-001"


class ObjectStoreError(NightshiftError):
    """The object store refused, failed or returned other bytes than were written."""

    code = "NS-LAKE-001"
    is_retryable = True


class WarehouseError(NightshiftError):
    """The warehouse could not be reached or refused a statement."""

    code = "NS-WAREHOUSE-001"
    is_retryable = True


class WarehouseFullError(WarehouseError):
    """The warehouse has no space left; what was published stands."""

    code = "NS-WAREHOUSE-003"


class StatementCancelledError(WarehouseError):
    """A statement reached its time limit, or somebody cancelled it."""

    code = "NS-WAREHOUSE-004"


class WarehouseRightsError(WarehouseError):
    """The warehouse user lacks a right; only a person can grant it."""

    code = "NS-WAREHOUSE-005"
    is_retryable = False


class ReadOnlyWarehouseError(WarehouseError):
    """The warehouse refuses to write: it is a replica, or somebody made it read-only."""

    code = "NS-WAREHOUSE-006"


class NoConnectionLeftError(WarehouseError):
    """The warehouse, or a pooler before it, has no connection left."""

    code = "NS-WAREHOUSE-007"


class LoginRefusedError(WarehouseError):
    """The warehouse refuses user, password or database; only a person can correct it."""

    code = "NS-WAREHOUSE-008"
    is_retryable = False


class PoolerError(WarehouseError):
    """A connection pooler drops the session's limits and locks."""

    code = "NS-WAREHOUSE-009"
    is_retryable = False


class RowsAlteredError(WarehouseError):
    """Row-level security, a trigger or a rule of others hides or alters rows of our tables."""

    code = "NS-WAREHOUSE-015"
    is_retryable = False


class ConstraintError(WarehouseError):
    """A constraint of the warehouse refuses a row; two writers at once may meet one by chance."""

    code = "NS-WAREHOUSE-016"


class TableShapeError(NightshiftError):
    """A table, view or column that the code needs is not there, or has another type.

    No ``WarehouseError``: the warehouse works, and a step that needs less of it may still publish.
    """

    code = "NS-WAREHOUSE-014"


class LocalSpaceError(NightshiftError):
    """A disk of this machine is full, or a file may not grow any more."""

    code = "NS-SPACE-001"
    is_retryable = True


class MemoryShortError(NightshiftError):
    """This process, or the warehouse for it, got no more memory."""

    code = "NS-MEMORY-001"
    is_retryable = True


class StaleTokenError(NightshiftError):
    """A newer attempt owns the partition; this one must not publish."""

    code = "NS-WRITE-001"


class ContentConflictError(NightshiftError):
    """The same inputs gave other content than what is published."""

    code = "NS-WRITE-002"


class AuditError(NightshiftError):
    """Staged rows failed the audit, or the audit gave no verdict."""

    code = "NS-WRITE-003"


class LoadStateError(NightshiftError):
    """A load is not in the state that the step needs."""

    code = "NS-WRITE-004"


class LostAnswerError(WarehouseError):
    """The connection broke during a commit, which may have taken place; the next attempt checks."""

    code = "NS-WRITE-005"


class ServiceError(NightshiftError):
    """A local service (PostgreSQL, S3, Airflow, MLflow) cannot be started, stopped or reached."""

    code = "NS-SERVICE-001"


_MAX_CAUSE_CHARACTERS = 200
# Quoted text, brackets and words with digits: what a driver's message may quote of a row, a host or
# a secret.
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\S*\d\S*")


def cause_of(error: BaseException) -> str:
    """Return an error as one line that may be shown anywhere.

    An error of ours gives its code and sentence, another one its class and words without values.
    """
    if isinstance(error, NightshiftError):
        return f"{error.code}: {error.what}"
    first_line = str(error).strip().partition("\n")[0]
    words = _VALUES.sub("…", first_line)[:_MAX_CAUSE_CHARACTERS].strip()
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def stack_of(error: BaseException) -> str:
    """Return the frames of an error and of its causes for a log, with messages without values."""
    parts = []
    for cause in causes_of(error, with_suppressed=True):
        frames = "".join(traceback.format_tb(cause.__traceback__))
        parts.append(frames + cause_of(cause))
    return "\ncaused by:\n".join(parts)


def causes_of(error: BaseException, *, with_suppressed: bool = False) -> Iterator[BaseException]:
    """Yield an error and what caused it, the error itself first.

    Args:
        error: The error.
        with_suppressed: Follow a context too that ``raise … from None`` hides.
    """
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        has_context = with_suppressed or not cause.__suppress_context__
        cause = cause.__cause__ or (cause.__context__ if has_context else None)
