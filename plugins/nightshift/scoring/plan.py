"""The plan of one scoring run: which step of the fallback chain scores each partition.

It is fixed before the first shard starts, and tasks pass it on as plain JSON.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field

from nightshift.contracts.partitions import PartitionRange, consecutive_ranges
from nightshift.contracts.yaml_document import Frozen
from nightshift.models.shapley.shap_values import METHOD
from nightshift.scoring.interval.night_interval import NightInterval, interval_columns
from nightshift.scoring.prediction_tables import predictions_target
from nightshift.warehouse.partition_write import PartitionWrite

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.scoring.level.level_records import LevelRecord
    from nightshift.warehouse.damage import LoadRecord

ScoreSource = Literal[
    "champion", "named_version", "previous_champion", "carried_over", "fallback_rule"
]
"""A step of the fallback chain, as the column ``score_source`` names it.

``named_version`` is a version that a person requested; only the champion ranks above it.
``carried_over`` is the last score of the same entity, aged.
Source: docs/adr/0015-always-on-time.md.
"""
FALLBACK_CHAIN: tuple[ScoreSource, ...] = get_args(ScoreSource)
"""All steps, the best first."""
MODEL_STEPS: tuple[ScoreSource, ...] = ("champion", "named_version", "previous_champion")


def is_downgrade(step: ScoreSource, from_step: ScoreSource) -> bool:
    """Return whether a step stands below another one in the fallback chain."""
    return FALLBACK_CHAIN.index(step) > FALLBACK_CHAIN.index(from_step)


@dataclass(frozen=True)
class PinnedVersion:
    """A version that a person requests by name, whichever is champion.

    Attributes:
        version: The version.
        actor: The person.
    """

    version: int
    actor: str


@dataclass(frozen=True)
class VersionChoice:
    """The version that scores a partition.

    Attributes:
        features: The load of the feature view that it scores.
        version: The version; None when no model can score.
        digest: The version's identity; empty without a version.
        source: The step of the fallback chain.
        reason: Why no better step scores; None for a champion.
        level: The level of the version's scores; None without a version, and before it is found.
    """

    features: LoadRecord
    version: int | None
    digest: str
    source: ScoreSource
    reason: str | None
    level: LevelRecord | None = None

    @property
    def day(self) -> dt.date:
        """Return the partition."""
        return self.features.partition_date

    @property
    def level_days(self) -> int:
        """Return how many days before the partition level and interval look back; 0 without."""
        if self.level is None:
            return 0
        interval = self.level.interval.interval
        firsts = [self.level.level.first_night, interval.read_from if interval else None]
        return max(((self.day - first).days for first in firsts if first), default=0)


def inputs_of(spec: ModelSpec, choices: Iterable[VersionChoice]) -> dict[str, str]:
    """Return digests of everything that determines the predictions, except past scores."""
    features, models, levels, intervals = [], [], [], []
    for choice in choices:
        day = str(choice.day)
        if choice.level and choice.level.level.input:
            levels.append([day, choice.level.level.input])
        if choice.level and choice.level.interval.interval:
            intervals.append([day, choice.level.interval.interval.input])
        features.append([day, choice.features.content_hash])
        models.append([day, f"{choice.source} {choice.digest} {choice.reason or ''}"])
    inputs = {
        "features": digest_rows(features),
        "models": digest_rows(models),
        "spec": spec.digest,
        # Another method of the reasons gives other content for the same model.
        "reasons": METHOD,
    }
    # Where nothing is added, the inputs are those of a model whose level is switched off.
    if levels:
        inputs["levels"] = digest_rows(levels)
    if intervals:
        inputs["intervals"] = digest_rows(intervals)
    return inputs


def digest_rows(rows: list[list[str]]) -> str:
    """Return the digest that a load's manifest records for rows of strings."""
    return sha256(json.dumps(rows).encode()).hexdigest()


class PastScores(Frozen):
    """A published load of an earlier partition whose scores serve as last scores.

    Attributes:
        partition_date: Its partition.
        load_id: Its load; a newer one that is published later is not read.
    """

    partition_date: dt.date
    load_id: int


