"""Replay corrected rows: deliver the newest file of a partition again, with the right values.

A correction is a drop of its own, so it passes contract, row checks and gate like every delivery,
and becomes a version with its own ``known_at``. It is loaded again when the warehouse is rebuilt
from the lake. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import LoadStateError, NightshiftError
from nightshift.ingestion.deliveries import identity, read_deliveries
from nightshift.ingestion.load import ingest
from nightshift.ingestion.rows.cast import cast_texts
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.drops import NewDrop, manifest_of, write_drop
from nightshift.lake.landing import read_data
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.contract_check import accepted_form, check_file
from nightshift.quality.correction import Correction, list_corrections, settle_corrected
from nightshift.quality.files.file_blocks import read_cells
from nightshift.quality.quarantine import QuarantineError
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.quarantine import QuarantinedRow, RefusedRow
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class CorrectionRefusedError(NightshiftError):
    """A corrected row is refused, or is older than the delivery that it corrects.

    Nothing was delivered.
    """

    code = "NS-QUARANTINE-002"


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
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    partitions = PartitionRange.single(Partition(day, contract.timezone))
    with connect(settings, run.application_name) as conn:
        corrections = list_corrections(conn, contract.dataset, day)
        if not corrections:
            return ReplayResult()
        drops = read_deliveries(conn, store, dataset, partitions).drops
        base = _newest_ingested(conn, contract, drops)
        data = read_data(store, [base])[0]
        refused = _refused_rows(contract, base, data)
        present = [correction for correction in corrections if correction.row_digest in refused]
        superseded = tuple(
            correction.row_id for correction in corrections if correction.row_digest not in refused
        )
        settle_corrected(conn, list(superseded), "superseded", run.actor)
        if not present:
            return ReplayResult(superseded=superseded)

        by_number = {
            refused[correction.row_digest].row_number: correction for correction in present
        }
        drop = _corrected_drop(contract, base, data, by_number)
        _refuse_bad(contract, drop, refused, by_number)
        manifest = write_drop(store, drop)
        ingest(settings, dataset, partitions, run)
        load_id = _published_load(conn, contract, manifest)
        replayed = tuple(correction.row_id for correction in present)
        settle_corrected(conn, list(replayed), "replayed", run.actor)
    return ReplayResult(replayed, superseded, manifest.data_key, load_id)


def _newest_ingested(
    conn: Connection, contract: DatasetContract, drops: Sequence[DropManifest]
) -> DropManifest:
    rows = conn.execute(
        """
        select partition_date, source_sha256, known_at
        from raw.ingested_drops d join ops.loads l
            using (dataset, partition_date, load_id, known_at)
        where dataset = %s and l.state in ('published', 'duplicate')
        """,
        [contract.dataset],
    )
    ingested = set(rows)
    for drop in reversed(drops):
        if identity(drop) in ingested:
            return drop
    raise LoadStateError(f"No drop of {contract.name} is in.", todo="Ingest the partition first.")


def _refused_rows(
    contract: DatasetContract, drop: DropManifest, data: bytes
) -> dict[str, RefusedRow]:
    """Return the refused rows of a file by their digest, as ingest records them."""
    checked = check_rows(contract, [drop], [check_file(contract, drop, data)], lists_all=True)
    return {row.digest: row for row in checked.refused[0]}


def _corrected_drop(
    contract: DatasetContract,
    base: DropManifest,
    data: bytes,
    corrections: Mapping[int, Correction],
) -> NewDrop:
    """Return the file with corrected rows.

    Args:
        contract: The dataset's contract.
        base: The file's manifest.
        data: The file.
        corrections: By position of the wrong row; rows of the same text are corrected too.
    """
    header, rows = read_cells(data, base.data_key)
    columns = contract.columns_for(base.partition, base.schema_version) or ()
    delivered_name = {column.name: column.delivered_name for column in columns}
    for number, correction in corrections.items():
        wrong = rows[number - 1]
        # A malformed row has no cells to keep.
        cells = [""] * len(header) if isinstance(wrong, str) else wrong
        right = {
            delivered_name.get(name, name): text or ""
            for name, text in correction.corrected.items()
        }
        fixed = [right.get(name, cell) for name, cell in zip(header, cells, strict=True)]
        rows = [fixed if row == wrong else row for row in rows]
    content = _as_csv([header, *rows])
    known_at = max(correction.known_at for correction in corrections.values())
    if known_at <= base.delivered_at:
        raise CorrectionRefusedError(
            f"A correction of {base.data_key} would be older than the file.",
            expected=f"known after {base.delivered_at.isoformat()}",
            got=known_at.isoformat(),
            todo="Correct the row again with a later --at.",
        )
    name = f"corrected-{known_at:%Y%m%dT%H%M%SZ}-{sha256(content).hexdigest()[:12]}"
    return NewDrop(
        base.dataset, base.partition, known_at, content, len(rows), name, base.schema_version
    )


def _as_csv(rows: Iterable[Sequence[str] | str]) -> bytes:
    """Return a file; a malformed row is its line, and stays as malformed as it was."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        if isinstance(row, str):
            text.write(f"{row}\n")
        else:
            writer.writerow(row)
    return text.getvalue().encode()


