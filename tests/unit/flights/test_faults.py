"""Each fault does to a drop what its name says."""

import datetime as dt
from dataclasses import replace
from hashlib import sha256

from examples.flights.faults import Fault, FaultType, apply_fault

from nightshift.lake.drops import NewDrop

DAY = dt.date(2013, 3, 10)
AT = dt.datetime(2013, 3, 11, 4, 5, tzinfo=dt.UTC)
DROP = NewDrop("weather", DAY, AT, b'a,b\n1,"x,y"\n2,z\n3,w\n', 3, "weather")


def play(kind, **kwargs):
    return apply_fault(Fault(kind, "weather", DAY, **kwargs), DROP)


def only(kind, **kwargs):
    (drop,) = play(kind, **kwargs)
    return drop


def test_faults_of_time_and_name_keep_the_content_when_played():
    assert only(FaultType.LATE, delay=dt.timedelta(hours=2)) == replace(
        DROP, delivered_at=AT + dt.timedelta(hours=2)
    )
    assert only(FaultType.RENAMED, value="other") == replace(DROP, name="other")
    assert play(FaultType.TWICE) == [
        DROP,
        replace(DROP, name="weather_again", delivered_at=AT + dt.timedelta(hours=6)),
    ]
    assert play(FaultType.ABSENT) == []


def test_faults_of_rows_change_rows_and_count_when_played():
    assert sorted(only(FaultType.REORDERED_ROWS, seed=3).data.splitlines()[1:]) == sorted(
        DROP.data.splitlines()[1:]
    )
    assert only(FaultType.DUPLICATED_ROWS, n_rows=2) == replace(
        DROP, data=DROP.data + b'1,"x,y"\n2,z\n', n_rows=5
    )
    assert only(FaultType.TRUNCATED) == replace(DROP, data=b'a,b\n1,"x,y"\n2,z\n')
    assert only(FaultType.BAD_ROWS, column="a", value="oops").data.count(b"oops") == 1
    assert only(FaultType.WRONG_TYPE, column="a", value="oops").data.count(b"oops") == 3
    first, second = play(FaultType.CORRECTION, column="b", value="new")
    assert first == DROP
    assert (second.data.count(b"new"), second.delivered_at) == (1, AT + dt.timedelta(hours=6))


def test_faults_of_columns_change_the_header_when_played():
    assert only(FaultType.MISSING_COLUMN, column="a").data == b'b\n"x,y"\nz\nw\n'
    assert only(FaultType.RENAMED_COLUMN, column="a", value="aa").data.startswith(b"aa,b\n")
    assert (
        only(FaultType.ADDED_COLUMN, column="c", value="0").data
        == b'a,b,c\n1,"x,y",0\n2,z,0\n3,w,0\n'
    )
    assert only(FaultType.REORDERED_COLUMNS).data.startswith(b'b,a\n"x,y",1\n')


def test_a_corrupted_file_contradicts_its_manifest_when_played():
    drop = only(FaultType.CORRUPTED)

    assert drop.claimed_sha256 == sha256(DROP.data).hexdigest()
    assert len(drop.data) == len(DROP.data)
    assert sum(a != b for a, b in zip(drop.data, DROP.data, strict=True)) == 1
