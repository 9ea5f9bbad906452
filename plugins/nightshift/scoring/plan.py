"""What one scoring run will do, fixed before its first shard starts and carried between tasks as plain JSON."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.yaml_document import Frozen
from nightshift.warehouse.partition_write import PartitionWrite, Target

ScoreSource = Literal[
    "champion", "named_version", "previous_champion", "carried_over", "fallback_rule"
]
"""The steps of the ladder, the best first. ``named_version`` is none: a person asked for it, and
only the champion is better.

Source: docs/adr/0015-always-on-time.md.
"""
LADDER: tuple[ScoreSource, ...] = (
    "champion",
    "named_version",
    "previous_champion",
    "carried_over",
    "fallback_rule",
)
MODEL_MADE: tuple[ScoreSource, ...] = LADDER[:3]


class PastScores(Frozen):
    """A published load of an earlier night whose scores may be carried over.

    Attributes:
        partition_date: Its partition.
        load_id: Its load; a newer one that is published meanwhile is not read.
    """

    partition_date: dt.date
    load_id: int


class DayPlan(Frozen):
    """Who scores one partition, on which load of its features.

    Attributes:
        partition_date: The partition.
        feature_load_id: The load of the feature view; a newer one that is published meanwhile is
            not read.
        model_version: The version that scores; None below the ladder's model steps.
        score_source: The step; ``carried_over`` leaves rows without an old score to the rule.
        score_source_reason: Why not a better step; None for a champion.
        past: Where old scores are taken from, the newest first.
    """

    partition_date: dt.date
    feature_load_id: int
    model_version: int | None = None
    score_source: ScoreSource
    score_source_reason: str | None = None
    past: tuple[PastScores, ...] = ()


class ScorePlan(Frozen):
    """The plan of a range of partitions; ``model_dump(mode="json")`` and ``model_validate`` carry it.

    Attributes:
        load_id: The write's load.
        n_shards: Shards are 0 to ``n_shards - 1``, split by a hash of the entity's key.
        days: One per partition, in order.
        broken: Versions that broke in this run although they were tried, and why; nobody asks them
            again.
    """

    load_id: int
    n_shards: int
    days: tuple[DayPlan, ...]
    broken: dict[int, str] = Field(default_factory=dict)

    @property
    def partitions(self) -> PartitionRange:
        """Return the range."""
        return PartitionRange(
            Partition(self.days[0].partition_date), Partition(self.days[-1].partition_date)
        )

    @property
    def days_without_model(self) -> tuple[DayPlan, ...]:
        """Return the days that no model scores: old scores and the fallback rule do."""
        return tuple(day for day in self.days if day.model_version is None)

    @property
    def days_by_version(self) -> dict[int, tuple[DayPlan, ...]]:
        """Return the days of each version."""
        versions = sorted({day.model_version for day in self.days if day.model_version is not None})
        return {
            version: tuple(day for day in self.days if day.model_version == version)
            for version in versions
        }

    @property
    def shards(self) -> list[int]:
        """Return all shards."""
        return list(range(self.n_shards))

    def write(self, target: Target) -> PartitionWrite:
        """Return the write that the plan began."""
        return PartitionWrite(self.load_id, (target,), self.partitions)
