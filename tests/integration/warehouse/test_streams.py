"""Streams out of and into a real warehouse: each way gives the same; all or nothing is stored."""

from __future__ import annotations

import datetime as dt
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from psycopg import sql

from nightshift.errors import WarehouseError
from nightshift.warehouse.fast_io import arrow_io, binary_rows, libpq
from nightshift.warehouse.fast_io.arrow_io import stream_arrow
from nightshift.warehouse.fast_io.copy_stream import append_stream

pytestmark = pytest.mark.integration
EVERY_TYPE = """
    select case when i % 3 > 0 then i % 2 = 0 end as b, i::int2 as i2, nullif(i - 5, 3) as i4,
        i::int8 * 1000000000000 as i8,
        (i / 3.0)::float4 as f4,
        case i when 1 then 'NaN' when 2 then '-Infinity' when 3 then '-0' when 4 then null
            else i / 7.0 end::float8 as f8,
        date '1969-12-30' + i as d,
        timestamp '1969-12-31 23:59:59.999999' + i * interval '1 hour' as ts,
        case when i % 4 > 0 then timestamptz '2013-07-01 00:00:00.000001+00' + i * interval '1 day'
        end as tz,
        case i % 4 when 0 then null when 1 then '' else repeat('ä€𝄞', i) end as t,
        i::varchar(3) as v, i::char(4) as c
    from generate_series(0, {n}) i
"""


def _rows(batches) -> pa.Table:
    return pa.Table.from_batches(list(batches))


@pytest.mark.parametrize("batch_bytes", [1, 1_000, 1 << 22])
def test_our_loops_read_what_the_driver_reads(settings, batch_bytes):
    query = sql.SQL(EVERY_TYPE.format(n=60) + " order by i")
    ours = _rows(stream_arrow(settings, query, batch_bytes=batch_bytes))
    theirs = _rows(arrow_io.stream_by_driver(settings, query, "test", 1 << 22))

    assert ours.schema.equals(theirs.schema)
    assert ours.drop(["f8"]).equals(theirs.drop(["f8"]))
    assert ours["f8"].is_null().equals(theirs["f8"].is_null())
    assert (
        ours["f8"].fill_null(0).to_numpy().tobytes()
        == theirs["f8"].fill_null(0).to_numpy().tobytes()
    )


def test_a_row_of_more_than_a_batch_is_read_whole(settings):
    query = sql.SQL(
        "select i, repeat('x', case i when 2 then 3000000 else 10 end) as t from"
        " generate_series(1, 4) i order by i"
    )
    read = _rows(stream_arrow(settings, query, batch_bytes=1_000))

    assert [len(text) for text in read["t"].to_pylist()] == [10, 3_000_000, 10, 10]


def test_the_driver_reads_types_that_we_do_not_know(settings):
    read = _rows(
        stream_arrow(
            settings,
            sql.SQL(
                "select i, (i / 4.0)::numeric(9, 2) as n from generate_series(1, 3) i order by i"
            ),
        )
    )

    assert read.column_names == ["i", "n"]
    assert read.num_rows == 3


def test_the_driver_reads_columns_of_one_name(settings):
    assert _rows(stream_arrow(settings, sql.SQL("select 1 as one, 2 as one"))).num_columns == 2


def test_an_infinite_time_is_a_named_error(settings):
    with pytest.raises(WarehouseError, match="ended a query") as raised:
        list(stream_arrow(settings, sql.SQL("select timestamptz 'infinity' as t")))
    assert "infinite" in str(raised.value)


def _no_library(monkeypatch, _: Path) -> None:
    """Have psycopg bring no libpq, as one that was built on the machine."""
    monkeypatch.setattr(libpq, "find_spec", lambda _: None)


def _another_library(monkeypatch, folder: Path) -> None:
    """Have the path lead to a real libpq of another version, which another wheel brings."""
    other = Path(find_spec("psycopg2").origin).parents[1] / "psycopg2_binary.libs"
    (folder / "psycopg_binary.libs").symlink_to(other)
    found = SimpleNamespace(origin=str(folder / "psycopg_binary" / "__init__.py"))
    monkeypatch.setattr(libpq, "find_spec", lambda _: found)


