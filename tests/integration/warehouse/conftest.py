"""One plain and one versioned dataset to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    PublishedLoad,
    Target,
    audit,
    begin,
    publish,
)
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

PLAIN = Target("features/thing", "features", "feat_thing", ("thing_id",))
VERSIONED = Target("raw/thing", "raw", "thing", ("thing_id",), is_versioned=True)
DAY = PartitionRange.of("2013-07-01")
Row = tuple[str, str | None, float | None]
Writer = Callable[..., list[PublishedLoad]]


def stage(
    conn: Connection,
    write: PartitionWrite,
    rows: Sequence[Row],
    day: str = "2013-07-01",
    target: Target = PLAIN,
) -> None:
    """Append rows of one day to the target's table."""
    known_at = {"known_at": "2013-07-02"} if target.is_versioned else {}
    columns = ["partition_date", "load_id", "thing_id", "name", "value", *known_at]
    marks = ", ".join(["%s"] * len(columns))
    statement = (
        f"insert into {target.schema}.{target.table} ({', '.join(columns)}) values ({marks})"
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            statement.encode(), [(day, write.load_id, *row, *known_at.values()) for row in rows]
        )


def manifest(inputs: str = "a", **given: Any) -> LoadManifest:
    """Return a manifest whose inputs have this digest."""
    return LoadManifest(RunContext("test/run", 1, "test"), {"input": inputs}, **given)


@pytest.fixture
def tables(conn: Connection) -> None:
    """Create the two tables and the reader's view."""
    conn.execute(
        "create table features.feat_thing (partition_date date, load_id bigint, thing_id text,"
        " name text, value double precision)"
    )
    conn.execute(
        "create table raw.thing (partition_date date, load_id bigint, known_at timestamptz,"
        " thing_id text, name text, value double precision)"
    )
    view = sql.SQL("create view analytics.thing as select t.* from features.feat_thing t {}")
    conn.execute(view.format(join_published("features/thing", "t")))


@pytest.fixture
def write_day(conn: Connection, tables: None) -> Writer:
    """Return a function that runs the whole protocol for one day."""

    def write(
        rows: Sequence[Row], inputs: str = "a", target: Target = PLAIN, **given: Any
    ) -> list[PublishedLoad]:
        begun = begin(conn, [target], DAY, manifest(inputs, **given))
        stage(conn, begun, rows, target=target)
        audit(conn, begun)
        return publish(conn, begun)

    return write
