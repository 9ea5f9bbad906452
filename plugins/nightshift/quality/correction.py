"""Corrections of refused rows: who corrected what, when and why; kept append-only."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.quality.quarantine import QuarantinedRow, QuarantineError, find_row
from nightshift.warehouse.connection import lose

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


class QuarantineAccessError(NightshiftError):
    """The role may not see refused rows: they hold what upstream sent, also personal data."""

    code = "NS-QUARANTINE-003"


@dataclass(frozen=True)
class Correction:
    """The last correction of a refused row.

    Attributes:
        row_id: The refused row.
        row_digest: Its digest: the same row refused again has the same.
        source_row: Its position in the file that brought it first.
        known_at: When the right values became known, UTC.
        corrected: The complete row after the correction, strings by column.
    """

    row_id: int
    row_digest: str
    source_row: int
    known_at: dt.datetime
    corrected: dict[str, str | None]


def require_quarantine_access(conn: Connection) -> None:
    """Refuse a role that may not read the quarantine, before any row is requested.

    Raises:
        QuarantineAccessError: The role lacks a right.
    """
    # Without usage on the schema, the question about its table would be an error.
    row = conn.execute(
        """
        select case when has_schema_privilege('quarantine', 'usage')
            then has_table_privilege('quarantine.refused_rows', 'select') else false end,
            current_user
        """
    ).fetchone()
    is_allowed, role = row or (False, "?")
    if not is_allowed:
        raise QuarantineAccessError(
            "Refused rows are shown only to those who may read schema quarantine.",
            expected="usage and select on schema quarantine",
            got=f"role {role}",
            todo="Ask the owner of the warehouse, or a colleague who has the right.",
        )


def correct_row(
    conn: Connection,
    row_id: int,
    values: Mapping[str, str | None],
    known_at: dt.datetime,
    actor: str,
    note: str,
) -> QuarantinedRow:
    """Record the right values of a row that is open or corrected; nothing is ingested yet.

    A later correction replaces an earlier one.

    Args:
        conn: A connection outside of a transaction.
        row_id: The row.
        values: Texts by column, as a file would deliver them; the other columns stay as they came.
        known_at: When the values became known, UTC: later runs may use them.
        actor: Who corrects.
        note: Why.

    Raises:
        QuarantineError: There is no such row, it is settled, a column is unknown, or the note is
            empty.
    """
    row = find_row(conn, row_id)
    # A malformed row has no columns: its correction is the complete row.
    is_malformed = "line" in row.delivered
    known_columns = set(values) if is_malformed else set(row.delivered)
    _refuse_unusable(row, values, sorted(set(values) - known_columns), note)
    corrected = dict(values) if is_malformed else {**row.delivered, **values}
    with conn.transaction():
        updated = conn.execute(
            """
            update quarantine.refused_rows
            set state = 'corrected', decided_at = clock_timestamp(), decided_by = %s, note = %s
            where row_id = %s and state in ('open', 'corrected') returning row_id
            """,
            [actor, note, row_id],
        ).fetchone()
        if updated is None:
            raise QuarantineError(
                f"Row {row_id} is settled.",
                expected="open or corrected",
                got=find_row(conn, row_id).state,
            )
        # Appended and never changed: the last correction counts, and the earlier ones stay.
        conn.execute(
            """
            insert into quarantine.corrections (row_id, known_at, actor, note, corrected)
            values (%s, %s, %s, %s, %s)
            """,
            [row_id, known_at, actor, note, json.dumps(corrected)],
        )
    hit(Failpoint.CORRECT_ROW_AFTER, lambda: lose(conn))
    return find_row(conn, row_id)


def _refuse_unusable(
    row: QuarantinedRow, values: Mapping[str, str | None], unknown: Sequence[str], note: str
) -> None:
    if unknown:
        problem = f"unknown columns {', '.join(unknown)}"
    elif not values:
        problem = "no values"
    elif not note.strip():
        problem = "no reason"
    else:
        return
    raise QuarantineError(
        f"The correction of row {row.row_id} cannot be used.",
        expected=f"new strings for columns out of {', '.join(row.delivered)}, and a reason",
        got=problem,
        todo='nightshift quarantine correct <row> --set <column>=<text> --note "<why>"',
    )


def list_corrections(conn: Connection, dataset: str, day: dt.date) -> list[Correction]:
    """Return the last correction of each corrected row of a partition, by row."""
    rows = conn.execute(
        """
        select distinct on (r.row_id)
            r.row_id, r.row_digest, r.source_row, c.known_at, c.corrected
        from quarantine.refused_rows r join quarantine.corrections c using (row_id)
        where r.dataset = %s and r.partition_date = %s and r.state = 'corrected'
        order by r.row_id, c.correction_id desc
        """,
        [dataset, day],
    )
    return [Correction(*row) for row in rows]


def settle_corrected(conn: Connection, row_ids: Sequence[int], state: str, actor: str) -> None:
    """Record the outcome of corrected rows: replayed, or superseded by a newer delivery."""
    conn.execute(
        """
        update quarantine.refused_rows
        set state = %s, decided_at = clock_timestamp(), decided_by = %s
        where row_id = any(%s) and state = 'corrected'
        """,
        [state, actor, list(row_ids)],
    )
