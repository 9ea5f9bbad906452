"""What upstream promises about a dataset: columns, types, grain, key, timezone, schema version, delivery."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from nightshift.contracts.partitions import OPERATING_TIMEZONE
from nightshift.contracts.yaml_document import IDENTIFIER, Frozen, read_document

Identifier = Annotated[str, Field(pattern=IDENTIFIER)]


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


_SQL_TYPES = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "bigint",
    ColumnType.NUMBER: "double precision",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.DATE: "date",
    ColumnType.UTC_TIMESTAMP: "timestamptz",
    ColumnType.LOCAL_TIMESTAMP: "timestamptz",
}


class Delivery(StrEnum):
    """When a drop is due: each operating day, or only when something changed."""

    DAILY = "daily"
    ON_CHANGE = "on_change"


class Column(Frozen):
    """One column of a dataset.

    Attributes:
        name: Name in the warehouse.
        source: Name in the delivered file; the warehouse's name if empty.
        type: A ``local_timestamp`` is wall-clock time in the contract's timezone; an explicit offset in the value wins.
        is_nullable: Whether an empty value is allowed.
        minimum: Smallest allowed number, included.
        maximum: Largest allowed number, included.
        levels: The only allowed texts; empty allows all.
        description: For the data dictionary.
    """

    name: Identifier
    source: str = ""
    type: ColumnType
    is_nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    levels: tuple[str, ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _limits_fit_the_type(self) -> Column:
        is_numeric = self.type in {ColumnType.INTEGER, ColumnType.NUMBER}
        if not is_numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum belong to numbers")
        if self.levels and self.type is not ColumnType.TEXT:
            raise ValueError("levels belong to texts")
        return self

    @property
    def delivered_name(self) -> str:
        """Return the name in the delivered file."""
        return self.source or self.name


class DatasetContract(Frozen):
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
        event_timestamp: The column that says when it happened, within the partition's day; None for reference data.
        day_column: A date column that says to which partition a row belongs; None if no column does.
        day_offset_days: ``day_column`` minus the partition's day: 1 for a schedule of the next day.
        columns: The columns, in the order of the warehouse.
        minimum_rows: Fewer accepted rows stop the load.
        maximum_refused_ratio: Share of rows, 0 to 1, that may be quarantined before the whole file is refused.
        maximum_wait_minutes: How long a night waits for a missing drop.
        schema_history: Columns by older schema versions, so that old partitions still load.
    """

    name: Identifier
    description: str
    schema_version: int = Field(ge=1)
    timezone: str = OPERATING_TIMEZONE
    delivery: Delivery
    history_start: dt.date
    grain: str
    key: tuple[Identifier, ...] = Field(min_length=1)
    event_timestamp: Identifier | None = None
    day_column: Identifier | None = None
    day_offset_days: int = 0
    columns: tuple[Column, ...] = Field(min_length=1)
    minimum_rows: int = Field(default=1, ge=0)
    maximum_refused_ratio: float = Field(default=0.0, ge=0, le=1)
    maximum_wait_minutes: int = Field(default=180, ge=0)
    schema_history: dict[int, tuple[Column, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _columns_exist(self) -> DatasetContract:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("column names are unique")
        named = {*self.key, self.event_timestamp, self.day_column} - {None}
        if missing := sorted(str(name) for name in named - set(names)):
            raise ValueError(f"key, event_timestamp and day_column name columns of this contract, unknown: {missing}")
        return self

    @property
    def dataset(self) -> str:
        """Return the dataset's name in the ledger, ``raw/<name>``."""
        return f"raw/{self.name}"

    def columns_of(self, schema_version: int) -> tuple[Column, ...] | None:
        """Return the columns of that schema version, None if the contract never had it."""
        return self.columns if schema_version == self.schema_version else self.schema_history.get(schema_version)


@lru_cache(maxsize=64)
def load_contract(datasets_dir: Path, name: str) -> DatasetContract:
    """Read one contract, ``<datasets_dir>/<name>.yaml``.

    Raises:
        SpecError: It is absent or wrong.
    """
    return read_document(datasets_dir / f"{name}.yaml", DatasetContract)


def load_contracts(datasets_dir: Path) -> dict[str, DatasetContract]:
    """Read all contracts, by name in alphabetical order.

    Raises:
        SpecError: One is wrong.
    """
    return {path.stem: load_contract(datasets_dir, path.stem) for path in sorted(datasets_dir.glob("*.yaml"))}
