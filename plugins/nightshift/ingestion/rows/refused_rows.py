"""Refused rows of a file: Arrow holds them as delivered, Python has a few at a time.

As Python objects a row takes ten times its text. A file may have hundreds of thousands of refused
rows, and a contract may allow all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa

from nightshift.ingestion.rows.typed_rows import REASONS
from nightshift.quality.quarantine import RefusedRow

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from nightshift.ingestion.rows.typed_rows import TypedRows

    Numbers = npt.NDArray[np.int64]

_OBJECTS = 1_000
"""Rows that are Python objects at the same time."""
# In addition to the delivered columns; a name with a blank is no column of a contract.
_ROW_NUMBER, _REASON, _CULPRIT = "row number", "reason index", "culprit index"


class RefusedRows(Sequence[RefusedRow]):
    """Distinct refused rows of one file, in the order of its rows; malformed ones come first.

    Args:
        malformed: Those with another number of fields than the header.
        rows: Rows of the file, refused ones only; none by default.
    """

    def __init__(self, malformed: Sequence[RefusedRow] = (), rows: TypedRows | None = None) -> None:
        self._malformed = malformed
        self.table = None if rows is None else _as_table(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        n_rows = 0 if self.table is None else self.table.num_rows
        return len(self._malformed) + n_rows

    def __iter__(self) -> Iterator[RefusedRow]:
        """Yield the rows; each lives until its reader drops it."""
        yield from self._malformed
        if self.table is not None:
            yield from _objects(self.table)

    @overload
    def __getitem__(self, index: int) -> RefusedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RefusedRow]: ...
    def __getitem__(self, index: int | slice) -> RefusedRow | Sequence[RefusedRow]:
        """Return one row, or some in a list."""
        return list(self)[index]


class RefusedRowsFile:
    """Refused rows of a stream, kept on disk until the fate of their file is known.

    Equal rows of different blocks are kept as often as they came: the quarantine stores them once.

    Args:
        folder: On a disk with room for the text of the delivered file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: pa.RecordBatchStreamWriter | None = None

    def add(self, rows: RefusedRows) -> None:
        """Append the rows of a block.

        Raises:
            OSError: The disk is full.
        """
        if rows.table is None or not rows.table.num_rows:
            return
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Without a name: nothing is left of it when the process is killed.
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._writer = pa.ipc.new_stream(self._file, rows.table.schema)
        self._writer.write_table(rows.table)

    def __iter__(self) -> Iterator[RefusedRow]:
        """Yield all rows; nothing can be added any more."""
        if self._writer is None:
            return
        self._writer.close()
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as batches:
            for batch in batches:
                yield from _objects(pa.Table.from_batches([batch]))

    def close(self) -> None:
        """Give the disk back."""
        if self._writer is not None:
            self._file.close()


def _as_table(rows: TypedRows) -> pa.Table:
    table = rows.strings.append_column(_ROW_NUMBER, pa.array(rows.row_numbers))
    table = table.append_column(_REASON, pa.array(rows.verdict))
    return table.append_column(_CULPRIT, pa.array(rows.culprit))


def _objects(table: pa.Table) -> Iterator[RefusedRow]:
    for start in range(0, table.num_rows, _OBJECTS):
        some = table.slice(start, _OBJECTS)
        names = some.column_names[:-3]
        numbers = some.column(_ROW_NUMBER).to_pylist()
        reasons = some.column(_REASON).to_pylist()
        culprits = some.column(_CULPRIT).to_pylist()
        delivered = some.select(names).to_pylist()
        for i, cells in enumerate(delivered):
            column = names[culprits[i]] if culprits[i] >= 0 else None
            yield RefusedRow(numbers[i], REASONS[reasons[i]], column, cells)
