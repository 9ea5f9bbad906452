"""What upstream promises about a dataset: columns, grain, key, timezone, schema, delivery."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightshift.contracts.document_folder import DocumentFolder, read_folder, read_named
from nightshift.contracts.drop_limits import DropLimits
from nightshift.contracts.partitions import (
    EARLIEST_DAY,
    LATEST_DAY,
    Partition,
    is_timezone,
    operating_timezone,
)
from nightshift.contracts.reserved_names import ColumnName, DatasetName
from nightshift.contracts.yaml_document import Days, Frozen, Identifier, NamedDocument
from nightshift.errors import NightshiftError

CalendarDay = Annotated[dt.date, Field(ge=EARLIEST_DAY, le=LATEST_DAY)]
"""A day with which every library here can compute."""


class ColumnType(StrEnum):
    """How a delivered text becomes a typed value."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    UTC_TIMESTAMP = "utc_timestamp"
    LOCAL_TIMESTAMP = "local_timestamp"

    @property
    def sql(self) -> str:
        """Return the PostgreSQL type; timestamps are stored in UTC."""
        return _SQL_TYPES[self]

    @property
    def full_sql(self) -> str:
        """Return the same as PostgreSQL's catalog names it."""
        return self.sql.replace("timestamptz", "timestamp with time zone")


_SQL_TYPES = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "bigint",
    ColumnType.NUMBER: "double precision",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.DATE: "date",
    ColumnType.UTC_TIMESTAMP: "timestamptz",
    ColumnType.LOCAL_TIMESTAMP: "timestamptz",
}
# What says when something happened.
_TIME_TYPES = frozenset({ColumnType.DATE, ColumnType.UTC_TIMESTAMP, ColumnType.LOCAL_TIMESTAMP})


class Delivery(StrEnum):
    """When a drop is due: each operating day, or only when something changed."""

    DAILY = "daily"
    ON_CHANGE = "on_change"


class Column(Frozen):
    """One column of a dataset.

    Attributes:
        name: Name in the warehouse.
        source: Name in the delivered file; the warehouse's name if empty.
        type: Type in the warehouse. A ``local_timestamp`` is wall-clock time in the contract's
            timezone; an offset in the value wins.
        delivered_as: Type in the delivered file, converted to ``type``; null if it is the same.
        is_nullable: Whether an empty value is allowed.
        minimum: Smallest allowed number, included.
        maximum: Largest allowed number, included.
        levels: The only allowed texts; empty allows all.
        default: What rows have whose schema version lacks the column, as it would be delivered;
            null makes it empty.
        description: For the data dictionary.
    """

    name: ColumnName
    source: str = ""
    type: ColumnType
    delivered_as: ColumnType | None = None
    is_nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    levels: tuple[str, ...] = ()
    default: str | None = None
    description: str = ""

    @model_validator(mode="after")
    def _limits_fit_the_type(self) -> Column:
        is_numeric = self.type in {ColumnType.INTEGER, ColumnType.NUMBER}
        if not is_numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum belong to numbers")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("no number is at least minimum and at most maximum")
        if self.levels and self.type is not ColumnType.TEXT:
            raise ValueError("levels belong to texts")
        return self

    @property
    def delivered_name(self) -> str:
        """Return the name in the delivered file."""
        return self.source or self.name


class SchemaChange(Frozen):
    """What one schema version changed against the version before it.

    Columns are named as the contract names them today.

    Attributes:
        since: Operating day from which files have at least this version, whatever their manifest
            says; null trusts the manifests.
        why: For people.
        added: Columns that files have from this version on; older rows have the column's default.
        removed: Columns that files have no more; they stay in the warehouse, null from then on.
        renamed: Column to its name in the files before.
        retyped: Column to its type in the files before; it is converted to the type that the column
            has.
    """

    since: CalendarDay | None = None
    why: str = ""
    added: tuple[Identifier, ...] = ()
    removed: tuple[Identifier, ...] = ()
    renamed: dict[Identifier, str] = Field(default_factory=dict)
    retyped: dict[Identifier, ColumnType] = Field(default_factory=dict)

    @property
    def columns(self) -> set[str]:
        """Return the names of the changed columns."""
        return {*self.added, *self.removed, *self.renamed, *self.retyped}


