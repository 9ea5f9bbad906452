"""The plan of one scoring run: which step of the fallback chain scores each partition.

It is fixed before the first shard starts, and tasks pass it on as plain JSON.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from nightshift.contracts.partitions import PartitionRange, consecutive_ranges
from nightshift.contracts.yaml_document import Frozen
from nightshift.models.shapley.shap_values import METHOD
from nightshift.registry.canary.membership import hash_bound, in_canary_condition
from nightshift.scoring.interval.night_interval import NightInterval, interval_columns
from nightshift.scoring.prediction_tables import predictions_target
from nightshift.warehouse.partition_write import PartitionWrite

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.registry.canary.record import Canary
    from nightshift.scoring.level.level_records import LevelRecord
    from nightshift.warehouse.damage import LoadRecord

ScoreSource = Literal[
    "champion", "named_version", "previous_champion", "carried_over", "fallback_rule", "canary"
]
"""A step of the fallback chain, or a canary, as the column ``score_source`` names it.

``named_version`` is a version that a person requested; only the champion ranks above it.
``carried_over`` is the last score of the same entity, aged. ``canary`` is a challenger that scores
a share of the entities while the champion scores the rest.
Source: docs/adr/0015-always-on-time.md, docs/adr/0055-canary.md.
"""
FALLBACK_CHAIN: tuple[ScoreSource, ...] = get_args(ScoreSource)[:-1]
"""All steps, the best first; a canary is none of them."""
MODEL_STEPS: tuple[ScoreSource, ...] = (
    "champion",
    "named_version",
    "previous_champion",
    "canary",
)
"""Whoever scores with a model."""


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
class CanaryChoice:
    """The canary of a partition.

    Attributes:
        canary: Version, champion, share and first partition.
        digest: The version's identity; empty where it cannot score.
        level: The level of its scores; None where it cannot score.
        problem: Why the champion scores its share; None where it does not.
        is_pinned: Whether it is the canary of the published predictions, which a rerun keeps.
    """

    canary: Canary
    digest: str = ""
    level: LevelRecord | None = None
    problem: str | None = None
    is_pinned: bool = False

    @property
    def input(self) -> str:
        """Return what determines its rows; empty where it has none."""
        if self.problem is not None:
            return ""
        moved = ""
        if self.level:
            interval = self.level.interval.interval
            moved = f"{self.level.level.input} {interval.input if interval else ''}"
        return f"{self.digest} {self.canary.share!r} {self.canary.reason} {moved}"

    def plan_for(self, features: LoadRecord) -> CanaryPlan:
        """Return its plan of the partition of a feature load."""
        return CanaryPlan(
            version=self.canary.version,
            champion=self.canary.champion_version,
            share=self.canary.share,
            since=self.canary.since,
            reason=self.canary.reason,
            features=features.content_hash,
            level_shift=self.level.level.shift if self.level else 0.0,
            interval=self.level.interval.interval if self.level else None,
            problem=self.problem,
        )


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
        is_published: Whether the version is the champion of the published predictions.
        canary: The challenger that scores a share of the entities; None without one.
    """

    features: LoadRecord
    version: int | None
    digest: str
    source: ScoreSource
    reason: str | None
    level: LevelRecord | None = None
    is_published: bool = False
    canary: CanaryChoice | None = None

    @property
    def levels(self) -> list[LevelRecord]:
        """Return the levels of all versions that score it."""
        of_canary = self.canary.level if self.canary else None
        return [level for level in (self.level, of_canary) if level]

    @property
    def day(self) -> dt.date:
        """Return the partition."""
        return self.features.partition_date

    @property
    def level_days(self) -> int:
        """Return how many days before the partition level and interval look back; 0 without."""
        firsts = []
        for record in self.levels:
            interval = record.interval.interval
            firsts += [record.level.first_night, interval.read_from if interval else None]
        return max(((self.day - first).days for first in firsts if first), default=0)


