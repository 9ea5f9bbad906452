"""Compare published rows with the record of their load: find lost, changed and doubled rows.

A load's record (``n_rows`` and ``content_hash`` of ``ops.loads``) states what was published. The
table may not hold that any more: a wrong DELETE or a partial restore leaves the record as it was.
Everything that relies on published rows checks them here first.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.errors import LoadStateError, NightshiftError
from nightshift.warehouse.content_hash import (
    LoadKey,
    LoadMeasurement,
    count_loads,
    hash_basis,
    measure_loads,
)
from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite, PublishedLoad

logger = logging.getLogger(__name__)

# A reader counts, and hashes, up to so many rows of what it is about to read: that takes seconds,
# also on a busy machine. Source: docs/adr/0037-damaged-rows.md.
MAX_COUNTED_ROWS = 5_000_000
MAX_HASHED_ROWS = 500_000


class VanishedRowsError(NightshiftError):
    """Readers do not see the rows that a write has published."""

    code = "NS-WRITE-006"
    is_retryable = True


class DamagedInputError(NightshiftError):
    """Published rows that a stage reads are not what was published."""

    code = "NS-WRITE-007"


@dataclass(frozen=True)
class LoadRecord:
    """Record of one partition of a published load in the ledger.

    Attributes:
        basis: ``hash_basis`` when ``content_hash`` was made; None where that was not recorded.
    """

    partition_date: dt.date
    load_id: int
    n_rows: int | None
    content_hash: str
    basis: str | None = None

    @property
    def key(self) -> LoadKey:
        """Return the day and the load."""
        return self.partition_date, self.load_id


@dataclass(frozen=True)
class Damage:
    """One partition of a load whose rows differ from its record.

    Attributes:
        what: What differs, in words.
        n_rows: How many rows are missing, or too many; 0 where only values differ.
    """

    dataset: str
    partition_date: dt.date
    load_id: int
    what: str
    n_rows: int = 0


def published_records(conn: Connection, dataset: str, days: Sequence[dt.date]) -> list[LoadRecord]:
    """Return the records of the loads that readers see, by day."""
    # The record is what the rows are compared with, so it is read without them.
    rows = conn.execute(
        """
        select l.partition_date, l.load_id, l.n_rows, l.content_hash, l.detail ->> 'hash_basis'
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = any(%s)
        order by p.partition_date
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
        select partition_date, load_id, n_rows, content_hash, detail ->> 'hash_basis'
        from ops.loads
        where dataset = %s and partition_date between %s and %s
            and state = 'published' and collected_at is null
        order by partition_date, load_id
        """,
        [dataset, first, last],
    )
    return [LoadRecord(*row) for row in rows]


def refuse_damaged(conn: Connection, target: Target, records: Iterable[LoadRecord]) -> None:
    """Refuse to read published rows that are not what was published.

    Raises:
        DamagedInputError: Rows vanished, changed or doubled; nothing was made of them.
    """
    damages = find_damage_cheaply(conn, target, records)
    if damages:
        raise describe_damages(damages)


def describe_damages(damages: Sequence[Damage]) -> DamagedInputError:
    """Return the message for a person about damages of one dataset; at least one."""
    first = damages[0]
    return DamagedInputError(
        f"Published rows of {first.dataset} are not what was published, on {len(damages)} day(s).",
        expected=f"the rows of load {first.load_id} on {first.partition_date},"
        " as recorded in the ledger",
        got=first.what,
        todo=f"Publish {first.dataset} of these days again, then rerun:"
        " docs/runbooks/NS-WRITE-007.md has the commands.",
    )


def recent_records(conn: Connection, within: dt.timedelta) -> dict[str, list[LoadRecord]]:
    """Return the records of recent publications that readers see, by dataset and day."""
    records: dict[str, list[LoadRecord]] = defaultdict(list)
    for dataset, *values in conn.execute(_RECENT_LOADS, [within]):
        records[dataset].append(LoadRecord(*values))
    return records


def count_damage(conn: Connection, target: Target, records: Sequence[LoadRecord]) -> list[Damage]:
    """Count the rows of published loads of one dataset, and return those that differ."""
    counts = count_loads(conn, target, [record.key for record in records])
    compared = [_wrong_count(target, record, counts[record.key]) for record in records]
    return [damage for damage in compared if damage]


_RECENT_LOADS = """
select p.dataset, l.partition_date, l.load_id, l.n_rows, l.content_hash
from ops.published p join ops.loads l using (dataset, partition_date, load_id)
where p.published_at > clock_timestamp() - %s::interval and l.n_rows is not null
order by p.dataset, l.partition_date
"""


def find_damage_cheaply(
    conn: Connection, target: Target, records: Iterable[LoadRecord]
) -> list[Damage]:
    """Return the published loads whose rows differ, within the limits of what a reader can afford.

    Rows are counted up to ``MAX_COUNTED_ROWS`` and hashed up to ``MAX_HASHED_ROWS``. A record that
    was hashed in another way (an older server, a table with fewer columns) is only counted.
    """
    known = [record for record in records if record.n_rows is not None]
    n_rows = sum(record.n_rows or 0 for record in known)
    if not known or n_rows > MAX_COUNTED_ROWS:
        return []
    # No record has an empty basis: beyond the limit all of them are only counted.
    basis = hash_basis(conn, target) if n_rows <= MAX_HASHED_ROWS else ""
    hashed = [record for record in known if record.basis == basis]
    counted = [record for record in known if record.basis != basis]
    damages = find_damage(conn, target, hashed)
    counts = count_loads(conn, target, [record.key for record in counted])
    for record in counted:
        if damage := _wrong_count(target, record, counts[record.key]):
            damages.append(damage)
    return damages


def find_damage(conn: Connection, target: Target, records: Sequence[LoadRecord]) -> list[Damage]:
    """Count and hash the rows of published loads again, in one scan, and return those that differ.

    The caller knows that the hashes were made as they are made now.
    """
    if not records:
        return []
    with conn.transaction():
        # As in the audit: a load is contiguous in its table, and a scan is faster than the index.
        conn.execute("set local enable_indexscan = off")
        measured = measure_loads(conn, target, [record.key for record in records])
    compared = [_difference(target, record, measured[record.key]) for record in records]
    return [damage for damage in compared if damage]


def _difference(target: Target, record: LoadRecord, now: LoadMeasurement) -> Damage | None:
    if damage := _wrong_count(target, record, now.n_rows):
        return damage
    if now.content_hash != record.content_hash:
        what = f"its {now.n_rows} rows hold other values"
        return Damage(target.dataset, record.partition_date, record.load_id, what)
    return None


def _wrong_count(target: Target, record: LoadRecord, n_rows: int) -> Damage | None:
    if n_rows == record.n_rows:
        return None
    what = f"{n_rows} of {record.n_rows} rows are there"
    difference = abs(n_rows - (record.n_rows or 0))
    return Damage(target.dataset, record.partition_date, record.load_id, what, difference)


def refuse_vanished(
    conn: Connection, write: PartitionWrite, published: Sequence[PublishedLoad]
) -> None:
    """Count what readers see of a write that was published a moment ago.

    Raises:
        VanishedRowsError: It is another number of rows than the write's audit counted.
    """
    for target in write.targets:
        loads = [load for load in published if load.dataset == target.dataset]
        if target.is_versioned:
            # A version that came late publishes without becoming visible: the pointer stays on a
            # newer one, whose rows another write has audited.
            loads = [load for load in loads if load.load_id == write.load_id]
        keys = [(load.partition_date, load.load_id) for load in loads]
        counts = count_loads(conn, target, keys)
        for load, key in zip(loads, keys, strict=True):
            n_rows = counts[key]
            if n_rows != load.n_rows:
                raise VanishedRowsError(
                    "Readers do not see what was published of"
                    f" {load.dataset} of {load.partition_date}.",
                    expected=f"{load.n_rows} rows of load {load.load_id}",
                    got=f"{n_rows} rows",
                    todo="Rerun the task: it publishes the rows again. Then find who deletes or"
                    " copies rows by hand.",
                )


@dataclass(frozen=True)
class PublishedRows:
    """State of the published rows that a write is compared with.

    Attributes:
        intact: By dataset, the partitions of loads whose rows are what was published.
        damages: The partitions of loads whose rows are not.
        repairs: By dataset and day, why the write repairs a partition.
    """

    intact: dict[str, list[LoadKey]] = field(default_factory=lambda: defaultdict(list))
    damages: list[Damage] = field(default_factory=list)
    repairs: dict[str, dict[dt.date, str]] = field(default_factory=lambda: defaultdict(dict))


def check_published_rows(conn: Connection, write: PartitionWrite) -> PublishedRows:
    """Hash the published rows again that this write may duplicate or contradict.

    An ordinary partition has no such rows, so nothing is scanned; a rerun costs one more scan of
    its partitions.
    """
    published = PublishedRows()
    for target in write.targets:
        parameters = {
            "dataset": target.dataset,
            "load_id": write.load_id,
            "is_versioned": target.is_versioned,
        }
        records = [LoadRecord(*row) for row in conn.execute(_COMPARED_LOADS, parameters)]
        damages = find_damage(conn, target, records)
        published.damages.extend(damages)
        damaged = {(damage.partition_date, damage.load_id) for damage in damages}
        keys = [record.key for record in records]
        published.intact[target.dataset] = [key for key in keys if key not in damaged]

        repairs = published.repairs[target.dataset]
        for (day,) in conn.execute(_LOST_POINTERS, parameters):
            repairs[day] = "repairs a pointer that was lost"
        for damage in damages:
            day, reason = damage.partition_date, f"repairs load {damage.load_id}: {damage.what}"
            repairs[day] = reason
            logger.warning("%s of %s is published again, it %s", target.dataset, day, reason)
    return published


# Of raw data every version with the same content counts, since it may make this one a duplicate,
# and so does every reading of this delivery.
_COMPARED_LOADS = """
select l.partition_date, old.load_id, old.n_rows, old.content_hash
from ops.loads l
join ops.loads old using (dataset, partition_date)
left join ops.published p using (dataset, partition_date)
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
    and old.load_id <> l.load_id and old.state = 'published' and old.collected_at is null
    and (
        (old.content_hash = l.content_hash and (%(is_versioned)s or old.load_id = p.load_id))
        or (%(is_versioned)s and old.known_at = l.known_at)
        or (old.content_hash <> l.content_hash and old.inputs_digest = l.inputs_digest)
    )
