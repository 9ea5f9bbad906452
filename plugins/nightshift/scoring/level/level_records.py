"""The record of each level and interval, ``ops.score_levels``: for people, and for reruns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.scoring.interval.estimate import NO_INTERVAL, IntervalEstimate
from nightshift.scoring.interval.night_interval import COLUMNS, NightInterval
from nightshift.scoring.level.night_level import NightLevel
from nightshift.warehouse.relations.columns import table_columns

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
    """The level and the interval of a subject, as they are recorded.

    Attributes:
        subject: What they belong to.
        version: The version.
        level: The level.
        interval: The interval, or why there is none.
        seconds: What the estimate took.
    """

    subject: LevelSubject
    version: int
    level: NightLevel
    interval: IntervalEstimate = NO_INTERVAL
    seconds: float = 0.0


def has_records(conn: Connection) -> bool:
    """Return whether there is a record at all: not before the warehouse was migrated."""
    return conn.execute("select to_regclass('ops.score_levels')").fetchone() != (None,)


def has_interval_records(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether intervals have their place: not before the warehouse was migrated."""
    predictions = table_columns(conn, "predictions", spec.name)
    return _records_intervals(conn) and predictions.keys() >= set(COLUMNS)


def _records_intervals(conn: Connection) -> bool:
    return "interval" in table_columns(conn, "ops", "score_levels")


def published_answers(
    conn: Connection, subject: LevelSubject
) -> tuple[NightLevel, IntervalEstimate] | None:
    """Return level and interval with which a subject was published; None if it never was.

    A rerun takes them, also where there was none for a reason: the same inputs keep the same
    content. A load that was declared void (``nightshift void``) keeps nothing.
    """
    interval = "v.interval, v.interval_reason" if _records_intervals(conn) else "null, null"
    row = conn.execute(
        f"""
        select v.shift, v.estimate, v.n_nights, v.n_rows, v.first_night, v.last_night, v.evidence,
            v.reason, {interval}
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
        """,  # noqa: S608 - columns of our own
        [
            subject.dataset,
            subject.day,
            subject.model_digest,
            subject.features.content_hash,
            subject.spec_digest,
        ],
    ).fetchone()
    if row is None:
        return None
    *level, interval, reason = row
    return NightLevel(*level), IntervalEstimate(_interval(interval), reason)


def _interval(document: object) -> NightInterval | None:
    return None if document is None else NightInterval.model_validate(document)


def record_levels(
    conn: Connection, load_id: int, records: Iterable[LevelRecord], run: RunContext
) -> None:
    """Record levels and intervals of a begun load before its first row is staged; idempotent."""
    rows = []
    for record in records:
        subject, level = record.subject, record.level
        interval = record.interval.interval
        row: dict[str, object] = {
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
            "interval": None if interval is None else json.dumps(interval.model_dump(mode="json")),
            "interval_reason": record.interval.reason,
        }
        rows.append(row)
    if not has_records(conn):
        return
    has_place = _records_intervals(conn)
    columns = ", interval, interval_reason" if has_place else ""
    values = ", %(interval)s, %(interval_reason)s" if has_place else ""
    with conn.cursor() as cursor:
        cursor.executemany(_RECORD.format(columns=columns, values=values).encode(), rows)


_RECORD = """
insert into ops.score_levels (
    dataset, partition_date, load_id, model_version, shift, estimate, n_nights, n_rows,
    first_night, last_night, reason, evidence, model_digest, features_hash, spec_digest, run_id,
    seconds{columns}
)
values (
    %(dataset)s, %(day)s, %(load_id)s, %(version)s, %(shift)s, %(estimate)s, %(n_nights)s,
    %(n_rows)s, %(first_night)s, %(last_night)s, %(reason)s, %(evidence)s, %(model_digest)s,
    %(features_hash)s, %(spec_digest)s, %(run_id)s, %(seconds)s{values}
)
on conflict (dataset, partition_date, load_id, model_version) do nothing
"""


@dataclass(frozen=True)
class RecordedAnswers:
    """What the predictions of a load were made with, besides its version.

    Attributes:
        shift: What was added.
        interval: The interval; None without one.
    """

    shift: float = 0.0
    interval: NightInterval | None = None


def answers_of(
    conn: Connection, spec: ModelSpec, load_ids: Iterable[int]
) -> dict[tuple[int, dt.date, int], RecordedAnswers]:
    """Return level and interval of the predictions of some loads, by load, partition and version.

    Loads of before there were levels have none, and rows without a model neither.
    """
    if not has_records(conn):
        return {}
    interval = "interval" if _records_intervals(conn) else "null"
    rows = conn.execute(
        f"""
        select load_id, partition_date, model_version, shift, {interval} from ops.score_levels
        where dataset = %s and load_id = any(%s)
        """,  # noqa: S608 - columns of our own
        [spec.predictions_dataset, sorted(set(load_ids))],
    )
    return {
        (load_id, day, version): RecordedAnswers(shift, _interval(document))
        for load_id, day, version, shift, document in rows
    }


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
