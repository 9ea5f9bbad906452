"""A person's word on a refused row: who said when, why, and what the row should have said. Kept append-only."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.quality.quarantine import QuarantinedRow, QuarantineError
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
        corrected: The whole row after the correction, texts by column.
    """

    row_id: int
    row_digest: str
    source_row: int
    known_at: dt.datetime
    corrected: dict[str, str | None]


def require_quarantine_access(conn: Connection) -> None:
    """Refuse a role that may not read the quarantine, before anything of it is asked for.

    Raises:
        QuarantineRightError: It may not.
    """
    row = conn.execute(
        "select has_schema_privilege('quarantine', 'usage') and has_table_privilege('quarantine.refused_rows', 'select'), current_user"
        if _has_usage(conn)
        else "select false, current_user"
    ).fetchone()
    if row is None or not row[0]:
        raise QuarantineAccessError(
            "Refused rows are shown only to those who may read schema quarantine.",
            expected="usage and select on schema quarantine",
            got=f"role {row[1] if row else '?'}",
            todo="Ask the owner of the warehouse, or a colleague who has the right.",
        )


def _has_usage(conn: Connection) -> bool:
    return conn.execute("select has_schema_privilege('quarantine', 'usage')").fetchone() == (True,)


def find_row(conn: Connection, row_id: int) -> QuarantinedRow:
    """Return one refused row, in whatever state.

    Raises:
        QuarantineError: There is none of that number.
    """
    row = conn.execute(
        """
        select row_id, dataset, partition_date, known_at, source_uri, source_row, reason, column_name, delivered, state
        from quarantine.refused_rows where row_id = %s
        """,
        [row_id],
    ).fetchone()
    if row is None:
        raise QuarantineError(
            f"There is no refused row {row_id}.",
            todo="`nightshift quarantine list` shows those that are open.",
        )
    return QuarantinedRow(*row)


def correct_row(
    conn: Connection,
    row_id: int,
    values: Mapping[str, str | None],
    known_at: dt.datetime,
    actor: str,
    note: str,
) -> QuarantinedRow:
    """Record the right values of a row that is open or corrected; nothing is ingested yet. A later correction replaces an earlier one.

    Args:
        conn: A connection outside of a transaction.
        row_id: The row.
        values: Texts by column, as a file would deliver them; the other columns stay as they came.
        known_at: When that became known, UTC: from then on nights may use it.
        actor: Who says so.
        note: Why, in words.

    Raises:
        QuarantineError: There is no such row, it is settled, a column is unknown, or nothing says
            why.
    """
    row = find_row(conn, row_id)
    _refuse_unusable(row, values, note)
    corrected = {**row.delivered, **values} if "line" not in row.delivered else dict(values)
    with conn.transaction():
        done = conn.execute(
            """
            update quarantine.refused_rows set state = 'corrected', decided_at = clock_timestamp(), decided_by = %s, note = %s
            where row_id = %s and state in ('open', 'corrected') returning row_id
            """,
            [actor, note, row_id],
        ).fetchone()
        if done is None:
            raise QuarantineError(
                f"Row {row_id} is settled.",
                expected="open or corrected",
                got=find_row(conn, row_id).state,
            )
        conn.execute(
            "insert into quarantine.corrections (row_id, known_at, actor, note, corrected) values (%s, %s, %s, %s, %s)",
            [row_id, known_at, actor, note, json.dumps(corrected)],
        )
    hit(Failpoint.CORRECT_ROW_AFTER, lambda: lose(conn))
    return find_row(conn, row_id)


def _refuse_unusable(row: QuarantinedRow, values: Mapping[str, str | None], note: str) -> None:
    unknown = sorted(set(values) - set(row.delivered)) if "line" not in row.delivered else []
    if unknown or not values or not note.strip():
        raise QuarantineError(
            f"Row {row.row_id} cannot be corrected so.",
            expected=f"new texts for columns out of {', '.join(row.delivered)}, and a reason",
            got=f"unknown columns {', '.join(unknown)}"
            if unknown
            else ("no values" if not values else "no reason"),
            todo="nightshift quarantine correct <row> --set <column>=<text> --note <why>",
        )


def list_corrections(
    conn: Connection, dataset: str, day: dt.date, states: Sequence[str] = ("corrected",)
) -> list[Correction]:
    """Return the last correction of each row of a partition in one of these states, in the order of the rows."""
    rows = conn.execute(
        """
        select distinct on (r.row_id) r.row_id, r.row_digest, r.source_row, c.known_at, c.corrected
        from quarantine.refused_rows r join quarantine.corrections c using (row_id)
        where r.dataset = %s and r.partition_date = %s and r.state = any(%s) order by r.row_id, c.correction_id desc
        """,
        [dataset, day, list(states)],
    )
    return [Correction(*row) for row in rows]


def settle_corrected(conn: Connection, row_ids: Sequence[int], state: str, actor: str) -> None:
    """Record what became of corrected rows: replayed, or superseded by a newer delivery."""
    conn.execute(
        """
        update quarantine.refused_rows set state = %s, decided_at = clock_timestamp(), decided_by = %s
        where row_id = any(%s) and state = 'corrected'
        """,
        [state, actor, list(row_ids)],
    )
