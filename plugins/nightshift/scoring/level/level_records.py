"""The record of each level, ``ops.score_levels``: for people, and for reruns of a partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.scoring.level.night_level import NightLevel

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord


@dataclass(frozen=True)
class LevelSubject:
    """What a level belongs to: equal subjects have equal levels once one is published.

    Attributes:
        dataset: Predictions or shadow scores.
        features: The feature load that is scored.
        model_digest: The version's identity.
        spec_digest: The spec's.
    """

    dataset: str
    features: LoadRecord
    model_digest: str
    spec_digest: str

    @property
    def day(self) -> dt.date:
        """Return the scored partition."""
        return self.features.partition_date


@dataclass(frozen=True)
class LevelRecord:
    """The level of a subject, as it is recorded.

    Attributes:
        subject: What it belongs to.
        version: The version.
        level: The level.
        seconds: What the estimate took.
    """

    subject: LevelSubject
    version: int
    level: NightLevel
    seconds: float = 0.0


def has_records(conn: Connection) -> bool:
    """Return whether there is a record at all: not before the warehouse was migrated."""
    return conn.execute("select to_regclass('ops.score_levels')").fetchone() != (None,)


def published_level(conn: Connection, subject: LevelSubject) -> NightLevel | None:
    """Return the level with which a subject was published before; None if it never was.

    A rerun takes it, also where it was 0 for a reason: the same inputs keep the same content. A
    load that was declared void (``nightshift void``) keeps nothing.
    """
    row = conn.execute(
        """
        select v.shift, v.estimate, v.n_nights, v.n_rows, v.first_night, v.last_night, v.evidence,
            v.reason
        from ops.score_levels v
        join ops.loads l using (dataset, partition_date, load_id)
        where v.dataset = %s and v.partition_date = %s and v.model_digest = %s
            and v.features_hash = %s and v.spec_digest = %s and l.state = 'published'
            and not exists (
                select from ops.ledger g
                where (g.dataset, g.partition_date, g.load_id)
                        = (l.dataset, l.partition_date, l.load_id)
                    and g.event = 'voided'
            )
        order by v.load_id desc limit 1
        """,
        [
            subject.dataset,
            subject.day,
            subject.model_digest,
            subject.features.content_hash,
            subject.spec_digest,
        ],
    ).fetchone()
    return NightLevel(*row) if row else None


def record_levels(
    conn: Connection, load_id: int, records: Iterable[LevelRecord], run: RunContext
) -> None:
    """Record the levels of a begun load, before its first row is staged; idempotent."""
    rows = []
    for record in records:
        subject, level = record.subject, record.level
        row = {
            "dataset": subject.dataset,
            "day": subject.day,
            "load_id": load_id,
            "version": record.version,
            **vars(level),
            "model_digest": subject.model_digest,
            "features_hash": subject.features.content_hash,
            "spec_digest": subject.spec_digest,
            "run_id": run.run_id,
            "seconds": record.seconds,
        }
        rows.append(row)
    if has_records(conn):
        with conn.cursor() as cursor:
            cursor.executemany(_RECORD, rows)


_RECORD = """
insert into ops.score_levels (
    dataset, partition_date, load_id, model_version, shift, estimate, n_nights, n_rows,
    first_night, last_night, reason, evidence, model_digest, features_hash, spec_digest, run_id,
    seconds
)
values (
    %(dataset)s, %(day)s, %(load_id)s, %(version)s, %(shift)s, %(estimate)s, %(n_nights)s,
    %(n_rows)s, %(first_night)s, %(last_night)s, %(reason)s, %(evidence)s, %(model_digest)s,
    %(features_hash)s, %(spec_digest)s, %(run_id)s, %(seconds)s
)
on conflict (dataset, partition_date, load_id, model_version) do nothing
"""


def shifts_of(
    conn: Connection, spec: ModelSpec, load_ids: Iterable[int]
) -> dict[tuple[int, dt.date, int], float]:
    """Return what was added to the predictions of some loads, by load, partition and version.

    Loads of before there were levels have none, and rows without a model neither.
    """
    if not has_records(conn):
        return {}
    rows = conn.execute(
        """
        select load_id, partition_date, model_version, shift from ops.score_levels
        where dataset = %s and load_id = any(%s)
        """,
        [spec.predictions_dataset, sorted(set(load_ids))],
    )
    return {(load_id, day, version): shift for load_id, day, version, shift in rows}


def published_shift(conn: Connection, spec: ModelSpec, partition: Partition, version: int) -> float:
    """Return what was added to a version's predictions of a partition that readers see."""
    row = None
    if has_records(conn):
        row = conn.execute(
            """
            select v.shift from ops.score_levels v
            join ops.published p using (dataset, partition_date, load_id)
            where v.dataset = %s and v.partition_date = %s and v.model_version = %s
            """,
            [spec.predictions_dataset, partition.day, version],
        ).fetchone()
    return float(row[0]) if row else 0.0
