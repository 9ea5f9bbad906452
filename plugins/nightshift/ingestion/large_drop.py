"""One drop of very many rows: read block by block, while it comes from the lake, into one COPY; memory knows blocks, not the file.

The rules are those of ``row_check``. Only one of them looks beyond a row: rows that share a key. So
each staged row leaves a 64-bit hash of its key; if one is there twice, the rows behind it are read
again, settled together by the usual rule, and those that lose are withdrawn. Source:
docs/adr/0027-large-drops.md, docs/adr/0034-rows-while-the-file-is-coming.md.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightshift.errors import LoadStateError
from nightshift.ingestion.cast import Reason
from nightshift.ingestion.drop_guard import refusal_of
from nightshift.ingestion.raw_load import (
    Source,
    begin_version,
    keep_source,
    publish_version,
    refused_when_unstorable,
    with_origin,
)
from nightshift.ingestion.row_check import (
    DUPLICATE,
    GOOD,
    TypedRows,
    counted_of,
    judge,
    reasons_by_file,
    refused_by_file,
    settle_repeated_keys,
    type_rows,
)
from nightshift.lake.object_errors import ObjectCorruptError
from nightshift.lake.object_stream import ObjectStream
from nightshift.prefetch import Prefetcher
from nightshift.quality.contract_check import IN_MEMORY_BYTES, DeliveredFile, check_head, read_rows
from nightshift.quality.contract_errors import digest_error
from nightshift.quality.gates import streaming_evaluator
from nightshift.quality.quarantine import RefusedRow
from nightshift.warehouse.copy_stream import append_stream
from nightshift.warehouse.migrate import ensure_large_table
from nightshift.warehouse.partition_write import hold_stage

if TYPE_CHECKING:
    import datetime as dt

    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.ingestion.raw_load import IngestCall
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.contract_check import FileHead
    from nightshift.warehouse.write_types import PartitionWrite

    Hashes = npt.NDArray[np.uint64]
    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)

LARGE_ROWS = 500_000
"""From so many rows on a drop is a load of its own that streams; below, all drops of a call are
checked and loaded together.
"""
N_CONNECTIONS = 2
"""Connections that store one drop: a server stores rows more slowly than they are checked."""
_PROGRESS_ROWS = 1_000_000
_LONGEST_LOAD_SECONDS = 24 * 3600
"""A copy that is older belongs to nobody: a task is ended long before."""


def is_large(drop: DropManifest, n_bytes: int) -> bool:
    """Return whether a drop streams, by its manifest or by the size of its file.

    A file that is larger than both say is found when it is unpacked.
    """
    return drop.n_rows >= LARGE_ROWS or n_bytes > IN_MEMORY_BYTES


def write_large(call: IngestCall, drop: DropManifest) -> set[dt.date]:
    """Load one drop, and return its day if it got a new version.

    Raises:
        ContractError: The file does not keep its contract; nothing of it is visible.
        AuditError: The staged rows are not what the write path accepts.
        GateError: The suite refused them, or there is none; the load is recorded as refused.
        StaleTokenError: A newer attempt has taken the partition.
        ObjectDamagedError: Its bytes were damaged on their way; a rerun may do better.
        LocalSpaceError: The disk for the copy of a Parquet file is full.
    """
    rows = _Rows(call, drop)
    write = begin_version(call, [drop])
    with refused_when_unstorable(call, write, drop):
        _append(call, write, rows)
        with call.conn.transaction():
            hold_stage(call.conn, write)
            _withdraw(call, write, rows.lost)
            source = Source(
                drop, rows.refused, rows.n_good, rows.n_duplicated, rows.n_refused, rows.head.notes
            )
            keep_source(call, write, source)
        counts = {"n_refused": rows.n_refused, "n_duplicated": rows.n_duplicated}
        return publish_version(call, write, counts, {drop.partition: rows.n_good}, rows.passing)


@contextmanager
def _arriving(
    call: IngestCall, drop: DropManifest
) -> Iterator[tuple[bytes | Path, ObjectStream | Path]]:
    """Yield where to read a drop's head and where its rows; at the end its digest has been compared.

    A Parquet file begins with its end, so it is copied to disk first.

    Raises:
        DigestError: The bytes are not those of the manifest; raised in the place of what they may
            have led to.
    """
    try:
        if drop.data_key.endswith(".parquet"):
            with _folder(call.settings.home / "drops") as folder:
                path = (
                    folder / "drop.parquet"
                )  # upstream's own name may be longer than a name can be here
                call.store.download(drop.data_key, path, drop.sha256)
                yield path, path
        else:
            with ObjectStream(call.store, drop.data_key, drop.sha256) as stream:
                yield stream.first, stream
    except ObjectCorruptError as error:
        raise digest_error(drop, error.got or "other bytes") from None


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Yield a folder of its own, deleted at the end, and delete those that killed processes have left."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.iterdir():
        with suppress(FileNotFoundError):  # its owner ends it at this moment
            if time.time() - left.stat().st_mtime > _LONGEST_LOAD_SECONDS:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def _append(call: IngestCall, write: PartitionWrite, rows: _Rows) -> None:
    table = ensure_large_table(call.conn, call.contract)
    with Prefetcher(rows.batches(write.load_id)) as batches:
        n_stored = append_stream(
            call.settings,
            "raw",
            table,
            batches,
            lambda transaction: hold_stage(transaction, write) == "staged",
            call.run.application_name,
            N_CONNECTIONS,
        )
    if n_stored != rows.n_good + len(rows.lost):
        raise LoadStateError(
            f"{call.contract.dataset}: not every row of {rows.drop.data_key} was staged.",
            expected=f"{rows.n_good + len(rows.lost)} rows",
            got=f"{n_stored}",
            todo="Another attempt has taken the load over; rerun the task.",
        )


def _withdraw(call: IngestCall, write: PartitionWrite, numbers: Numbers) -> None:
    """Delete staged rows by their position in the file, in the caller's transaction: nobody else has seen them."""
    from psycopg import sql

    if len(numbers):
        table = sql.Identifier("raw", call.contract.name)
        query = sql.SQL(
            "delete from {} where partition_date = %s and load_id = %s and source_row = any(%s)"
        ).format(table)
        call.conn.execute(query, [write.partitions.days[0], write.load_id, numbers.tolist()])


