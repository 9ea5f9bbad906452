"""The audit's part of the write path: what the staged rows hold, why they must not be published, and the record of it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nightshift.warehouse.content_hash import LoadMeasurement, hash_basis, measure, measure_nothing

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite, Target


UNIQUE_KEY = "unique_key"
"""In a load's ``detail``: the columns that the audit found unique and not null within each
partition.
"""

HASH_BASIS = "hash_basis"
"""In a load's ``detail``: of ``content_hash.hash_basis`` at its audit."""


def measure_days(
    conn: Connection, target: Target, write: PartitionWrite, *, is_unique: bool
) -> tuple[dict[dt.date, LoadMeasurement], set[dt.date]]:
    """Return what each partition of the range holds, the empty ones too, and the days outside of it that have rows."""
    found, nothing = (
        measure(conn, target, write.load_id, is_unique=is_unique),
        measure_nothing(conn, target),
    )
    days = write.partitions.days
    return {day: found.get(day, nothing) for day in days}, found.keys() - set(days)


def problems_of(
    target: Target,
    by_day: Mapping[dt.date, LoadMeasurement],
    unexpected: Iterable[dt.date],
    sent: Mapping[dt.date, int] | None,
) -> list[str]:
    """Return why these rows must not be published, one sentence each."""
    problems = [
        f"{target.dataset} has rows of {day}, outside of the range" for day in sorted(unexpected)
    ]
    for day, measured in by_day.items():
        if measured.n_rows == 0 and not target.may_be_empty:
            problems.append(f"{target.dataset} has no rows of {day}")
        if sent is not None and measured.n_rows != sent.get(day, 0):
            problems.append(
                f"{target.dataset} has {measured.n_rows} rows of {day}, not the {sent.get(day, 0)} that were sent"
            )
        if measured.n_bad_keys:
            keys = ", ".join(target.key)
            problems.append(
                f"{target.dataset} has {measured.n_bad_keys} rows of {day} with a null or repeated key ({keys})"
            )
    return problems


def record_measured(
    conn: Connection,
    target: Target,
    load_id: int,
    by_day: Mapping[dt.date, LoadMeasurement],
    detail: Mapping[str, Any],
) -> None:
    """Keep what was measured with the loads that are still open, in the caller's transaction."""
    conn.execute(
        """
        update ops.loads l set n_rows = r.n_rows, content_hash = r.content_hash, detail = l.detail || %s
        from unnest(%s::date[], %s::bigint[], %s::text[]) r (partition_date, n_rows, content_hash)
        where l.dataset = %s and l.load_id = %s and l.partition_date = r.partition_date and l.state in ('staged', 'audited')
        """,
        [
            json.dumps(
                {**detail, HASH_BASIS: hash_basis(conn, target)}, sort_keys=True, default=str
            ),
            list(by_day),
            [measured.n_rows for measured in by_day.values()],
            [measured.content_hash for measured in by_day.values()],
            target.dataset,
            load_id,
        ],
    )


def is_audited_unique(conn: Connection, load_id: int, columns: Iterable[str]) -> bool:
    """Return whether the audit of a load has shown that these columns are unique within it; nothing is staged behind an audit."""
    rows = conn.execute(
        "select distinct state, detail -> %s from ops.loads where load_id = %s",
        [UNIQUE_KEY, load_id],
    ).fetchall()
    return bool(rows) and all(
        state == "audited" and key and {"partition_date", *key} <= {*columns} for state, key in rows
    )
