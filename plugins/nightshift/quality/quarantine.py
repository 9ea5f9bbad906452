"""Quarantine: refused rows and files are kept as they came until a person settles them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.warehouse.connection import lose

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.landing import WrongManifest
    from nightshift.warehouse.connection import Connection


_ROWS_PER_STATEMENT = 1_000


class QuarantineState(StrEnum):
    """What became of a refused row."""

    OPEN = "open"
    CORRECTED = "corrected"
    REPLAYED = "replayed"
    SUPERSEDED = "superseded"
    DISMISSED = "dismissed"


class QuarantineError(NightshiftError):
    """A refused row does not exist, or its state does not allow the change."""

    code = "NS-QUARANTINE-001"


@dataclass(frozen=True)
class RefusedRow:
    """A refused row to keep.

    Attributes:
        row_number: Position in the file, 1 for the first after the header.
        reason: Stable code of the reason.
        column: The column at fault; None if the whole row is.
        delivered: Its strings by column, as they came.
    """

    row_number: int
    reason: str
    column: str | None
    delivered: Mapping[str, str | None]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of reason and content, hex: a row refused again is the same entry."""
        # The reason counts, so that a row refused again for another reason is a new entry.
        content = [self.reason, self.column, dict(self.delivered)]
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class QuarantinedRow:
    """A row in quarantine, as table ``quarantine.refused_rows`` has it."""

    row_id: int
    dataset: str
    partition_date: dt.date
    known_at: dt.datetime
    source_uri: str
    source_row: int
    reason: str
    column_name: str | None
    delivered: dict[str, str | None]
    state: str


_SELECT_ROWS = """
    select row_id, dataset, partition_date, known_at, source_uri, source_row, reason, column_name,
        delivered, state
    from quarantine.refused_rows
"""


def keep_rows(
    conn: Connection, load_id: int, drop: DropManifest, source_uri: str, rows: Iterable[RefusedRow]
) -> None:
    """Keep the refused rows of one file, within the caller's transaction.

    A row that is there already, in whatever state, stays as it is. Only some rows are in memory at
    the same time.
    """
    file = (f"raw/{drop.dataset}", drop.partition, load_id, drop.delivered_at, source_uri)
    statement = """
        insert into quarantine.refused_rows (
            dataset, partition_date, load_id, known_at, source_uri, source_sha256,
            source_row, reason, column_name, delivered, row_digest
        )
        select %s, %s, %s, %s, %s, %s, r.*
        from unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]::jsonb[], %s::text[]) r
        on conflict (dataset, partition_date, row_digest) do nothing
    """
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS_PER_STATEMENT)):
        columns = [
            [row.row_number for row in some],
            [row.reason for row in some],
            [row.column for row in some],
            [_as_storable_json(row.delivered) for row in some],
            [row.digest for row in some],
        ]
        conn.execute(statement, [*file, drop.sha256, *columns])


def keep_drop(
    conn: Connection, drop: DropManifest, source_uri: str, error: NightshiftError, run: RunContext
) -> None:
    """Record that a complete file was refused; refusing it again records nothing more."""
    file = (drop.dataset, drop.partition, drop.delivered_at, source_uri, drop.sha256)
    _insert_refused_drop(conn, file, error, run)
    hit(Failpoint.KEEP_DROP_AFTER, lambda: lose(conn))


def keep_manifest(
    conn: Connection, dataset: str, wrong: WrongManifest, source_uri: str, run: RunContext
) -> None:
    """Record that a manifest describes no drop."""
    # Its time is when we received it: nothing in such a manifest can be believed.
    file = (dataset, wrong.partition, wrong.object.received_at, source_uri, "")
    _insert_refused_drop(conn, file, wrong.error, run)


def _insert_refused_drop(
    conn: Connection,
    file: tuple[str, dt.date, dt.datetime, str, str],
    error: NightshiftError,
    run: RunContext,
) -> None:
    """Insert a refusal of a file: dataset, partition, time, URI and digest."""
    # A later run refuses the same file again, and the first record stays.
    conn.execute(
        """
        insert into quarantine.refused_drops (
            dataset, partition_date, known_at, source_uri, source_sha256, code, reason, run_id
        )
        values ('raw/' || %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing
        """,
        [*file, error.code, str(error), run.run_id],
    )


def list_rows(
    conn: Connection,
    dataset: str,
    partitions: PartitionRange,
    state: QuarantineState = QuarantineState.OPEN,
    limit: int = 100,
) -> list[QuarantinedRow]:
    """Return refused rows by partition and position.

    Args:
        conn: Any connection.
        dataset: Name in the ledger, ``raw/<name>``.
        partitions: Both ends included.
        state: Only rows in this state.
        limit: Maximum number of rows.
    """
    rows = conn.execute(
        f"""
        {_SELECT_ROWS}
        where dataset = %s and partition_date between %s and %s and state = %s
        order by partition_date, known_at, source_row, row_id limit %s
        """,
        [dataset, partitions.first.day, partitions.last.day, state.value, limit],
    )
    return [QuarantinedRow(*row) for row in rows]


def find_row(conn: Connection, row_id: int) -> QuarantinedRow:
    """Return one refused row, in whatever state.

    Raises:
        QuarantineError: There is none of that number.
    """
    row = conn.execute(f"{_SELECT_ROWS} where row_id = %s", [row_id]).fetchone()
    if row is None:
        raise QuarantineError(
            f"There is no refused row {row_id}.",
            todo="`nightshift quarantine list <dataset>` shows those that are open.",
        )
    return QuarantinedRow(*row)


def settle_rows(
    conn: Connection, row_ids: Sequence[int], state: QuarantineState, actor: str, note: str = ""
) -> None:
    """Record what became of open rows, all or none.

    Args:
        conn: A connection; the change is one transaction.
        row_ids: Which rows.
        state: ``superseded`` by a later delivery, or ``dismissed``; for corrections see
            ``correction``.
        actor: Who decided.
        note: Why.

    Raises:
        QuarantineError: A row does not exist or is not open.
    """
    with conn.transaction():
        updated = conn.execute(
            """
            update quarantine.refused_rows
            set state = %s, decided_at = clock_timestamp(), decided_by = %s, note = %s
            where row_id = any(%s) and state in ('open', 'corrected') returning row_id
            """,
            [state.value, actor, note, list(row_ids)],
        )
        missing = sorted({*row_ids} - {row_id for (row_id,) in updated})
        # Raised within the transaction, so that all rows are settled or none.
        if missing:
            raise QuarantineError(
                f"{len(missing)} of {len({*row_ids})} rows are not open; nothing was changed.",
                expected="rows in state open",
                got=f"row_id {', '.join(map(str, missing[:5]))}",
                todo="List the open rows again.",
            )
    hit(Failpoint.SETTLE_ROWS_AFTER, lambda: lose(conn))


def _as_storable_json(delivered: Mapping[str, str | None]) -> str:
    """Return JSON that PostgreSQL can store: it has no NUL character."""
    escaped = {name: text and text.replace("\0", "\\0") for name, text in delivered.items()}
    return json.dumps(escaped)