class _Rows:
    """The rows of one drop in a stream; what was counted is there when the stream has ended.

    Attributes:
        head: Its columns, known when the first rows are.
        refused: Distinct refused rows.
        n_good: Rows that are to stay.
        n_duplicated: Rows that repeat an earlier one.
        lost: shape (n,), positions of rows that were staged and must be withdrawn.
        passing: What was counted of the dataset's suite; None if it has none that can be used.
    """

    head: FileHead

    def __init__(self, call: IngestCall, drop: DropManifest) -> None:
        self._call, self.drop = call, drop
        self.n_good = self.n_duplicated = 0
        self.lost: Numbers = np.empty(0, dtype=np.int64)
        self.passing = streaming_evaluator(call.settings, call.contract.dataset)
        self._refused: dict[tuple[object, ...], RefusedRow] = {}
        self._reasons: Counter[str] = Counter()
        self._malformed: list[tuple[int, str]] = []
        self._n_typed = 0
        self._n_values: Counter[str] = Counter()
        self._n_wrong: Counter[str] = Counter()
        self._key_hashes = (
            bytearray()
        )  # grows in place: an array for each block would be there twice at the end

    @property
    def refused(self) -> list[RefusedRow]:
        """Return the distinct refused rows, malformed ones first."""
        malformed = {
            text: RefusedRow(number, Reason.MALFORMED_ROW, None, {"line": text})
            for number, text in reversed(self._malformed)
        }
        return [*reversed(malformed.values()), *self._refused.values()]

    @property
    def n_refused(self) -> int:
        """Return the refused rows, equal ones counted as often as they came."""
        return self._reasons.total() + len(self._malformed)

    def batches(self, load_id: int) -> Iterator[pa.Table]:
        """Yield the good rows as ``raw.<dataset>`` has them.

        Raises:
            ContractError: What came does not keep the contract, or cannot be read, as soon as that
                is sure.
        """
        try:
            yield from self._batches(load_id)
        except Exception as error:
            refusal = refusal_of(self._call.contract, self.drop, error)
            if refusal is None or refusal is error:
                raise
            raise refusal from None

    def _batches(self, load_id: int) -> Iterator[pa.Table]:
        with _arriving(self._call, self.drop) as (start, source):
            self.head = check_head(self._call.contract, self.drop, start)
            for rows in self._typed(source, self._malformed):
                self._count(rows)
                self._keep_refused(rows)
                is_good = rows.verdict == GOOD
                self._key_hashes += self._hashes(rows, is_good).tobytes()
                yield self._staged(rows, is_good, load_id)
                self._stop_when_hopeless()
        self._settle_repeated_keys()
        self._judge()

    def _typed(
        self, source: ObjectStream | Path, malformed: list[tuple[int, str]]
    ) -> Iterator[TypedRows]:
        names = [column.name for column in self.head.columns]
        for block in read_rows(self.drop, self.head, source, malformed):
            file = DeliveredFile(block.texts.rename_columns(names), block.row_numbers, (), ())
            yield type_rows(self._call.contract, [self.drop], [file])

    def _count(self, rows: TypedRows) -> None:
        self._n_typed += len(rows.verdict)
        n_values, n_wrong = counted_of(rows, 0)
        self._n_values.update(n_values)
        self._n_wrong.update(n_wrong)

    def _keep_refused(self, rows: TypedRows) -> None:
        if (rows.verdict < 0).all():
            return
        file = DeliveredFile(rows.texts, rows.numbers, (), ())
        self._reasons.update(reasons_by_file([file], rows)[0])
        for row in refused_by_file([file], rows)[0]:
            self._refused.setdefault(tuple(row.delivered.values()), row)

    def _staged(self, rows: TypedRows, is_good: Mask, load_id: int) -> pa.Table:
        table, n_before = rows.values if is_good.all() else rows.values.filter(is_good), self.n_good
        self.n_good += table.num_rows
        if self.n_good // _PROGRESS_ROWS > n_before // _PROGRESS_ROWS:
            logger.info(
                "%s: %s of %s rows", self.drop.data_key, f"{self.n_good:,}", f"{self.drop.n_rows:,}"
            )
        staged = with_origin(
            load_id, table, [self.drop], (rows.places[is_good], rows.numbers[is_good])
        )
        if self.passing:
            self.passing.add(staged)
        return staged

    def _settle_repeated_keys(self) -> None:
        """Read the rows again whose key another one has, and let the usual rule judge all of them together."""
        repeated = _repeated(np.frombuffer(self._key_hashes, dtype=np.uint64))
        self._key_hashes = bytearray()
        if not len(repeated):
            return
        logger.info(
            "%s: %s keys are there more than once; reads their rows again",
            self.drop.data_key,
            f"{len(repeated):,}",
        )
        parts = []
        with _arriving(self._call, self.drop) as (_, source):
            for rows in self._typed(source, []):
                good = np.flatnonzero(rows.verdict == GOOD)
                parts.append(
                    rows.take(good[np.isin(self._hashes(rows, rows.verdict == GOOD), repeated)])
                )
        rows = TypedRows.together(parts)
        settle_repeated_keys(self._call.contract, rows)
        self.n_duplicated = int(np.sum(rows.verdict == DUPLICATE))
        self.lost = rows.numbers[rows.verdict != GOOD]
        self.n_good -= len(self.lost)
        self._stop_when_hopeless(
            reasons_by_file([DeliveredFile(rows.texts, rows.numbers, (), ())], rows)[0]
        )
        self._keep_refused(rows)

    def _stop_when_hopeless(self, more: Mapping[str, int] | None = None) -> None:
        """Raise what the end would say, once more rows are refused than a file of so many rows may have.

        Args:
            more: Refused rows by reason that are not kept yet: there may be too many to keep.
        """
        n_refused = self.n_refused + sum((more or {}).values())
        if n_refused > self._call.contract.maximum_refused_ratio * self.drop.n_rows:
            self._judge(more)

    def _judge(self, more: Mapping[str, int] | None = None) -> None:
        reasons = self._reasons + Counter(more or {})
        if self._malformed:
            reasons[Reason.MALFORMED_ROW] += len(self._malformed)
        counted = self._n_values, self._n_wrong
        # What has come is all the evidence there is when the file is given up in the middle.
        seen = self.drop.model_copy(update={"n_rows": min(self.drop.n_rows, self._n_typed)})
        if error := judge(self._call.contract, seen, counted, self.n_good, reasons):
            raise error

    def _hashes(self, rows: TypedRows, chosen: Mask) -> Hashes:
        """Return one number for the key of each chosen row; a key column that the file does not have is the same for all."""
        keys = [
            column.name for column in self.head.columns if column.name in self._call.contract.key
        ]
        columns = [
            rows.column(name) if chosen.all() else rows.column(name).filter(chosen) for name in keys
        ]
        return _hashes([column.combine_chunks() for column in columns])


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""So that equal values in two columns do not cancel. Source: boost::hash_combine."""


def _hashes(columns: list[pa.Array]) -> Hashes:
    """Return one number per row, shape (n,), equal in this process for rows with equal values; different ones differ but for chance."""
    mixed = np.zeros(len(columns[0]) if columns else 0, dtype=np.uint64)
    for column in columns:
        own = _scattered(_numbers(column))
        mixed ^= own + _GOLDEN + (mixed << np.uint64(6)) + (mixed >> np.uint64(2))
    return mixed


def _numbers(column: pa.Array) -> Hashes:
    """Return a number for each value, shape (n,), the same for the same; for null the hash of None."""
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_temporal(column.type):
        whole = column.cast(pa.int32()) if pa.types.is_date32(column.type) else column
        numbers: Numbers = whole.cast(pa.int64()).fill_null(hash(None)).to_numpy()
    else:
        encoded = column.dictionary_encode("encode")
        distinct = np.fromiter(
            map(hash, encoded.dictionary.to_pylist()), np.int64, len(encoded.dictionary)
        )
        numbers = distinct[encoded.indices.to_numpy()]
    return numbers.astype(np.uint64)


def _scattered(numbers: Hashes) -> Hashes:
    """Return numbers of which each bit depends on all bits of the given ones. Source: finalizer of SplitMix64."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _repeated(hashes: Hashes) -> Hashes:
    """Sort hashes where they are, and return those that are there more than once, in order."""
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
