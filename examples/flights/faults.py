"""What goes wrong upstream: each fault turns one good drop into the drops that really arrive."""

from __future__ import annotations

import csv
import datetime as dt
import io
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256

from nightshift.lake.drops import NewDrop

Rows = list[list[str]]
"""A CSV file: the header first, then the rows."""


class FaultType(StrEnum):
    """The faults that upstream can show."""

    LATE = "late"
    TWICE = "twice"
    RENAMED = "renamed"
    REORDERED_ROWS = "reordered_rows"
    REORDERED_COLUMNS = "reordered_columns"
    DUPLICATED_ROWS = "duplicated_rows"
    TRUNCATED = "truncated"
    CORRUPTED = "corrupted"
    WRONG_TYPE = "wrong_type"
    MISSING_COLUMN = "missing_column"
    RENAMED_COLUMN = "renamed_column"
    ADDED_COLUMN = "added_column"
    BAD_ROWS = "bad_rows"
    CORRECTION = "correction"
    ABSENT = "absent"


@dataclass(frozen=True)
class Fault:
    """One fault of one drop.

    Attributes:
        type: What goes wrong.
        dataset: The dataset of the drop.
        day: Operating day of the drop.
        column: The delivered column that it concerns; needed for column faults, bad rows and
            corrections.
        value: The new name of the column, or the value that the rows get.
        n_rows: How many rows it concerns.
        delay: How much later the drop, its copy or its correction arrives.
        seed: Chooses the rows.
    """

    type: FaultType
    dataset: str
    day: dt.date
    column: str = ""
    value: str = "?"
    n_rows: int = 1
    delay: dt.timedelta = dt.timedelta(hours=6)
    seed: int = 0


def apply_fault(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Return the drops that arrive instead of a good one; none for ``absent``."""
    delivery_fault = _DELIVERY_FAULTS.get(fault.type)
    if delivery_fault is not None:
        return delivery_fault(fault, drop)
    return [_with_changed_rows(fault, drop)]


def _with_changed_rows(fault: Fault, drop: NewDrop) -> NewDrop:
    """Return the drop with other content, digest and count: only the contract can see it."""
    text = io.StringIO(drop.data.decode(), newline="")
    change = _CONTENT_FAULTS[fault.type]
    changed = change(fault, list(csv.reader(text)))
    written = io.StringIO(newline="")
    # The line ends of upstream's own files: only what the fault names differs.
    csv.writer(written, lineterminator="\n").writerows(changed)
    data = written.getvalue().encode()
    return replace(drop, data=data, n_rows=len(changed) - 1)


def _late(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    delivered_at = drop.delivered_at + fault.delay
    return [replace(drop, delivered_at=delivered_at)]


def _twice(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    # Under another name: an object of the lake is never replaced.
    copy = replace(drop, name=f"{drop.name}_again")
    return [drop, *_late(fault, copy)]


def _renamed(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    name = f"{drop.name}_renamed" if fault.value == "?" else fault.value
    return [replace(drop, name=name)]


def _truncated(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Lose the last rows before the digest is taken: the manifest still counts them."""
    shortened = _with_changed_rows(fault, drop)
    return [replace(shortened, n_rows=drop.n_rows)]


def _corrupted(_: Fault, drop: NewDrop) -> list[NewDrop]:
    """Change one byte after the header when the digest has been taken."""
    data = bytearray(drop.data)
    # In the middle of the rows: the header stays readable, so only the digest tells.
    header_end = drop.data.index(b"\n")
    position = (header_end + len(data)) // 2
    data[position] ^= 1
    claimed = sha256(drop.data).hexdigest()
    return [replace(drop, data=bytes(data), claimed_sha256=claimed)]


def _correction(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Deliver the file, and later a second one in which some rows have another value."""
    corrected = _with_changed_rows(fault, drop)
    renamed = replace(corrected, name=f"{drop.name}_correction")
    return [drop, *_late(fault, renamed)]


def _absent(_: Fault, __: NewDrop) -> list[NewDrop]:
    return []


def _reordered_rows(fault: Fault, rows: Rows) -> Rows:
    header, *body = rows
    random.Random(fault.seed).shuffle(body)  # noqa: S311 - a replay, not a secret
    return [header, *body]


def _reordered_columns(_: Fault, rows: Rows) -> Rows:
    return [row[::-1] for row in rows]


def _duplicated_rows(fault: Fault, rows: Rows) -> Rows:
    return rows + rows[1 : fault.n_rows + 1]


def _lost_rows(fault: Fault, rows: Rows) -> Rows:
    return rows[: -fault.n_rows]


def _wrong_type(fault: Fault, rows: Rows) -> Rows:
    return _with_value(fault, rows, set(range(1, len(rows))))


def _missing_column(fault: Fault, rows: Rows) -> Rows:
    index = rows[0].index(fault.column)
    return [row[:index] + row[index + 1 :] for row in rows]


def _renamed_column(fault: Fault, rows: Rows) -> Rows:
    header, *body = rows
    renamed = [fault.value if name == fault.column else name for name in header]
    return [renamed, *body]


def _added_column(fault: Fault, rows: Rows) -> Rows:
    header, *body = rows
    longer = [[*row, fault.value] for row in body]
    return [[*header, fault.column], *longer]


def _bad_rows(fault: Fault, rows: Rows) -> Rows:
    # Row 0 is the header. A small file has fewer rows than the fault wants.
    indices = range(1, len(rows))
    n_chosen = min(fault.n_rows, len(indices))
    chooser = random.Random(fault.seed)  # noqa: S311 - a replay, not a secret
    chosen = chooser.sample(indices, n_chosen)
    return _with_value(fault, rows, set(chosen))


def _with_value(fault: Fault, rows: Rows, chosen: set[int]) -> Rows:
    """Return the rows with the fault's value in its column at the chosen indices."""
    column = rows[0].index(fault.column)
    changed = []
    for index, row in enumerate(rows):
        if index in chosen:
            row = [*row[:column], fault.value, *row[column + 1 :]]  # noqa: PLW2901
        changed.append(row)
    return changed


_DELIVERY_FAULTS: dict[FaultType, Callable[[Fault, NewDrop], list[NewDrop]]] = {
    FaultType.LATE: _late,
    FaultType.TWICE: _twice,
    FaultType.RENAMED: _renamed,
    FaultType.TRUNCATED: _truncated,
    FaultType.CORRUPTED: _corrupted,
    FaultType.CORRECTION: _correction,
    FaultType.ABSENT: _absent,
}
# The content of TRUNCATED and CORRECTION is changed here, on behalf of their functions above.
_CONTENT_FAULTS: dict[FaultType, Callable[[Fault, Rows], Rows]] = {
    FaultType.REORDERED_ROWS: _reordered_rows,
    FaultType.REORDERED_COLUMNS: _reordered_columns,
    FaultType.DUPLICATED_ROWS: _duplicated_rows,
    FaultType.TRUNCATED: _lost_rows,
    FaultType.WRONG_TYPE: _wrong_type,
    FaultType.MISSING_COLUMN: _missing_column,
    FaultType.RENAMED_COLUMN: _renamed_column,
    FaultType.ADDED_COLUMN: _added_column,
    FaultType.BAD_ROWS: _bad_rows,
    FaultType.CORRECTION: _bad_rows,
}
