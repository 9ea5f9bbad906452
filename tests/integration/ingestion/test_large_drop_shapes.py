"""Large drops of other shapes.

Wide, of every type, with unique keys, many missing values, quotes and line breaks; the usual way
agrees.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion import large_drop
from nightshift.ingestion.load import ingest
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.files import csv_blocks
from nightshift.settings import Settings
from nightshift.warehouse.migrate import migrate

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
DAY = PartitionRange.of("2013-03-10")
N_WIDE = 60
CONTRACT = """
name: readings
description: Made-up readings.
schema_version: 1
timezone: America/New_York
delivery: daily
history_start: 2013-01-01
grain: one reading
key: [reading_id, taken_at]
columns:
  - {name: reading_id, type: text}
  - {name: taken_at, type: utc_timestamp}
  - {name: seen_local, type: local_timestamp, is_nullable: true}
  - {name: day, type: date, is_nullable: true}
  - {name: is_open, type: boolean, is_nullable: true}
  - {name: note, type: text, is_nullable: true}
  - {name: level, type: text, is_nullable: true, levels: [low, "hi,gh"]}
  - {name: amount, type: number, is_nullable: true, minimum: -1000000, maximum: 1.0e+300}
  - {name: number, type: integer, is_nullable: true}
"""
SUITE = [
    {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}},
    {
        "type": "expect_compound_columns_to_be_unique",
        "kwargs": {"column_list": ["partition_date", "reading_id", "taken_at"]},
    },
    {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "amount", "min_value": -1e6, "max_value": 1e300},
    },
    {
        "type": "expect_column_values_to_match_regex",
        "kwargs": {"column": "reading_id", "regex": "^[0-9a-f]+"},
    },
]


def make_csv(n_rows: int, seed: int) -> bytes:
    """Return rows whose keys are all different but for a few.

    With a third of the values missing and some wrong ones.
    """
    dice = np.random.default_rng(seed)
    start = dt.datetime(2013, 3, 9, 5, tzinfo=dt.UTC)

    def maybe(value: object) -> object:
        return "" if dice.random() < 0.33 else value

    sink = io.StringIO()
    rows = csv.writer(sink, lineterminator="\n")
    rows.writerow(
        [
            "reading_id",
            "taken_at",
            "seen_local",
            "day",
            "is_open",
            "note",
            "level",
            "amount",
            "number",
            *wide(),
        ]
    )
    for i in range(n_rows):
        at = start + dt.timedelta(
            seconds=int(dice.integers(0, 86_400)), microseconds=int(dice.integers(0, 10**6))
        )
        wrong = dice.random() < 0.003
        row = [
            f"{dice.integers(0, 2**63):x}",
            at.isoformat().replace("+00:00", "Z" if i % 2 else "+00:00"),
            maybe(at.strftime("%Y-%m-%d %H:%M")),
            maybe(at.date().isoformat()),
            maybe(dice.choice(["true", "F", "1", "no"])),
            maybe(f'line one\nline "two", ä€ {i}'),
            maybe("elsewhere" if wrong else dice.choice(["low", "hi,gh"])),
            maybe(repr(float(dice.normal() * 10.0 ** dice.integers(-5, 6)))),
            maybe("1.5" if wrong else int(dice.integers(-(10**17), 10**17))),
            *(maybe(f"{value:.3f}") for value in dice.normal(size=N_WIDE)),
        ]
        rows.writerow(row)
        if dice.random() < 0.01:
            rows.writerow(row)
    return sink.getvalue().encode()


def wide() -> list[str]:
    return [f"wide_{i}" for i in range(N_WIDE)]


@pytest.fixture
def readings(settings: Settings, conn: Connection, tmp_path: Path) -> Settings:
    datasets, expectations = tmp_path / "datasets", tmp_path / "expectations"
    datasets.mkdir()
    (expectations / "raw").mkdir(parents=True)
    columns = "".join(f"  - {{name: {name}, type: number, is_nullable: true}}\n" for name in wide())
    (datasets / "readings.yaml").write_text(
        CONTRACT.lstrip() + columns + "minimum_rows: 1\nmaximum_refused_ratio: 0.1\n"
    )
    (expectations / "raw" / "readings.json").write_text(
        json.dumps({"name": "raw/readings", "expectations": SUITE})
    )
    settings = settings.model_copy(
        update={"datasets_dir": datasets, "expectations_dir": expectations, "home": tmp_path}
    )
    migrate(conn, {"readings": load_contract(datasets, "readings")})
    ObjectStore.open(settings).ensure_bucket()
    return settings


def stands(conn: Connection) -> list[list[tuple[object, ...]]]:
    """Return rows, refused rows and counts of what was ingested, and forget it."""
    found = [
        conn.execute(query).fetchall()
        for query in (
            "select (to_jsonb(t) - 'load_id')::text from raw.readings t order by source_row",
            (
                "select source_row, reason, column_name, delivered::text from "
                "quarantine.refused_rows order by 1, 4"
            ),
            "select n_delivered, n_duplicated, n_refused from raw.ingested_drops",
            (
                "select content_hash, n_rows from ops.published join ops.loads using (dataset, "
                "partition_date, load_id)"
            ),
        )
    ]
    conn.execute(
        "delete from raw.readings; delete from raw.ingested_drops; delete from "
        "quarantine.refused_rows; delete from ops.published;"
        " delete from ops.loads; delete from ops.fences"
    )
    return found


@pytest.mark.parametrize("n_rows", [1, 2_500])
def test_the_usual_way_leaves_the_same(
    readings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    data = make_csv(n_rows, 3)
    n_delivered = len(list(csv.reader(io.StringIO(data.decode())))) - 1
    at = dt.datetime(2013, 3, 11, 4, 30, tzinfo=dt.UTC)
    write_drop(
        ObjectStore.open(readings),
        NewDrop("readings", DAY.first.day, at, data, n_delivered, "file"),
    )
    ways = []
    for is_large in (False, True):
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1 if is_large else 10**9)
        monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", 200_000 if is_large else 1024**2)
        monkeypatch.setattr(csv_blocks, "BLOCK_ROWS", 400)
        ingest(readings, "readings", DAY, RunContext("test/run", 1 + is_large, "test"))
        ways.append(stands(conn))

    usual, streamed = ways
    assert streamed == usual
    assert len(usual[0]) > 0.9 * n_rows
    if n_rows > 1:
        assert usual[1]
        assert usual[2][0][1] > 5
