"""Select the drops that a reprocessing takes, and the models that read them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.warehouse.ledger import RawVersion
    from nightshift.warehouse.staleness import VersionFilter

FAR = dt.date(9999, 1, 1)
"""A day after all data."""


@dataclass(frozen=True)
class Scope:
    """The drops that a reprocessing takes; it selects the partitions that may read them.

    Attributes:
        dataset: Name of one contract; empty takes all.
        first: First operating day of the drops; None begins with the history.
        last: Last one, included; None takes all that landed.
        reread: Also take drops that were read under another contract than today's.
    """

    dataset: str = ""
    first: dt.date | None = None
    last: dt.date | None = None
    reread: bool = False

    def range_of(self, contract: DatasetContract) -> PartitionRange | None:
        """Return the days of a dataset to check; None excludes it."""
        first = max(self.first or contract.history_start, contract.history_start)
        last = self.last or FAR
        if self.dataset not in {"", contract.name} or last < first:
            return None
        zone = contract.timezone
        return PartitionRange(Partition(first, zone), Partition(last, zone))

    @property
    def is_narrow(self) -> bool:
        """Return whether some drops are excluded."""
        return bool(self.dataset or self.first or self.last)

    def takes(self, version: RawVersion) -> bool:
        """Return whether a version belongs to one of the drops."""
        is_dataset = not self.dataset or version.dataset == f"raw/{self.dataset}"
        return is_dataset and (self.first or dt.date.min) <= version.day <= (self.last or FAR)


@dataclass(frozen=True)
class Lineage:
    """The raw datasets that each dbt model reads, within a scope.

    Attributes:
        by_model: Names in the ledger, by dbt model; an unknown model may read everything.
        scope: The drops that count.
    """

    by_model: Mapping[str, frozenset[str]]
    scope: Scope

    def of(self, model: str) -> VersionFilter:
        """Return the test whether a version is in the scope, and its dataset read by a model."""
        datasets = self.by_model.get(model)
        return lambda version: (
            self.scope.takes(version) and (datasets is None or version.dataset in datasets)
        )
