"""Which published partitions no longer say what their inputs say: a question to the ledger, whatever made them so.

A partition is stale when one of its inputs was published after it was last built, that is after the
last load that was published for it or found equal to what is published. So redoing it, with
whatever result, makes it fresh. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, Delivery
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.warehouse.ledger import (
    MissingDropError,
    RawVersion,
    as_of_by_partition,
    lookback_of,
)

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class CompletedLoad:
    """A load that was published, or found equal to what is published.

    Attributes:
        load_id: Taken at its beginning: a greater one began later.
        started_at: When it began, by the warehouse's clock.
        ledger_id: Of its end: a greater one ended later, whatever the clocks said.
        ended_at: When it ended, by the warehouse's clock.
    """

    load_id: int
    started_at: dt.datetime
    ledger_id: int
    ended_at: dt.datetime

    def may_have_missed(self, source: CompletedLoad) -> bool:
        """Return whether an input ended after this load began to read; the clock decides only for what happened while this load ran."""
        return (
            source.load_id > self.load_id
            or source.ledger_id > self.ledger_id
            or self.started_at < source.ended_at <= self.ended_at
        )


@dataclass(frozen=True)
class StalePartition:
    """One partition to do again.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        reason: What touches it.
    """

    dataset: str
    day: dt.date
    reason: str


def last_completed_loads(conn: Connection, dataset: str) -> dict[dt.date, CompletedLoad]:
    """Return each partition's last load that was published or found equal."""
    rows = conn.execute(
        """
        select distinct on (l.partition_date) l.partition_date, l.load_id, l.started_at, g.ledger_id, g.at
        from ops.loads l join ops.ledger g using (dataset, partition_date, load_id)
        where l.dataset = %s and g.event in ('published', 'duplicate')
        order by l.partition_date, l.load_id desc, g.ledger_id desc
        """,
        [dataset],
    )
    return {day: CompletedLoad(*rest) for day, *rest in rows}


def visible_loads(conn: Connection, dataset: str) -> dict[dt.date, CompletedLoad]:
    """Return the load that readers see of each partition, with the time at which they began to."""
    rows = conn.execute(
        """
        select distinct on (p.partition_date) p.partition_date, l.load_id, l.started_at, g.ledger_id, g.at
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        join ops.ledger g using (dataset, partition_date, load_id)
        where p.dataset = %s and g.event = 'published' order by p.partition_date, g.ledger_id desc
        """,
        [dataset],
    )
    return {day: CompletedLoad(*rest) for day, *rest in rows}


def raw_arrivals(conn: Connection) -> dict[tuple[str, dt.date, int], CompletedLoad]:
    """Return when each version of raw data came in, by dataset, day and load."""
    rows = conn.execute(
        """
        select distinct on (l.dataset, l.partition_date, l.load_id)
            l.dataset, l.partition_date, l.load_id, l.started_at, g.ledger_id, g.at
        from ops.loads l join ops.ledger g using (dataset, partition_date, load_id)
        where l.dataset like 'raw/%' and l.state = 'published' and g.event = 'published'
        order by l.dataset, l.partition_date, l.load_id, g.ledger_id desc
        """
    )
    return {
        (dataset, day, load_id): CompletedLoad(load_id, *rest)
        for dataset, day, load_id, *rest in rows
    }


VersionFilter = Callable[[RawVersion], bool]
"""Whether a version of raw data counts for what is looked at."""


def any_version(_: RawVersion) -> bool:
    """Count every version."""
    return True


