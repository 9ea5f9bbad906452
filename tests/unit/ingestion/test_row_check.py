"""Rows of several files at once.

Good, refused with a reason, repeated; and the verdict on each file.
"""

import datetime as dt
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightshift.contracts.datasets import DatasetContract
from nightshift.errors import SpecError
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import check_file
from nightshift.quality.files.file_blocks import count_rows

CONTRACT = DatasetContract(
    name="events",
    description="Events.",
    schema_version=2,
    delivery="daily",
    history_start="2013-03-01",
    grain="one event",
    key=("id",),
    event_timestamp="at",
    columns=(
        {"name": "id", "type": "text"},
        {"name": "at", "type": "local_timestamp"},
        {"name": "size", "type": "integer", "is_nullable": True, "maximum": 100},
    ),
    maximum_refused_ratio=0.75,
    versions={2: {"added": ["size"], "renamed": {"id": "key"}}},
)


def drop(data: bytes, day: str = "2013-03-10", version: int = 2) -> DropManifest:
    return DropManifest(
        dataset="events",
        partition=day,
        delivered_at=dt.datetime(2013, 3, 11, 4, 5, tzinfo=dt.UTC),
        data_key=f"landing/events/dt={day}/x.csv",
        sha256=sha256(data).hexdigest(),
        n_rows=data.count(b"\n") - 1,
        schema_version=version,
    )


def check(*deliveries, contract=CONTRACT):
    drops = [drop(*delivery) for delivery in deliveries]
    files = [check_file(contract, d, data) for d, (data, *_) in zip(drops, deliveries, strict=True)]
    return check_rows(contract, drops, files, lists_all=True)


def reasons(rows, place=0):
    return [(row.row_number, str(row.reason), row.column) for row in rows.refused[place]]


def test_good_rows_keep_their_place_when_bad_rows_lie_between():
    rows = check(
        (
            (
                b"id,at,size\na,2013-03-10 05:00,1\nb,2013-03-10 05:00,big\nc,2013-03-10 05:00,\n"
                b"d,2013-03-10 02:30,1\n"
            ),
        )
    )

    assert rows.values.to_pydict()["id"] == ["a", "c"]
    assert rows.row_numbers.tolist() == [1, 3]
    assert reasons(rows) == [(2, "wrong_type", "size"), (4, "nonexistent_time", "at")]
    assert rows.refused[0][0].delivered == {"id": "b", "at": "2013-03-10 05:00", "size": "big"}
    assert rows.errors == {}


def test_rows_are_refused_when_they_lie_outside_of_their_day():
    lines = (
        b"a,2013-03-10 00:00,1\nb,2013-03-09 23:59,1\nc,2013-03-10 23:59,1\nd,2013-03-11 00:00,1\n"
    )

    rows = check((b"id,at,size\n" + lines,))

    assert rows.values.to_pydict()["id"] == ["a", "c"]
    assert reasons(rows) == [(2, "outside_partition", "at"), (4, "outside_partition", "at")]


def test_rows_are_refused_when_their_day_column_names_another_day():
    contract = CONTRACT.model_copy(
        update={
            "event_timestamp": None,
            "day_column": "day",
            "day_offset_days": 1,
            "columns": (*CONTRACT.columns[:1], DAY),
        }
    )

    rows = check((b"id,day\na,2013-03-11\nb,2013-03-10\n",), contract=contract)

    assert rows.values.to_pydict()["id"] == ["a"]
    assert reasons(rows) == [(2, "outside_partition", "day")]


DAY = DatasetContract.model_validate(
    {
        **CONTRACT.model_dump(),
        "columns": [*CONTRACT.model_dump()["columns"], {"name": "day", "type": "date"}],
    }
).columns[-1]


def test_equal_rows_count_once_when_a_file_repeats_them():
    rows = check(
        (
            (
                b"id,at,size\na,2013-03-10 05:00,1\na,2013-03-10 05:00:00,01\nb,2013-03-10 05:00,"
                b"\nb,2013-03-10 05:00,\n"
            ),
        )
    )

    assert rows.values.to_pydict()["id"] == ["a", "b"]
    assert rows.n_duplicated == (2,)
    assert reasons(rows) == []


