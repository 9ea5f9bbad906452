"""Replay corrected rows: deliver the newest file of a partition again, with the right values.

A correction is a drop of its own, so it passes contract, row checks and gate like every delivery,
and becomes a version with its own ``known_at``. It is loaded again when the warehouse is rebuilt
from the lake. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import LoadStateError
from nightshift.ingestion.corrected_drop import corrected_drop, refuse_bad_rows, refused_rows
from nightshift.ingestion.deliveries import Deliveries, identity, read_deliveries
from nightshift.ingestion.ingest_call import IngestCall, open_call
from nightshift.ingestion.load import ingest
from nightshift.lake.drops import DropManifest, write_drop
from nightshift.lake.landing import read_data
from nightshift.quality.correction import list_corrections, settle_corrected
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


@dataclass(frozen=True)
class ReplayResult:
    """Result of a replay.

    Attributes:
        replayed: Rows that are in the published version now.
        superseded: Corrected rows that the newest delivery does not have any more: upstream
            repaired or withdrew them.
        data_key: The drop that was delivered; None when there was nothing to replay.
        load_id: The published load, as read back; None when there was nothing to replay.
    """

    replayed: tuple[int, ...] = ()
    superseded: tuple[int, ...] = ()
    data_key: str | None = None
    load_id: int | None = None


def replay_corrections(
    settings: Settings, dataset: str, day: dt.date, run: RunContext
) -> ReplayResult:
    """Deliver and ingest the newest file of a partition with its corrected rows.

    A second call finds nothing to do.

    Raises:
        CorrectionRefusedError: A corrected row is refused again; nothing was delivered, none is
            dropped.
        NightshiftError: As ``ingest``.
    """
    with open_call(settings, dataset, run) as call:
        corrections = list_corrections(call.conn, call.contract.dataset, day)
        if not corrections:
            return ReplayResult()
        partitions = PartitionRange.single(Partition(day, call.contract.timezone))
        deliveries = read_deliveries(call.conn, call.store, dataset, partitions)
        base = _newest_ingested(dataset, deliveries)
        data = read_data(call.store, [base])[0]
        refused = refused_rows(call.contract, base, data)

        # Rows are matched by content, because the newest file may have them at other positions.
        present = [correction for correction in corrections if correction.row_digest in refused]
        gone = [correction for correction in corrections if correction.row_digest not in refused]
        superseded = tuple(correction.row_id for correction in gone)
        settle_corrected(call.conn, superseded, "superseded", run.actor)
        if not present:
            return ReplayResult(superseded=superseded)

        by_number = {refused[each.row_digest].row_number: each for each in present}
        drop = corrected_drop(call.contract, base, data, by_number)
        # Before it is written: what lies in the lake is never taken back.
        refuse_bad_rows(call.contract, drop, refused, by_number)
        manifest = write_drop(call.store, drop)
        ingest(settings, dataset, partitions, run)
        load_id = _published_load(call, manifest)
        # After ingest, so that a replay that was killed in between is done again.
        replayed = tuple(correction.row_id for correction in present)
        settle_corrected(call.conn, replayed, "replayed", run.actor)
    return ReplayResult(replayed, superseded, manifest.data_key, load_id)


def _newest_ingested(dataset: str, deliveries: Deliveries) -> DropManifest:
    """Return the newest drop that is in.

    Raises:
        LoadStateError: None is.
    """
    for drop in reversed(deliveries.drops):
        if identity(drop) in deliveries.ingested:
            return drop
    raise LoadStateError(f"No drop of {dataset} is in.", todo="Ingest the partition first.")


def _published_load(call: IngestCall, manifest: DropManifest) -> int:
    """Return the load that readers see if it came from the replayed drop.

    Raises:
        LoadStateError: Readers see another drop.
    """
    from psycopg import sql

    statement = sql.SQL(
        """
        select d.load_id from raw.ingested_drops d {}
        where d.dataset = %s and d.partition_date = %s and d.source_sha256 = %s
        """
    )
    dataset = call.contract.dataset
    parameters = [dataset, manifest.partition, manifest.sha256]
    row = call.conn.execute(statement.format(join_published(dataset, "d")), parameters).fetchone()
    if row is None:
        raise LoadStateError(
            f"{manifest.data_key} is not what readers see.",
            todo="Run the replay again; then read ops.loads of this run.",
        )
    return int(row[0])
