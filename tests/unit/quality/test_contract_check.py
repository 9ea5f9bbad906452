"""A complete file: digest, columns, number of rows; each passes once and is refused once."""

import datetime as dt
import re
from hashlib import sha256

import pytest

from nightshift.contracts.datasets import DatasetContract
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import check_file, check_refused, check_types
from nightshift.quality.contract_errors import (
    ColumnsError,
    ContractError,
    DigestError,
    RefusedRatioError,
    RowCountError,
    TypeChangedError,
    UnreadableError,
)

CONTRACT = DatasetContract(
    name="weather",
    description="Weather.",
    schema_version=1,
    delivery="daily",
    history_start="2013-01-01",
    grain="one hour",
    key=("origin",),
    columns=(
        {"name": "origin", "type": "text"},
        {"name": "temperature_f", "source": "temp", "type": "number", "is_nullable": True},
    ),
    maximum_refused_ratio=0.5,
)
GOOD = b"origin,temp\nEWR,39.5\nJFK,\n"


def manifest(data: bytes, **changed) -> DropManifest:
    values = {
        "dataset": "weather",
        "partition": "2013-03-10",
        "delivered_at": dt.datetime(2013, 3, 11, 4, 5, tzinfo=dt.UTC),
        "data_key": "landing/weather/dt=2013-03-10/weather.csv",
        "sha256": sha256(data).hexdigest(),
        "n_rows": 2,
        "schema_version": 1,
    }
    return DropManifest(**values | changed)


def check(data: bytes, **changed):
    return check_file(CONTRACT, manifest(data, **changed), data)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        b"temp,origin\n39.5,EWR\n,JFK\n",
        b"\xef\xbb\xbforigin,temp\r\nEWR,39.5\r\nJFK,\r\n",
        b'"origin","temp"\n"EWR","39.5"\n"JFK",""\n',
    ],
)
def test_a_file_passes_when_it_keeps_its_contract(data):
    file = check(data)

    assert file.strings.to_pydict() == {"origin": ["EWR", "JFK"], "temperature_f": ["39.5", None]}
    assert list(file.row_numbers) == [1, 2]
    assert (file.malformed, file.notes) == ((), ())


def test_an_added_column_is_noted_when_the_contract_does_not_know_it():
    file = check(b"origin,gust,temp\nEWR,1,39.5\nJFK,2,\n")

    assert file.strings.column_names == ["origin", "temperature_f"]
    assert file.notes == ("added column ignored: gust",)


def test_the_difference_is_printed_without_names_of_the_file_when_a_column_was_renamed():
    with pytest.raises(ColumnsError) as caught:
        check(b"origin,temp_f\nEWR,39.5\nJFK,\n")

    assert str(caught.value).splitlines() == [
        (
            "[NS-CONTRACT-004] weather of 2013-03-10 (landing/weather/dt=2013-03-10/weather.csv)"
            " has other columns than schema version 1:"
        ),
        "    - temp  (missing)",
        "  expected: origin, temp",
        (
            "  got:      1 of them, and 1 column(s) that the contract does not know;"
            " is there a header?"
        ),
        (
            "  to do:    Nothing was written. By mistake: ask upstream to deliver it again,"
            " the next run takes the newer file. On purpose:"
        ),
        (
            "      nightshift contract diff weather 2013-03-10"
            "    # prints the difference and what to edit in the contract"
        ),
        "      nightshift migrate                                # after the edit",
        '      nightshift redo --dataset weather --from 2013-03-10 --reason "…"',
    ]