def test_all_rows_of_a_key_are_refused_when_their_content_differs():
    rows = check(
        (
            (
                b"id,at,size\na,2013-03-10 05:00,1\na,2013-03-10 05:00,2\na,2013-03-10 05:00,1\n"
                b"b,2013-03-10 05:00,2\n"
            ),
        )
    )

    assert rows.values.to_pydict()["id"] == ["b"]
    assert reasons(rows) == [(1, "conflicting_key", None), (2, "conflicting_key", None)]


def test_the_same_key_is_no_conflict_when_it_is_in_two_files():
    first = (b"id,at,size\na,2013-03-10 05:00,1\n",)
    second = (b"id,at,size\na,2013-03-10 05:00,2\n",)

    rows = check(first, second)

    assert rows.values.to_pydict()["size"] == [1, 2]
    assert rows.file_index.tolist() == [0, 1]


def test_a_file_of_an_older_schema_version_has_nulls_when_a_column_is_newer():
    rows = check(
        (b"id,at,size\na,2013-03-10 05:00,1\n",), (b"key,at\nb,2013-03-10 05:00\n", "2013-03-10", 1)
    )

    assert sorted(
        zip(
            rows.file_index.tolist(),
            rows.values.to_pydict()["id"],
            rows.values.to_pydict()["size"],
            strict=True,
        )
    ) == [
        (0, "a", 1),
        (1, "b", None),
    ]


def test_malformed_rows_are_refused_with_their_text_when_fields_are_missing():
    rows = check((b"id,at,size\na,2013-03-10 05:00,1\nb\nc,2013-03-10 05:00,1\n",))

    assert rows.row_numbers.tolist() == [1, 3]
    assert reasons(rows) == [(2, "malformed_row", None)]
    assert rows.refused[0][0].delivered == {"line": "b"}


@pytest.mark.parametrize(
    ("lines", "code", "says"),
    [
        (
            b"a,2013-03-10 05:00,x\nb,2013-03-10 05:00,y\nc,2013-03-10 05:00,1\n",
            "NS-CONTRACT-005",
            "size: expected integer, 2 of 3 values",
        ),
        (
            (
                b"a,2013-03-10 05:00,101\nb,2013-03-10 05:00,101\nc,2013-03-10 05:00,101\nd,"
                b"2013-03-10 05:00,101\n"
            ),
            "NS-CONTRACT-006",
            "at most 75.0% of the rows refused\n  got:      0 good, 4 refused: 4 out_of_range",
        ),
        (b"", "NS-CONTRACT-006", "at least 1 good rows"),
    ],
)
def test_only_its_own_file_is_wrong_when_a_limit_is_exceeded(lines, code, says):
    rows = check((b"id,at,size\na,2013-03-10 05:00,1\n",), (b"id,at,size\n" + lines,))

    assert list(rows.errors) == [1]
    assert rows.errors[1].code == code
    assert says in str(rows.errors[1])


def test_rows_are_listed_of_a_refused_file_only_for_who_asks():
    """A hostile file has millions of them, and nobody keeps them."""
    bad = b"id,at,size\n" + b"".join(b"%d,2013-03-10 05:00,big\n" % i for i in range(9))
    good = b"id,at,size\nx,2013-03-10 05:00,1\nb,2013-03-10 05:00,big\n"

    drops = [drop(bad), drop(good)]
    files = [check_file(CONTRACT, drop(data), data) for data in (bad, good)]
    rows, asked = (
        check_rows(CONTRACT, drops, files),
        check_rows(CONTRACT, drops, files, lists_all=True),
    )

    assert list(rows.errors) == [0]
    assert [len(of_file) for of_file in rows.refused] == [0, 1]
    assert rows.n_refused == (9, 1)
    assert [len(of_file) for of_file in asked.refused] == [9, 1]


@pytest.mark.parametrize("junk", [b",,", b"x,2013-03-10 05:00,none", b"x,y,z,more"])
def test_equal_bad_rows_count_as_often_as_they_came(junk):
    good = b"".join(b"a%d,2013-03-10 05:00,1\n" % i for i in range(100))

    rows = check((b"id,at,size\n" + good + (junk + b"\n") * 900,))

    assert rows.n_refused == (900,)
    assert len(rows.refused[0]) == 1
    assert rows.errors[0].code in ("NS-CONTRACT-005", "NS-CONTRACT-006")


