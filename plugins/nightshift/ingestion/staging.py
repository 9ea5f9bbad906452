"""Stage the rows of checked drops, and record in the same transaction what each drop delivered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nightshift.quality.quarantine import RefusedRow, keep_rows
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.partition_write import hold_stage

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.ingestion.ingest_call import IngestCall
    from nightshift.ingestion.rows.row_check import CheckedRows
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.contract_check import DeliveredFile
    from nightshift.warehouse.write_types import PartitionWrite

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CheckedDrops:
    """Checked drops: the same index means a drop, its file, and the file of a row."""

    drops: Sequence[DropManifest]
    files: Sequence[DeliveredFile]
    rows: CheckedRows


@dataclass(frozen=True)
class DropRecord:
    """Record of a drop in a load, in addition to its good rows.

    Attributes:
        drop: The drop.
        refused: Its refused rows; equal ones are kept once.
        n_accepted: Rows that are loaded.
        n_duplicated: Rows that repeat an earlier one.
        n_refused: Refused rows, equal ones counted as often as they came.
        notes: Columns of the file that the contract does not know.
    """

    drop: DropManifest
    refused: Iterable[RefusedRow]
    n_accepted: int
    n_duplicated: int
    n_refused: int
    notes: Sequence[str]


def stage_drops(
    call: IngestCall, write: PartitionWrite, checked: CheckedDrops, indices: Sequence[int]
) -> None:
    """Store the good rows of some drops, and record the drops."""
    rows = checked.rows
    is_staged = np.isin(rows.file_index, indices)
    table = with_origin(
        write.load_id,
        rows.values.filter(is_staged),
        checked.drops,
        rows.file_index[is_staged],
        rows.row_numbers[is_staged],
    )
    n_accepted = np.bincount(rows.file_index, minlength=len(checked.drops))
    # One transaction: the load is refused if its rows are not those that its drops record.
    with call.conn.transaction():
        hold_stage(call.conn, write)
        copy_in(call.conn, "raw", call.contract.name, table)
        for index in indices:
            record = DropRecord(
                drop=checked.drops[index],
                refused=rows.refused[index],
                n_accepted=int(n_accepted[index]),
                n_duplicated=rows.n_duplicated[index],
                n_refused=rows.n_refused[index],
                notes=checked.files[index].notes,
            )
            record_drop(call, write, record)


def record_drop(call: IngestCall, write: PartitionWrite, record: DropRecord) -> None:
    """Record a drop and its refused rows, in the caller's transaction."""
    drop = record.drop
    uri = call.store.uri(drop.data_key)
    keep_rows(call.conn, write.load_id, drop, uri, record.refused)
    call.conn.execute(
        """
        insert into raw.ingested_drops (
            dataset, partition_date, load_id, known_at, source_uri, source_sha256, contract_digest,
            n_delivered, n_accepted, n_duplicated, n_refused, notes
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            call.contract.dataset,
            drop.partition,
            write.load_id,
            drop.delivered_at,
            uri,
            drop.sha256,
            call.contract_digest,
            drop.n_rows,
            record.n_accepted,
            record.n_duplicated,
            record.n_refused,
            list(record.notes),
        ],
    )


def with_origin(
    load_id: int,
    values: pa.Table,
    drops: Sequence[DropManifest],
    file_index: Numbers,
    row_numbers: Numbers,
) -> pa.Table:
    """Return good rows with the columns that every raw table has.

    The file itself is recorded once in ``raw.ingested_drops``.

    Args:
        load_id: The load.
        values: shape (n, n_columns), the contract's columns.
        drops: The drops of the rows.
        file_index: shape (n,), index of each row's drop in ``drops``.
        row_numbers: shape (n,), position of each row in its file.
    """
    days = pa.array([drop.partition for drop in drops], pa.date32())
    times = pa.array([drop.delivered_at for drop in drops], pa.timestamp("us", "UTC"))
    index = pa.array(file_index)
    values = values.append_column("partition_date", days.take(index))
    values = values.append_column("known_at", times.take(index))
    values = values.append_column("source_row", pa.array(row_numbers))
    load_ids = pa.repeat(pa.scalar(load_id, pa.int64()), len(values))
    return values.append_column("load_id", load_ids)