def inputs_of(spec: ModelSpec, choices: Iterable[VersionChoice]) -> dict[str, str]:
    """Return digests of everything that determines the predictions, except past scores."""
    features, models, levels, intervals, canaries = [], [], [], [], []
    for choice in choices:
        day = str(choice.day)
        if choice.canary and choice.canary.input:
            canaries.append([day, choice.canary.input])
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
    # Likewise: a canary that cannot score leaves the champion's predictions as they are.
    if canaries:
        inputs["canaries"] = digest_rows(canaries)
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


class CanaryPlan(Frozen):
    """The canary of one partition.

    Attributes:
        version: The version.
        champion: The version alongside which it scores.
        share: Its share of the entities.
        since: First partition that it got a share of.
        reason: What its rows say.
        features: Content hash of the features.
        level_shift: The level of its scores.
        interval: How far outcomes lie from them; None without one.
        problem: Why the champion scores every row; None where the canary scores its share.
    """

    version: int
    champion: int
    share: float
    since: dt.date
    reason: str
    features: str
    level_shift: float = 0.0
    interval: NightInterval | None = None
    problem: str | None = None

    @property
    def detail(self) -> dict[str, str | int | float | None]:
        """Return what the load records of it; ``ops.canary_nights`` reads it."""
        return {
            "version": self.version,
            "champion": self.champion,
            "share": self.share,
            "since": str(self.since),
            "features": self.features,
            "problem": self.problem,
        }


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
        canary: The challenger that was planned for a share of the entities; None without one.
    """

    partition_date: dt.date
    feature_load_id: int
    model_version: int | None = None
    score_source: ScoreSource
    score_source_reason: str | None = None
    past: tuple[PastScores, ...] = ()
    level_shift: float = 0.0
    interval: NightInterval | None = None
    canary: CanaryPlan | None = None

    @property
    def scored_canary(self) -> CanaryPlan | None:
        """Return the canary if it scores its share."""
        return self.canary if self.canary and self.canary.problem is None else None


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
    def canary_versions(self) -> list[int]:
        """Return the versions that score a share of a day, in order."""
        canaries = [day.scored_canary for day in self.days]
        return sorted({canary.version for canary in canaries if canary})

    @property
    def shards(self) -> list[int]:
        """Return the numbers of all shards."""
        return list(range(self.n_shards))

    @property
    def sources_detail(self) -> dict[str, dict[str, Any]]:
        """Return what the load records of its sources: step and canary of each partition.

        ``ops.model_partitions`` reads it: counting the rows by step would take a scan of them.
        """
        sources: dict[str, str] = {str(day.partition_date): day.score_source for day in self.days}
        detail: dict[str, dict[str, Any]] = {"score_sources": sources}
        if any(day.canary for day in self.days):
            canaries = {
                str(day.partition_date): day.canary.detail for day in self.days if day.canary
            }
            detail["canaries"] = canaries
        return detail

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


def version_of_row(spec: ModelSpec, plan: ScorePlan, rows: str) -> sql.Composable:
    """Return the SQL expression of the version that a row must have, by the plan.

    The database hashes the keys itself: a canary's rows are exactly those of its share.
    """
    from psycopg import sql

    version: sql.Composable = sql.SQL("version")
    key, day = sql.Identifier(rows, spec.entity.key), sql.Identifier(rows, "partition_date")
    case = sql.SQL("case when {day} = {of_day} and {is_in} then {canary} else {version} end")
    for planned in plan.days:
        if canary := planned.scored_canary:
            bound = sql.Literal(hash_bound(canary.share))
            version = case.format(
                day=day,
                of_day=sql.Literal(planned.partition_date),
                is_in=in_canary_condition(spec.name, bound, key),
                canary=sql.Literal(canary.version),
                version=version,
            )
    return version


def day_intervals(
    days: Sequence[DayPlan], rows: pa.RecordBatch, scored: pa.Table
) -> dict[str, pa.Array]:
    """Return the columns of the interval of each row's night."""
    intervals = [day.interval for day in days]
    return interval_columns(intervals, day_positions(days, rows).to_numpy(), scored)
