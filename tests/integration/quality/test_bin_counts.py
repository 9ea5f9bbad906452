from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from nightshift.quality.bin_counts import CategoricalColumn, ColumnProfile, NumericColumn, profile

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration

DAY = dt.date(2013, 3, 10)
RELATION = sql.SQL("(select * from monitoring.sample) t")


@pytest.fixture
def sample(conn: Connection) -> Connection:
    conn.execute("create table monitoring.sample (partition_date date, speed float8, is_wet boolean, legs bigint, carrier text)")
    rows = [(10, True, 1, "UA"), (20, False, None, "B6"), (30, None, 2, None), (None, True, 2, "ZZ"), (float("nan"), True, 3, "UA")]
    with conn.cursor() as cursor:
        cursor.executemany("insert into monitoring.sample values (%s, %s, %s, %s, %s)", [(DAY, *row) for row in rows])
    return conn


def test_bins_are_half_open_and_nan_is_missing(sample: Connection) -> None:
    found = profile(sample, RELATION, [NumericColumn("speed", (20.0, 30.0))], [])
    assert found == {DAY: {"speed": ColumnProfile(5, 2, (1, 1, 1), 20.0, pytest.approx(8.16496580927726))}}
    assert found[DAY]["speed"].missing_share == 0.4


def test_other_levels_are_counted_last_when_they_are_unknown(sample: Connection) -> None:
    found = profile(sample, RELATION, [], [CategoricalColumn("carrier", ("AA", "B6", "UA"))])
    assert found == {DAY: {"carrier": ColumnProfile(5, 1, (0, 1, 2, 1), None, None)}}


def test_booleans_and_integers_are_numbers(sample: Connection) -> None:
    found = profile(sample, RELATION, [NumericColumn("is_wet", (1.0,)), NumericColumn("legs", ())], [])
    assert found[DAY]["is_wet"] == ColumnProfile(5, 1, (1, 3), 0.75, pytest.approx(0.4330127018922193))
    assert found[DAY]["legs"].counts == (4,)


def test_column_without_any_value_is_all_missing(sample: Connection) -> None:
    sample.execute("update monitoring.sample set speed = null")
    assert profile(sample, RELATION, [NumericColumn("speed", (1.0,))], [])[DAY]["speed"] == ColumnProfile(5, 5, (0, 0), None, None)


def test_partitions_are_profiled_on_their_own_when_there_are_several(sample: Connection) -> None:
    sample.execute("insert into monitoring.sample values ('2013-03-11', 5, true, 1, 'UA')")
    found = profile(sample, RELATION, [NumericColumn("speed", ())], [])
    assert {day: columns["speed"].n_rows for day, columns in found.items()} == {DAY: 5, dt.date(2013, 3, 11): 1}


def test_result_is_the_same_to_the_bit_when_rows_come_in_another_order(sample: Connection) -> None:
    sample.execute("insert into monitoring.sample select '2013-03-12', sqrt(g) * 1e-3, true, g, 'UA' from generate_series(1, 3000) g")
    sample.execute(
        "create table monitoring.shuffled as select * from monitoring.sample order by md5(legs::text || coalesce(speed::text, ''))"
    )
    columns = [NumericColumn("speed", (0.01, 0.03))]
    assert profile(sample, RELATION, columns, []) == profile(sample, sql.SQL("(select * from monitoring.shuffled) t"), columns, [])
