"""Compare published rows with the record of their load: rows that vanished, changed or doubled since are named.

A load's record (``n_rows`` and ``content_hash`` of ``ops.loads``) says what was published. Nothing
in the table proves that it still holds that: a wrong DELETE or a restore that stopped half way
leaves the record as it was. Whoever relies on published rows asks here first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import LoadStateError, NightshiftError
from nightshift.warehouse.content_hash import count_loads, hash_basis, measure_loads

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite, PublishedLoad, Target

MAX_COUNTED_ROWS = 5_000_000
MAX_HASHED_ROWS = 500_000
"""Rows up to which a reader counts, and hashes, what it is about to read: seconds, also on a busy
machine.

Source: docs/adr/0037-damaged-rows.md.
"""


class VanishedRowsError(NightshiftError):
    """Readers do not see the rows that a write has published."""

    code = "NS-WRITE-006"
    is_retryable = True


class DamagedInputError(NightshiftError):
    """Published rows that a stage reads are not what was published."""

    code = "NS-WRITE-007"


@dataclass(frozen=True)
class LoadRecord:
    """What the ledger says of one partition of a published load.

    Attributes:
        basis: How ``content_hash`` was made, of ``hash_basis``; None where that was not noted.
    """

    partition_date: dt.date
    load_id: int
    n_rows: int | None
    content_hash: str
    basis: str | None = None


@dataclass(frozen=True)
class Damage:
    """One partition of a load whose rows differ from its record.

    Attributes:
        what: What differs, in words.
    """

    dataset: str
    partition_date: dt.date
    load_id: int
    what: str


def published_records(conn: Connection, dataset: str, days: Sequence[dt.date]) -> list[LoadRecord]:
    """Return the records of the loads that readers see, by day."""
    rows = conn.execute(
        """
        select l.partition_date, l.load_id, l.n_rows, l.content_hash, l.detail ->> 'hash_basis'
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = any(%s) order by p.partition_date
        """,
        [dataset, list(days)],
    )
    return [LoadRecord(*row) for row in rows]


def version_records(
    conn: Connection, dataset: str, first: dt.date, last: dt.date
) -> list[LoadRecord]:
    """Return the records of every published version of raw data, both days included."""
    rows = conn.execute(
        """
        select partition_date, load_id, n_rows, content_hash, detail ->> 'hash_basis' from ops.loads
        where dataset = %s and partition_date between %s and %s and state = 'published' and collected_at is null
        order by partition_date, load_id
        """,
        [dataset, first, last],
    )
    return [LoadRecord(*row) for row in rows]


def find_damage(conn: Connection, target: Target, records: Iterable[LoadRecord]) -> list[Damage]:
    """Count and hash the rows of published loads again, in one scan, and return those that differ.

    The caller knows that the hashes were made as they are made now.
    """
    records = list(records)
    if not records:
        return []
    keys = {(record.partition_date, record.load_id) for record in records}
    with conn.transaction():
        conn.execute("set local enable_indexscan = off")  # as the audit does: a load lies together
        measured = measure_loads(conn, target, keys)
    found = []
    for record in records:
        now = measured[record.partition_date, record.load_id]
        if now.n_rows != record.n_rows:
            found.append(_damage(target, record, f"{now.n_rows} of {record.n_rows} rows are there"))
        elif now.content_hash != record.content_hash:
            found.append(_damage(target, record, f"its {now.n_rows} rows hold other values"))
    return found


def find_damage_cheaply(
    conn: Connection, target: Target, records: Iterable[LoadRecord]
) -> list[Damage]:
    """Return the published loads whose rows differ, as far as a reader can afford to look.

    Rows are counted up to ``MAX_COUNTED_ROWS`` and hashed up to ``MAX_HASHED_ROWS``. A record that
    was hashed in another way (an older server, a table with fewer columns) is only counted.
    """
    known = [record for record in records if record.n_rows is not None]
    n_rows = sum(record.n_rows or 0 for record in known)
    if not known or n_rows > MAX_COUNTED_ROWS:
        return []
    basis = hash_basis(conn, target) if n_rows <= MAX_HASHED_ROWS else ""
    hashed = [record for record in known if record.basis == basis]
    counted = [record for record in known if record.basis != basis]
    return find_damage(conn, target, hashed) + _find_other_counts(conn, target, counted)


def _find_other_counts(
    conn: Connection, target: Target, records: Sequence[LoadRecord]
) -> list[Damage]:
    if not records:
        return []
    counts = count_loads(
        conn, target, {(record.partition_date, record.load_id) for record in records}
    )
    found = []
    for record in records:
        n_rows = counts[record.partition_date, record.load_id]
        if n_rows != record.n_rows:
            found.append(_damage(target, record, f"{n_rows} of {record.n_rows} rows are there"))
    return found


def _damage(target: Target, record: LoadRecord, what: str) -> Damage:
    return Damage(target.dataset, record.partition_date, record.load_id, what)


def refuse_damaged(conn: Connection, target: Target, records: Iterable[LoadRecord]) -> None:
    """Refuse to read published rows that are not what was published.

    Raises:
        DamagedInputError: Rows vanished, changed or doubled; nothing was made of them.
    """
    if damages := find_damage_cheaply(conn, target, records):
        first = damages[0]
        raise DamagedInputError(
            f"Published rows of {first.dataset} are not what was published, on {len(damages)} day(s).",
            expected=f"the rows of load {first.load_id} on {first.partition_date}, as the ledger has them",
            got=first.what,
            todo=f"Publish {first.dataset} of these days again, then rerun: docs/runbooks/NS-WRITE-007.md has the commands.",
        )


def refuse_vanished(
    conn: Connection, write: PartitionWrite, published: Sequence[PublishedLoad]
) -> None:
    """Count what readers see of a write that was published a moment ago.

    Raises:
        VanishedRowsError: It is another number of rows than the write's audit counted.
    """
    for target in write.targets:
        mine = [
            load
            for load in published
            if load.dataset == target.dataset and not _is_of_another(target, load, write)
        ]
        counts = count_loads(conn, target, {(load.partition_date, load.load_id) for load in mine})
        for load in mine:
            n_rows = counts[load.partition_date, load.load_id]
            if n_rows != load.n_rows:
                raise VanishedRowsError(
                    f"Readers do not see what was published of {load.dataset} of {load.partition_date}.",
                    expected=f"{load.n_rows} rows of load {load.load_id}",
                    got=f"{n_rows} rows",
                    todo="Rerun the task: it publishes the rows again. Then find who deletes or copies rows by hand.",
                )


def _is_of_another(target: Target, load: PublishedLoad, write: PartitionWrite) -> bool:
    """Raw data: a version that came late publishes behind a newer one, whose rows are another write's."""
    return target.is_versioned and load.load_id != write.load_id


def void_loads(
    conn: Connection, dataset: str, day: dt.date, reason: str, run: RunContext
) -> list[int]:
    """Record that a partition's earlier loads do not prove any more what their inputs give; return them.

    Their rows and the pointer stay. The next rerun may publish other content under the same inputs.

    Raises:
        LoadStateError: Nothing was ever published of the partition.
    """
    rows = conn.execute(
        """
        insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows, reason)
        select dataset, partition_date, load_id, 'voided', token, %s, %s, content_hash, n_rows, %s from ops.loads
        where dataset = %s and partition_date = %s and state in ('published', 'duplicate') order by load_id
        returning load_id
        """,
        [run.run_id, run.actor, reason, dataset, day],
    ).fetchall()
    if not rows:
        raise LoadStateError(
            f"Nothing was ever published of {dataset} of {day}.",
            expected="a dataset of the ledger, such as predictions/flight_delayed, and a day that it has",
            todo='Look: nightshift psql -c "select distinct dataset from ops.published"',
        )
    return [load_id for (load_id,) in rows]