class DatasetContract(NamedDocument):
    """The contract of one delivered dataset.

    Attributes:
        name: Name of the dataset, of its landing prefix and of its raw table.
        description: What one reads here.
        schema_version: Version of this contract; the manifest carries the version of the file.
        timezone: IANA zone of the operating day and of local timestamps.
        delivery: When a drop is due.
        history_start: First operating day for which a drop is due.
        grain: What one row stands for.
        key: Columns that identify a row within a partition.
        event_timestamp: The column that says when it happened, within the partition's day; None for
            reference data.
        day_column: A date column that says to which partition a row belongs; None if no column
            does.
        day_offset_days: ``day_column`` minus the partition's day: 1 for a schedule of the next day.
        columns: The columns, in the order of the warehouse.
        minimum_rows: Fewer accepted rows stop the load.
        maximum_refused_ratio: Share of rows, 0 to 1, that may be quarantined before the whole file
            is refused.
        maximum_wait_minutes: How long a run waits for a missing drop.
        maximum_backdating_days: How far ``delivered_at`` of a drop may lie before we received it,
            once its partition has had a version for as long; ``unlimited`` for a history that is
            rewritten on purpose.
        limits: How large a file may be.
        versions: What each schema version after the first changed, so that old partitions still
            load.
    """

    name: DatasetName
    description: str
    schema_version: int = Field(ge=1, le=1000)
    timezone: str = Field(default_factory=operating_timezone)
    delivery: Delivery
    history_start: CalendarDay
    grain: str
    key: tuple[Identifier, ...] = Field(min_length=1)
    event_timestamp: Identifier | None = None
    day_column: Identifier | None = None
    day_offset_days: int = Field(default=0, ge=-366, le=366)
    columns: tuple[Column, ...] = Field(min_length=1)
    minimum_rows: int = Field(default=1, ge=0)
    maximum_refused_ratio: float = Field(default=0.0, ge=0, le=1)
    maximum_wait_minutes: int = Field(default=180, ge=0, le=14 * 24 * 60)
    maximum_backdating_days: Days | Literal["unlimited"] = 3
    limits: DropLimits = Field(default_factory=DropLimits)
    versions: dict[int, SchemaChange] = Field(default_factory=dict)

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        if not is_timezone(timezone):
            raise ValueError("a timezone of the IANA database, for example Europe/Berlin")
        return timezone

    @model_validator(mode="after")
    def _columns_exist(self) -> DatasetContract:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("column names are unique")
        missing = sorted(self.identifying_columns - set(names))
        if missing:
            raise ValueError(
                "key, event_timestamp and day_column name columns of this contract,"
                f" unknown: {missing}"
            )
        return self

    @model_validator(mode="after")
    def _times_are_times(self) -> DatasetContract:
        # A text would be compared with the partition's day without the zone of its clock.
        types = {column.name: column.type for column in self.columns}
        for key in ("event_timestamp", "day_column"):
            name = getattr(self, key)
            if name is not None and types[name] not in _TIME_TYPES:
                raise ValueError(f"{key} names a time or a date; {name} is {types[name]}")
        return self

    @model_validator(mode="after")
    def _versions_fit(self) -> DatasetContract:
        # The first version has nothing before it that it could have changed.
        expected = list(range(2, self.schema_version + 1))
        if sorted(self.versions) != expected:
            raise ValueError(
                f"versions says what each of {expected} changed, got {sorted(self.versions)}"
            )
        by_name = {column.name: column for column in self.columns}
        changed = set[str]().union(*(change.columns for change in self.versions.values()))
        missing = sorted(changed - by_name.keys())
        if missing:
            raise ValueError(
                f"versions name columns of this contract, also removed ones; unknown: {missing}"
            )
        for name in sorted(self._names_not_in_every_version()):
            if name in self.identifying_columns:
                raise ValueError(f"{name} identifies a row, so every version has it")
            if not by_name[name].is_nullable and by_name[name].default is None:
                raise ValueError(
                    f"{name} is not in every version, so it is nullable or has a default"
                )
        return self

    def _names_not_in_every_version(self) -> set[str]:
        names: set[str] = set()
        for change in self.versions.values():
            names |= {*change.added, *change.removed}
        return names

    @property
    def dataset(self) -> str:
        """Return the dataset's name in the ledger, ``raw/<name>``."""
        return f"raw/{self.name}"

    @property
    def is_daily(self) -> bool:
        """Return whether a drop is due on each operating day."""
        return self.delivery is Delivery.DAILY

    @property
    def identifying_columns(self) -> set[str]:
        """Return the columns that say which row it is, and of which partition."""
        optional = {self.event_timestamp, self.day_column} - {None}
        return {*self.key, *map(str, optional)}

    def version_for(self, day: dt.date, declared: int) -> int:
        """Return the schema version of a file.

        Args:
            day: The file's partition.
            declared: The version in its manifest; a later one counts if it holds since an earlier
                day.
        """
        versions = [declared]
        for number, change in self.versions.items():
            if change.since is not None and change.since <= day:
                versions.append(number)
        return max(versions)

    def columns_of(self, schema_version: int) -> tuple[Column, ...] | None:
        """Return the columns of files of a schema version, None if the contract never had it."""
        if not 1 <= schema_version <= self.schema_version:
            return None
        columns = {column.name: column for column in self.columns}
        absent: set[str] = set()
        for change in self.versions.values():
            absent |= set(change.removed)
        # From today's version back: undo one change after the other.
        for number in range(self.schema_version, schema_version, -1):
            change = self.versions[number]
            # Before a change its removed columns still existed, and its added ones did not yet.
            absent = absent - set(change.removed) | set(change.added)
            for name, source in change.renamed.items():
                columns[name] = columns[name].model_copy(update={"source": source})
            for name, old_type in change.retyped.items():
                columns[name] = columns[name].model_copy(update={"delivered_as": old_type})
        return tuple(column for name, column in columns.items() if name not in absent)

    def columns_for(self, day: dt.date, declared: int) -> tuple[Column, ...] | None:
        """Return the columns of a file, None for an unknown version; as ``version_for``."""
        return self.columns_of(self.version_for(day, declared))


