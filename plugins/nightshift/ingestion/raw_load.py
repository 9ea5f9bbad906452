"""One load of raw rows: stage, record the source, audit, gate and publish."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import AuditError
from nightshift.failpoints import Failpoint, hit
from nightshift.ingestion.file_faults import refusal_of_values
from nightshift.quality.quarantine import keep_rows
from nightshift.warehouse.connection import lose
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    Target,
    audit,
    begin,
    hold_stage,
    publish,
    refuse,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.run import RunContext
    from nightshift.ingestion.rows.row_check import CheckedRows
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore
    from nightshift.quality.contract_check import DeliveredFile
    from nightshift.quality.quarantine import RefusedRow
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class IngestCall:
    """Connections, contract and run that all loads of one call share."""

    settings: Settings
    store: ObjectStore
    conn: Connection
    contract: DatasetContract
    run: RunContext

    @property
    def target(self) -> Target:
        """Return the raw table as the write path publishes it: every version stays readable."""
        return Target(
            self.contract.dataset,
            "raw",
            self.contract.name,
            self.contract.key,
            is_versioned=True,
            may_be_empty=self.contract.minimum_rows == 0,
        )

    @property
    def contract_digest(self) -> str:
        """Return the SHA-256 of the contract, hex: drops are ingested again when it changed."""
        return contract_digest(self.contract)


def contract_digest(contract: DatasetContract) -> str:
    """Return the SHA-256 of a contract, hex."""
    # Which files may come says nothing about what their rows mean: a new bound re-reads nothing.
    document = contract.model_dump_json(exclude={"limits", "maximum_backdating_days"})
    return sha256(document.encode()).hexdigest()


@dataclass(frozen=True)
class CheckedDrops:
    """Checked drops: the same index means a drop, its file, and the file of a row."""

    drops: Sequence[DropManifest]
    files: Sequence[DeliveredFile]
    rows: CheckedRows


def write_version(call: IngestCall, checked: CheckedDrops, indices: Sequence[int]) -> set[dt.date]:
    """Stage, audit, gate and publish one load.

    Args:
        call: What all loads of a call share.
        checked: The drops of the call.
        indices: The drops to load: consecutive days, one drop each.

    Returns:
        The days that got a new version.

    Raises:
        AuditError: The staged rows are not what the write path accepts.
        ContractError: A value cannot be stored; the load is recorded as refused.
        GateError: The suite refused them, or there is none; the load is recorded as refused.
        StaleTokenError: A newer attempt has taken a partition.
    """
    rows = checked.rows
    drops = [checked.drops[index] for index in indices]
    counts = {
        "n_refused": sum(rows.n_refused[index] for index in indices),
        "n_duplicated": sum(rows.n_duplicated[index] for index in indices),
    }
    write = begin_version(call, drops)
    with refused_when_unstorable(call, write, drops[0]):
        _stage(call, write, checked, indices)
        return publish_version(call, write, counts)


@contextmanager
def refused_when_unstorable(
    call: IngestCall, write: PartitionWrite, drop: DropManifest
) -> Iterator[None]:
    """Refuse the begun load when the block raises the fault of a file.

    Otherwise each rerun would leave one more load that is only staged.

    Raises:
        ContractError: A value of the load cannot be stored, or the file does not keep its contract.
    """
    try:
        yield
    except Exception as error:
        refusal = refusal_of_values(drop, error)
        if refusal is None:
            raise
        refuse(call.conn, write, str(refusal).splitlines()[0])
        # Neither log nor record may have what the warehouse quotes of a row.
        raise refusal from None


def begin_version(call: IngestCall, drops: Sequence[DropManifest]) -> PartitionWrite:
    """Begin the load of drops of consecutive days, one each."""
    timezone = call.contract.timezone
    partitions = PartitionRange(
        Partition(drops[0].partition, timezone), Partition(drops[-1].partition, timezone)
    )
    lines = [f"{drop.partition} {drop.delivered_at.isoformat()} {drop.sha256}" for drop in drops]
    drops_digest = sha256("\n".join(lines).encode()).hexdigest()
    inputs = {"contract": call.contract_digest, "drops": drops_digest}
    known_at = {drop.partition: drop.delivered_at for drop in drops}
    manifest = LoadManifest(call.run, inputs, known_at)
    write = begin(call.conn, [call.target], partitions, manifest)
    hit(Failpoint.INGEST_CHECKED)
    return write


def publish_version(
    call: IngestCall,
    write: PartitionWrite,
    counts: Mapping[str, int],
    sent: Mapping[dt.date, int] | None = None,
    passing: StreamingEvaluator | None = None,
) -> set[dt.date]:
    """Audit, gate and publish what is staged, and return the days that got a new version.

    Args:
        call: What all loads of a call share.
        write: The begun write.
        counts: Numbers of refused and repeated rows, recorded with the load.
        sent: Rows by day that were sent; as ``audit`` has it.
        passing: Counts for the suite; as ``run_gate`` has it.
    """
    hit(Failpoint.INGEST_STAGE_AFTER, lambda: lose(call.conn))
    audit(call.conn, write, counts, sent)
    _compare_counts(call, write)
    _gate(call, write, passing)
    return {load.partition_date for load in publish(call.conn, write) if load.is_new}


def _compare_counts(call: IngestCall, write: PartitionWrite) -> None:
    """Refuse a load if the audit counted other rows than the record of its drops.

    A constraint of that table makes each delivered row accepted, repeated or refused.

    Raises:
        AuditError: In at least one partition.
    """
    wrong = call.conn.execute(
        """
        select l.partition_date, d.n_accepted, l.n_rows from raw.ingested_drops d
        join ops.loads l using (dataset, partition_date, load_id)
        where d.dataset = %s and d.load_id = %s and d.n_accepted <> l.n_rows
        order by l.partition_date limit 1
        """,
        [call.contract.dataset, write.load_id],
    ).fetchone()
    if wrong is None:
        return
    day, n_accepted, n_staged = wrong
    summary = f"{call.contract.dataset} of {day}: {n_accepted} accepted rows, {n_staged} staged"
    refuse(call.conn, write, summary)
    raise AuditError(
        f"The rows of load {write.load_id} are not those that its drops have.",
        expected=f"{n_accepted} rows of {day}",
        got=str(n_staged),
        todo="Nothing was published. Rerun the task.",
    )


def _stage(
    call: IngestCall, write: PartitionWrite, checked: CheckedDrops, indices: Sequence[int]
) -> None:
    drops, rows = checked.drops, checked.rows
    chosen = np.isin(rows.file_index, indices)
    origin = rows.file_index[chosen], rows.row_numbers[chosen]
    table = with_origin(write.load_id, rows.values.filter(chosen), drops, *origin)
    n_accepted = np.bincount(rows.file_index, minlength=len(drops))
    with call.conn.transaction():
        hold_stage(call.conn, write)
        copy_in(call.conn, "raw", call.contract.name, table)
        for index in indices:
            source = Source(
                drop=drops[index],
                refused=rows.refused[index],
                n_accepted=int(n_accepted[index]),
                n_duplicated=rows.n_duplicated[index],
                n_refused=rows.n_refused[index],
                notes=checked.files[index].notes,
            )
            record_source(call, write, source)


@dataclass(frozen=True)
class Source:
    """Record of a file in a load, in addition to its good rows.

    Attributes:
        drop: The file.
        refused: Its distinct refused rows.
        n_accepted: Rows that are loaded.
        n_duplicated: Rows that repeat an earlier one.
        n_refused: Refused rows, equal ones counted as often as they came.
        notes: What the contract does not know.
    """

    drop: DropManifest
    refused: Sequence[RefusedRow]
    n_accepted: int
    n_duplicated: int
    n_refused: int
    notes: Sequence[str]


def record_source(call: IngestCall, write: PartitionWrite, source: Source) -> None:
    """Record a file and its refused rows, in the caller's transaction."""
    drop = source.drop
    uri = call.store.uri(drop.data_key)
    keep_rows(call.conn, write.load_id, drop, uri, source.refused)
    call.conn.execute(
        """
        insert into raw.ingested_drops (
            dataset, partition_date, load_id, known_at, source_uri, source_sha256, contract_digest,
            n_delivered, n_accepted, n_duplicated, n_refused, notes
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            call.contract.dataset, drop.partition, write.load_id, drop.delivered_at, uri,
            drop.sha256, call.contract_digest, drop.n_rows, source.n_accepted,
            source.n_duplicated, source.n_refused, list(source.notes),
        ],
    )  # fmt: skip


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
    for name, of_drops in (("partition_date", days), ("known_at", times)):
        if len(drops) > 1:
            of_rows = of_drops.take(pa.array(file_index))
        else:
            of_rows = pa.repeat(of_drops[0], len(values))
        values = values.append_column(name, of_rows)
    load_ids = pa.repeat(pa.scalar(load_id, pa.int64()), len(values))
    values = values.append_column("source_row", pa.array(row_numbers))
    return values.append_column("load_id", load_ids)


def _gate(call: IngestCall, write: PartitionWrite, passing: StreamingEvaluator | None) -> None:
    """Run the dataset's suite; without one nothing is published."""
    from nightshift.quality.gate_errors import GateError
    from nightshift.quality.gates import run_gate

    try:
        run_gate(
            call.settings,
            call.contract.dataset,
            "raw",
            call.contract.name,
            write.load_id,
            write.partitions,
            call.run,
            passing,
        )
    except GateError as error:
        refuse(call.conn, write, str(error).splitlines()[0])
        raise
