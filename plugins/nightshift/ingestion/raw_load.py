"""One load: stage all good rows by one COPY beside what was refused and where it came from, audit, gate, publish."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import AuditError
from nightshift.failpoints import Failpoint, hit
from nightshift.ingestion.drop_guard import refusal_of_values
from nightshift.quality.quarantine import keep_rows
from nightshift.warehouse.arrow_io import copy_in
from nightshift.warehouse.connection import lose
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
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.run import RunContext
    from nightshift.ingestion.row_check import CheckedRows
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
    """What all loads of one call share."""

    settings: Settings
    store: ObjectStore
    conn: Connection
    contract: DatasetContract
    run: RunContext

    @property
    def target(self) -> Target:
        """Return what the write path publishes: every version stays readable."""
        contract = self.contract
        return Target(
            contract.dataset,
            "raw",
            contract.name,
            contract.key,
            is_versioned=True,
            may_be_empty=contract.minimum_rows == 0,
        )

    @property
    def contract_digest(self) -> str:
        """Return the SHA-256 of the contract, hex: drops are ingested again when it changed."""
        return contract_digest(self.contract)


def contract_digest(contract: DatasetContract) -> str:
    """Return the SHA-256 of a contract, hex."""
    # Which files may come says nothing about what their rows mean: a new bound re-reads nothing.
    said = contract.model_dump_json(exclude={"limits", "maximum_backdating_days"})
    return sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class CheckedDrops:
    """The drops of one call, their files, and the rows of all files; a place is an index into the first two."""

    drops: Sequence[DropManifest]
    files: Sequence[DeliveredFile]
    rows: CheckedRows


def write_version(call: IngestCall, checked: CheckedDrops, places: Sequence[int]) -> set[dt.date]:
    """Stage, audit, gate and publish one load.

    Args:
        call: What all loads of a call share.
        checked: The drops of the call.
        places: Which of them are loaded: consecutive days, one drop each.

    Returns:
        The days that got a new version.

    Raises:
        AuditError: The staged rows are not what the write path accepts.
        ContractError: A value cannot be stored; the load is recorded as refused.
        GateError: The suite refused them, or there is none; the load is recorded as refused.
        StaleTokenError: A newer attempt has taken a partition.
    """
    rows = checked.rows
    drops = [checked.drops[place] for place in places]
    write = begin_version(call, drops)
    counts = {
        "n_refused": sum(rows.n_refused[place] for place in places),
        "n_duplicated": sum(rows.n_duplicated[place] for place in places),
    }
    with refused_when_unstorable(call, write, drops[0]):
        _stage(call, write, checked, places)
        return publish_version(call, write, counts)


@contextmanager
def refused_when_unstorable(
    call: IngestCall, write: PartitionWrite, drop: DropManifest
) -> Iterator[None]:
    """Refuse the begun load when the block finds a file that cannot be used: a rerun would leave one more that is only staged.

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
    partitions = PartitionRange(
        *(Partition(drop.partition, call.contract.timezone) for drop in (drops[0], drops[-1]))
    )
    lines = "\n".join(
        f"{drop.partition} {drop.delivered_at.isoformat()} {drop.sha256}" for drop in drops
    )
    inputs = {"contract": call.contract_digest, "drops": sha256(lines.encode()).hexdigest()}
    write = begin(
        call.conn,
        [call.target],
        partitions,
        LoadManifest(call.run, inputs, {d.partition: d.delivered_at for d in drops}),
    )
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
        counts: Kept with the load.
        sent: As ``audit`` has it.
        passing: As ``run_gate`` has it.
    """
    hit(Failpoint.INGEST_STAGE_AFTER, lambda: lose(call.conn))
    audit(call.conn, write, counts, sent)
    _compare_books(call, write)
    _gate(call, write, passing)
    return {load.partition_date for load in publish(call.conn, write) if load.is_new}


def _compare_books(call: IngestCall, write: PartitionWrite) -> None:
    """Refuse a load whose rows, as the audit counted them, are not those that its drops are said to have.

    The table's own check holds that each delivered row is accepted, repeated or refused.

    Raises:
        AuditError: In at least one partition.
    """
    wrong = call.conn.execute(
        """
        select l.partition_date, d.n_accepted, l.n_rows from raw.ingested_drops d
        join ops.loads l using (dataset, partition_date, load_id)
        where d.dataset = %s and d.load_id = %s and d.n_accepted <> l.n_rows order by l.partition_date limit 1
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
    call: IngestCall, write: PartitionWrite, checked: CheckedDrops, places: Sequence[int]
) -> None:
    import numpy as np

    drops, files, rows = checked.drops, checked.files, checked.rows
    chosen = np.isin(rows.places, places)
    table = with_origin(
        write.load_id,
        rows.values.filter(chosen),
        drops,
        (rows.places[chosen], rows.row_numbers[chosen]),
    )
    with call.conn.transaction():
        hold_stage(call.conn, write)
        copy_in(call.conn, "raw", call.contract.name, table)
        n_accepted = np.bincount(rows.places, minlength=len(drops))
        for place in places:
            source = Source(
                drop=drops[place],
                refused=rows.refused[place],
                n_accepted=int(n_accepted[place]),
                n_duplicated=rows.n_duplicated[place],
                n_refused=rows.n_refused[place],
                notes=files[place].notes,
            )
            keep_source(call, write, source)


@dataclass(frozen=True)
class Source:
    """What a load keeps of a file beside its good rows.

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


def keep_source(call: IngestCall, write: PartitionWrite, source: Source) -> None:
    """Keep the refused rows and the origin of a load's rows, in the caller's transaction."""
    drop, uri = source.drop, call.store.uri(source.drop.data_key)
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
            call.contract.dataset, drop.partition, write.load_id, drop.delivered_at, uri, drop.sha256, call.contract_digest,
            drop.n_rows, source.n_accepted, source.n_duplicated, source.n_refused, list(source.notes),
        ],
    )  # fmt: skip


def with_origin(
    load_id: int, values: pa.Table, drops: Sequence[DropManifest], origin: tuple[Numbers, Numbers]
) -> pa.Table:
    """Return good rows with the columns that every raw table has; the file itself stands once in ``raw.ingested_drops``.

    Args:
        load_id: The load.
        values: shape (n, n_columns), the contract's columns.
        drops: Where rows may come from.
        origin: Each shape (n,): the place of a row's drop in ``drops``, and the row's position in
            its file.
    """
    import pyarrow as pa

    by_drop = {
        "partition_date": pa.array([drop.partition for drop in drops], pa.date32()),
        "known_at": pa.array([drop.delivered_at for drop in drops], pa.timestamp("us", "UTC")),
    }
    for name, of_drop in by_drop.items():
        values = values.append_column(
            name,
            of_drop.take(pa.array(origin[0]))
            if len(drops) > 1
            else pa.repeat(of_drop[0], len(values)),
        )
    return values.append_column("source_row", pa.array(origin[1])).append_column(
        "load_id", pa.repeat(pa.scalar(load_id, pa.int64()), len(values))
    )


def _gate(call: IngestCall, write: PartitionWrite, passing: StreamingEvaluator | None) -> None:
    """Run the dataset's suite; without one there is no verdict, and nothing is published."""
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