class DayPlan(Frozen):
    """The plan of one partition: what scores it, and from which load of its features.

    Attributes:
        partition_date: The partition.
        feature_load_id: The load of the feature view; a newer one that is published later is not
            read.
        model_version: The version that scores; None for the steps without a model.
        score_source: The step; with ``carried_over``, rows without a last score get the rule's.
        score_source_reason: Why no better step scores; None for a champion.
        past: Where last scores are taken from, the newest first.
        level_shift: The level of the version's scores: what is added to log-odds, or values.
        interval: How far outcomes lie from them; None without one.
    """

    partition_date: dt.date
    feature_load_id: int
    model_version: int | None = None
    score_source: ScoreSource
    score_source_reason: str | None = None
    past: tuple[PastScores, ...] = ()
    level_shift: float = 0.0
    interval: NightInterval | None = None


class ScorePlan(Frozen):
    """The plan of a range of partitions; ``model_dump(mode="json")`` makes it JSON.

    Attributes:
        load_id: The load of the write.
        n_shards: Shards are 0 to ``n_shards - 1``, split by a hash of the entity's key.
        days: One plan per partition, in order.
        broken: Versions that failed in this run, with the reason; they are not tried again.
    """

    load_id: int
    n_shards: int
    days: tuple[DayPlan, ...]
    broken: dict[int, str] = Field(default_factory=dict)

    @property
    def partitions(self) -> PartitionRange:
        """Return the range."""
        (partitions,) = consecutive_ranges(day.partition_date for day in self.days)
        return partitions

    @property
    def days_with_model(self) -> tuple[DayPlan, ...]:
        """Return the days that a model scores."""
        return tuple(day for day in self.days if day.model_version is not None)

    @property
    def days_without_model(self) -> tuple[DayPlan, ...]:
        """Return the days that last scores and the fallback rule score."""
        return tuple(day for day in self.days if day.model_version is None)

    @property
    def days_by_version(self) -> dict[int, tuple[DayPlan, ...]]:
        """Return the days of each version, ordered by version."""
        by_version: dict[int, tuple[DayPlan, ...]] = {}
        for day in self.days:
            version = day.model_version
            if version is not None:
                by_version[version] = (*by_version.get(version, ()), day)
        return dict(sorted(by_version.items()))

    @property
    def shards(self) -> list[int]:
        """Return the numbers of all shards."""
        return list(range(self.n_shards))

    @property
    def sources_detail(self) -> dict[str, dict[str, str]]:
        """Return what the load records of its sources: the fallback step of each partition.

        ``ops.model_partitions`` reads it: counting the rows by step would take a scan of them.
        """
        sources: dict[str, str] = {str(day.partition_date): day.score_source for day in self.days}
        return {"score_sources": sources}

    def write(self, spec: ModelSpec) -> PartitionWrite:
        """Return the write that the plan began."""
        return PartitionWrite(self.load_id, (predictions_target(spec),), self.partitions)


def day_positions(days: Sequence[DayPlan], rows: pa.RecordBatch) -> pa.Array:
    """Return which of the days each row is of: a batch may hold rows of several days."""
    import pyarrow as pa
    import pyarrow.compute as pc

    planned_dates = pa.array([day.partition_date for day in days], pa.date32())
    return pc.index_in(rows.column("partition_date"), planned_dates)


def level_shifts(days: Sequence[DayPlan], rows: pa.RecordBatch) -> Vector:
    """Return the level of each row's night, shape (n,)."""
    import numpy as np

    shifts = np.array([day.level_shift for day in days], dtype=np.float64)
    of_rows: Vector = np.take(shifts, day_positions(days, rows).to_numpy())
    return of_rows


def day_intervals(
    days: Sequence[DayPlan], rows: pa.RecordBatch, scored: pa.Table
) -> dict[str, pa.Array]:
    """Return the columns of the interval of each row's night."""
    intervals = [day.interval for day in days]
    return interval_columns(intervals, day_positions(days, rows).to_numpy(), scored)
