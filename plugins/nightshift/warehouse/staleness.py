"""Find stale partitions: published partitions whose inputs were published after they were built.

A partition is built when a load of it is published, or is found equal to what is published. So
building it again, with any result, makes it fresh. Only the ledger is read: it does not matter what
made a partition stale. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, daily_contracts
from nightshift.contracts.partitions import Partition
from nightshift.warehouse.ledger import (
    MissingDropError,
    RawVersion,
    first_deliveries,
    knowledge_cutoff,
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
        ledger_id: Of its end: a greater one ended later, whatever the clocks showed.
        ended_at: When it ended, by the warehouse's clock.
    """

    load_id: int
    started_at: dt.datetime
    ledger_id: int
    ended_at: dt.datetime

    def may_have_missed(self, source: CompletedLoad) -> bool:
        """Return whether an input ended after this load began to read."""
        # Numbers decide where they can, since clocks are set back. The clock decides only for an
        # input that began before this load and ended while it ran.
        return (
            source.load_id > self.load_id
            or source.ledger_id > self.ledger_id
            or self.started_at < source.ended_at <= self.ended_at
        )


@dataclass(frozen=True)
class StalePartition:
    """One partition to build again.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        reason: Which input changed.
    """

    dataset: str
    day: dt.date
    reason: str


def last_completed_loads(conn: Connection, dataset: str) -> dict[dt.date, CompletedLoad]:
    """Return each partition's last load that was published or found equal."""
    rows = conn.execute(
        """
        select distinct on (l.partition_date)
            l.partition_date, l.load_id, l.started_at, g.ledger_id, g.at
        from ops.loads l join ops.ledger g using (dataset, partition_date, load_id)
        where l.dataset = %s and g.event in ('published', 'duplicate')
        order by l.partition_date, l.load_id desc, g.ledger_id desc
        """,
        [dataset],
    )
    return {day: CompletedLoad(*load) for day, *load in rows}


def visible_loads(conn: Connection, dataset: str) -> dict[dt.date, CompletedLoad]:
    """Return the load that readers see of each partition, with the time at which they began to."""
    # Only the ledger is read, no rows: so there is no `join_published`.
    rows = conn.execute(
        """
        select distinct on (p.partition_date)
            p.partition_date, l.load_id, l.started_at, g.ledger_id, g.at
        from ops.published p
        join ops.loads l using (dataset, partition_date, load_id)
        join ops.ledger g using (dataset, partition_date, load_id)
        where p.dataset = %s and g.event = 'published'
        order by p.partition_date, g.ledger_id desc
        """,
        [dataset],
    )
    return {day: CompletedLoad(*load) for day, *load in rows}


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
"""Whether a version of raw data counts for what is compared."""


def any_version(_: RawVersion) -> bool:
    """Count every version."""
    return True


@dataclass(frozen=True)
class RawKnowledge:
    """Raw versions, including those that are still to come in, and what each partition may know.

    Attributes:
        contracts: All contracts, by name.
        versions: Every version; one that is still to come has a ``load_id`` that ``done`` lacks.
        done: When each version came in.
    """

    contracts: Mapping[str, DatasetContract]
    versions: Sequence[RawVersion]
    done: Mapping[tuple[str, dt.date, int], CompletedLoad]

    def as_of(self, days: Iterable[dt.date]) -> dict[dt.date, dt.datetime]:
        """Return the knowledge cut-off of each day whose look-back is complete, UTC."""
        first = first_deliveries(self.versions)
        as_of = {}
        for day in days:
            with suppress(MissingDropError):
                as_of[day] = knowledge_cutoff(self.contracts, first, Partition(day))
        return as_of

    def touching(
        self,
        day: dt.date,
        as_of: dt.datetime,
        built: CompletedLoad,
        counts: VersionFilter = any_version,
    ) -> list[RawVersion]:
        """Return the versions that a partition may know and that its load may have missed.

        Args:
            day: The partition.
            as_of: Its knowledge cut-off, UTC, included.
            built: Its last load.
            counts: Which versions count: those of the datasets that the load reads.
        """
        known = [version for version in self._read_by(day, counts) if version.known_at <= as_of]
        return [version for version in known if self._is_missed(version, built)]

    def has_input(self, day: dt.date, counts: VersionFilter) -> bool:
        """Return whether a version that counts is one that a partition reads."""
        return any(True for _ in self._read_by(day, counts))

    def _read_by(self, day: dt.date, counts: VersionFilter) -> Iterable[RawVersion]:
        """Yield the versions that count and that a partition reads.

        It reads its look-back of daily data, and reference data of all days up to its own.
        """
        contracts = self.contracts.values()
        daily = daily_contracts(contracts)
        lookback = {
            contract.dataset: set(lookback_of(contract, Partition(day))) for contract in daily
        }
        for version in self.versions:
            days = lookback.get(version.dataset)
            is_read = version.day <= day if days is None else version.day in days
            if is_read and counts(version):
                yield version

    def _is_missed(self, version: RawVersion, built: CompletedLoad) -> bool:
        arrival = self.done.get((version.dataset, version.day, version.load_id))
        return arrival is None or built.may_have_missed(arrival)


def stale_features(
    knowledge: RawKnowledge,
    dataset: str,
    built: Mapping[dt.date, CompletedLoad],
    days: Iterable[dt.date],
    counts: VersionFilter = any_version,
) -> list[StalePartition]:
    """Return partitions of a feature view that miss an input, or could be built and never were.

    Args:
        knowledge: Raw versions.
        dataset: The feature view, ``features/<view>``.
        built: Its last loads.
        days: Partitions to look at; those before the first that was ever built are left out: a
            history is built by ``backfill``.
        counts: Which versions count: those of the datasets that the view reads.
    """
    first = min(built, default=None)
    if first is None:
        return []
    stale: list[StalePartition] = []
    as_of = knowledge.as_of(day for day in days if day >= first)
    for day, cutoff in sorted(as_of.items()):
        if day in built:
            versions = knowledge.touching(day, cutoff, built[day], counts)
            if versions:
                stale.append(StalePartition(dataset, day, _late_versions_reason(versions)))
        elif knowledge.has_input(day, counts):
            reason = "was never built; its look-back is complete"
            stale.append(StalePartition(dataset, day, reason))
    return stale


def _late_versions_reason(versions: Sequence[RawVersion]) -> str:
    newest = max(versions, key=lambda version: version.known_at)
    known_at = f"known at {newest.known_at:%Y-%m-%d %H:%M} UTC"
    n_more = len(versions) - 1
    more = f" and {n_more} more" if n_more else ""
    return f"{newest.dataset} of {newest.day}, {known_at}{more}, came in later"


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
    stale = []
    for day, load in sorted(done.items()):
        changed = set()
        for name, offsets in needs.items():
            for offset in offsets:
                input_day = day + dt.timedelta(days=offset)
                source = inputs[name].get(input_day)
                if source is not None and load.may_have_missed(source):
                    changed.add(f"{name} of {input_day}")
        if changed:
            names = ", ".join(sorted(changed))
            stale.append(StalePartition(dataset, day, f"{names} changed since"))
    return stale
