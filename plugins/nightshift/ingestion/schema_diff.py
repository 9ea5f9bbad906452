"""Compare the schema of a file with its contract, and write the YAML that adopts the difference.

A person decides; nothing here changes a contract.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import Column, ColumnType, DatasetContract
from nightshift.contracts.reserved_names import RAW_COLUMNS, SYSTEM_COLUMNS
from nightshift.ingestion.rows.cast import Reason, cast_texts
from nightshift.quality.contract_check import SIMILARITY, check_names, is_other_type
from nightshift.quality.contract_errors import accepted_form
from nightshift.quality.files.file_blocks import (
    UnreadableFileError,
    read_first_rows,
    read_header,
    unread_columns,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.lake.drops import DropManifest

    Texts = Sequence[str | None]

# Types that are guessed, the narrowest first: whatever is an integer is a number too.
_NARROW_TYPES = (
    ColumnType.INTEGER,
    ColumnType.NUMBER,
    ColumnType.BOOLEAN,
    ColumnType.DATE,
    ColumnType.UTC_TIMESTAMP,
)
_INSTANTS = {ColumnType.UTC_TIMESTAMP, ColumnType.LOCAL_TIMESTAMP}
# Delivered type and type of the column.
_CONVERTIBLE = {
    (ColumnType.INTEGER, ColumnType.NUMBER),
    (ColumnType.DATE, ColumnType.UTC_TIMESTAMP),
}
_N_SAMPLES = 3
# Text of the rows that are compared: a type shows in the first ones, and each becomes an object.
_COMPARED_BYTES = 8 * 1024**2
# A number with leading zeros is a code: as a number it would lose them.
_CODE = re.compile(r"[+-]?0[0-9]+")
# Source: PostgreSQL's limit of an identifier, in bytes.
_MAX_NAME_LENGTH = 63
_YAML_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


@dataclass(frozen=True)
class SchemaDiff:
    """Difference between a file and the contract's columns of its schema version.

    Attributes:
        added: Type by name of columns that the contract does not know.
        removed: Columns of the contract that the file does not have.
        renamed: Column to its new name, by likeness.
        retyped: Column to the type that its values have.
        samples: Up to three values of each such column that cannot be read as its type.
        notes: Sentences about what nobody can adopt: columns without a name, or with the same one.
        repeated: Columns that a reader needs, or would need, and that the file has more than once.
        n_compared: Rows that were compared, if the file is too large to compare all; else None.
    """

    added: dict[str, ColumnType]
    removed: tuple[Column, ...]
    renamed: dict[str, str]
    retyped: dict[str, ColumnType]
    samples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    n_compared: int | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether the file is as the contract says."""
        return not self._is_adoptable and not self.notes

    @property
    def is_only_noted(self) -> bool:
        """Return whether there is a difference, but none that a contract could adopt."""
        return not self._is_adoptable and bool(self.notes)

    @property
    def _is_adoptable(self) -> bool:
        return bool(self.added or self.removed or self.renamed or self.retyped)


def compare_schema(contract: DatasetContract, drop: DropManifest, data: bytes) -> SchemaDiff:
    """Return the difference between a file and the columns of its schema version.

    The newest version counts if the file names one that the contract does not know. Malformed rows
    are left out, and so are the rows of a large file that follow the first 8 MiB.

    Raises:
        UnreadableFileError: The file cannot be read.
        OverLimitError: It is larger than the contract allows.
    """
    header = read_header(data, drop.data_key, contract.limits)
    check_names(header, contract.limits.columns)
    columns = contract.columns_for(drop.partition, drop.schema_version) or contract.columns
    expected = {column.delivered_name: column for column in columns}
    # Ingest takes a file with an unknown column of lists, and passes over it.
    nested = unread_columns(data, drop.data_key, expected, contract.limits)
    unread = dict.fromkeys(nested, "holds lists or structures, which no contract has")
    try:
        rows, is_complete = _read(data, drop, header, unread)
    except UnreadableFileError:
        # Nor does it read the values of any other column that the contract does not know.
        known = [*expected, *unread]
        unknown = [name for name in header if name not in known]
        unread |= _illegible(data, drop, header, unknown)
        rows, is_complete = _read(data, drop, header, unread)
    # A column that is there more than once has no values: nobody knows which one is meant.
    values: dict[str, Texts] = dict.fromkeys(header, ())
    values |= {name: rows[name].to_pylist() for name in rows.column_names}

    missing = {name: column for name, column in expected.items() if name not in values}
    unknown = [name for name in values if name and name not in expected and name not in unread]
    renamed = _find_renamed(missing, unknown, values, contract.timezone)
    added = [name for name in unknown if name not in renamed.values()]
    removed = [column for column in missing.values() if column.name not in renamed]

    retyped: dict[str, ColumnType] = {}
    samples: dict[str, tuple[str, ...]] = {}
    for name, column in expected.items():
        strings = values.get(name, [])
        if _is_retyped(strings, column, contract.timezone):
            wrong = _wrong_values(strings, column, contract.timezone)
            retyped[column.name] = _guess_type(strings, contract.timezone)
            distinct = tuple(dict.fromkeys(wrong))
            samples[column.name] = distinct[:_N_SAMPLES]
    return SchemaDiff(
        added={name: _guess_type(values[name], contract.timezone) for name in added},
        removed=tuple(removed),
        renamed=renamed,
        retyped=retyped,
        samples=samples,
        notes=_notes(header, unread),
        repeated=tuple(name for name in dict.fromkeys(header) if name and header.count(name) > 1),
        n_compared=None if is_complete else rows.num_rows,
    )


