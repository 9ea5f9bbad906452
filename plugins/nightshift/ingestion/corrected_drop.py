"""The file that a replay delivers: the newest one of a partition, with the corrected rows.

Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.ingestion.rows.cast import cast_texts
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.drops import DropManifest, NewDrop, manifest_of
from nightshift.quality.contract_check import check_file
from nightshift.quality.contract_errors import accepted_form
from nightshift.quality.files.file_blocks import read_cells
from nightshift.quality.quarantine import QuarantinedRow, QuarantineError, RefusedRow

if TYPE_CHECKING:
    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.quality.correction import Correction

    Cells = list[str] | str
    """A row's cells; of a malformed row its line."""


class CorrectionRefusedError(NightshiftError):
    """A corrected row is refused, or is older than the delivery that it corrects.

    Nothing was delivered.
    """

    code = "NS-QUARANTINE-002"


def refused_rows(
    contract: DatasetContract, drop: DropManifest, data: bytes
) -> dict[str, RefusedRow]:
    """Return the refused rows of a file by their digest, as ingest records them."""
    file = check_file(contract, drop, data)
    checked = check_rows(contract, [drop], [file], lists_all=True)
    return {row.digest: row for row in checked.refused[0]}


def corrected_drop(
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

    Raises:
        CorrectionRefusedError: The newest correction is not newer than the file.
    """
    known_at = max(correction.known_at for correction in corrections.values())
    if known_at <= base.delivered_at:
        raise CorrectionRefusedError(
            f"A correction of {base.data_key} would be older than the file.",
            expected=f"known after {base.delivered_at.isoformat()}",
            got=known_at.isoformat(),
            todo="Correct the row again with a later --at.",
        )

    header, rows = read_cells(data, base.data_key)
    columns = contract.columns_for(base.partition, base.schema_version) or ()
    delivered_name = {column.name: column.delivered_name for column in columns}
    for number, correction in corrections.items():
        wrong = rows[number - 1]
        right = {}
        for name, text in correction.corrected.items():
            right[delivered_name.get(name, name)] = text or ""
        fixed = _fixed_row(header, wrong, right)
        rows = [fixed if row == wrong else row for row in rows]

    content = _as_csv([header, *rows])
    digest = sha256(content).hexdigest()
    return NewDrop(
        dataset=base.dataset,
        partition=base.partition,
        delivered_at=known_at,
        data=content,
        n_rows=len(rows),
        # Named by its content: a replay that is repeated delivers the same object again.
        name=f"corrected-{known_at:%Y%m%dT%H%M%SZ}-{digest[:12]}",
        schema_version=base.schema_version,
    )


def _fixed_row(header: Sequence[str], wrong: Cells, right: Mapping[str, str]) -> list[str]:
    """Return a row's cells with the right values; a malformed row has no cells to keep."""
    cells = [""] * len(header) if isinstance(wrong, str) else wrong
    return [right.get(name, cell) for name, cell in zip(header, cells, strict=True)]


def _as_csv(rows: Iterable[Cells]) -> bytes:
    """Return a file; a malformed row is its line, and stays as malformed as it was."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        if isinstance(row, str):
            text.write(f"{row}\n")
        else:
            writer.writerow(row)
    return text.getvalue().encode()


def refuse_bad_rows(
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
    refused = refused_rows(contract, manifest_of(drop), drop.data)
    # Rows that nobody has corrected yet may stay refused.
    allowed = before.keys() - corrected
    bad = [row for digest, row in refused.items() if digest not in allowed]
    if not bad:
        return
    problems = [_describe(row, corrections) for row in bad[:5]]
    raise CorrectionRefusedError(
        f"{len(bad)} row(s) of the corrected {drop.dataset} of {drop.partition} are refused again.",
        expected="rows that keep the contract, with keys that no other row has",
        got="; ".join(problems),
        todo="Nothing was delivered. Correct them again, `nightshift quarantine correct <row>"
        ' --set <column>=<text> --note "<why>"`, or dismiss them.',
    )


def _describe(row: RefusedRow, corrections: Mapping[int, Correction]) -> str:
    """Return where a row is and what is wrong with it, without a value of it."""
    where = f"position {row.row_number}"
    if row.row_number in corrections:
        # The number that the listing of the quarantine shows.
        where = f"row {corrections[row.row_number].row_id} ({where})"
    column = f" in {row.column}" if row.column else ""
    return f"{where}: {row.reason}{column}"


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
    # A malformed row is kept as its line, so its correction must have every required column.
    if "line" in row.delivered and "line" not in columns:
        for name, column in columns.items():
            if not column.is_nullable and not values.get(name):
                problems.append(f"{name}: is missing, and the row had no columns to keep")
    if problems:
        raise QuarantineError(
            f"Row {row.row_id} cannot be corrected so; nothing was recorded.",
            expected="values that the contract accepts",
            got="; ".join(sorted(problems)),
            todo='nightshift quarantine correct <row> --set <column>=<text> --note "<why>"',
        )


def _problems_of(contract: DatasetContract, column: Column, text: str | None) -> list[str]:
    problems = cast_texts([text], column, contract.timezone).problems
    accepted = accepted_form(column.delivered_as or column.type)
    return [f"{column.name}: {reason} (accepted: {accepted})" for reason in problems]
