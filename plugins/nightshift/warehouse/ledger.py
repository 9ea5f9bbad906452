"""Raw versions in the ledger: what was known when, what a look-back misses, knowledge cut-offs."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract
from nightshift.contracts.dbt_variables import dbt_folder, dbt_variable
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError, SettingsError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


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
        # The same as `published.known_at_condition`, for versions that were read already.
        if self.known_at > as_of:
            return False
        return self.superseded_at is None or self.superseded_at > as_of


def raw_versions(
    conn: Connection, contracts: Iterable[DatasetContract], last: Partition
) -> list[RawVersion]:
    """Return every published version of some datasets up to a partition, included.

    They are ordered by dataset, day and time of delivery.
    """
    rows = conn.execute(
        """
        select dataset, partition_date, load_id, known_at, superseded_at, content_hash
        from ops.raw_versions
        where dataset = any(%s) and partition_date <= %s
        order by dataset, partition_date, known_at, load_id
        """,
        [[contract.dataset for contract in contracts], last.day],
    )
    return [RawVersion(*row) for row in rows]


def lookback_days() -> int:
    """Return how many partitions before its own a feature may need.

    Trailing windows reach back that far, and a partition waits for the drops of these days. Source:
    docs/adr/0001-time.md.

    Raises:
        SettingsError: The variable is missing, or is no whole number from 1 on.
    """
    days = dbt_variable("lookback_days")
    # True is an integer in Python, and no number of days.
    if not isinstance(days, int) or isinstance(days, bool) or days < 1:
        raise SettingsError(
            "The look-back of the dbt project is no number of days.",
            expected="vars.lookback_days, a whole number from 1 on",
            got=repr(days),
            todo=f"Correct it in {dbt_folder() / 'dbt_project.yml'}.",
        )
    return days


def lookback_of(contract: DatasetContract, partition: Partition) -> list[dt.date]:
    """Return the days of a dataset that a partition needs; none for reference data.

    These are the partition and the days of its look-back, but no day before the dataset's history.
    """
    if not contract.is_daily:
        return []
    first = max(contract.history_start, partition.shift(-lookback_days()).day)
    n_days = (partition.day - first).days + 1
    # Empty before the history: the range of a negative number is.
    return [first + dt.timedelta(days=offset) for offset in range(n_days)]


def _lookback_keys(
    contracts: Mapping[str, DatasetContract], partition: Partition
) -> set[tuple[str, dt.date]]:
    """Return the (dataset, day) that a partition needs."""
    keys: set[tuple[str, dt.date]] = set()
    for contract in contracts.values():
        keys |= {(contract.dataset, day) for day in lookback_of(contract, partition)}
    return keys


def missing_drops(
    contracts: Mapping[str, DatasetContract],
    versions: Iterable[RawVersion],
    partitions: PartitionRange,
) -> list[tuple[str, dt.date]]:
    """Return the (dataset, day) that a range needs and nobody has published, in order."""
    needed: set[tuple[str, dt.date]] = set()
    for partition in partitions:
        needed |= _lookback_keys(contracts, partition)
    published = {(version.dataset, version.day) for version in versions}
    return sorted(needed - published)


def first_deliveries(versions: Iterable[RawVersion]) -> dict[tuple[str, dt.date], dt.datetime]:
    """Return when the first version of each (dataset, day) was delivered, UTC."""
    first: dict[tuple[str, dt.date], dt.datetime] = {}
    for version in versions:
        key = (version.dataset, version.day)
        # Versions need not come in the order of their delivery.
        first[key] = min(first.get(key, version.known_at), version.known_at)
    return first


def knowledge_cutoff(
    contracts: Mapping[str, DatasetContract],
    first: Mapping[tuple[str, dt.date], dt.datetime],
    partition: Partition,
) -> dt.datetime:
    """Return a partition's knowledge cut-off, UTC.

    It is the nominal one, or later when the first versions of the look-back came later. Only first
    versions count: a correction never moves it, so that a rerun reads what the first run read.
    ``first`` is what ``first_deliveries`` returns of all raw versions.

    Raises:
        MissingDropError: A drop of the look-back is missing.
    """
    needed = _lookback_keys(contracts, partition)
    missing = sorted(needed - first.keys())
    if missing:
        dataset, day = missing[0]
        raise MissingDropError(
            f"{dataset} of {day} is not published.", todo="Deliver and ingest it, then rerun."
        )
    deliveries = [first[key] for key in needed]
    return max([partition.cutoff, *deliveries])


def as_of_by_partition(
    contracts: Mapping[str, DatasetContract],
    versions: Iterable[RawVersion],
    partitions: PartitionRange,
) -> dict[Partition, dt.datetime]:
    """Return the knowledge cut-off of each partition of a range, UTC.

    Raises:
        MissingDropError: A drop of a partition's look-back is missing.
    """
    first = first_deliveries(versions)
    return {partition: knowledge_cutoff(contracts, first, partition) for partition in partitions}


def input_digests(
    versions: Iterable[RawVersion], as_of: Mapping[Partition, dt.datetime]
) -> dict[str, str]:
    """Return a digest of what the partitions see, by dataset, and one of their cut-offs.

    A dataset's digest names the loads too. Reference data counts with every version up to the
    partition, daily data with its look-back.
    """
    visible: dict[str, list[RawVersion]] = defaultdict(list)
    for version in versions:
        if _is_seen(version, as_of):
            visible[version.dataset].append(version)
    digests = {}
    for dataset, seen in visible.items():
        # The loads stand in plain numbers too: `feature_manifest` reads them back.
        loads = _number_ranges({version.load_id for version in seen})
        digests[dataset] = f"{_digest(map(str, seen))} loads {loads}"
    cutoffs = [f"{partition} {instant.isoformat()}" for partition, instant in as_of.items()]
    return digests | {"as_of": _digest(cutoffs)}


def _is_seen(version: RawVersion, as_of: Mapping[Partition, dt.datetime]) -> bool:
    """Return whether one of the partitions sees a version, by its day and by its cut-off."""
    for partition, instant in as_of.items():
        if version.day <= partition.day and version.is_visible(instant):
            return True
    return False


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()


def _number_ranges(numbers: set[int]) -> str:
    """Return numbers as short text, ``3-7,9``."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)
