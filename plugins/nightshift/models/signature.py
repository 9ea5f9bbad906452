"""The signature of a model: names, order, types and levels of its features.

It is checked before every fit and every prediction: LightGBM itself accepts missing, re-ordered or
re-coded columns without an error. Source: LightGBM issues 2396, 5664, 5902.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import Features

    Matrix = npt.NDArray[np.float64]


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
        return [*self.numeric, *(name for name, _ in self.categorical)]

    @property
    def categorical_positions(self) -> list[int]:
        """Return the indexes of the categorical columns in the matrix."""
        return list(range(len(self.numeric), len(self.names)))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the signature, hex."""
        return sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return plain lists and strings."""
        categorical = [{"name": name, "levels": list(levels)} for name, levels in self.categorical]
        return {"numeric": list(self.numeric), "categorical": categorical}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Signature:
        """Return the signature that ``as_json`` wrote."""
        categorical = [(part["name"], tuple(part["levels"])) for part in document["categorical"]]
        return cls(tuple(document["numeric"]), tuple(categorical))


def learn_signature(features: Features, rows: pa.Table) -> Signature:
    """Return the signature of a fit: levels from the spec, else the frequent ones of the rows.

    Args:
        features: The spec's features.
        rows: The rows that the model is fitted on; no other rows may decide which levels are known.

    Raises:
        SignatureError: A feature column is missing or has an unfit type.
    """
    check_columns(features.names, rows)
    levels = [
        (part.name, part.levels or _frequent_levels(rows, part.name, part.minimum_rows))
        for part in features.categorical
    ]
    return Signature(features.numeric, tuple(levels))


def check_columns(names: tuple[str, ...] | list[str], rows: pa.Table) -> None:
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
    levels = dict(signature.categorical)
    matrix = np.empty((rows.num_rows, len(signature.names)), dtype=np.float64)
    for index, name in enumerate(signature.names):
        is_categorical = name in levels
        matrix[:, index] = (
            _codes(rows, name, levels[name]) if is_categorical else _numbers(rows, name)
        )
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
        # Checked in any case; a column of doubles is then passed on as it is, without a copy.
        values, column = _numbers(rows, name), rows.column(name)
        columns[name] = column if pa.types.is_float64(column.type) else pa.array(values)
    for name, levels in signature.categorical:
        columns[name] = pa.array(_codes(rows, name, levels).astype(np.float32))
    return pa.table(columns)


def numbers(rows: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """Return one numeric column as doubles, null as NaN; shape (n,).

    Raises:
        SignatureError: The column is missing, not numeric, or holds an infinite number.
    """
    check_columns([name], rows)
    return _numbers(rows, name)


def _numbers(rows: pa.Table, name: str) -> npt.NDArray[np.float64]:
    import numpy as np
    import pyarrow as pa

    column = rows.column(name)
    is_boolean = pa.types.is_boolean(column.type)
    numeric = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    if not is_boolean and not any(is_type(column.type) for is_type in numeric):
        raise _wrong_type(name, "a number", str(column.type))
    # Arrow casts a boolean to a double only by way of an integer.
    if is_boolean:
        column = column.cast(pa.int8())
    values: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    is_infinite = np.isinf(values)
    if is_infinite.any():
        raise SignatureError(
            f"Column {name!r} holds {int(is_infinite.sum())} infinite value(s).",
            expected="finite numbers or null",
            todo="Find the division by zero in the feature view.",
            code="NS-MODEL-002",
        )
    return values


def _codes(rows: pa.Table, name: str, levels: tuple[str, ...]) -> npt.NDArray[np.float64]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    indexes = pc.index_in(_strings(rows, name), value_set=pa.array(levels, pa.string()))
    codes: npt.NDArray[np.float64] = indexes.cast(pa.float64()).to_numpy()
    return np.where(np.isnan(codes), np.nan, codes)


def _strings(rows: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    column = rows.column(name)
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    string_types = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(is_type(value_type) for is_type in string_types):
        raise _wrong_type(name, "text", str(column.type))
    return column.cast(pa.string())


def _frequent_levels(rows: pa.Table, name: str, minimum_rows: int) -> tuple[str, ...]:
    counts = _strings(rows, name).value_counts().to_pylist()
    frequent = [part["values"] for part in counts if part["counts"] >= minimum_rows]
    return tuple(sorted(level for level in frequent if level is not None))


def _wrong_type(name: str, expected: str, got: str) -> SignatureError:
    return SignatureError(
        f"Column {name!r} has the wrong type.",
        expected=expected,
        got=got,
        todo="Cast it in the feature view, or move it in the spec.",
    )
