"""Decide whose fault an exception is: the delivered file's, ours, or the machine's.

A file's fault is recorded, and the other files are loaded. Everything else is raised and retried: a
store that was unavailable for a minute must not put a good file into quarantine. The rules, from
the clearest case to the least clear:

- an error of ours: ``ContractError`` is the file's fault, all others are not;
- an SQLSTATE of the warehouse: a value that it cannot store is the file's fault, a lost connection
  is not;
- memory: the file's fault, if this process can still get what a file within the limits needs;
- anything else out of a reader: the file's fault, if the same reader reads a file of ours.

Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
import mmap
import traceback
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import MemoryShortError, NightshiftError, causes_of
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import IN_MEMORY_BYTES, LargeFileError, check_file
from nightshift.quality.contract_errors import ContractError, ReaderFailedError
from nightshift.resource_errors import resource_error_of

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract

logger = logging.getLogger(__name__)

# Classes of SQLSTATE that speak of a value: data exception, constraint, program limit exceeded. Our
# raw tables have no constraint that a checked row can break: it is one that somebody added.
_VALUE_STATES = ("22", "23", "54")
_NEVER_THE_FILE = (ImportError, NameError, LargeFileError)
# Memory for checking a file within the limits, with a margin.
ROOM_BYTES = 16 * IN_MEMORY_BYTES


def refusal_of(
    contract: DatasetContract, drop: DropManifest, error: Exception
) -> ContractError | None:
    """Return the refusal that an exception of a file amounts to; None if it is not at fault.

    Args:
        contract: The file's contract.
        drop: The only file that was being read or stored.
        error: The exception.
    """
    refusal = refusal_of_values(drop, error)
    if refusal is not None:
        return refusal
    if isinstance(error, (NightshiftError, *_NEVER_THE_FILE)):
        return None
    resource_error = resource_error_of(error)
    if resource_error is not None:
        if isinstance(resource_error, MemoryShortError) and _has_room():
            return _refusal(drop, "more memory than a file within the limits needs")
        return None
    if _is_of_the_system(error) or not _reads_a_good_file(contract):
        return None
    # The message stays out of the record: it may quote a row. The log has the position instead.
    position = _innermost_position(error)
    logger.warning("%s made its reader fail in %s", drop.data_key, position)
    return _refusal(drop, f"{type(error).__name__} in {position}")


def refusal_of_values(drop: DropManifest, error: Exception) -> ContractError | None:
    """Return the refusal of a file whose values the warehouse cannot store, None for other errors.

    It decides once a file has been read: then any other exception is our fault.
    """
    if isinstance(error, ContractError):
        return error
    state = _value_state(error)
    if state is None:
        return None
    got = f"a value that the warehouse cannot store (SQLSTATE {state})"
    if name := _constraint_of(error):
        got = f"a row that the constraint {name} refuses (SQLSTATE {state})"
    return _refusal(drop, got)


def _refusal(drop: DropManifest, got: str) -> ReaderFailedError:
    return ReaderFailedError(
        f"{drop.dataset} of {drop.partition} ({drop.data_key}) cannot be read or stored.",
        expected="a readable file with values that the warehouse can store",
        got=got,
        todo="Ask upstream to deliver it again; the other files are in."
        " If the file is right, report this as a fault of the reader.",
    )


def _value_state(error: BaseException) -> str | None:
    """Return the SQLSTATE of a value that the warehouse refused, None if it refused none.

    psycopg refuses some itself before it sends them: its ``DataError`` has no state.
    """
    import psycopg

    for cause in causes_of(error):
        state = getattr(cause, "sqlstate", None)
        if state and str(state)[:2] in _VALUE_STATES:
            return str(state)
        if state is None and isinstance(cause, psycopg.DataError):
            return "22000"
    return None


def _constraint_of(error: BaseException) -> str | None:
    """Return the constraint that a row breaks; no value of the row is in its name."""
    for cause in causes_of(error):
        diagnosis = getattr(cause, "diag", None)
        if diagnosis is None:
            continue
        # Of an index too: PostgreSQL reports its name here.
        constraint = diagnosis.constraint_name
        if constraint:
            return f"{diagnosis.table_name}.{constraint}"
    return None


def _has_room() -> bool:
    """Return whether this process can still get the memory that a file within the limits needs."""
    try:
        mmap.mmap(-1, ROOM_BYTES).close()
    except (OSError, MemoryError):
        return False
    return True


def _is_of_the_system(error: Exception) -> bool:
    """Return whether the error comes from the system or the warehouse, not from a reader."""
    import psycopg

    return any(isinstance(cause, OSError | psycopg.Error) for cause in causes_of(error))


def _reads_a_good_file(contract: DatasetContract) -> bool:
    """Return whether the reader reads a file without rows: if not, the reader is broken."""
    columns = contract.columns_of(contract.schema_version) or ()
    header = ",".join(f'"{column.delivered_name}"' for column in columns)
    data = f"{header}\n".encode()
    day = max(contract.history_start, dt.date(1970, 1, 2))
    drop = DropManifest(
        dataset=contract.name,
        partition=day,
        delivered_at=dt.datetime.combine(day, dt.time(), dt.UTC),
        data_key="control.csv",
        sha256=sha256(data).hexdigest(),
        n_rows=0,
        schema_version=contract.schema_version,
    )
    try:
        check_rows(contract, [drop], [check_file(contract, drop, data)])
    except Exception:
        logger.exception("The reader fails on a file of ours: the delivered one is not at fault.")
        return False
    return True


def _innermost_position(error: BaseException) -> str:
    """Return the module and line of our code that an exception came through last."""
    position = "the reader"
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if name.startswith("nightshift."):
            position = f"{name}:{line}"
    return position