def daily_contracts(contracts: Iterable[DatasetContract]) -> list[DatasetContract]:
    """Return the contracts of datasets of which a drop is due each operating day."""
    return [contract for contract in contracts if contract.is_daily]


# A process reads a contract once: all stages of a task work with the same one.
class BeforeHistoryError(NightshiftError):
    """The operating day is before the history of every dataset."""

    code = "NS-TIME-003"


def require_history(partition: Partition, contracts: Iterable[DatasetContract]) -> None:
    """Refuse a day that no daily dataset can have, before anything is announced or published.

    Raises:
        BeforeHistoryError: No daily dataset has a history by that day.
    """
    starts = [contract.history_start for contract in daily_contracts(contracts)]
    first = min(starts, default=partition.day)
    if partition.day < first:
        raise BeforeHistoryError(
            f"{partition} is before the history.",
            expected=f"{first} or later: `history_start` of the earliest daily dataset",
            got=partition.key,
            todo="Nothing was published. Start the day that you meant; delete an Airflow run of"
            " this one.",
        )


@lru_cache(maxsize=64)
def load_contract(datasets_dir: Path, name: str) -> DatasetContract:
    """Read one contract, ``<datasets_dir>/<name>.yaml``.

    Raises:
        SpecError: It is absent or wrong, or its name is not the file's.
    """
    return read_named(datasets_dir, name, DatasetContract, "dataset")


def read_contracts(datasets_dir: Path) -> DocumentFolder[DatasetContract]:
    """Read all contracts: the valid ones, and what is wrong with each of the other files."""
    return read_folder(datasets_dir, lambda name: load_contract(datasets_dir, name))


def load_contracts(datasets_dir: Path) -> dict[str, DatasetContract]:
    """Read all contracts, by name, where a missing one would be a wrong answer.

    Raises:
        SpecError: One is wrong; all that are wrong are named.
    """
    return read_contracts(datasets_dir).require_all()