order by l.partition_date, old.load_id
"""
_LOST_POINTERS = """
select l.partition_date
from ops.loads l
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
    and not exists (
        select from ops.published p
        where (p.dataset, p.partition_date) = (l.dataset, l.partition_date)
    )
    and exists (
        select from ops.loads old
        where (old.dataset, old.partition_date) = (l.dataset, l.partition_date)
            and old.state = 'published'
    )
"""


def void_loads(
    conn: Connection, dataset: str, day: dt.date, reason: str, run: RunContext
) -> list[int]:
    """Record that a partition's earlier loads do not prove any more what their inputs give.

    Their rows and the pointer stay. The next rerun may publish other content under the same inputs.

    Returns:
        The voided loads.

    Raises:
        LoadStateError: Nothing was ever published of the partition.
    """
    rows = conn.execute(
        """
        insert into ops.ledger (
            dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows,
            reason
        )
        select
            dataset, partition_date, load_id, 'voided', token, %s, %s, content_hash, n_rows, %s
        from ops.loads
        where dataset = %s and partition_date = %s and state in ('published', 'duplicate')
        order by load_id
        returning load_id
        """,
        [run.run_id, run.actor, reason, dataset, day],
    ).fetchall()
    if not rows:
        raise LoadStateError(
            f"Nothing was ever published of {dataset} of {day}.",
            expected="a dataset of the ledger, such as predictions/churn, and one of its days",
            todo='List them: nightshift psql -c "select distinct dataset from ops.published"',
        )
    return [load_id for (load_id,) in rows]
