"""Select the drops that a reprocessing takes, and the models that read them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import LATEST_DAY, Partition, PartitionRange
from nightshift.warehouse.dbt.project import raw_lineage

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.settings import Settings
    from nightshift.warehouse.ledger import RawVersion
    from nightshift.warehouse.staleness import VersionFilter

FAR = LATEST_DAY
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
        if self.dataset not in {"", contract.name}:
            return None
        # No drop of an earlier day is due, whatever a person asks for.
        first = contract.history_start
        if self.first is not None:
            first = max(first, self.first)
        last = self.last or FAR
        if last < first:
            return None
        zone = contract.timezone
        return PartitionRange(Partition(first, zone), Partition(last, zone))

    def select(self, settings: Settings) -> list[tuple[DatasetContract, PartitionRange]]:
        """Return the datasets to check, each with its days.

        Raises:
            SpecError: A contract cannot be read; without it a wrong answer would be given.
        """
        selected = []
        for contract in load_contracts(settings.datasets_dir).values():
            days = self.range_of(contract)
            if days is not None:
                selected.append((contract, days))
        return selected

    @property
    def is_narrow(self) -> bool:
        """Return whether some drops are excluded."""
        return bool(self.dataset or self.first or self.last)

    def takes(self, version: RawVersion) -> bool:
        """Return whether a version belongs to one of the drops."""
        if self.dataset and version.dataset != f"raw/{self.dataset}":
            return False
        first = self.first or dt.date.min
        last = self.last or FAR
        return first <= version.day <= last


@dataclass(frozen=True)
class Lineage:
    """The raw datasets that each dbt model reads, within a scope.

    Attributes:
        by_model: Names in the ledger, by dbt model; an unknown model may read everything.
        scope: The drops that count.
    """

    by_model: Mapping[str, frozenset[str]]
    scope: Scope

    @classmethod
    def read(cls, settings: Settings, scope: Scope) -> Lineage:
        """Return the lineage of the dbt project."""
        return cls(raw_lineage(settings), scope)

    def of(self, model: str) -> VersionFilter:
        """Return the test whether a version counts for a model.

        It counts if it is in the scope, and if the model reads its dataset.
        """
        datasets = self.by_model.get(model)

        def counts(version: RawVersion) -> bool:
            # Rather once too often: a model that dbt does not know may read everything.
            is_read = datasets is None or version.dataset in datasets
            return is_read and self.scope.takes(version)

        return counts