HOURS = DatasetContract(
    name="events",
    description="Visitors by hour.",
    schema_version=1,
    timezone="America/New_York",
    delivery="daily",
    history_start="2013-03-01",
    grain="one hour",
    key=("shop", "at"),
    event_timestamp="at",
    columns=(
        {"name": "shop", "type": "text"},
        {"name": "at", "type": "local_timestamp"},
        {"name": "n", "type": "integer"},
    ),
    maximum_refused_ratio=0.05,
)
BACK = "2013-11-03"


@pytest.mark.parametrize("second", [9, 7])
def test_no_row_of_the_hour_that_comes_twice_is_lost_or_taken_for_another(second):
    clock = [0, 1, 1, *range(2, 24)]
    lines = "".join(
        f"hill,{BACK} {hour:02d}:00,{second if i == 2 else 7}\n" for i, hour in enumerate(clock)
    )

    rows = check((f"shop,at,n\n{lines}".encode(), BACK, 1), contract=HOURS)

    assert (
        reasons(rows)
        == [(2, "repeated_hour", "at"), (3, "repeated_hour", "at")][: 2 if second == 9 else 1]
    )
    assert (rows.n_refused, rows.n_duplicated) == ((2,), (0,))
    assert "2013-11-03 01:00 to 02:00 was there twice" in str(rows.errors[0])
    assert "utc_timestamp" in str(rows.errors[0])


def test_both_hours_are_read_when_their_offsets_tell_them_apart():
    lines = f"hill,{BACK} 01:00-04:00,7\nhill,{BACK} 01:00-05:00,7\nhill,{BACK} 03:00,1\n"

    rows = check((f"shop,at,n\n{lines}".encode(), BACK, 1), contract=HOURS)

    assert rows.errors == {}
    assert [at.hour for at in rows.values.to_pydict()["at"]] == [5, 6, 8]


def test_the_hour_that_never_was_is_named():
    rows = check((b"shop,at,n\nhill,2013-03-10 02:30,1\n", "2013-03-10", 1), contract=HOURS)

    assert "2013-03-10 02:00 to 03:00 never was" in str(rows.errors[0])


def test_one_odd_value_of_a_column_that_is_nearly_empty_costs_its_row():
    lines = b"a,2013-03-10 05:00,n/a\n" + b"".join(
        b"b%d,2013-03-10 05:00,\n" % i for i in range(999)
    )

    rows = check((b"id,at,size\n" + lines,))

    assert rows.errors == {}
    assert reasons(rows) == [(1, "wrong_type", "size")]
    assert rows.values.num_rows == 999


CELL = st.sampled_from(
    [
        "",
        "a",
        "b",
        "1",
        "2",
        "x",
        '"',
        '"1"',
        '"a',
        "200",
        "2013-03-10 05:00",
        "2013-03-10 02:30",
        "\r",
    ]
)


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=12))
def test_every_delivered_row_is_accepted_repeated_or_refused(lines):
    data = ("id,at,size\n" + "".join(",".join(line) + "\n" for line in lines)).encode()
    n_rows = count_rows(data, "x.csv")
    delivered = drop(data).model_copy(update={"n_rows": n_rows})

    rows = check_rows(CONTRACT, [delivered], [check_file(CONTRACT, delivered, data)])

    assert rows.values.num_rows + rows.n_duplicated[0] + rows.n_refused[0] == n_rows
    assert n_rows == sum(",".join(line) not in ("", "\r") for line in lines) or '"' in data.decode()


@pytest.mark.parametrize(
    ("default", "value"), [(None, None), ("", None), ("7", 7), ("many", None), ("12.5", None)]
)
def test_old_rows_get_the_default_or_the_contract_is_refused(default, value):
    size = CONTRACT.columns[2].model_copy(update={"default": default})
    contract = CONTRACT.model_copy(update={"columns": (*CONTRACT.columns[:2], size)})
    old = b"key,at\na,2013-03-10 05:00\n", "2013-03-10", 1
    if default in {"many", "12.5"}:
        with pytest.raises(SpecError, match="The default of column size is no integer"):
            check(old, contract=contract)
        return
    assert check(old, contract=contract).values.to_pydict()["size"] == [value]
