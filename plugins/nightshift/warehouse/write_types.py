"""Types of the write path: what a write publishes, what it is made from, what readers then see."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.run import RunContext, code_version

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange

STATES = ("staged", "audited", "published", "duplicate", "refused", "collected", "damaged")
"""States of a load, the least advanced first."""


@dataclass(frozen=True)
class Target:
    """One dataset that a write publishes, and the table that holds its loads.

    Attributes:
        dataset: Name in the ledger, for example ``features/customer``.
        schema: Schema of the table.
        table: Table with ``partition_date`` and ``load_id``.
        key: Columns that are unique and not null within a partition.
        is_versioned: Raw data: every version stays readable, and the pointer goes to the one with
            the latest ``known_at``.
        may_be_empty: Whether a partition without rows passes the audit.
    """

    dataset: str
    schema: str
    table: str
    key: tuple[str, ...]
    is_versioned: bool = False
    may_be_empty: bool = False


# Table name of a dataset by layer. The monitor's tables hold several models, so they are no target.
_TABLES = {"raw": "{}", "features": "feat_{}", "predictions": "{}", "shadow": "{}"}


def target_of(dataset: str) -> Target | None:
    """Return the target of a dataset to count its rows, without a key; None for other layers."""
    layer, _, name = dataset.partition("/")
    if layer not in _TABLES:
        return None
    return Target(dataset, layer, _TABLES[layer].format(name), ())


@dataclass(frozen=True)
class LoadManifest:
    """What a load is made from.

    Attributes:
        run: Who writes.
        inputs: Digest or load id by name of everything that the content depends on; the same inputs
            and code must give the same content.
        known_at: Raw data: when upstream delivered it, UTC; by day when the partitions of a range
            were delivered at different times.
        reads: Datasets whose published rows are read, and how many days before the partition. When
            their rows turn out to have been damaged, this load's content proves nothing about its
            inputs.
    """

    run: RunContext
    inputs: Mapping[str, str]
    known_at: dt.datetime | Mapping[dt.date, dt.datetime] | None = None
    reads: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the SHA-256 over inputs and code version, hex."""
        content = json.dumps([dict(self.inputs), code_version()], sort_keys=True)
        return sha256(content.encode()).hexdigest()

    def known_at_of(self, day: dt.date) -> dt.datetime | None:
        """Return when that day's data was delivered, UTC."""
        return self.known_at[day] if isinstance(self.known_at, Mapping) else self.known_at


@dataclass(frozen=True)
class PartitionWrite:
    """A begun write: pass it to ``audit`` and ``publish``.

    Attributes:
        load_id: Write it into every staged row.
        targets: The datasets.
        partitions: The partitions, all of them published together.
    """

    load_id: int
    targets: tuple[Target, ...]
    partitions: PartitionRange


@dataclass(frozen=True)
class PublishedLoad:
    """What readers see of one partition after ``publish``, as read back.

    Attributes:
        is_new: False when the same content was published before: this write's rows are deleted and
            the pointer stays.
    """

    dataset: str
    partition_date: dt.date
    load_id: int
    n_rows: int
    content_hash: str
    is_new: bool = field(compare=False)
