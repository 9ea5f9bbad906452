"""Compare the schema of a delivered file with the contract, and write down what adopting it takes; a person decides."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import Column, ColumnType
from nightshift.ingestion.cast import Reason, cast_column
from nightshift.quality.contract_check import SIMILARITY, accepted_form, is_other_type
from nightshift.quality.files.file_blocks import UnreadableFileError, read_cells

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
        samples: Up to three values of each such column that cannot be read as its type.
        notes: What nobody can adopt, in words: columns without a name, or with the same one.
    """

    added: dict[str, ColumnType]
    removed: tuple[Column, ...]
    renamed: dict[str, str]
    retyped: dict[str, ColumnType]
    samples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Return whether the file is as the contract says."""
        return not (self.added or self.removed or self.renamed or self.retyped or self.notes)

    @property
    def is_only_noted(self) -> bool:
        """Return whether there is a difference, but nothing that a contract could take up."""
        return not (self.added or self.removed or self.renamed or self.retyped) and bool(self.notes)


def compare_schema(contract: DatasetContract, drop: DropManifest, data: bytes) -> SchemaDiff:
    """Return the difference between a file and the columns of its schema version, the newest one if it names none that we know.

    Raises:
        UnreadableFileError: The file cannot be read.
    """
    header, rows = read_cells(data, drop.data_key)
    if not header:
        raise UnreadableFileError("it is empty")
    rows = [row for row in rows if not isinstance(row, str)]
    columns = (
        contract.columns_of(contract.version_for(drop.partition, drop.schema_version))
        or contract.columns
    )
    expected = {column.delivered_name: column for column in columns}
    values = {name: [row[place] or None for row in rows] for place, name in enumerate(header)}
    unknown = [name for name in dict.fromkeys(header) if name and name not in expected]
    renamed: dict[str, str] = {}
    for name, column in expected.items():
        if name not in header and (
            alike := get_close_matches(
                name, set(unknown) - set(renamed.values()), n=1, cutoff=SIMILARITY
            )
        ):
            renamed[column.name] = alike[0]
    added = [name for name in unknown if name not in renamed.values()]
    there = [(column, values[name]) for name, column in expected.items() if name in header]
    wrong = {
        column.name: _wrong_values(texts, column, contract.timezone) for column, texts in there
    }
    retyped = {
        column.name: texts for column, texts in there if _is_other(texts, wrong[column.name])
    }
    return SchemaDiff(
        added={name: _guess(values[name], contract.timezone) for name in added},
        removed=tuple(
            column
            for name, column in expected.items()
            if name not in header and column.name not in renamed
        ),
        renamed=renamed,
        retyped={name: _guess(texts, contract.timezone) for name, texts in retyped.items()},
        samples={name: tuple(dict.fromkeys(wrong[name]))[:_N_SAMPLES] for name in retyped},
        notes=_notes(header),
    )


_N_SAMPLES = 3
_CODE = re.compile(r"[+-]?0[0-9]")
"""A number with zeros in front is a code: they would be lost."""


def _notes(header: Sequence[str]) -> tuple[str, ...]:
    """Return in words what is wrong with the names of a file."""
    unnamed = [
        f"column {position} has no name" for position, name in enumerate(header, 1) if not name
    ]
    counted = Counter(name for name in header if name)
    return (*unnamed, *(f"{name} is delivered {n} times" for name, n in counted.items() if n > 1))


def _wrong_values(texts: Sequence[str | None], column: Column, timezone: str) -> list[str]:
    """Return the values that cannot be read as a column's type."""
    import pyarrow as pa

    problems = cast_column(
        pa.chunked_array([pa.array(texts, pa.string())]), column, timezone
    ).problems
    is_wrong = problems.get(Reason.WRONG_TYPE)
    return (
        []
        if is_wrong is None
        else [texts[position] or "" for position in np.flatnonzero(is_wrong).tolist()]
    )


def _is_other(texts: Sequence[str | None], wrong: Sequence[str]) -> bool:
    return is_other_type(len(wrong), sum(text is not None for text in texts), len(texts))


def _guess(texts: Sequence[str | None], timezone: str) -> ColumnType:
    """Return the narrowest type that all values have; of no values, text."""
    values = [text for text in texts if text is not None]
    if not values or any(_CODE.match(text) and text.lstrip("+-").isdigit() for text in values):
        return ColumnType.TEXT
    return next(
        kind
        for kind in _GUESSES
        if not _wrong_values(values, Column(name="x", type=kind), timezone)
    )


def objections(contract: DatasetContract, diff: SchemaDiff) -> list[str]:
    """Return why a person cannot adopt a difference, one sentence for each column; none if that can be done."""
    by_name = {column.name: column for column in contract.columns}
    needed = {*contract.key, contract.event_timestamp, contract.day_column}
    said = [
        f"{column.name} is missing, and says which row it is: no version can be without it."
        for column in diff.removed
        if column.name in needed
    ]
    for name, delivered in diff.retyped.items():
        wanted = by_name[name].delivered_as or by_name[name].type
        accepted = f"{wanted} is read as: {accepted_form(wanted)}."
        if delivered is ColumnType.TEXT and _is_other_spelling(diff.samples.get(name, ()), wanted):
            said.append(f"{name} seems to be {wanted} in a form that is not read. {accepted}")
        elif name in needed and not _is_convertible(delivered, by_name[name].type):
            said.append(f"{name} says which row it is, so it stays what it is. {accepted}")
    return said


