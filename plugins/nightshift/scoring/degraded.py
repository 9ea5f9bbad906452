"""Find partitions that a lower fallback step published although the champion can score them now.

A store that is away for minutes makes a scoring fall back, and the partition is published on time.
That is right at that moment and wrong an hour later, so the partition is checked again until the
model's deadline. Source: docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.scoring.deadline_fallback import scoring_in_progress
from nightshift.scoring.plan import is_downgrade
from nightshift.scoring.prediction_tables import model_query
from nightshift.scoring.version_choice import VersionChooser
from nightshift.warehouse.damage import published_records

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.scoring.plan import ScoreSource, VersionChoice
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FINAL_STEPS: tuple[ScoreSource, ...] = ("champion", "named_version", "canary")
"""Steps that are never improved: the best one, the one that a person requested, and the canary
alongside the best one.
"""
LATE_WINDOW = dt.timedelta(hours=3)
"""How long a partition is checked that was published near or after its deadline.

Such are backfills, and days that upstream delivered late.
"""
HORIZON = dt.timedelta(days=7)
"""How long after its publication a partition is looked at."""


class DegradedPartitionError(NightshiftError):
    """A partition is published by a lower fallback step than the champion."""

    code = "NS-SCORE-007"


@dataclass(frozen=True)
class DegradedPartition:
    """A published partition whose scores are not the champion's.

    Attributes:
        model: Name of the spec.
        partition: The partition.
        source: The best step among its rows.
        reason: Why no better one scored, as its rows report.
        published_at: When readers began to see it, UTC.
        by_airflow: Whether a DAG run published it, and not a person's command.
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

    def describe(self) -> DegradedPartitionError:
        """Return the message for a person."""
        return DegradedPartitionError(
            f"{self.model} of {self.partition} is published by {self.source}.",
            expected="the champion",
            got=self.reason,
            todo=f"When the cause is gone: `nightshift score {self.model} {self.partition}`,"
            f" or clear `score__{self.model}` of the day.",
        )


def degraded_partitions(conn: Connection, spec: ModelSpec) -> list[DegradedPartition]:
    """Return the partitions of the last days that no champion has scored, the oldest first."""
    table = model_query(spec, "{predictions}").as_string()
    # A model that has never scored has no table.
    if conn.execute("select to_regclass(%s)", [table]).fetchone() == (None,):
        return []
    query = model_query(spec, _DEGRADED)
    values = {
        "dataset": spec.predictions_dataset,
        "horizon": HORIZON,
        "final_steps": list(FINAL_STEPS),
    }
    best: dict[Partition, DegradedPartition] = {}
    rows = conn.execute(query, values)
    for day, published_at, by_airflow, source, reason in rows:
        partition = Partition(day)
        # Rows of one partition may come from two steps: last scores, and the rule.
        if partition not in best or is_downgrade(best[partition].source, source):
            best[partition] = DegradedPartition(
                spec.name, partition, source, reason or "", published_at, by_airflow
            )
    return list(best.values())


# All rows of a partition come from steps with a model, or all from steps without: its first row
# tells whether it is degraded, and only the rows of degraded ones are counted.
_DEGRADED = """
with recent as (
    select p.partition_date, p.load_id, p.published_at, l.actor = 'airflow' as by_airflow
    from ops.published p
    join ops.loads l using (dataset, partition_date, load_id)
    where p.dataset = %(dataset)s
        and p.published_at > clock_timestamp() - %(horizon)s::interval
), degraded as (
    select recent.*
    from recent
    cross join lateral (
        select score_source from {predictions} t
        where (t.partition_date, t.load_id) = (recent.partition_date, recent.load_id) limit 1
    ) first_row
    where first_row.score_source <> all(%(final_steps)s)
)
select partition_date, published_at, by_airflow, t.score_source, min(t.score_source_reason)
from degraded join {predictions} t using (partition_date, load_id)
group by 1, 2, 3, 4
order by partition_date
"""


def better_choice(
    settings: Settings, spec: ModelSpec, conn: Connection, degraded: DegradedPartition
) -> VersionChoice | None:
    """Try the models on a degraded partition; return the choice if it improves the partition.

    Nothing is written. None while a scoring of the partition is in progress, without features, and
    while the cause lasts.
    """
    if scoring_in_progress(conn, spec, degraded.partition):
        return None
    partitions = PartitionRange.single(degraded.partition)
    if not published_records(conn, spec.features_dataset, partitions.days):
        return None
    (choice,) = VersionChooser(settings, spec, conn).choose_all(partitions)
    is_better = choice.version is not None and is_downgrade(degraded.source, choice.source)
    return choice if is_better else None
