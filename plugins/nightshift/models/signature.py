"""The signature of a model: names, order, types and levels of its features.

It is checked before every fit and every prediction: LightGBM itself accepts missing, re-ordered or
re-coded columns without an error. Source: LightGBM issues 2396, 5664, 5902.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import Features
    from nightshift.models.arrays import Integers, Matrix, Vector


class SignatureError(NightshiftError):
    """The rows do not have the columns, types or values that the model reads."""

    code = "NS-MODEL-001"


@dataclass(frozen=True)
class EncodedCategory:
    """A category that the matrix has as a number, of ``training.recipe.target_encoding``.

    Attributes:
        name: Column of the feature view.
        levels: The known levels; any other level gets 0.
        values: The number of each level.
        missing: The number of rows without a level.
    """

    name: str
    levels: tuple[str, ...]
    values: tuple[float, ...]
    missing: float

    def of(self, rows: pa.Table) -> Vector:
        """Return the number of each row; shape (n,)."""
        import numpy as np

        # In the order of the codes: levels, missing, unknown.
        table = np.array([*self.values, self.missing, 0.0])
        values: Vector = table[level_codes(rows, self.name, self.levels)]
        return values


@dataclass(frozen=True)
class Signature:
    """The columns of a model's matrix: numbers, encoded categories, other categories, in order.

    Attributes:
        numeric: Names of the numeric columns.
        categorical: Names and levels; a level's code is its index in the list, any other level
            counts as missing.
        encoded: Categories that are numbers in the matrix.
    """

    numeric: tuple[str, ...]
    categorical: tuple[tuple[str, tuple[str, ...]], ...]
    encoded: tuple[EncodedCategory, ...] = ()

    @property
    def number_names(self) -> list[str]:
        """Return the names of the matrix' columns of numbers, in order."""
        return [*self.numeric, *(category.name for category in self.encoded)]

    @property
    def text_names(self) -> list[str]:
        """Return the names of the columns that hold text in the feature view."""
        return self.names[len(self.numeric) :]

    @property
    def names(self) -> list[str]:
        """Return the names of the matrix' columns, in order."""
        categorical = [name for name, _ in self.categorical]
        return [*self.number_names, *categorical]

    @property
    def categorical_positions(self) -> list[int]:
        """Return the indexes of the categorical columns in the matrix."""
        return list(range(len(self.number_names), len(self.names)))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the signature, hex."""
        document = json.dumps(self.as_json(), sort_keys=True)
        return sha256(document.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return plain lists and strings."""
        categorical = []
        for name, levels in self.categorical:
            categorical.append({"name": name, "levels": list(levels)})
        document: dict[str, Any] = {"numeric": list(self.numeric), "categorical": categorical}
        # Without any, the file is that of older code, byte by byte.
        if self.encoded:
            document["encoded"] = [
                {
                    "name": category.name,
                    "levels": list(category.levels),
                    "values": list(category.values),
                    "missing": category.missing,
                }
                for category in self.encoded
            ]
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Signature:
        """Return the signature that ``as_json`` wrote."""
        numeric = tuple(document["numeric"])
        parts = document["categorical"]
        categorical = tuple((part["name"], tuple(part["levels"])) for part in parts)
        encoded = []
        for part in document.get("encoded", []):
            values = {**part, "levels": tuple(part["levels"]), "values": tuple(part["values"])}
            encoded.append(EncodedCategory(**values))
        return cls(numeric, categorical, tuple(encoded))


def matrix_names(features: Features, encoded: Iterable[str]) -> list[str]:
    """Return the spec's features in the order of the matrix.

    Args:
        features: The spec's features.
        encoded: Names of the categories that are numbers in it.
    """
    categorical = [feature.name for feature in features.categorical]
    numbers_too = [name for name in categorical if name in set(encoded)]
    coded = [name for name in categorical if name not in numbers_too]
    return [*features.numeric, *numbers_too, *coded]


def learn_signature(
    features: Features, rows: pa.Table, encoded: Sequence[EncodedCategory] = ()
) -> Signature:
    """Return the signature of a fit: levels from the spec, else the frequent ones of the rows.

    Args:
        features: The spec's features.
        rows: The rows that the model is fitted on; no other rows may decide which levels are known.
        encoded: Categories that are numbers, in the order of the spec.

    Raises:
        SignatureError: A feature column is missing or has an unfit type.
    """
    check_columns(features.names, rows)
    categorical = []
    encoded_names = {category.name for category in encoded}
    for feature in features.categorical:
        if feature.name in encoded_names:
            continue
        levels = feature.levels
        if not levels:
            levels = _frequent_levels(rows, feature.name, feature.minimum_rows)
        categorical.append((feature.name, levels))
    return Signature(features.numeric, tuple(categorical), tuple(encoded))


def check_columns(names: Sequence[str], rows: pa.Table) -> None:
    """Refuse rows without these columns.

    Raises:
        SignatureError: Names are missing; the message has the difference.
    """
    column_names = set(rows.column_names)  # Arrow makes the list again at every access
    missing = [name for name in names if name not in column_names]
    if missing:
        unused = sorted(column_names - set(names))
        raise SignatureError(
            f"{len(missing)} feature column(s) are missing: {', '.join(missing)}.",
            expected=f"{len(names)} columns: {', '.join(names)}",
            got=f"columns that are not read: {', '.join(unused) or 'none'}",
            todo="Add them to the feature view, or take them out of the spec.",
        )


