"""Which versions score a partition in the shadow, and what a canary of the partition adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.registry.canary.record import canary_nights
from nightshift.registry.streams.members import CANARY_VERSION, CHAMPION_ROWS, shadow_members
from nightshift.registry.streams.paired_rows import has_shadow_scores
from nightshift.scoring.level.level_records import LevelRecord, LevelSubject, published_shift
from nightshift.scoring.level.night_level import NightLevel
from nightshift.scoring.shadow.shadow_tables import shadow_query

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.registry.canary.record import Canary
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

__all__ = ["CHAMPION_ROWS", "find_members", "level_beside_canary"]

PUBLISHED = "published with the predictions"
"""Evidence of a level that is not estimated but taken from the published predictions."""


def find_members(conn: Connection, spec: ModelSpec, partition: Partition) -> dict[str, int]:
    """Return versions by stream: those that are published for the partition, else the current.

    A canary adds its version, on all entities, and the champion, on the entities that it got: so
    every stream has pairs of all entities, whoever scored for the readers.
    """
    if has_shadow_scores(conn, spec):
        query = shadow_query(
            spec,
            """
            select distinct t.stream, t.model_version from {shadow} t {published}
            where t.partition_date = %s order by t.stream
            """,
        )
        # A rerun scores with the versions that scored, whatever was trained since.
        published: dict[str, int] = dict(conn.execute(query, [partition.day]).fetchall())
        if published:
            return published
    members = shadow_members(conn, spec, partition)
    # Without a challenger nothing is compared, and the canary has no champion any more.
    canary = _scored_canary(conn, spec, partition) if members else None
    if canary is None:
        return members
    # With nightly training the newest challenger is a later version by now.
    if canary.version not in members.values():
        members[CANARY_VERSION] = canary.version
    members[CHAMPION_ROWS] = canary.champion_version
    return members


def _scored_canary(conn: Connection, spec: ModelSpec, partition: Partition) -> Canary | None:
    """Return the canary whose rows readers see of a partition; None without one."""
    by_day = canary_nights(conn, spec.name, partition.day, partition.day)
    published = by_day.get(partition.day)
    return published.canary if published and published.problem is None else None


def level_beside_canary(
    conn: Connection, spec: ModelSpec, features: LoadRecord, champion: ModelVersion
) -> tuple[LevelRecord, float]:
    """Return the level with which a champion published a partition, and its canary's share.

    The share is 0 where the predictions were published again without a canary.
    """
    partition = Partition(features.partition_date)
    shift = published_shift(conn, spec, partition, champion.version)
    level = NightLevel(shift, evidence=PUBLISHED)
    subject = LevelSubject(spec.shadow_dataset, features, champion.digest, spec.digest)
    canary = _scored_canary(conn, spec, partition)
    share = canary.share if canary else 0.0
    return LevelRecord(subject, champion.version, level), share
