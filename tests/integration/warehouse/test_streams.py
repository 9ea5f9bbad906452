"""Streams of rows out of and into a real warehouse: our loops and the driver give the same, and nothing is lost by halves."""

from __future__ import annotations

import logging
import time

import numpy as np
import pyarrow as pa
import pytest
from psycopg import sql

from nightshift.errors import WarehouseError
from nightshift.warehouse import binary_rows, bulk, libpq
from nightshift.warehouse.append_stream import append_stream
from nightshift.warehouse.bulk import stream_arrow

pytestmark = pytest.mark.integration
EVERY_TYPE = """
    select case when i % 3 > 0 then i % 2 = 0 end as b, i::int2 as i2, nullif(i - 5, 3) as i4, i::int8 * 1000000000000 as i8,
        (i / 3.0)::float4 as f4,
        case i when 1 then 'NaN' when 2 then '-Infinity' when 3 then '-0' when 4 then null else i / 7.0 end::float8 as f8,
        date '1969-12-30' + i as d, timestamp '1969-12-31 23:59:59.999999' + i * interval '1 hour' as ts,
        case when i % 4 > 0 then timestamptz '2013-07-01 00:00:00.000001+00' + i * interval '1 day' end as tz,
        case i % 4 when 0 then null when 1 then '' else repeat('ä€𝄞', i) end as t, i::varchar(3) as v, i::char(4) as c
    from generate_series(0, {n}) i
"""


def _rows(batches) -> pa.Table:
    return pa.Table.from_batches(list(batches))


@pytest.mark.parametrize("batch_bytes", [1, 1_000, 1 << 22])
def test_our_loops_read_what_the_driver_reads(settings, batch_bytes):
    query = sql.SQL(EVERY_TYPE.format(n=60) + " order by i")
    ours = _rows(stream_arrow(settings, query, batch_bytes=batch_bytes))
    theirs = _rows(bulk._stream_by_driver(settings, query, "test", 1 << 22))

    assert ours.schema.equals(theirs.schema)
    assert ours.drop(["f8"]).equals(theirs.drop(["f8"]))
    assert ours["f8"].is_null().equals(theirs["f8"].is_null())
    assert ours["f8"].fill_null(0).to_numpy().tobytes() == theirs["f8"].fill_null(0).to_numpy().tobytes()


def test_a_row_of_more_than_a_batch_is_read_whole(settings):
    query = sql.SQL("select i, repeat('x', case i when 2 then 3000000 else 10 end) as t from generate_series(1, 4) i order by i")
    read = _rows(stream_arrow(settings, query, batch_bytes=1_000))

    assert [len(text) for text in read["t"].to_pylist()] == [10, 3_000_000, 10, 10]


def test_the_driver_reads_types_that_we_do_not_know(settings):
    read = _rows(stream_arrow(settings, sql.SQL("select i, (i / 4.0)::numeric(9, 2) as n from generate_series(1, 3) i order by i")))

    assert read.column_names == ["i", "n"]
    assert read.num_rows == 3


def test_the_driver_reads_columns_of_one_name(settings):
    assert _rows(stream_arrow(settings, sql.SQL("select 1 as one, 2 as one"))).num_columns == 2


def test_an_infinite_time_is_a_named_error(settings):
    with pytest.raises(WarehouseError, match="ended a query") as raised:
        list(stream_arrow(settings, sql.SQL("select timestamptz 'infinity' as t")))
    assert "infinite" in str(raised.value)


def _no_libpq(monkeypatch) -> None:
    def fail() -> None:
        raise OSError("psycopg does not bring its own libpq")

    libpq.compiled_collect.cache_clear()
    monkeypatch.setattr(libpq, "_library", fail)


def _no_compiler(monkeypatch) -> None:
    """Have numba fail as it does: not when a function is given to it, but when it is called."""

    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(binary_rows, "compiled", lambda _: fail)


@pytest.mark.parametrize("damage", [_no_libpq, _no_compiler])
def test_the_driver_reads_where_our_loops_cannot(settings, monkeypatch, caplog, damage):
    damage(monkeypatch)
    with caplog.at_level(logging.WARNING):
        read = _rows(stream_arrow(settings, sql.SQL("select 1 as one")))
    libpq.compiled_collect.cache_clear()

    assert read.to_pylist() == [{"one": 1}]
    assert "read by the driver" in caplog.text


@pytest.mark.parametrize("query", ["select no_such_column", "select 1 / (3 - i) as x from generate_series(1, 5) i"])
def test_a_query_that_fails_is_a_named_error(settings, query):
    with pytest.raises(WarehouseError, match=r"ended a query|broke"):
        list(stream_arrow(settings, sql.SQL(query)))


def test_no_row_is_no_batch(settings):
    assert list(stream_arrow(settings, sql.SQL("select 1 as one where false"))) == []


def test_the_query_ends_when_nobody_reads_on(settings, conn):
    query = sql.SQL("select i, repeat('x', 1000) as t from generate_series(1, 5000000) i")
    batches = stream_arrow(settings, query, "test of an early end")
    next(batches)
    batches.close()
    started = time.monotonic()
    while conn.execute("select count(*) from pg_stat_activity where application_name = 'test of an early end'").fetchone() != (0,):
        assert time.monotonic() - started < 2
        time.sleep(0.05)


@pytest.fixture
def taken(conn) -> None:
    conn.execute(
        "create table raw.taken (b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, d date, ts timestamp, tz timestamptz,"
        " t text check (t <> 'refused'), v varchar(3), c char(4), j jsonb, n numeric)"
    )


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("way", ["binary", "an unknown type", "no compiler"])
def test_what_is_appended_is_what_was_given(settings, monkeypatch, caplog, way):
    batches = list(stream_arrow(settings, sql.SQL(EVERY_TYPE.format(n=60) + " order by i"), batch_bytes=1_000))
    given = [pa.Table.from_batches([batch]).append_column("j", pa.array(['{"a": [1, "ä"]}'] * batch.num_rows)) for batch in batches]
    if way == "an unknown type":
        given = [rows.append_column("n", pa.array(np.full(rows.num_rows, 1.5))) for rows in given]

    with monkeypatch.context() as patch:
        if way == "no compiler":
            _no_compiler(patch)
        assert append_stream(settings, "raw", "taken", given, lambda _: True, "test") == 61
    assert ("written as texts" in caplog.text) == (way == "no compiler")
    columns = sql.SQL(", ").join(map(sql.Identifier, batches[0].schema.names))
    stored = _rows(stream_arrow(settings, sql.SQL("select {} from raw.taken order by i4 nulls first, i2").format(columns)))
    expected = pa.Table.from_batches(batches).sort_by([("i2", "ascending")])
    assert stored.sort_by([("i2", "ascending")]).drop(["f8"]).equals(expected.drop(["f8"]))
    doubles = stored.sort_by([("i2", "ascending")])["f8"].fill_null(0).to_numpy()
    assert doubles.tobytes() == expected["f8"].fill_null(0).to_numpy().tobytes()


@pytest.mark.usefixtures("taken")
def test_nothing_is_stored_when_the_warehouse_refuses_the_last_batch(settings, conn):
    given = [pa.table({"i4": pa.array([i], pa.int32()), "t": [text]}) for i, text in enumerate(["good", "good", "refused"])]
    with pytest.raises(WarehouseError, match="did not take rows"):
        append_stream(settings, "raw", "taken", given, lambda _: True, "test")

    assert conn.execute("select count(*) from raw.taken").fetchone() == (0,)