def _no_address(monkeypatch, _: Path) -> None:
    """Have psycopg's connection not give its address any more."""
    read = libpq.connection_address
    monkeypatch.setattr(
        libpq,
        "connection_address",
        lambda conn: read(SimpleNamespace(pgconn=object(), info=conn.info)),
    )


def _address_of_another_connection(monkeypatch, _: Path) -> None:
    """Have psycopg give an address, but of what is not this connection."""
    read = libpq.connection_address
    monkeypatch.setattr(
        libpq,
        "connection_address",
        lambda conn: read(SimpleNamespace(pgconn=conn.pgconn, info=SimpleNamespace(backend_pid=1))),
    )


@pytest.mark.parametrize("batch_bytes", [1, 1_000, 1 << 22])
@pytest.mark.parametrize(
    "damage", [_no_library, _another_library, _no_address, _address_of_another_connection]
)
def test_psycopgs_copy_reads_the_same_where_a_private_part_has_changed(
    settings, monkeypatch, tmp_path, caplog, damage, batch_bytes
):
    query = sql.SQL(EVERY_TYPE.format(n=60) + " order by i")
    expected = _rows(stream_arrow(settings, query))
    assert "psycopg's COPY" not in caplog.text
    libpq.compiled_collect.cache_clear()

    damage(monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        read = _rows(stream_arrow(settings, query, batch_bytes=batch_bytes))

    assert "read by psycopg's COPY" in caplog.text
    assert read.drop(["f8"]).equals(expected.drop(["f8"]))
    doubles = [rows["f8"].fill_null(0).to_numpy().tobytes() for rows in (read, expected)]
    assert doubles[0] == doubles[1]


def test_a_query_that_fails_is_a_named_error_when_psycopgs_copy_reads(
    settings, monkeypatch, tmp_path
):
    _no_library(monkeypatch, tmp_path)
    failing = sql.SQL("select 1 / (3 - i) as x from generate_series(1, 5) i")
    with pytest.raises(WarehouseError, match="ended a query"):
        list(stream_arrow(settings, failing))


def test_the_driver_reads_where_loops_cannot_be_compiled(settings, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    # numba fails when a function is called, not when it is given one.
    monkeypatch.setattr(binary_rows, "jit", lambda _: fail)
    with caplog.at_level(logging.WARNING):
        read = _rows(stream_arrow(settings, sql.SQL("select 1 as one")))

    assert read.to_pylist() == [{"one": 1}]
    assert "read by the driver" in caplog.text


@pytest.mark.parametrize(
    "query", ["select no_such_column", "select 1 / (3 - i) as x from generate_series(1, 5) i"]
)
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
    while conn.execute(
        "select count(*) from pg_stat_activity where application_name = 'test of an early end'"
    ).fetchone() != (0,):
        assert time.monotonic() - started < 15
        time.sleep(0.05)


@pytest.fixture
def taken(conn) -> None:
    conn.execute(
        "create table raw.taken (b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, d date,"
        " ts timestamp, tz timestamptz,"
        " t text check (t <> 'refused'), v varchar(3), c char(4), j jsonb, n numeric)"
    )


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(
    ("way", "n_connections"),
    [("binary", 1), ("binary", 3), ("an unknown type", 1), ("an unknown type", 2)],
)
def test_what_is_appended_is_what_was_given(settings, way, n_connections):
    batches = list(
        stream_arrow(settings, sql.SQL(EVERY_TYPE.format(n=60) + " order by i"), batch_bytes=1_000)
    )
    given = [
        pa.Table.from_batches([batch]).append_column(
            "j", pa.array(['{"a": [1, "ä"]}'] * batch.num_rows)
        )
        for batch in batches
    ]
    if way == "an unknown type":
        given = [rows.append_column("n", pa.array(np.full(rows.num_rows, 1.5))) for rows in given]

    assert (
        append_stream(settings, "raw", "taken", given, lambda _: True, "test", n_connections) == 61
    )
    columns = sql.SQL(", ").join(map(sql.Identifier, batches[0].schema.names))
    stored = _rows(
        stream_arrow(
            settings,
            sql.SQL("select {} from raw.taken order by i4 nulls first, i2").format(columns),
        )
    )
    expected = pa.Table.from_batches(batches).sort_by([("i2", "ascending")])
    assert stored.sort_by([("i2", "ascending")]).drop(["f8"]).equals(expected.drop(["f8"]))
    doubles = stored.sort_by([("i2", "ascending")])["f8"].fill_null(0).to_numpy()
    assert doubles.tobytes() == expected["f8"].fill_null(0).to_numpy().tobytes()


@pytest.mark.usefixtures("taken")
def test_the_ends_of_each_type_are_stored_as_they_are(settings):
    columns = {
        "i2": pa.array([-(2**15), 2**15 - 1, None], pa.int16()),
        "i4": pa.array([-(2**31), 2**31 - 1, None], pa.int32()),
        "i8": pa.array([-(2**63), 2**63 - 1, None]),
        "f4": pa.array([1.5, -(2.0**-149), None], pa.float32()),
        "f8": pa.array([-0.0, 5e-324, float("inf")]),
        "d": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
        "ts": pa.array([-62135596800000000, 253402300799999999, None], pa.timestamp("us")),
        "tz": pa.array([253402300799999999, -62135596800000000, None], pa.timestamp("us", "UTC")),
    }
    given = pa.table(columns)
    append_stream(
        settings, "raw", "taken", [given.slice(1), given.slice(0, 1)], lambda _: True, "test"
    )
    stored = _rows(
        stream_arrow(
            settings, sql.SQL("select i2, i4, i8, f4, f8, d, ts, tz from raw.taken order by f8")
        )
    )

    assert stored.sort_by("f8").equals(given.sort_by("f8"))
    assert stored["f8"].to_numpy().tobytes() == given.sort_by("f8")["f8"].to_numpy().tobytes()


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("n_connections", [1, 2])
def test_nothing_is_stored_when_the_warehouse_refuses_the_last_batch(settings, conn, n_connections):
    given = [
        pa.table({"i4": pa.array([i], pa.int32()), "t": [text]})
        for i, text in enumerate(["good", "good", "refused"])
    ]
    with pytest.raises(WarehouseError, match=r"did not take rows|constraint of the warehouse"):
        append_stream(settings, "raw", "taken", given, lambda _: True, "test", n_connections)

    assert conn.execute("select count(*) from raw.taken").fetchone() == (0,)


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("n_connections", [1, 2, 3])
def test_nothing_is_stored_when_the_last_batch_is_an_error(settings, conn, n_connections):
    def batches():
        for i in range(10):
            yield pa.table({"i4": pa.array([i], pa.int32())})
        raise LookupError("a file ends in the middle")

    with pytest.raises(LookupError, match="in the middle"):
        append_stream(settings, "raw", "taken", batches(), lambda _: True, "test", n_connections)

    assert conn.execute("select count(*) from raw.taken").fetchone() == (0,)


@pytest.mark.usefixtures("taken")
def test_nothing_is_stored_when_one_of_the_connections_is_lost(settings, conn):
    def batches():
        for i in range(1_000):
            if i == 20:
                find = (
                    "select pid from pg_stat_activity"
                    " where application_name = 'test of a lost connection' limit 1"
                )
                conn.execute(f"select pg_terminate_backend(({find}))")
            yield pa.table({"t": ["x" * 100_000] * 10})

    started = time.monotonic()
    with pytest.raises(
        WarehouseError, match=r"connection to the warehouse broke|did not take rows"
    ):
        append_stream(
            settings, "raw", "taken", batches(), lambda _: True, "test of a lost connection", 2
        )

    assert time.monotonic() - started < 30
    assert conn.execute("select count(*) from raw.taken").fetchone() == (0,)


@pytest.mark.usefixtures("taken")
def test_rows_that_are_not_wanted_are_not_stored(settings, conn):
    given = [pa.table({"i4": pa.array([i], pa.int32())}) for i in range(5)]

    assert append_stream(settings, "raw", "taken", given, lambda _: False, "test", 2) == 0
    assert conn.execute("select count(*) from raw.taken").fetchone() == (0,)
