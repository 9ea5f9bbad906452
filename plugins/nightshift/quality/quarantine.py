"""Refused rows and files: kept as they came, with the reason, until a person or a correction settles them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.warehouse.connection import lose

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest, WrongManifest
    from nightshift.warehouse.connection import Connection


class QuarantineState(StrEnum):
    """What became of a refused row."""

    OPEN = "open"
    CORRECTED = "corrected"
    REPLAYED = "replayed"
    SUPERSEDED = "superseded"
    DISMISSED = "dismissed"


class QuarantineError(NightshiftError):
    """A refused row was to be settled that does not exist or is settled already."""

    code = "NS-QUARANTINE-001"


@dataclass(frozen=True)
class RefusedRow:
    """A refused row to keep.

    Attributes:
        row_number: Position in the file, 1 for the first behind the header.
        reason: Stable code of the reason.
        column: The column at fault; None if the whole row is.
        delivered: Its texts by column, as they came.
    """

    row_number: int
    reason: str
    column: str | None
    delivered: Mapping[str, str | None]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of reason and content, hex: the same row refused again is the same entry."""
        return sha256(
            json.dumps([self.reason, self.column, dict(self.delivered)], sort_keys=True).encode()
        ).hexdigest()


@dataclass(frozen=True)
class QuarantinedRow:
    """A row in quarantine: columns of ``quarantine.refused_rows``; ``state`` is one of ``QuarantineState``."""

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


def keep_rows(
    conn: Connection, load_id: int, drop: DropManifest, source_uri: str, rows: Sequence[RefusedRow]
) -> None:
    """Keep the refused rows of one file, within the caller's transaction; rows that are there already stay as they are."""
    if not rows:
        return
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into quarantine.refused_rows (
                dataset, partition_date, load_id, known_at, source_uri, source_sha256,
                source_row, reason, column_name, delivered, row_digest
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (dataset, partition_date, row_digest) do nothing
            """,
            [
                (
                    f"raw/{drop.dataset}", drop.partition, load_id, drop.delivered_at, source_uri, drop.sha256,
                    row.row_number, row.reason, row.column, _storable(row.delivered), row.digest,
                )
                for row in rows
            ],
        )  # fmt: skip


def keep_drop(
    conn: Connection, drop: DropManifest, source_uri: str, error: NightshiftError, run: RunContext
) -> None:
    """Record that a whole file was refused; refusing it again records nothing more."""
    conn.execute(
        """
        insert into quarantine.refused_drops (dataset, partition_date, known_at, source_uri, source_sha256, code, reason, run_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing
        """,
        [
            f"raw/{drop.dataset}",
            drop.partition,
            drop.delivered_at,
            source_uri,
            drop.sha256,
            error.code,
            str(error),
            run.run_id,
        ],
    )
    hit(Failpoint.KEEP_DROP_AFTER, lambda: lose(conn))


def keep_manifest(
    conn: Connection, dataset: str, wrong: WrongManifest, source_uri: str, run: RunContext
) -> None:
    """Record that a manifest describes no drop; its time is when we received it, for nothing in it can be believed."""
    conn.execute(
        """
        insert into quarantine.refused_drops (dataset, partition_date, known_at, source_uri, source_sha256, code, reason, run_id)
        values (%s, %s, %s, %s, '', %s, %s, %s) on conflict do nothing
        """,
        [
            f"raw/{dataset}",
            wrong.partition,
            wrong.object.received_at,
            source_uri,
            wrong.error.code,
            str(wrong.error),
            run.run_id,
        ],
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
        limit: At most so many.
    """
    rows = conn.execute(
        """
        select row_id, dataset, partition_date, known_at, source_uri, source_row, reason, column_name, delivered, state
        from quarantine.refused_rows where dataset = %s and partition_date between %s and %s and state = %s
        order by partition_date, known_at, source_row, row_id limit %s
        """,
        [dataset, partitions.first.day, partitions.last.day, state.value, limit],
    ).fetchall()
    return [QuarantinedRow(*row) for row in rows]


def count_rows(
    conn: Connection, dataset: str, partitions: PartitionRange
) -> dict[tuple[str, QuarantineState], int]:
    """Return how many rows are in quarantine, by reason and state."""
    rows = conn.execute(
        """
        select reason, state, count(*) from quarantine.refused_rows
        where dataset = %s and partition_date between %s and %s group by reason, state order by reason, state
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    return {(reason, QuarantineState(state)): n_rows for reason, state, n_rows in rows}


def settle_rows(
    conn: Connection, row_ids: Sequence[int], state: QuarantineState, actor: str, note: str = ""
) -> None:
    """Record what became of open rows, all or none.

    Args:
        conn: A connection; the change is one transaction.
        row_ids: Which rows.
        state: ``superseded`` by a later delivery, ``dismissed`` when nobody needs them; corrections
            have their own way.
        actor: Who decided.
        note: Why.

    Raises:
        QuarantineError: A row does not exist or is not open.
    """
    wanted = sorted(set(row_ids))
    with conn.transaction():
        settled = conn.execute(
            """
            update quarantine.refused_rows set state = %s, decided_at = clock_timestamp(), decided_by = %s, note = %s
            where row_id = any(%s) and state in ('open', 'corrected') returning row_id
            """,
            [state.value, actor, note, wanted],
        ).fetchall()
        if missing := sorted(set(wanted) - {row_id for (row_id,) in settled}):
            raise QuarantineError(
                f"{len(missing)} of {len(wanted)} rows are not open; nothing was changed.",
                expected="rows in state open",
                got=f"row_id {', '.join(map(str, missing[:5]))}",
                todo="List the open rows again.",
            )
    hit(Failpoint.SETTLE_ROWS_AFTER, lambda: lose(conn))


def _storable(delivered: Mapping[str, str | None]) -> str:
    """Return JSON that PostgreSQL can store: it has no NUL character."""
    escaped: dict[str, Any] = {
        name: text.replace("\0", "\\0") if text else text for name, text in delivered.items()
    }
    return json.dumps(escaped)