def _refuse_bad(
    contract: DatasetContract,
    drop: NewDrop,
    before: Mapping[str, RefusedRow],
    corrections: Mapping[int, Correction],
) -> None:
    """Refuse the drop unless its refused rows are those of before without the corrected ones.

    Raises:
        CorrectionRefusedError: Another row is refused.
    """
    corrected = {correction.row_digest for correction in corrections.values()}
    refused = _refused_rows(contract, manifest_of(drop), drop.data)
    allowed = before.keys() - corrected
    bad = [row for digest, row in refused.items() if digest not in allowed]
    if not bad:
        return
    problems = []
    for row in bad[:5]:
        where = f"position {row.row_number}"
        if row.row_number in corrections:
            # The number that the listing of the quarantine shows.
            where = f"row {corrections[row.row_number].row_id} ({where})"
        column = f" in {row.column}" if row.column else ""
        problems.append(f"{where}: {row.reason}{column}")
    raise CorrectionRefusedError(
        f"{len(bad)} row(s) of the corrected {drop.dataset} of {drop.partition} are refused again.",
        expected="rows that keep the contract, with keys that no other row has",
        got="; ".join(problems),
        todo="Nothing was delivered. Correct them again (`nightshift quarantine correct`),"
        " or dismiss them.",
    )


def refuse_unreadable(
    contract: DatasetContract, row: QuarantinedRow, values: Mapping[str, str | None]
) -> None:
    """Refuse a correction whose values the contract cannot read; the replay checks the row.

    Args:
        contract: The dataset's contract.
        row: The refused row.
        values: Texts by column, as a file would deliver them.

    Raises:
        QuarantineError: A column is unknown, or a value is not of its type or outside of its
            limits.
    """
    columns = {column.name: column for column in contract.columns}
    problems = []
    for name, text in values.items():
        if name in columns:
            problems += _problems_of(contract, columns[name], text)
        else:
            problems.append(f"{name}: no such column")
    if "line" in row.delivered and "line" not in columns:
        for name, column in columns.items():
            if not column.is_nullable and not values.get(name):
                problems.append(f"{name}: is missing, and the row had no columns to keep")
    if problems:
        raise QuarantineError(
            f"Row {row.row_id} cannot be corrected so; nothing was recorded.",
            expected="values that the contract accepts",
            got="; ".join(sorted(problems)),
            todo="nightshift quarantine correct <row> --set <column>=<text> --note <why>",
        )


def _problems_of(contract: DatasetContract, column: Column, text: str | None) -> list[str]:
    problems = cast_texts([text], column, contract.timezone).problems
    accepted = accepted_form(column.delivered_as or column.type)
    return [f"{column.name}: {reason} (accepted: {accepted})" for reason in problems]


def _published_load(conn: Connection, contract: DatasetContract, manifest: DropManifest) -> int:
    """Return the load that readers see if it came from the replayed drop."""
    row = conn.execute(
        """
        select p.load_id
        from ops.published p join raw.ingested_drops d using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = %s and d.source_sha256 = %s
        """,
        [contract.dataset, manifest.partition, manifest.sha256],
    ).fetchone()
    if row is None:
        raise LoadStateError(
            f"{manifest.data_key} is not what readers see.",
            todo="Run the replay again; then read ops.loads of this run.",
        )
    return int(row[0])
