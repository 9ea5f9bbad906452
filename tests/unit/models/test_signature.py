from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.model_spec import Features
from nightshift.models.signature import (
    Signature,
    SignatureError,
    check_columns,
    encode,
    learn_signature,
)

SIGNATURE = Signature(("wind", "is_fragile"), (("carrier", ("A", "B")),))
ROWS = pa.table(
    {
        "carrier": ["B", "A", None, "Z"],
        "is_fragile": [True, False, None, True],
        "wind": [1.5, None, -2.0, 0.0],
        "more": [1, 2, 3, 4],
    }
)


def test_columns_are_ordered_and_coded_by_the_signature():
    expected = [[1.5, 1.0, 1.0], [np.nan, 0.0, 0.0], [-2.0, np.nan, np.nan], [0.0, 1.0, np.nan]]
    np.testing.assert_array_equal(encode(ROWS, SIGNATURE), expected)


def test_code_of_a_level_does_not_depend_on_the_batch():
    alone = encode(ROWS.slice(0, 1), SIGNATURE)
    np.testing.assert_array_equal(alone, encode(ROWS, SIGNATURE)[:1])


def test_dictionary_and_chunked_columns_are_coded_alike():
    cut = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)])
    coded = cut.set_column(0, "carrier", cut["carrier"].dictionary_encode())
    np.testing.assert_array_equal(encode(coded, SIGNATURE), encode(ROWS, SIGNATURE))


def test_missing_column_is_refused_with_the_difference():
    with pytest.raises(SignatureError) as refusal:
        encode(ROWS.drop_columns(["wind"]), SIGNATURE)
    assert "1 feature column(s) are missing: wind." in str(refusal.value)
    assert "carrier, is_fragile, more" not in str(refusal.value)
    assert "columns that are not read: more" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "values", "expected", "got"),
    [
        ("wind", ["1", "2", "3", "4"], "a number", "string"),
        ("carrier", [1, 2, 3, 4], "text", "int64"),
    ],
)
def test_wrong_type_is_refused(name, values, expected, got):
    rows = ROWS.set_column(ROWS.column_names.index(name), name, pa.array(values))
    with pytest.raises(SignatureError) as refusal:
        encode(rows, SIGNATURE)
    assert (refusal.value.expected, refusal.value.got) == (expected, got)


class Rows:
    """Rows of very many columns, which count how often their names are read."""

    n_asked = 0

    @property
    def column_names(self):
        self.n_asked += 1
        return [f"c{i}" for i in range(500)]


def test_a_wide_table_is_checked_at_once():
    rows = Rows()

    check_columns([f"c{i}" for i in range(500)], rows)

    assert rows.n_asked == 1


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_refused(infinity):
    rows = ROWS.set_column(2, "wind", pa.array([infinity, 0.0, 0.0, 0.0]))
    with pytest.raises(SignatureError) as refusal:
        encode(rows, SIGNATURE)
    assert refusal.value.code == "NS-MODEL-002"


def test_levels_are_learnt_when_frequent_and_sorted():
    features = Features.model_validate({"categorical": [{"name": "carrier", "minimum_rows": 2}]})
    rows = pa.table({"carrier": ["C", "A", "B", "C", "A", None, None]})
    assert learn_signature(features, rows) == Signature((), (("carrier", ("A", "C")),))


def test_declared_levels_win_over_the_rows():
    features = Features.model_validate({"categorical": [{"name": "carrier", "levels": ["Z", "A"]}]})
    assert learn_signature(features, ROWS).categorical == (("carrier", ("Z", "A")),)


def test_json_gives_back_the_same_signature():
    assert Signature.from_json(SIGNATURE.as_json()) == SIGNATURE
    assert SIGNATURE.digest != Signature(("is_fragile", "wind"), SIGNATURE.categorical).digest
