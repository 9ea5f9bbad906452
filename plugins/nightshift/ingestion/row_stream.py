"""The rows of one large drop as a stream: typed, checked and counted block by block.

The rules are those of ``row_check``. Only one rule looks beyond a row: rows that share a key. So
each staged row leaves a 64-bit hash of its key; if a hash is there twice, its rows are read again
and resolved together by the usual rule. Source: docs/adr/0027-large-drops.md.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nightshift.ingestion.file_faults import refusal_of
from nightshift.ingestion.rows.cast import Reason
from nightshift.ingestion.rows.key_hashes import find_repeated, hash_rows
from nightshift.ingestion.rows.refused_rows import RefusedRowsFile
from nightshift.ingestion.rows.repeated_keys import (
    count_conflicts,
    drop_copies,
    resolve_repeated_keys,
)
from nightshift.ingestion.rows.row_check import (
    count_values,
    find_file_error,
    malformed_rows,
    reasons_by_file,
    refused_by_file,
)
from nightshift.ingestion.rows.typed_rows import DUPLICATE, GOOD, TypedRows, type_rows
from nightshift.ingestion.staging import with_origin
from nightshift.quality.contract_check import DeliveredFile, FileHead, check_head, read_rows
from nightshift.quality.files.drop_source import open_drop
from nightshift.quality.gates import streaming_evaluator

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.ingestion.ingest_call import IngestCall
    from nightshift.ingestion.rows.key_hashes import Hashes
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.files.drop_source import Source, Start
    from nightshift.quality.quarantine import RefusedRow

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)

_PROGRESS_ROWS = 1_000_000
# Keys that are resolved together, and rows that are kept until copies among them are dropped: about
# 300 MB. More keys cost one more reading each.
KEYS_PER_READING = 1_000_000
ROWS_WITH_COPIES = 500_000


class RowStream:
    """The rows of one drop, to be read once; its counts are complete when the stream has ended.

    Attributes:
        drop: The drop.
        head: Its columns, known when the first rows are.
        n_good: Rows that are to stay.
        n_duplicated: Rows that repeat an earlier one.
        lost: shape (n,), positions of rows that were staged and must be withdrawn.
        evaluator: Counts for the dataset's suite; None if it has none that can be used.
    """

    head: FileHead

    def __init__(self, call: IngestCall, drop: DropManifest) -> None:
        self._call = call
        self.drop = drop
        self.n_good = 0
        self.n_duplicated = 0
        self.lost: Numbers = np.empty(0, dtype=np.int64)
        self.evaluator = streaming_evaluator(call.settings, call.contract.dataset)
        self._refused = RefusedRowsFile(call.settings.home / "drops")
        self._reasons: Counter[str] = Counter()
        self._malformed: list[tuple[int, str]] = []
        self._n_typed = 0
        self._n_values: Counter[str] = Counter()
        self._n_wrong: Counter[str] = Counter()
        # Grows in place: an array for each block would be there twice at the end.
        self._key_hashes = bytearray()

    @property
    def refused(self) -> Iterator[RefusedRow]:
        """Return the refused rows, malformed ones first; equal ones may come again."""
        return chain(malformed_rows(self._malformed), self._refused)

    def close(self) -> None:
        """Drop the refused rows."""
        self._refused.close()

    @property
    def n_refused(self) -> int:
        """Return the refused rows, equal ones counted as often as they came."""
        return self._reasons.total() + len(self._malformed)

    def batches(self, load_id: int) -> Iterator[pa.Table]:
        """Yield the good rows as ``raw.<dataset>`` has them.

        Raises:
            ContractError: The file does not keep the contract, or cannot be read, as soon as that
                is certain.
        """
        try:
            with self._open() as (start, source):
                self.head = check_head(self._call.contract, self.drop, start)
                for rows in self._typed_blocks(source, self._malformed):
                    yield self._accept_block(rows, load_id)
                    self._stop_when_hopeless(Counter())
            self._resolve_repeated_keys()
            self._refuse_file(Counter())
        except Exception as error:
            refusal = refusal_of(self._call.contract, self.drop, error)
            if refusal is None or refusal is error:
                raise
            raise refusal from None

    def _open(self) -> AbstractContextManager[tuple[Start, Source]]:
        folder = self._call.settings.home / "drops"
        return open_drop(self._call.store, self.drop, folder)

    def _typed_blocks(
        self, source: Source, malformed: list[tuple[int, str]]
    ) -> Iterator[TypedRows]:
        names = [column.name for column in self.head.columns]
        for block in read_rows(self.drop, self.head, source, malformed):
            strings = block.strings.rename_columns(names)
            file = DeliveredFile(strings, block.row_numbers, (), ())
            yield type_rows(self._call.contract, [self.drop], [file])

    def _accept_block(self, rows: TypedRows, load_id: int) -> pa.Table:
        """Count a block of rows and return the good ones, to be staged."""
        self._n_typed += len(rows.verdict)
        n_values, n_wrong = count_values(rows, 0)
        self._n_values.update(n_values)
        self._n_wrong.update(n_wrong)
        self._keep_refused(rows, _count_reasons(rows))

        is_good = rows.verdict == GOOD
        self._key_hashes += self._hash_keys(rows, is_good).tobytes()
        staged = with_origin(
            load_id,
            _filtered(rows.values, is_good),
            [self.drop],
            rows.file_index[is_good],
            rows.row_numbers[is_good],
        )
        if self.evaluator:
            self.evaluator.add(staged)
        self._log_progress(self.n_good, self.n_good + len(staged))
        self.n_good += len(staged)
        return staged

    def _log_progress(self, n_before: int, n_now: int) -> None:
        if n_now // _PROGRESS_ROWS > n_before // _PROGRESS_ROWS:
            name, n_due = self.drop.data_key, self.drop.n_rows
            logger.info("%s: %s of %s rows", name, f"{n_now:,}", f"{n_due:,}")

    def _keep_refused(self, rows: TypedRows, reasons: Counter[str]) -> None:
        if not reasons:
            return
        self._reasons.update(reasons)
        self._refused.add(refused_by_file([()], rows)[0])

    def _resolve_repeated_keys(self) -> None:
        """Read the rows again whose key another one has, and resolve all of one key together."""
        # The view has no name: it would keep eight bytes a row while the file is read again.
        repeated = find_repeated(np.frombuffer(self._key_hashes, dtype=np.uint64))
        self._key_hashes = bytearray()
        if not len(repeated):
            return
        logger.info("%s: %s repeated keys, reads again", self.drop.data_key, f"{len(repeated):,}")
        lost = [self.lost]
        for start in range(0, len(repeated), KEYS_PER_READING):
            rows, copies = self._read_again(repeated[start : start + KEYS_PER_READING])
            # Two keys may share a hash by chance: this rule compares the keys themselves.
            resolve_repeated_keys(self._call.contract, rows)
            reasons = _count_reasons(rows)
            # Before the rows are kept: there may be too many to keep.
            self._stop_when_hopeless(reasons)
            self._keep_refused(rows, reasons)
            self.n_duplicated += len(copies) + int(np.sum(rows.verdict == DUPLICATE))
            lost += [copies, rows.row_numbers[rows.verdict != GOOD]]
        self.lost = np.concatenate(lost)
        self.n_good -= len(self.lost)

    def _read_again(self, key_hashes: Hashes) -> tuple[TypedRows, Numbers]:
        """Return the good rows whose key has one of some hashes, from a second reading.

        Returns:
            The rows without copies of earlier ones, and the positions of these copies.
        """
        parts: list[TypedRows] = []
        copies = [np.empty(0, dtype=np.int64)]
        n_rows, n_allowed = 0, ROWS_WITH_COPIES
        with self._open() as (_, source):
            # The malformed rows were kept at the first reading.
            for rows in self._typed_blocks(source, []):
                is_good = rows.verdict == GOOD
                is_chosen = np.isin(self._hash_keys(rows, is_good), key_hashes)
                positions = np.flatnonzero(is_good)[is_chosen]
                parts.append(rows.take(positions))
                n_rows += len(positions)
                # A file that repeats one row a million times must not be in memory at once.
                if n_rows > n_allowed:
                    distinct, copied = drop_copies(TypedRows.concat(parts))
                    parts, n_rows = [distinct], len(distinct.verdict)
                    copies.append(copied)
                    self._stop_when_hopeless(count_conflicts(self._call.contract, distinct))
                    n_allowed = n_rows + ROWS_WITH_COPIES
        return TypedRows.concat(parts), np.concatenate(copies)

    def _stop_when_hopeless(self, more: Counter[str]) -> None:
        """Refuse the file once more rows are refused than a file of so many rows may have.

        Args:
            more: Refused rows by reason that are not counted yet.
        """
        n_refused = self.n_refused + more.total()
        if n_refused > self._call.contract.maximum_refused_ratio * self.drop.n_rows:
            self._refuse_file(more)

    def _refuse_file(self, more: Counter[str]) -> None:
        reasons = self._reasons + more
        if self._malformed:
            reasons[Reason.MALFORMED_ROW] += len(self._malformed)
        counts = (self._n_values, self._n_wrong)
        # The rows so far are all the evidence there is when the file is abandoned in the middle.
        n_rows = min(self.drop.n_rows, self._n_typed)
        seen = self.drop.model_copy(update={"n_rows": n_rows})
        error = find_file_error(self._call.contract, seen, counts, self.n_good, reasons)
        if error is not None:
            raise error

    def _hash_keys(self, rows: TypedRows, is_chosen: Mask) -> Hashes:
        """Return one number for the key of each chosen row.

        A key column that the file lacks is the same for all rows.
        """
        key = self._call.contract.key
        names = [column.name for column in self.head.columns if column.name in key]
        values = _filtered(rows.values.select(names), is_chosen)
        return hash_rows([column.combine_chunks() for column in values.columns])


def _count_reasons(rows: TypedRows) -> Counter[str]:
    """Count the refused rows of the only file by reason."""
    return reasons_by_file([()], rows)[0]


def _filtered(values: pa.Table, is_chosen: Mask) -> pa.Table:
    """Return the chosen rows; nothing is copied if these are all, as in nearly every block."""
    return values if is_chosen.all() else values.filter(is_chosen)
