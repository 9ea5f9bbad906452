"""The signature of a model: names, order, types and levels of its features.

It is checked before every fit and every prediction: LightGBM itself accepts missing, re-ordered or
re-coded columns without an error. Source: LightGBM issues 2396, 5664, 5902.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import Features
    from nightshift.models.arrays import Matrix, Vector


class SignatureError(NightshiftError):
    """The rows do not have the columns, types or values that the model reads."""

    code = "NS-MODEL-001"


@dataclass(frozen=True)
class Signature:
    """The columns of a model's matrix, numeric ones first, in this order.

    Attributes:
        numeric: Names of the numeric columns.
        categorical: Names and levels; a level's code is its index in the list, any other level
            counts as missing.
    """

    numeric: tuple[str, ...]
    categorical: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def names(self) -> list[str]:
        """Return the names of the matrix' columns, in order."""
        categorical = [name for name, _ in self.categorical]
        return [*self.numeric, *categorical]

    @property
    def categorical_positions(self) -> list[int]:
        """Return the indexes of the categorical columns in the matrix."""
        return list(range(len(self.numeric), len(self.names)))

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
        return {"numeric": list(self.numeric), "categorical": categorical}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Signature:
        """Return the signature that ``as_json`` wrote."""
        numeric = tuple(document["numeric"])
        parts = document["categorical"]
        categorical = tuple((part["name"], tuple(part["levels"])) for part in parts)
        return cls(numeric, categorical)


def learn_signature(features: Features, rows: pa.Table) -> Signature:
    """Return the signature of a fit: levels from the spec, else the frequent ones of the rows.

    Args:
        features: The spec's features.
        rows: The rows that the model is fitted on; no other rows may decide which levels are known.

    Raises:
        SignatureError: A feature column is missing or has an unfit type.
    """
    check_columns(features.names, rows)
    categorical = []
    for feature in features.categorical:
        levels = feature.levels
        if not levels:
            levels = _frequent_levels(rows, feature.name, feature.minimum_rows)
        categorical.append((feature.name, levels))
    return Signature(features.numeric, tuple(categorical))


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


def encode(rows: pa.Table, signature: Signature) -> Matrix:
    """Turn rows into the model's matrix.

    Args:
        rows: At least the signature's columns, in any order; shape (n, any).
        signature: The model's.

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
    for name, levels in signature.categorical:
        next(columns)[:] = _codes(rows, name, levels)
    return matrix


def encode_columns(rows: pa.Table, signature: Signature) -> pa.Table:
    """Turn rows into the columns of the model's matrix; columns of doubles are not copied.

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
