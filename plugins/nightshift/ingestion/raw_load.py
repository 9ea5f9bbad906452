"""One load of raw rows: begin, stage, audit, gate and publish."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import AuditError
from nightshift.failpoints import Failpoint, hit
from nightshift.ingestion.file_faults import refusal_of_values
from nightshift.ingestion.staging import CheckedDrops, stage_drops
from nightshift.warehouse.connection import lose
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    audit,
    begin,
    publish,
    refuse,
)

if TYPE_CHECKING:
    from nightshift.ingestion.ingest_call import IngestCall
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.suites.streaming_checks import StreamingEvaluator


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
        stage_drops(call, write, checked, indices)
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
    first = Partition(drops[0].partition, timezone)
    last = Partition(drops[-1].partition, timezone)
    # The write path compares inputs: equal ones must give equal rows.
    lines = [f"{drop.partition} {drop.delivered_at.isoformat()} {drop.sha256}" for drop in drops]
    drops_digest = sha256("\n".join(lines).encode()).hexdigest()
    manifest = LoadManifest(
        run=call.run,
        inputs={"contract": call.contract_digest, "drops": drops_digest},
        known_at={drop.partition: drop.delivered_at for drop in drops},
    )
    write = begin(call.conn, [call.target], PartitionRange(first, last), manifest)
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
    """Refuse a load if the audit counted other rows than the record of its drops, or there is none.

    A constraint of that table makes each delivered row accepted, repeated or refused.

    Raises:
        AuditError: In at least one partition.
    """
    # By load and not by pointer: the load is not published yet.
    wrong = call.conn.execute(
        """
        select l.partition_date, d.n_accepted, l.n_rows from ops.loads l
        left join raw.ingested_drops d using (dataset, partition_date, load_id)
        where l.dataset = %s and l.load_id = %s and d.n_accepted is distinct from l.n_rows
        order by l.partition_date limit 1
        """,
        [call.contract.dataset, write.load_id],
    ).fetchone()
    if wrong is None:
        return
    day, n_accepted, n_staged = wrong
    recorded = "no record" if n_accepted is None else f"{n_accepted} accepted rows"
    summary = f"{call.contract.dataset} of {day}: {recorded}, {n_staged} staged"
    refuse(call.conn, write, summary)
    raise AuditError(
        f"The rows of load {write.load_id} are not those that its drops have.",
        expected=f"the rows of {day} that the record of its drop has",
        got=f"{recorded}, {n_staged} staged",
        todo="Nothing was published. Rerun the task.",
    )


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