def _read(
    data: bytes, drop: DropManifest, header: Sequence[str], unread: Iterable[str]
) -> tuple[pa.Table, bool]:
    """Return the first rows of the columns that can be read, and whether these are all rows."""
    return read_first_rows(data, drop.data_key, header, _COMPARED_BYTES, tuple(unread))


def _illegible(
    data: bytes, drop: DropManifest, header: Sequence[str], names: Iterable[str]
) -> dict[str, str]:
    """Return why the values of columns cannot be read, by name; without those that can be."""
    reasons = {}
    for name in names:
        remaining = [other for other in header if other != name]
        try:
            _read(data, drop, header, remaining)
        except UnreadableFileError as error:
            reasons[name] = f"cannot be read: {error}"
    return reasons


def _find_renamed(
    missing: Mapping[str, Column],
    unknown: Sequence[str],
    values: Mapping[str, Texts],
    timezone: str,
) -> dict[str, str]:
    """Return the new name of each missing column that resembles an unknown one of its type."""
    renamed: dict[str, str] = {}
    for name, column in missing.items():
        # One new name replaces one column only, and its values must be readable as that column's.
        candidates = [
            other
            for other in unknown
            if other not in renamed.values() and not _is_retyped(values[other], column, timezone)
        ]
        alike = get_close_matches(name, candidates, n=1, cutoff=SIMILARITY)
        if alike:
            renamed[column.name] = alike[0]
    return renamed


def _notes(header: Sequence[str], unread: Mapping[str, str]) -> tuple[str, ...]:
    """Return sentences about missing and repeated names, and columns that nobody reads."""
    notes = [f"column {i} has no name" for i, name in enumerate(header, 1) if not name]
    for name, n_columns in Counter(header).items():
        if name and n_columns > 1:
            notes.append(f"{name} is delivered {n_columns} times")
    notes += [f"{name} {reason}" for name, reason in unread.items()]
    return tuple(notes)


def _is_retyped(strings: Texts, column: Column, timezone: str) -> bool:
    """Return whether values show that a column has another type, by the rule of ingestion."""
    n_wrong = len(_wrong_values(strings, column, timezone))
    n_values = sum(text is not None for text in strings)
    return is_other_type(n_wrong, n_values, len(strings))


def _wrong_values(strings: Texts, column: Column, timezone: str) -> list[str]:
    """Return the values that cannot be read as a column's type."""
    cast = cast_texts(strings, column, timezone)
    is_wrong = cast.problems.get(Reason.WRONG_TYPE)
    if is_wrong is None:
        return []
    indices = np.flatnonzero(is_wrong).tolist()
    return [strings[i] or "" for i in indices]


def _guess_type(strings: Texts, timezone: str) -> ColumnType:
    """Return the narrowest type that all values have; of no values, text."""
    values = [text for text in strings if text is not None]
    if not values or any(_CODE.fullmatch(text) for text in values):
        return ColumnType.TEXT
    for column_type in _NARROW_TYPES:
        column = Column(name="x", type=column_type)
        if not _wrong_values(values, column, timezone):
            return column_type
    return ColumnType.TEXT


def adoption_obstacles(contract: DatasetContract, diff: SchemaDiff) -> list[str]:
    """Return why a person cannot adopt a difference, one sentence per column; none if they can."""
    by_name = {column.name: column for column in contract.columns}
    identifying = contract.identifying_columns
    obstacles = [
        f"{column.name} is missing, but identifies a row: no version can be without it."
        for column in diff.removed
        if column.name in identifying
    ]
    obstacles += [
        f"{name} is delivered more than once: nobody knows which of them is meant."
        for name in diff.repeated
    ]
    for name, new_type in diff.retyped.items():
        column = by_name[name]
        delivered_type = column.delivered_as or column.type
        accepted = f"{delivered_type} is read as: {accepted_form(delivered_type)}."
        samples = diff.samples.get(name, ())
        if new_type is ColumnType.TEXT and _is_other_spelling(samples, delivered_type):
            obstacles.append(
                f"{name} seems to be {delivered_type} in a form that is not read. {accepted}"
            )
        # It would get a column of its own, and no version can be without what identifies a row.
        elif name in identifying and not _is_convertible(new_type, column.type):
            obstacles.append(f"{name} identifies a row, so its type stays. {accepted}")
    return obstacles