def _is_other_spelling(samples: Sequence[str], wanted: ColumnType) -> bool:
    """Return whether texts look like values of a type that are written in another way: 2,50 or 20.11.2026 or ja."""
    if wanted is ColumnType.BOOLEAN:
        return len(samples) < _N_SAMPLES
    return sum(any(character.isdigit() for character in text) for text in samples) * 2 > len(
        samples
    )


def adoption(contract: DatasetContract, drop: DropManifest, diff: SchemaDiff) -> list[str]:
    """Return the lines of YAML that a person puts into the contract to adopt a difference, as of the drop's day.

    Only for a difference without ``objections``.
    """
    by_name = {column.name: column for column in contract.columns}
    names = _free_names(diff.added, by_name)
    apart = {
        name: kind
        for name, kind in diff.retyped.items()
        if not _is_convertible(kind, by_name[name].type)
    }
    beside_of = _free_names(
        [f"{name}_{kind.value}" for name, kind in apart.items()], {*by_name, *names.values()}
    )
    beside = dict(zip(beside_of.values(), apart.items(), strict=True))
    gone = [column.name for column in diff.removed] + list(apart)
    columns = [
        by_name[name].model_copy(update={"source": source}) for name, source in diff.renamed.items()
    ]
    columns += [
        by_name[name].model_copy(update={"delivered_as": kind})
        for name, kind in diff.retyped.items()
        if name not in apart
    ]
    columns += [by_name[name].model_copy(update={"is_nullable": True}) for name in gone]
    columns += [
        Column(name=names[name], source=name, type=kind, is_nullable=True)
        for name, kind in diff.added.items()
    ]
    columns += [
        Column(name=name, source=by_name[old].delivered_name, type=kind, is_nullable=True)
        for name, (old, kind) in beside.items()
    ]
    lines = [
        f"schema_version: {contract.schema_version + 1}",
        "columns:  # replace those of the same name, add the others",
    ]
    lines += [
        f"  - {_flow(column.model_dump(mode='json', exclude_defaults=True))}" for column in columns
    ]
    lines += ["versions:", f"  {contract.schema_version + 1}:", f"    since: {drop.partition}"]
    lines += _entry("added", [*names.values(), *beside])
    lines += _entry("removed", gone)
    lines += _mapping("renamed", {name: by_name[name].delivered_name for name in diff.renamed})
    lines += _mapping(
        "retyped",
        {
            n: (by_name[n].delivered_as or by_name[n].type).value
            for n in diff.retyped
            if n not in apart
        },
    )
    return lines


def _is_convertible(delivered: ColumnType, wanted: ColumnType) -> bool:
    """Return whether all usual values of one type have a counterpart in the other."""
    instants = {ColumnType.UTC_TIMESTAMP, ColumnType.LOCAL_TIMESTAMP}
    return wanted is ColumnType.TEXT or {delivered, wanted} <= instants or (delivered, wanted) in {
        (ColumnType.INTEGER, ColumnType.NUMBER), (ColumnType.DATE, ColumnType.UTC_TIMESTAMP),
    }  # fmt: skip


def _free_names(delivered: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Return a name for the warehouse for each delivered one, no two alike and none that is taken."""
    used, names = {*taken, *_NOT_OUR_OWN}, dict[str, str]()
    for name in delivered:
        wanted = _identifier(name)
        numbered = (f"{wanted[: _LONGEST_NAME - 4]}_{number}" for number in itertools.count(2))
        names[name] = next(free for free in itertools.chain([wanted], numbered) if free not in used)
        used.add(names[name])
    return names


_LONGEST_NAME = 63
"""Source: PostgreSQL's limit of an identifier, in bytes."""
_NOT_OUR_OWN = {
    "load_id", "source_row", "partition_date", "known_at", "source_uri", "source_sha256",
    "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid",
}  # fmt: skip
"""Columns that every raw table has already."""


def _identifier(name: str) -> str:
    """Return a name as the warehouse writes it: without accents, lower case, no digit in front."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    joined = re.sub(r"[^a-z0-9]+", "_", plain if plain.strip() else "column").strip("_") or "column"
    return (f"_{joined}" if joined[0].isdigit() else joined)[:_LONGEST_NAME]


def _flow(document: dict[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {_scalar(value)}" for key, value in document.items()) + "}"


def _scalar(value: object) -> str:
    import json

    is_plain = (
        isinstance(value, str) and value.isidentifier() and value.lower() not in _WORDS_OF_YAML
    )
    return str(value) if is_plain else json.dumps(value)


_WORDS_OF_YAML = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def _entry(key: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"    {key}: [{', '.join(map(_scalar, names))}]"] if names else []


def _mapping(key: str, names: dict[str, str]) -> list[str]:
    return [f"    {key}: {_flow(dict(names))}"] if names else []
