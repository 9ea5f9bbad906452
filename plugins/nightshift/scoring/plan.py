"""What one scoring run will do, fixed before its first shard starts and carried between tasks as plain JSON."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.yaml_document import Frozen
from nightshift.warehouse.partition_write import PartitionWrite, Target


class DayPlan(Frozen):
    """Who scores one partition, on which load of its features.

    Attributes:
        partition_date: The partition.
        feature_load_id: The load of the feature view; a newer one that is published meanwhile is not read.
        model_version: The champion's version; None under the fallback rule.
        score_source: ``champion`` or ``fallback_rule``.
        score_source_reason: Why the fallback rule; None for a champion.
    """

    partition_date: dt.date
    feature_load_id: int
    model_version: int | None = None
    score_source: Literal["champion", "fallback_rule"]
    score_source_reason: str | None = None


class ScorePlan(Frozen):
    """The plan of a range of partitions; ``model_dump(mode="json")`` and ``model_validate`` carry it.

    Attributes:
        load_id: The write's load.
        n_shards: Shards are 0 to ``n_shards - 1``, split by a hash of the entity's key.
        days: One per partition, in order.
    """

    load_id: int
    n_shards: int
    days: tuple[DayPlan, ...]

    @property
    def partitions(self) -> PartitionRange:
        """Return the range."""
        return PartitionRange(Partition(self.days[0].partition_date), Partition(self.days[-1].partition_date))

    @property
    def days_without_champion(self) -> tuple[DayPlan, ...]:
        """Return the days that the fallback rule scores."""
        return tuple(day for day in self.days if day.model_version is None)

    @property
    def days_by_version(self) -> dict[int, tuple[DayPlan, ...]]:
        """Return the days of each champion."""
        versions = sorted({day.model_version for day in self.days if day.model_version is not None})
        return {version: tuple(day for day in self.days if day.model_version == version) for version in versions}

    @property
    def shards(self) -> list[int]:
        """Return all shards."""
        return list(range(self.n_shards))

    def write(self, target: Target) -> PartitionWrite:
        """Return the write that the plan began."""
        return PartitionWrite(self.load_id, (target,), self.partitions)