@dataclass(frozen=True)
class RawKnowledge:
    """Raw versions, with those that are still to come in, and what they let each night know.

    Attributes:
        contracts: All contracts, by name.
        versions: Every version; one that is still to come has a ``load_id`` that ``done`` does not
            know.
        done: When each version came in.
    """

    contracts: Mapping[str, DatasetContract]
    versions: Sequence[RawVersion]
    done: Mapping[tuple[str, dt.date, int], CompletedLoad]

    def as_of(self, days: Iterable[dt.date]) -> dict[dt.date, dt.datetime]:
        """Return the knowledge cut-off of each day whose look-back is complete, UTC."""
        found: dict[dt.date, dt.datetime] = {}
        for partition in map(Partition, days):
            with suppress(MissingDropError):
                found |= {
                    partition.day: as_of_by_partition(
                        self.contracts, self.versions, PartitionRange.single(partition)
                    )[partition]
                }
        return found

    def touching(
        self,
        day: dt.date,
        as_of: dt.datetime,
        built: CompletedLoad,
        counts: VersionFilter = any_version,
    ) -> list[RawVersion]:
        """Return the versions that a night may know and that its load may have missed.

        Args:
            day: The night.
            as_of: What it may know, UTC, included.
            built: Its last load.
            counts: Which versions count: those of the datasets that the load reads.
        """
        reads = self._read_by(day)
        return [
            version
            for version in self.versions
            if counts(version)
            and version.known_at <= as_of
            and reads(version)
            and (
                (done := self.done.get((version.dataset, version.day, version.load_id))) is None
                or built.may_have_missed(done)
            )
        ]

    def has_input(self, day: dt.date, counts: VersionFilter) -> bool:
        """Return whether a version that counts is one that a night reads."""
        reads = self._read_by(day)
        return any(counts(version) and reads(version) for version in self.versions)

    def _read_by(self, day: dt.date) -> VersionFilter:
        """Return whether a night reads a version: one of its look-back, or of reference data before it."""
        daily = [c for c in self.contracts.values() if c.delivery is Delivery.DAILY]
        needed = {
            contract.dataset: set(lookback_of(contract, Partition(day))) for contract in daily
        }

        def reads(version: RawVersion) -> bool:
            days = needed.get(version.dataset)
            return version.day <= day if days is None else version.day in days

        return reads


def stale_features(
    knowledge: RawKnowledge,
    dataset: str,
    built: Mapping[dt.date, CompletedLoad],
    days: Iterable[dt.date],
    counts: VersionFilter = any_version,
) -> list[StalePartition]:
    """Return nights whose feature view misses something that they may know, and nights that were never built although they can be.

    Args:
        knowledge: Raw versions.
        dataset: The feature view, ``features/<view>``.
        built: Its last loads.
        days: Nights to look at; those before the first that was ever built are passed over: a
            history is built by ``backfill``.
        counts: Which versions count: those of the datasets that the view reads.
    """
    first = min(built, default=None)
    if first is None:
        return []
    found: list[StalePartition] = []
    for day, as_of in sorted(knowledge.as_of(day for day in days if day >= first).items()):
        if day not in built:
            if knowledge.has_input(day, counts):
                found.append(
                    StalePartition(dataset, day, "was never built; its look-back is complete")
                )
        elif versions := knowledge.touching(day, as_of, built[day], counts):
            found.append(StalePartition(dataset, day, _say(versions)))
    return found


def stale_after(
    dataset: str,
    done: Mapping[dt.date, CompletedLoad],
    inputs: Mapping[str, Mapping[dt.date, CompletedLoad]],
    needs: dict[str, list[int]],
) -> list[StalePartition]:
    """Return partitions of a dataset that an input was published after.

    Args:
        dataset: Name in the ledger.
        done: Its last loads by day.
        inputs: What readers see of each input, by dataset.
        needs: By input, the days that a partition reads, relative to its own: ``[0, -2]``.
    """
    found: dict[dt.date, list[str]] = defaultdict(list)
    for name, offsets in needs.items():
        for offset in offsets:
            for day, load in done.items():
                at = day + dt.timedelta(days=offset)
                if (source := inputs[name].get(at)) is not None and load.may_have_missed(source):
                    found[day].append(f"{name} of {at}")
    return [
        StalePartition(dataset, day, f"{', '.join(sorted(set(names)))} changed since")
        for day, names in sorted(found.items())
    ]


def _say(versions: Sequence[RawVersion]) -> str:
    newest = max(versions, key=lambda version: version.known_at)
    more = f" and {len(versions) - 1} more" if len(versions) > 1 else ""
    return f"{newest.dataset} of {newest.day}, known at {newest.known_at:%Y-%m-%d %H:%M} UTC{more}, came in later"