def test_the_name_of_an_added_column_is_told_only_if_it_is_a_word():
    file = check(b"origin,Anna Muster,temp\nEWR,1,39.5\nJFK,2,\n")

    assert file.notes == ("added column ignored: one whose name is no identifier",)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"origin;temp\nEWR;39,5\nJFK;\n", "its header has 1 semicolons"),
        (b"origin\ttemp\nEWR\t39.5\nJFK\t\n", "its header has 1 tabs"),
        (b"sep=;\norigin;temp\nEWR;39,5\n", "its header has 1 semicolons"),
        (b" origin | temp\n--------+-----\n EWR | 39.5\n", "its header has 1 vertical bars"),
        (b"origin;Preis, netto;temp\nEWR;1;39,5\nJFK;2;\n", "its header has 2 semicolons"),
        (b"origin,a;b\nEWR,39.5\nJFK,\n", "is there a header?"),
        (b"Origin,Temp\nEWR,39.5\nJFK,\n", "is there a header?"),
        (b"# an export\norigin,temp\nEWR,39.5\n", "is there a header?"),
    ],
)
def test_a_header_with_other_separators_is_refused_in_words_about_them(data, cause):
    with pytest.raises(ColumnsError, match=re.escape(cause)) as caught:
        check(data)
    assert "netto" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "changed", "error", "says"),
    [
        (
            GOOD,
            {"data_key": "landing/weather/dt=2013-03-10/weather.txt"},
            UnreadableError,
            r"ends with none of \.csv",
        ),
        (GOOD, {"sha256": "0" * 64}, DigestError, "expected: sha256 0000"),
        (GOOD[:-5], {}, RowCountError, "expected: 2 rows"),
        (b"origin,temp\nEWR,39.5\n", {}, RowCountError, "got:      1 rows"),
        (b"origin\nEWR\nJFK\n", {}, ColumnsError, r"- temp  \(missing\)"),
        (
            b"origin,temp,temp\nEWR,1,1\nJFK,1,1\n",
            {},
            ColumnsError,
            r"! temp  \(delivered 2 times\)",
        ),
        (b"", {"n_rows": 0}, UnreadableError, "it is empty"),
        (b"origin,temp\n\xff\xfe,1\n", {"n_rows": 1}, UnreadableError, "UTF8|UTF-8"),
        (GOOD, {"schema_version": 9}, UnreadableError, "expected: 1 to 1"),
    ],
)
def test_a_file_is_refused_when_it_breaks_its_contract(data, changed, error, says):
    with pytest.raises(error, match=says) as caught:
        check(data, **changed)
    assert isinstance(caught.value, ContractError)
    assert not caught.value.is_retryable


def test_a_malformed_row_is_set_aside_when_the_rest_is_readable():
    file = check(b"origin,temp\nEWR,1\nJFK,2,3\nLGA,4\n", n_rows=3)

    assert file.strings.to_pydict()["origin"] == ["EWR", "LGA"]
    assert list(file.row_numbers) == [1, 3]
    assert file.malformed == ((2, "JFK,2,3"),)


def test_an_empty_file_with_a_header_is_whole_when_the_manifest_says_so():
    assert check(b"origin,temp\n", n_rows=0).strings.num_rows == 0


def test_types_are_judged_by_most_values_when_some_are_wrong():
    drop = manifest(GOOD)

    check_types(drop, CONTRACT.columns, {"temperature_f": 4}, {"temperature_f": 2})
    with pytest.raises(TypeChangedError, match="temperature_f: expected number, 3 of 4"):
        check_types(drop, CONTRACT.columns, {"temperature_f": 4}, {"temperature_f": 3})


def test_a_type_has_changed_only_when_enough_values_say_so():
    drop = manifest(GOOD, n_rows=1_000)

    check_types(drop, CONTRACT.columns, {"temperature_f": 9}, {"temperature_f": 9})
    with pytest.raises(
        TypeChangedError,
        match="10 of 10 values are something else; accepted: numbers with a decimal point",
    ):
        check_types(drop, CONTRACT.columns, {"temperature_f": 10}, {"temperature_f": 10})
    check_types(
        manifest(GOOD, n_rows=1), CONTRACT.columns, {"temperature_f": 1}, {"temperature_f": 1}
    )


def test_the_refused_ratio_is_an_inclusive_limit_when_rows_are_refused():
    drop = manifest(GOOD)

    check_refused(CONTRACT, drop, 2, {"wrong_type": 1, "out_of_range": 1})
    with pytest.raises(
        RefusedRatioError, match="2 good, 3 refused: 1 out_of_range, 2 wrong_type"
    ) as caught:
        check_refused(CONTRACT, drop, 2, {"wrong_type": 2, "out_of_range": 1})
    assert "nightshift redo --dataset weather --from 2013-03-10" in str(caught.value)
