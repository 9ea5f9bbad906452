"""Load one drop of very many rows: streamed block by block from the lake into one COPY.

Memory holds blocks, not the file; ``row_stream`` checks them. Rows that share a key are known only
at the end: those that lose are withdrawn from the stage. Source: docs/adr/0027-large-drops.md.
"""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from typing import TYPE_CHECKING

from nightshift.errors import LoadStateError
from nightshift.ingestion.raw_load import begin_version, publish_version, refused_when_unstorable
from nightshift.ingestion.row_stream import RowStream
from nightshift.ingestion.staging import DropRecord, record_drop
from nightshift.prefetch import Prefetcher
from nightshift.quality.contract_check import IN_MEMORY_BYTES
from nightshift.warehouse.fast_io.copy_stream import append_stream
from nightshift.warehouse.migrate import ensure_large_table
from nightshift.warehouse.partition_write import hold_stage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.ingestion.ingest_call import IngestCall
    from nightshift.lake.drops import DropManifest
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite

# From so many rows on a drop is a load of its own that streams; below, all drops of a call are
# checked and loaded together.
LARGE_ROWS = 500_000
# Connections that store one drop: a server stores rows more slowly than they are checked.
N_CONNECTIONS = 2
_LOST_ROWS_AT_ONCE = 100_000


def is_large(drop: DropManifest, n_bytes: int) -> bool:
    """Return whether a drop streams, by its manifest or by the size of its file.

    A file that is larger than both report is detected when it is unpacked.
    """
    return drop.n_rows >= LARGE_ROWS or n_bytes > IN_MEMORY_BYTES


def write_large(call: IngestCall, drop: DropManifest) -> set[dt.date]:
    """Load one drop, and return its day if it got a new version.

    Raises:
        ContractError: The file does not keep its contract; nothing of it is visible.
        AuditError: The staged rows are not what the write path accepts.
        GateError: The suite refused them, or there is none; the load is recorded as refused.
        StaleTokenError: A newer attempt has taken the partition.
        ObjectDamagedError: Its bytes were damaged in transfer; a rerun may do better.
        LocalSpaceError: The disk for the copy of a Parquet file is full.
    """
    with closing(RowStream(call, drop)) as rows:
        write = begin_version(call, [drop])
        with refused_when_unstorable(call, write, drop):
            _stage(call, write, rows)
            # The rows are committed already, and readers do not see them: what is recorded here
            # stands before the load can be published.
            with call.conn.transaction():
                hold_stage(call.conn, write)
                _withdraw(call, write, rows.lost)
                record = DropRecord(
                    drop=drop,
                    refused=rows.refused,
                    n_accepted=rows.n_good,
                    n_duplicated=rows.n_duplicated,
                    n_refused=rows.n_refused,
                    notes=rows.head.notes,
                )
                record_drop(call, write, record)
            counts = {
                "n_refused": rows.n_refused,
                "n_duplicated": rows.n_duplicated,
            }
            sent = {drop.partition: rows.n_good}
            return publish_version(call, write, counts, sent, rows.evaluator)


def _stage(call: IngestCall, write: PartitionWrite, rows: RowStream) -> None:
    """Check the rows and store the good ones at the same time."""

    def is_still_staged(conn: Connection) -> bool:
        return hold_stage(conn, write) == "staged"

    table = ensure_large_table(call.conn, call.contract)
    with Prefetcher(rows.batches(write.load_id)) as batches:
        n_stored = append_stream(
            call.settings,
            "raw",
            table,
            batches,
            is_still_staged,
            call.run.application_name,
            N_CONNECTIONS,
        )
    n_expected = rows.n_good + len(rows.lost)
    if n_stored != n_expected:
        raise LoadStateError(
            f"{call.contract.dataset}: not every row of {rows.drop.data_key} was staged.",
            expected=f"{n_expected} rows",
            got=f"{n_stored}",
            todo="Another attempt has taken the load over; rerun the task.",
        )


def _withdraw(call: IngestCall, write: PartitionWrite, row_numbers: npt.NDArray[np.int64]) -> None:
    """Delete staged rows by their position in the file: nobody else has seen them."""
    from psycopg import sql

    if not len(row_numbers):
        return
    # A table and not a list: of a file that repeats its rows these are millions.
    call.conn.execute("create temp table lost_row (source_row bigint) on commit drop")
    with call.conn.cursor() as cursor, cursor.copy("copy lost_row from stdin") as copy:
        for start in range(0, len(row_numbers), _LOST_ROWS_AT_ONCE):
            end = start + _LOST_ROWS_AT_ONCE
            some = row_numbers[start:end].tolist()
            lines = [f"{number}\n" for number in some]
            copy.write("".join(lines))
    call.conn.execute("analyze lost_row")
    statement = sql.SQL(
        "delete from {} r using lost_row l"
        " where r.partition_date = %s and r.load_id = %s and r.source_row = l.source_row"
    )
    table = sql.Identifier("raw", call.contract.name)
    parameters = [write.partitions.days[0], write.load_id]
    call.conn.execute(statement.format(table), parameters)
