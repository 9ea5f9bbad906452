"""Find nights that are published below the champion although the champion could score them by now.

A store that is away for minutes makes a scoring step down, and the night is published on time. That
step is right at that moment and wrong an hour later, so until the model's deadline somebody looks
again. Source: docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.scoring.champion import Champions
from nightshift.scoring.deadline_fallback import IN_PROGRESS_MINUTES
from nightshift.scoring.feature_rows import published_features
from nightshift.scoring.plan import LADDER

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.scoring.champion import Choice
    from nightshift.scoring.plan import ScoreSource
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

GOOD_ENOUGH: tuple[ScoreSource, ...] = ("champion", "named_version")
"""Steps that nobody improves by himself: the best one, and the one that a person asked for."""
LATE_WINDOW = dt.timedelta(hours=3)
"""A night that is published near or after its deadline (a backfill, a day that upstream
delivered late) is looked after so long.
"""
HORIZON = dt.timedelta(days=7)


class DegradedNightError(NightshiftError):
    """A night is published by a worse step than the champion."""

    code = "NS-SCORE-007"


@dataclass(frozen=True)
class DegradedNight:
    """A published partition whose scores are not the champion's.

    Attributes:
        model: Name of the spec.
        partition: The night.
        source: The best step among its rows.
        reason: Why not a better one, as its rows say.
        published_at: Since when readers see it, UTC.
        by_airflow: Whether a night in Airflow made it, and not a person's command.
    """

    model: str
    partition: Partition
    source: ScoreSource
    reason: str
    published_at: dt.datetime
    by_airflow: bool

    def is_looked_after(self, spec: ModelSpec, now: dt.datetime) -> bool:
        """Return whether there is still time for the champion."""
        return now < max(spec.deadline_of(self.partition), self.published_at + LATE_WINDOW)

    def describe(self) -> DegradedNightError:
        """Return what a person should read about it."""
        return DegradedNightError(
            f"{self.model} of {self.partition} is published by {self.source}.",
            expected="the champion",
            got=self.reason,
            todo=f"When the cause is gone: `nightshift score {self.model} {self.partition}`, or clear `score__{self.model}` of the day.",
        )


def degraded_nights(conn: Connection, spec: ModelSpec) -> list[DegradedNight]:
    """Return the nights of the last days that no champion has scored, the oldest first."""
    from psycopg import sql

    table = sql.Identifier("predictions", spec.name)
    if conn.execute("select to_regclass(%s)", [table.as_string()]).fetchone() == (None,):
        return []
    query = sql.SQL(_DEGRADED).format(table)
    values = {"dataset": spec.predictions_dataset, "horizon": HORIZON, "good": list(GOOD_ENOUGH)}
    found: dict[Partition, DegradedNight] = {}
    for day, published_at, by_airflow, source, reason in conn.execute(query, values):
        night = DegradedNight(
            spec.name, Partition(day), source, reason or "", published_at, by_airflow
        )
        best = found.get(night.partition)
        if best is None or LADDER.index(source) < LADDER.index(best.source):
            found[night.partition] = night
    return list(found.values())


_DEGRADED = """
select p.partition_date, p.published_at, l.actor = 'airflow', t.score_source, min(t.score_source_reason)
from ops.published p
join ops.loads l using (dataset, partition_date, load_id)
join {} t using (partition_date, load_id)
where p.dataset = %(dataset)s and p.published_at > clock_timestamp() - %(horizon)s::interval
group by p.partition_date, p.published_at, l.actor, t.score_source
having t.score_source <> all(%(good)s)
order by p.partition_date
"""


def better_choice(
    settings: Settings, spec: ModelSpec, conn: Connection, night: DegradedNight
) -> Choice | None:
    """Try the champion on a degraded night, and return it if it would score the night better than what is published.

    Nothing is written. None while somebody scores the night, without features, and while the cause
    lasts.
    """
    if _is_in_progress(conn, spec, night.partition) or not _has_features(
        conn, spec, night.partition
    ):
        return None
    (features,) = published_features(conn, spec, PartitionRange.single(night.partition))
    choice = Champions(settings, spec, conn).choose(night.partition, features)
    is_better = LADDER.index(choice.source) < LADDER.index(night.source)
    return choice if choice.version is not None and is_better else None


def _is_in_progress(conn: Connection, spec: ModelSpec, partition: Partition) -> bool:
    query = """
        select exists (
            select from ops.loads where dataset = %s and partition_date = %s and state in ('staged', 'audited')
            and started_at > clock_timestamp() - make_interval(mins => %s)
        )
    """
    values = [spec.predictions_dataset, partition.day, IN_PROGRESS_MINUTES]
    return conn.execute(query, values).fetchone() == (True,)


def _has_features(conn: Connection, spec: ModelSpec, partition: Partition) -> bool:
    query = "select exists (select from ops.published where dataset = %s and partition_date = %s)"
    return conn.execute(query, [spec.features_dataset, partition.day]).fetchone() == (True,)
