"""Which entities a canary gets: a hash of the entity's key, the same in Python and in SQL.

The hash is salted by the model's name alone. So an entity is in or out on every night, in every
shard and for every version, another model has other entities, and a larger share keeps all
entities of a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from psycopg import sql

    Mask = npt.NDArray[np.bool_]

_BYTES = 6
"""Bytes of the hash that count: 48 bits, exact in SQL's and in Python's integers."""


def hash_bound(share: float) -> int:
    """Return the bound below which the hash of an entity lies that is in a share."""
    return round(share * (1 << 8 * _BYTES))


def in_canary(model: str, share: float, keys: Iterable[str]) -> Mask:
    """Return which entities are in a share, shape (n,).

    Args:
        model: Name of the model.
        share: Between 0 and 1.
        keys: Keys of n entities.
    """
    import numpy as np

    bound = hash_bound(share)
    salted = sha256(_salt(model).encode())

    def is_in(key: str) -> bool:
        # A copy of the salted state: the salt is hashed once.
        entity = salted.copy()
        entity.update(key.encode())
        return int.from_bytes(entity.digest()[:_BYTES], "big") < bound

    return np.fromiter(map(is_in, keys), dtype=np.bool_)


def in_canary_condition(model: str, bound: sql.Composable, key: sql.Composable) -> sql.Composed:
    """Return the same as an SQL condition.

    Args:
        model: Name of the model.
        bound: ``hash_bound`` of the share, or an expression of it.
        key: The entity's key, text.
    """
    from psycopg import sql

    condition = sql.SQL(
        "('x' || encode(substr(sha256(convert_to({salt} || {key}, 'UTF8')), 1, {n_bytes}), 'hex'))"
        "::bit({n_bits})::bigint < {bound}"
    )
    return condition.format(
        salt=sql.Literal(_salt(model)),
        key=key,
        n_bytes=sql.Literal(_BYTES),
        n_bits=sql.Literal(8 * _BYTES),
        bound=bound,
    )


def _salt(model: str) -> str:
    return f"{model}:"
