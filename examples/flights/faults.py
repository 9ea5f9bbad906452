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


class FaultKind(StrEnum):
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
        kind: What goes wrong.
        dataset: Whose drop.
        day: Operating day of the drop.
        column: The delivered column that it concerns; needed for column faults, bad rows and
            corrections.
        value: The new name of the column, or the value that the rows get.
        n_rows: How many rows it concerns.
        delay: How much later the drop, its copy or its correction arrives.
        seed: Chooses the rows.
    """

    kind: FaultKind
    dataset: str
    day: dt.date
    column: str = ""
    value: str = "?"
    n_rows: int = 1
    delay: dt.timedelta = dt.timedelta(hours=6)
    seed: int = 0


def apply_fault(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Return the drops that arrive instead of a good one; none for ``absent``."""
    return _ACTIONS[fault.kind](fault, drop)


def _late(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    return [replace(drop, delivered_at=drop.delivered_at + fault.delay)]


def _twice(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    return [
        drop,
        replace(drop, name=f"{drop.name}_again", delivered_at=drop.delivered_at + fault.delay),
    ]


def _renamed(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    return [replace(drop, name=fault.value if fault.value != "?" else f"{drop.name}_renamed")]


def _reordered_rows(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    random.Random(fault.seed).shuffle(rows)  # noqa: S311 - a replay, not a secret
    return [_written(drop, header, rows)]


def _reordered_columns(_: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [_written(drop, header[::-1], [row[::-1] for row in rows])]


def _duplicated_rows(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [_written(drop, header, rows + rows[: fault.n_rows])]


def _truncated(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Lose the last rows before the digest was taken: the manifest still counts them."""
    header, rows = _read(drop)
    return [replace(_written(drop, header, rows[: -fault.n_rows]), n_rows=drop.n_rows)]


def _corrupted(_: Fault, drop: NewDrop) -> list[NewDrop]:
    """Change one byte behind the header after the digest was taken."""
    place = (drop.data.index(b"\n") + len(drop.data)) // 2
    data = drop.data[:place] + bytes([drop.data[place] ^ 1]) + drop.data[place + 1 :]
    return [replace(drop, data=data, claimed_sha256=sha256(drop.data).hexdigest())]


def _wrong_type(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [_written(drop, header, _with_value(header, rows, fault, range(len(rows))))]


def _missing_column(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    gone = header.index(fault.column)
    return [
        _written(
            drop, header[:gone] + header[gone + 1 :], [row[:gone] + row[gone + 1 :] for row in rows]
        )
    ]


def _renamed_column(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [
        _written(drop, [fault.value if name == fault.column else name for name in header], rows)
    ]


def _added_column(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [_written(drop, [*header, fault.column], [[*row, fault.value] for row in rows])]


def _bad_rows(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    header, rows = _read(drop)
    return [_written(drop, header, _with_value(header, rows, fault, _chosen(fault, rows)))]


def _correction(fault: Fault, drop: NewDrop) -> list[NewDrop]:
    """Deliver the file, and later a second one in which some rows say something else."""
    header, rows = _read(drop)
    corrected = _written(drop, header, _with_value(header, rows, fault, _chosen(fault, rows)))
    return [
        drop,
        replace(
            corrected, name=f"{drop.name}_correction", delivered_at=drop.delivered_at + fault.delay
        ),
    ]


def _absent(_: Fault, __: NewDrop) -> list[NewDrop]:
    return []


def _chosen(fault: Fault, rows: Rows) -> list[int]:
    return random.Random(fault.seed).sample(range(len(rows)), min(fault.n_rows, len(rows)))  # noqa: S311 - a replay, not a secret


def _with_value(header: list[str], rows: Rows, fault: Fault, chosen: range | list[int]) -> Rows:
    place, changed = header.index(fault.column), set(chosen)
    return [
        [*row[:place], fault.value, *row[place + 1 :]] if i in changed else row
        for i, row in enumerate(rows)
    ]


def _read(drop: NewDrop) -> tuple[list[str], Rows]:
    header, *rows = csv.reader(io.StringIO(drop.data.decode(), newline=""))
    return header, rows


def _written(drop: NewDrop, header: list[str], rows: Rows) -> NewDrop:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return replace(drop, data=text.getvalue().encode(), n_rows=len(rows))


_ACTIONS: dict[FaultKind, Callable[[Fault, NewDrop], list[NewDrop]]] = {
    FaultKind.LATE: _late,
    FaultKind.TWICE: _twice,
    FaultKind.RENAMED: _renamed,
    FaultKind.REORDERED_ROWS: _reordered_rows,
    FaultKind.REORDERED_COLUMNS: _reordered_columns,
    FaultKind.DUPLICATED_ROWS: _duplicated_rows,
    FaultKind.TRUNCATED: _truncated,
    FaultKind.CORRUPTED: _corrupted,
    FaultKind.WRONG_TYPE: _wrong_type,
    FaultKind.MISSING_COLUMN: _missing_column,
    FaultKind.RENAMED_COLUMN: _renamed_column,
    FaultKind.ADDED_COLUMN: _added_column,
    FaultKind.BAD_ROWS: _bad_rows,
    FaultKind.CORRECTION: _correction,
    FaultKind.ABSENT: _absent,
}
