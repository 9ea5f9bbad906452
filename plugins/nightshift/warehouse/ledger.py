"""Reads of the ledger: which raw versions were known when, what a look-back misses, and each partition's knowledge cut-off."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, Delivery
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

LOOKBACK_DAYS = 28
"""Partitions before a partition that its features may need. Source: docs/adr/0001-time.md."""


class MissingDropError(NightshiftError):
    """A partition has no published version of a dataset that its look-back needs."""

    code = "NS-TRANSFORM-002"
    is_retryable = True


@dataclass(frozen=True)
class RawVersion:
    """One delivered version of a raw partition.

    Attributes:
        known_at: When it was delivered, UTC; from then on it is what we know (included).
        superseded_at: When the next version was delivered, UTC (excluded); None for the newest.
    """

    dataset: str
    day: dt.date
    load_id: int
    known_at: dt.datetime
    superseded_at: dt.datetime | None
    content_hash: str

    def is_visible(self, as_of: dt.datetime) -> bool:
        """Return whether this version was what we knew at that instant."""
        return self.known_at <= as_of and (self.superseded_at is None or self.superseded_at > as_of)


def raw_versions(
    conn: Connection, contracts: Iterable[DatasetContract], last: Partition
) -> list[RawVersion]:
    """Return every published version of these datasets up to and with a partition, by dataset, day and time of delivery."""
    rows = conn.execute(
        """
        select dataset, partition_date, load_id, known_at, superseded_at, content_hash from ops.raw_versions
        where dataset = any(%s) and partition_date <= %s order by dataset, partition_date, known_at, load_id
        """,
        [[contract.dataset for contract in contracts], last.day],
    )
    return [RawVersion(*row) for row in rows]


def lookback_of(contract: DatasetContract, partition: Partition) -> list[dt.date]:
    """Return the days whose drop a partition needs: its last 28 days and itself from the dataset's history on; none for reference data."""
    if contract.delivery is not Delivery.DAILY:
        return []
    first = max(contract.history_start, partition.shift(-LOOKBACK_DAYS).day)
    return [first + dt.timedelta(days=i) for i in range((partition.day - first).days + 1)]


def missing_drops(
    contracts: Mapping[str, DatasetContract],
    versions: Iterable[RawVersion],
    partitions: PartitionRange,
) -> list[tuple[str, dt.date]]:
    """Return the (dataset, day) that a look-back of the range needs and nobody has published, in order."""
    present = {(version.dataset, version.day) for version in versions}
    needed = {
        (c.dataset, day)
        for c in contracts.values()
        for partition in partitions
        for day in lookback_of(c, partition)
    }
    return sorted(needed - present)


def as_of_by_partition(
    contracts: Mapping[str, DatasetContract],
    versions: Iterable[RawVersion],
    partitions: PartitionRange,
) -> dict[Partition, dt.datetime]:
    """Return each partition's knowledge cut-off, UTC: its nominal one, or later when the look-back's first versions came later.

    It looks at first versions only, so that a correction never moves it and a rerun reads what the
    first run read.

    Raises:
        MissingDropError: The look-back of a partition has a hole.
    """
    first: dict[tuple[str, dt.date], dt.datetime] = {}
    for version in versions:
        key = (version.dataset, version.day)
        first[key] = min(first.get(key, version.known_at), version.known_at)
    try:
        return {
            partition: max(
                [
                    partition.cutoff,
                    *(
                        first[c.dataset, day]
                        for c in contracts.values()
                        for day in lookback_of(c, partition)
                    ),
                ]
            )
            for partition in partitions
        }
    except KeyError as hole:
        dataset, day = hole.args[0]
        raise MissingDropError(
            f"{dataset} of {day} is not published.", todo="Deliver and ingest it, then rerun."
        ) from None


def input_digests(
    versions: Iterable[RawVersion], as_of: Mapping[Partition, dt.datetime]
) -> dict[str, str]:
    """Return, by dataset, a digest of the versions that the partitions see, with the loads they came from; and one of the cut-offs.

    Reference data counts with every version up to the partition, daily data with its look-back.
    """
    used: dict[str, list[RawVersion]] = defaultdict(list)
    for version in versions:
        if any(
            version.day <= partition.day and version.is_visible(instant)
            for partition, instant in as_of.items()
        ):
            used[version.dataset].append(version)
    inputs = {
        dataset: f"{_digest(map(str, read))} loads {_spans({v.load_id for v in read})}"
        for dataset, read in used.items()
    }
    return inputs | {
        "as_of": _digest(
            f"{partition} {instant.isoformat()}" for partition, instant in as_of.items()
        )
    }


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()


def _spans(numbers: set[int]) -> str:
    """Return numbers as short text, ``3-7,9``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