def _is_other_spelling(samples: Sequence[str], column_type: ColumnType) -> bool:
    """Return whether strings look like another spelling of a type: 2,50 or 20.11.2026 or ja."""
    if column_type is ColumnType.BOOLEAN:
        # Two words: ja and nein. Three distinct ones are no truth values.
        return len(samples) < _N_SAMPLES
    n_with_digits = sum(re.search(r"\d", text) is not None for text in samples)
    return n_with_digits * 2 > len(samples)


def adoption_yaml(contract: DatasetContract, drop: DropManifest, diff: SchemaDiff) -> list[str]:
    """Return the YAML lines that adopt a difference as of the drop's day.

    Only for a difference without ``adoption_obstacles``.
    """
    by_name = {column.name: column for column in contract.columns}
    converted: dict[str, ColumnType] = {}
    replaced: dict[str, ColumnType] = {}
    for name, new_type in diff.retyped.items():
        if _is_convertible(new_type, by_name[name].type):
            converted[name] = new_type
        else:
            replaced[name] = new_type
    removed = [*(column.name for column in diff.removed), *replaced]

    # A column of a type that cannot be converted gets a column of its own; the old one stays,
    # because views depend on it and old rows were read with it.
    sources = [*diff.added.items()]
    proposed_names = [*diff.added]
    for name, new_type in replaced.items():
        sources.append((by_name[name].delivered_name, new_type))
        proposed_names.append(f"{name}_{new_type.value}")
    added_names = _free_names(proposed_names, by_name)

    columns = [_changed(by_name[name], source=source) for name, source in diff.renamed.items()]
    columns += [_changed(by_name[name], delivered_as=new) for name, new in converted.items()]
    columns += [_changed(by_name[name], is_nullable=True) for name in removed]
    for name, (source, new_type) in zip(added_names, sources, strict=True):
        columns.append(Column(name=name, source=source, type=new_type, is_nullable=True))

    old_types = {name: by_name[name].delivered_as or by_name[name].type for name in converted}
    changes = {
        "added": added_names,
        "removed": removed,
        "renamed": {name: by_name[name].delivered_name for name in diff.renamed},
        "retyped": {name: old_type.value for name, old_type in old_types.items()},
    }
    return _yaml_lines(contract.schema_version + 1, drop.partition, columns, changes)


def _yaml_lines(
    version: int, since: dt.date, columns: Iterable[Column], changes: Mapping[str, object]
) -> list[str]:
    """Return the lines of a schema version; changes that name no column are left out."""
    lines = [f"schema_version: {version}"]
    lines.append("columns:  # replace those of the same name, add the rest")
    for column in columns:
        document = column.model_dump(mode="json", exclude_defaults=True)
        lines.append(f"  - {_flow(document)}")
    lines += ["versions:", f"  {version}:", f"    since: {since}"]
    lines += [f"    {change}: {_flow(names)}" for change, names in changes.items() if names]
    return lines


def _changed(column: Column, **update: object) -> Column:
    return column.model_copy(update=update)


def _is_convertible(delivered: ColumnType, column_type: ColumnType) -> bool:
    """Return whether all usual values of one type have a counterpart in the other."""
    if column_type is ColumnType.TEXT or {delivered, column_type} <= _INSTANTS:
        return True
    return (delivered, column_type) in _CONVERTIBLE


def _free_names(proposed: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Return a column name for each proposed one, no two alike and none that is taken."""
    used = {*taken, *RAW_COLUMNS, *SYSTEM_COLUMNS}
    names = []
    for proposed_name in proposed:
        name = base = _identifier(proposed_name)
        for number in itertools.count(2):
            if name not in used:
                break
            # Room for the number, so that the name still fits.
            name = f"{base[: _MAX_NAME_LENGTH - 4]}_{number}"
        names.append(name)
        used.add(name)
    return names


def _identifier(name: str) -> str:
    """Return a name as an SQL identifier: no accents, lower case, no leading digit."""
    ascii_name = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    identifier = re.sub(r"[^a-z0-9]+", "_", ascii_name).strip("_") or "column"
    if identifier[0].isdigit():
        identifier = f"_{identifier}"
    return identifier[:_MAX_NAME_LENGTH]


def _flow(value: object) -> str:
    """Return a value as YAML on one line; a text is quoted where YAML may read something else."""
    if isinstance(value, dict):
        parts = [f"{key}: {_flow(part)}" for key, part in value.items()]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    is_plain = isinstance(value, str) and value.isidentifier() and value.lower() not in _YAML_WORDS
    return str(value) if is_plain else json.dumps(value)