def encode(
    rows: pa.Table, signature: Signature, as_of: Mapping[str, Vector] | None = None
) -> Matrix:
    """Turn rows into the model's matrix.

    Args:
        rows: At least the signature's columns, in any order; shape (n, any).
        signature: The model's.
        as_of: Values of the encoded categories of rows that the model is fitted on, by name; shape
            (n,). Rows that are scored have those of the signature.

    Returns:
        Shape (n, len(signature.names)), doubles; missing values and unknown levels are NaN.

    Raises:
        SignatureError: A column is missing, has the wrong type, or holds an infinite number.
    """
    import numpy as np

    check_columns(signature.names, rows)
    # Filled column by column: no second matrix is ever in memory.
    matrix = np.empty((rows.num_rows, len(signature.names)), dtype=np.float64)
    columns = iter(matrix.T)
    for name in signature.numeric:
        next(columns)[:] = _numbers(rows, name)
    for category in signature.encoded:
        next(columns)[:] = category.of(rows) if as_of is None else as_of[category.name]
    for name, levels in signature.categorical:
        next(columns)[:] = _codes(rows, name, levels)
    return matrix


def encode_columns(rows: pa.Table, signature: Signature, as_of: Mapping[str, Vector]) -> pa.Table:
    """Turn rows of a fit into the columns of its matrix; columns of doubles are not copied.

    Args:
        rows: As ``encode``.
        signature: As ``encode``.
        as_of: As ``encode``.

    Raises:
        SignatureError: As ``encode``.
    """
    import numpy as np
    import pyarrow as pa

    check_columns(signature.names, rows)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in signature.numeric:
        column = rows.column(name)
        # Checked in any case; a column of doubles is then passed on as it is, without a copy.
        values = _numbers(rows, name)
        columns[name] = column if pa.types.is_float64(column.type) else pa.array(values)
    for category in signature.encoded:
        columns[category.name] = pa.array(as_of[category.name])
    for name, levels in signature.categorical:
        # Half the memory of doubles; codes up to 16 million stay exact.
        codes = _codes(rows, name, levels).astype(np.float32)
        columns[name] = pa.array(codes)
    return pa.table(columns)


def numbers(rows: pa.Table, name: str) -> Vector:
    """Return one numeric column as doubles, null as NaN; shape (n,).

    Raises:
        SignatureError: The column is missing, not numeric, or holds an infinite number.
    """
    check_columns([name], rows)
    return _numbers(rows, name)


def _numbers(rows: pa.Table, name: str) -> Vector:
    import numpy as np
    import pyarrow as pa
    from pyarrow import types

    column = rows.column(name)
    # Arrow casts a boolean to a double only by way of an integer.
    if types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numeric = (
        types.is_floating,
        types.is_integer,
        types.is_decimal,
    )
    if not any(is_type(column.type) for is_type in numeric):
        raise _wrong_type(name, "a number", column.type)
    values: Vector = column.cast(pa.float64()).to_numpy()
    n_infinite = int(np.isinf(values).sum())
    if n_infinite:
        raise SignatureError(
            f"Column {name!r} holds {n_infinite} infinite value(s).",
            expected="finite numbers or null",
            todo="Find the division by zero in the feature view.",
            code="NS-MODEL-002",
        )
    return values


def _codes(rows: pa.Table, name: str, levels: tuple[str, ...]) -> Vector:
    """Return the index of each row's level; NaN for null and for a level that is not known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known_levels = pa.array(levels, pa.string())
    indexes = pc.index_in(_strings(rows, name), value_set=known_levels)
    codes: Vector = indexes.cast(pa.float64()).to_numpy()
    return codes


def level_codes(rows: pa.Table, name: str, levels: Sequence[str]) -> Integers:
    """Return the index of each row's level; after the last one missing, then unknown levels.

    Raises:
        SignatureError: The column is not text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    strings = _strings(rows, name)
    indexes = pc.index_in(strings, value_set=pa.array(levels, pa.string()))
    n_levels = len(levels)
    absent = pc.if_else(pc.is_null(strings), n_levels, n_levels + 1)
    codes: Integers = pc.coalesce(indexes, absent.cast(pa.int32())).to_numpy()
    return codes


def _strings(rows: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa
    from pyarrow import types

    column = rows.column(name)
    value_type = column.type
    if types.is_dictionary(value_type):
        value_type = value_type.value_type
    textual = (
        types.is_string,
        types.is_large_string,
        types.is_null,
    )
    if not any(is_type(value_type) for is_type in textual):
        raise _wrong_type(name, "text", column.type)
    return column.cast(pa.string())


def _frequent_levels(rows: pa.Table, name: str, minimum_rows: int) -> tuple[str, ...]:
    frequent = []
    for entry in _strings(rows, name).value_counts().to_pylist():
        level = entry["values"]
        if level is not None and entry["counts"] >= minimum_rows:
            frequent.append(level)
    return tuple(sorted(frequent))


def _wrong_type(name: str, expected: str, got: pa.DataType) -> SignatureError:
    return SignatureError(
        f"Column {name!r} has the wrong type.",
        expected=expected,
        got=str(got),
        todo="Cast it in the feature view, or move it in the spec.",
    )
