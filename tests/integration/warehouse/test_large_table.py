"""Large loads of a raw table have a part of their own: read with it, collected like any load."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from tests.integration.warehouse.conftest import manifest

from nightshift.contracts.datasets import DatasetContract, load_contract
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse import audit as audit_step
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import ensure_large_table, ensure_raw_table
from nightshift.warehouse.partition_write import Target, analyze_grown_tables, begin, collect

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
FIRST = Partition(dt.date(2013, 7, 1))
N_DAYS, N_ROWS = 5, 60_000
WEATHER = Target("raw/weather", "raw", "weather", ("origin", "observed_at"), is_versioned=True)


@pytest.fixture
def contract() -> DatasetContract:
    return load_contract(PROJECT_ROOT / "dags" / "datasets", "weather")


@pytest.fixture
def large(conn: Connection, contract: DatasetContract) -> str:
    """Create the part, with some large days in it, and return its quoted name."""
    name = sql.Identifier("raw", ensure_large_table(conn, contract)).as_string(conn)
    for k in range(N_DAYS):
        add_rows(conn, name, FIRST.shift(k).day, 100 + k, N_ROWS)
    return name


def add_rows(conn: Connection, table: str, day: dt.date, load_id: int, n_rows: int) -> None:
    columns = "partition_date, load_id, known_at, source_row, origin"
    statement = (
        f"insert into {table} ({columns}) select %s, %s, now(), i, 'EWR'"
        " from generate_series(1, %s) i"
    )
    conn.execute(statement.encode(), [day, load_id, n_rows])


def rows_looked_at(conn: Connection, day: dt.date) -> dict[str, float]:
    """Return how many rows a query of one day looks at, by table."""
    row = conn.execute(
        (
            "explain (analyze, format json) select count(origin) from raw.weather"
            f" where partition_date = '{day}'"
        ).encode()
    ).fetchone()
    assert row is not None
    found: dict[str, float] = {}
    for node in scans(row[0][0]["Plan"]):
        thrown_away = node.get("Rows Removed by Filter", 0) + node.get(
            "Rows Removed by Index Recheck", 0
        )
        found[node["Relation Name"]] = (node["Actual Rows"] + thrown_away) * node["Actual Loops"]
    return found


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def count(conn: Connection, table: str) -> int:
    row = conn.execute(f"select count(*) from {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_it_is_read_with_the_raw_table_and_is_made_once(
    conn: Connection, contract: DatasetContract, large: str
) -> None:
    assert ensure_large_table(conn, contract) == "weather$large"
    assert (count(conn, "raw.weather"), count(conn, "only raw.weather"), count(conn, large)) == (
        N_DAYS * N_ROWS,
        0,
        N_DAYS * N_ROWS,
    )


def test_it_gains_the_columns_that_a_contract_gains(
    conn: Connection, contract: DatasetContract, large: str
) -> None:
    gained = contract.columns[-1].model_copy(update={"name": "gained"})
    ensure_raw_table(conn, contract.model_copy(update={"columns": [*contract.columns, gained]}))

    assert conn.execute(f"select gained from {large} limit 1".encode()).fetchone() == (None,)


def test_a_day_is_found_without_the_others(conn: Connection, large: str) -> None:
    conn.execute(f"vacuum (analyze) {large}".encode())

    one = rows_looked_at(conn, FIRST.shift(2).day)
    none = rows_looked_at(conn, FIRST.shift(-1).day)

    # Block ranges with rows of two days, and the last one, which is not indexed until it is full.
    at_the_edges = N_ROWS
    assert N_ROWS <= one["weather$large"] < N_ROWS + at_the_edges
    assert none.get("weather$large", 0) < at_the_edges / 2


def test_a_dead_load_goes_and_the_others_stay(conn: Connection, large: str) -> None:
    partitions = PartitionRange(FIRST, FIRST)
    dead = begin(
        conn, [WEATHER], partitions, manifest(known_at=dt.datetime(2013, 7, 2, tzinfo=dt.UTC))
    )
    add_rows(conn, large, FIRST.day, dead.load_id, 10)
    begin(conn, [WEATHER], partitions, manifest(known_at=dt.datetime(2013, 7, 2, tzinfo=dt.UTC)))

    assert collect(conn, [WEATHER]) == 10
    assert count(conn, large) == N_DAYS * N_ROWS


def test_the_planner_learns_how_large_it_has_become(
    conn: Connection, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_step, "GROWN_BYTES", 1024**2)
    write = begin(
        conn,
        [WEATHER],
        PartitionRange(FIRST, FIRST),
        manifest(known_at=dt.datetime(2013, 7, 2, tzinfo=dt.UTC)),
    )
    analyze_grown_tables(conn, write)

    row = conn.execute(
        "select reltuples from pg_class where oid = to_regclass(%s)", [large]
    ).fetchone()
    assert row is not None
    assert abs(row[0] - N_DAYS * N_ROWS) < 0.1 * N_DAYS * N_ROWS


def test_it_is_made_while_the_raw_table_is_read_and_written(
    settings: Settings, conn: Connection, contract: DatasetContract
) -> None:
    with connect(settings, "reader") as reader, reader.transaction():
        reader.execute("select count(*) from raw.weather")
        reader.execute(
            "insert into raw.weather (partition_date, load_id, known_at, source_row) values"
            " ('2013-07-01', 1, now(), 1)"
        )
        made: list[str] = []

        def make() -> None:
            with connect(settings, "maker") as maker:
                made.append(ensure_large_table(maker, contract))

        makers = [threading.Thread(target=make) for _ in range(3)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join(20)

    assert made == ["weather$large"] * 3
    assert count(conn, "raw.weather") == 1
