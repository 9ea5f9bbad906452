"""Refused rows: kept once, counted, settled all or none."""

import datetime as dt

import pytest
from tests.quarantine_counts import count_rows

from nightshift.contracts.partitions import PartitionRange
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_errors import ContractError
from nightshift.quality.quarantine import (
    QuarantineError,
    QuarantineState,
    RefusedRow,
    keep_drop,
    keep_rows,
    list_rows,
    settle_rows,
)

pytestmark = pytest.mark.integration

DAY = PartitionRange.of("2013-03-10")
DROP = DropManifest(
    dataset="weather",
    partition="2013-03-10",
    delivered_at=dt.datetime(2013, 3, 11, 4, 10, tzinfo=dt.UTC),
    data_key="landing/weather/dt=2013-03-10/weather.csv",
    sha256="0" * 64,
    n_rows=3,
    schema_version=1,
)
ROWS = [
    RefusedRow(2, "wrong_type", "temperature_f", {"origin": "EWR", "temperature_f": "cold"}),
    RefusedRow(5, "malformed_row", None, {"line": "a\0b"}),
]


@pytest.fixture
def kept(conn):
    keep_rows(conn, 1, DROP, "s3://b/x.csv", ROWS)
    return list_rows(conn, "raw/weather", DAY)


def test_rows_are_kept_as_they_came_when_refused(kept):
    assert [(row.source_row, row.reason, row.column_name, row.delivered) for row in kept] == [
        (2, "wrong_type", "temperature_f", {"origin": "EWR", "temperature_f": "cold"}),
        (5, "malformed_row", None, {"line": "a\\0b"}),
    ]
    assert {row.state for row in kept} == {QuarantineState.OPEN}


def test_rows_are_kept_once_when_refused_again(conn, kept):
    keep_rows(
        conn,
        2,
        DROP,
        "s3://b/again.csv",
        [RefusedRow(9, "wrong_type", "temperature_f", ROWS[0].delivered)],
    )

    assert list_rows(conn, "raw/weather", DAY) == kept


def test_rows_are_counted_by_reason_and_state_when_some_are_settled(conn, kept):
    settle_rows(
        conn, [kept[0].row_id], QuarantineState.CORRECTED, "cli:ann", "came again on the 12th"
    )

    assert count_rows(conn, "raw/weather", DAY) == {
        ("malformed_row", QuarantineState.OPEN): 1,
        ("wrong_type", QuarantineState.CORRECTED): 1,
    }
    assert [row.row_id for row in list_rows(conn, "raw/weather", DAY)] == [kept[1].row_id]
    assert conn.execute(
        "select decided_by, note from quarantine.refused_rows where state = 'corrected'"
    ).fetchall() == [("cli:ann", "came again on the 12th")]


def test_no_row_is_settled_when_one_is_not_open(conn, kept):
    with pytest.raises(QuarantineError, match="1 of 3 rows are not open"):
        settle_rows(
            conn, [kept[0].row_id, kept[1].row_id, 99], QuarantineState.DISMISSED, "cli:ann"
        )

    assert len(list_rows(conn, "raw/weather", DAY)) == 2


def test_a_refused_file_is_recorded_once_when_refused_again(conn, run):
    for _ in range(2):
        keep_drop(conn, DROP, "s3://b/x.csv", ContractError("broken"), run)

    assert conn.execute(
        "select dataset, code, run_id from quarantine.refused_drops"
    ).fetchall() == [("raw/weather", "NS-CONTRACT-001", "test/run")]
