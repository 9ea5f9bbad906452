"""Decide whose fault an exception is: the delivered file's, ours, or the machine's.

A file's fault is recorded, and the other files go in. Everything else is raised and tried again: a
store that was away for a minute must not stand in quarantine as a bad file. The line, from the
clearest case to the least clear:

- an error of ours says it itself: ``ContractError`` is the file's, all others are not;
- the warehouse says it by SQLSTATE: a value that it cannot store is the file's, a lost connection
  not;
- memory: the file's, if this process could still get what a file within the limits needs;
- anything else, out of a reader: the file's, if the same reader reads a file of ours without
  trouble.

Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
import mmap
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import MemoryShortError, NightshiftError
from nightshift.ingestion.row_check import check_rows
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import IN_MEMORY_BYTES, LargeFileError, check_file
from nightshift.quality.contract_errors import ContractError, ReaderFailedError
from nightshift.resource_errors import exhaustion_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightshift.contracts.datasets import DatasetContract

logger = logging.getLogger(__name__)

_VALUE_STATES = ("22", "54")
"""Classes of SQLSTATE that speak of a value: data exception, program limit exceeded."""
_NEVER_A_FILE = (ImportError, NameError, LargeFileError)
_ROOM_BYTES = 16 * IN_MEMORY_BYTES
"""What checking a file within the limits needs, with room to spare."""


def refusal_of(
    contract: DatasetContract, drop: DropManifest, error: Exception
) -> ContractError | None:
    """Return the refusal of a file that an exception amounts to; None if the file is not at fault.

    Args:
        contract: The file's contract.
        drop: The only file that was being read or stored.
        error: What came out of that.
    """
    if refusal := refusal_of_values(drop, error):
        return refusal
    if isinstance(error, (NightshiftError, *_NEVER_A_FILE)):
        return None
    short = exhaustion_of(error)
    if short is not None:
        is_files = isinstance(short, MemoryShortError) and _is_room_left()
        return (
            _refusal(drop, "more memory than a file within the limits needs") if is_files else None
        )
    if _is_of_the_system(error) or not _reads_a_good_file(contract):
        return None
    # The message stays out of the record: it may quote a row. Whoever debugs has the log of the
    # frames.
    logger.warning("%s made its reader fail in %s", drop.data_key, _frames(error))
    return _refusal(drop, f"{type(error).__name__} in {_frames(error)}")


def refusal_of_values(drop: DropManifest, error: Exception) -> ContractError | None:
    """Return the refusal of a file whose values the warehouse cannot store; None if an exception says something else.

    For what happens once a file has been read: there, any other exception is ours.
    """
    if isinstance(error, ContractError):
        return error
    state = _value_state(error)
    return (
        _refusal(drop, f"a value that the warehouse cannot store (SQLSTATE {state})")
        if state
        else None
    )


def _refusal(drop: DropManifest, got: str) -> ReaderFailedError:
    return ReaderFailedError(
        f"{drop.dataset} of {drop.partition} ({drop.data_key}) cannot be read or stored.",
        expected="a file that its reader comes to the end of, with values that the warehouse can store",
        got=got,
        todo="Ask upstream to deliver it again; the other files are in. If the file is right, report this as a fault of the reader.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _value_state(error: BaseException) -> str | None:
    """Return the SQLSTATE of a value that the warehouse refused, None if it refused none.

    psycopg refuses some by itself, before it sends them: it says ``DataError`` without a state.
    """
    import psycopg

    for one in _chain(error):
        state = getattr(one, "sqlstate", None)
        if state and str(state)[:2] in _VALUE_STATES:
            return str(state)
        if state is None and isinstance(one, psycopg.DataError):
            return "22000"
    return None


def _is_room_left() -> bool:
    """Return whether this process can still get the memory that a file within the limits needs."""
    try:
        mmap.mmap(-1, _ROOM_BYTES).close()
    except (OSError, MemoryError):
        return False
    return True


def _is_of_the_system(error: Exception) -> bool:
    """Return whether the system or the warehouse said it, and not the code that reads the file."""
    import psycopg

    return any(isinstance(one, OSError | psycopg.Error) for one in _chain(error))


def _reads_a_good_file(contract: DatasetContract) -> bool:
    """Return whether the reader comes to the end of a file without rows: else it is broken, whatever came."""
    header = ",".join(
        f'"{column.delivered_name}"'
        for column in contract.columns_of(contract.schema_version) or ()
    )
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
        logger.exception(
            "The reader fails on a file of our own: the delivered one is not at fault."
        )
        return False
    return True


def _frames(error: BaseException) -> str:
    """Return the innermost place of our own code that an exception came through."""
    place = "the reader"
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("nightshift."):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
