"""Hashes of keys: equal for equal rows, different for different ones of any type.

Wherever a row stands.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.ingestion.rows.key_hashes import find_repeated, hash_rows

VALUES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False).map(lambda value: value + 0.0),
    pa.string(): st.text(max_size=5),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes().map(lambda at: at.replace(tzinfo=dt.UTC)),
}
ROWS = st.lists(st.tuples(*(st.none() | values for values in VALUES.values())), max_size=30)


def columns_of(rows: list[tuple[object, ...]]) -> list[pa.Array]:
    return [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(VALUES)]


@given(rows=ROWS, order=st.randoms(use_true_random=False))
def test_a_row_has_its_hash_wherever_it_stands(rows, order):
    shuffled = order.sample(range(len(rows)), len(rows))
    hashes = hash_rows(columns_of(rows))
    again = hash_rows(
        [
            column.slice(1)
            for column in columns_of(
                [rows[0] if rows else (None,) * len(VALUES), *(rows[i] for i in shuffled)]
            )
        ]
    )

    assert again.tolist() == [hashes[i] for i in shuffled]
    assert len(set(hashes.tolist())) == len(set(rows))


def test_near_numbers_in_two_columns_do_not_meet():
    a, b = np.meshgrid(np.arange(700), np.arange(-350, 350))

    assert len(np.unique(hash_rows([pa.array(a.ravel()), pa.array(b.ravel())]))) == a.size


@pytest.mark.parametrize(
    "other", [[("a", "b")], [("ab", "")], [("b", "a")], [(None, "ab")], [("", "ab")]]
)
def test_texts_in_two_columns_do_not_run_together(other):
    rows = [(None, None), *other]

    assert (
        len(
            set(
                hash_rows(
                    [pa.array([row[i] for row in rows], pa.string()) for i in range(2)]
                ).tolist()
            )
        )
        == 2
    )


def test_what_is_there_twice_is_found_once():
    assert find_repeated(np.array([5, 1, 3, 1, 5, 5, 2], np.uint64)).tolist() == [1, 5]
    assert find_repeated(np.array([], np.uint64)).tolist() == []


def test_a_file_without_key_columns_has_no_hashes():
    assert hash_rows([]).tolist() == []
