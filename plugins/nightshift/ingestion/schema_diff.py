"""Compare the schema of a delivered file with the contract, and write down what adopting it takes; a person decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import Column, ColumnType
from nightshift.ingestion.cast import Reason, cast_column
from nightshift.quality.contract_check import SIMILARITY, WRONG_TYPE_RATIO
from nightshift.quality.file_blocks import read_cells

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.lake.drops import DropManifest

_GUESSES = (
    ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.DATE, ColumnType.UTC_TIMESTAMP, ColumnType.TEXT,
)  # fmt: skip


@dataclass(frozen=True)
class SchemaDiff:
    """What a file has otherwise than the contract says of its schema version.

    Attributes:
        added: Type by name of columns that the contract does not know.
        removed: Columns of the contract that the file does not have.
        renamed: Column to its new name, by likeness.
        retyped: Column to the type that its values have.
    """

    added: dict[str, ColumnType]
    removed: tuple[Column, ...]
    renamed: dict[str, str]
    retyped: dict[str, ColumnType]

    @property
    def is_empty(self) -> bool:
        """Return whether the file is as the contract says."""
        return not (self.added or self.removed or self.renamed or self.retyped)


def compare_schema(contract: DatasetContract, drop: DropManifest, data: bytes) -> SchemaDiff:
    """Return the difference between a file and the columns of its schema version, the newest one if it names none that we know."""
    header, rows = read_cells(data, drop.data_key)
    rows = [row for row in rows if len(row) == len(header)]
    columns = contract.columns_of(contract.version_for(drop.partition, drop.schema_version)) or contract.columns
    expected = {column.delivered_name: column for column in columns}
    values = {name: [row[place] or None for row in rows] for place, name in enumerate(header)}
    unknown = [name for name in header if name not in expected]
    renamed: dict[str, str] = {}
    for name, column in expected.items():
        if name not in header and (alike := get_close_matches(name, set(unknown) - set(renamed.values()), n=1, cutoff=SIMILARITY)):
            renamed[column.name] = alike[0]
    there = [(column, values[name]) for name, column in expected.items() if name in header]
    return SchemaDiff(
        added={name: _guess(values[name], contract.timezone) for name in unknown if name not in renamed.values()},
        removed=tuple(column for name, column in expected.items() if name not in header and column.name not in renamed),
        renamed=renamed,
        retyped={column.name: _guess(texts, contract.timezone) for column, texts in there if _is_other(texts, column, contract.timezone)},
    )


def _wrong_ratio(texts: Sequence[str | None], column: Column, timezone: str) -> float:
    import pyarrow as pa

    n_values = sum(text is not None for text in texts)
    problems = cast_column(pa.chunked_array([pa.array(texts, pa.string())]), column, timezone).problems
    return float(np.sum(problems.get(Reason.WRONG_TYPE, 0))) / n_values if n_values else 0.0


def _is_other(texts: Sequence[str | None], column: Column, timezone: str) -> bool:
    return _wrong_ratio(texts, column, timezone) > WRONG_TYPE_RATIO


def _guess(texts: Sequence[str | None], timezone: str) -> ColumnType:
    return next(kind for kind in _GUESSES if _wrong_ratio(texts, Column(name="x", type=kind), timezone) == 0)


def adoption(contract: DatasetContract, drop: DropManifest, diff: SchemaDiff) -> list[str]:
    """Return the lines of YAML that a person puts into the contract to adopt a difference, as of the drop's day."""
    by_name = {column.name: column for column in contract.columns}
    apart = {name: kind for name, kind in diff.retyped.items() if not _is_convertible(kind, by_name[name].type)}
    beside = {f"{name}_{kind.value}": (name, kind) for name, kind in apart.items()}
    gone = [column.name for column in diff.removed] + list(apart)
    columns = [by_name[name].model_copy(update={"source": source}) for name, source in diff.renamed.items()]
    columns += [by_name[name].model_copy(update={"delivered_as": kind}) for name, kind in diff.retyped.items() if name not in apart]
    columns += [by_name[name].model_copy(update={"is_nullable": True}) for name in gone]
    columns += [Column(name=_identifier(name), source=name, type=kind, is_nullable=True) for name, kind in diff.added.items()]
    columns += [Column(name=name, source=by_name[old].delivered_name, type=kind, is_nullable=True) for name, (old, kind) in beside.items()]
    lines = [f"schema_version: {contract.schema_version + 1}", "columns:  # replace those of the same name, add the others"]
    lines += [f"  - {_flow(column.model_dump(mode='json', exclude_defaults=True))}" for column in columns]
    lines += ["versions:", f"  {contract.schema_version + 1}:", f"    since: {drop.partition}"]
    lines += _entry("added", [*(_identifier(name) for name in diff.added), *beside])
    lines += _entry("removed", gone)
    lines += _mapping("renamed", {name: by_name[name].delivered_name for name in diff.renamed})
    lines += _mapping("retyped", {n: (by_name[n].delivered_as or by_name[n].type).value for n in diff.retyped if n not in apart})
    return lines


def _is_convertible(delivered: ColumnType, wanted: ColumnType) -> bool:
    """Return whether all usual values of one type have a counterpart in the other."""
    instants = {ColumnType.UTC_TIMESTAMP, ColumnType.LOCAL_TIMESTAMP}
    return wanted is ColumnType.TEXT or {delivered, wanted} <= instants or (delivered, wanted) in {
        (ColumnType.INTEGER, ColumnType.NUMBER), (ColumnType.NUMBER, ColumnType.INTEGER), (ColumnType.DATE, ColumnType.UTC_TIMESTAMP),
    }  # fmt: skip


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower())


def _flow(document: dict[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in document.items()) + "}"


def _scalar(value: object) -> str:
    import json

    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)


def _entry(key: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"    {key}: [{', '.join(names)}]"] if names else []


def _mapping(key: str, names: dict[str, str]) -> list[str]:
    return [f"    {key}: {_flow(dict(names))}"] if names else []
