"""A drop that streams: what stands in the warehouse is what the usual way leaves.

For any file and format, block by block.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from examples.flights.upstream import deliver
from pyarrow import csv, parquet
from tests.databases import new_name
from tests.raw_bucket import s3_client

from nightshift import failpoints
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError, ObjectStoreError
from nightshift.failpoints import Failpoint, InjectedFaultError
from nightshift.ingestion import large_drop, row_stream
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import IngestResult, ingest
from nightshift.lake import object_stream, transfer
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_errors import ObjectDamagedError
from nightshift.lake.object_store import ObjectStore
from nightshift.quality import gates
from nightshift.quality.contract_errors import (
    ColumnsError,
    DigestError,
    RefusedRatioError,
    RowCountError,
    TypeChangedError,
    UnreadableError,
)
from nightshift.quality.files import csv_blocks, file_blocks
from nightshift.quality.suites.streaming_checks import StreamingEvaluator
from nightshift.quality.suites.suite import parse_expectation, read_suite
from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

DAY = PartitionRange.of("2013-03-10")
DATASET = "flight_schedules"
BLOCK = 6_000
"""Bytes: about a hundred rows, so that a day is a dozen blocks."""
Header = list[str]
Rows = list[list[str]]


@pytest.fixture
def settings(settings: Settings, tmp_path) -> Settings:
    return settings.model_copy(update={"home": tmp_path})


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a switch: every drop streams in small blocks, or none does."""

    def switch(is_on: bool) -> None:
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1 if is_on else 10**9)
        monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", BLOCK)
        monkeypatch.setattr(csv_blocks, "BLOCK_ROWS", 70)

    switch(True)
    return switch


@pytest.fixture(scope="module")
def delivered(
    session_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Header, Rows]:
    """Return a real day's file as upstream delivers it; nobody may change it."""
    places = {"s3_bucket": new_name().replace("_", "-"), "home": tmp_path_factory.mktemp("home")}
    elsewhere = session_settings.model_copy(update=places)
    deliver(elsewhere, DAY, (), datasets=(DATASET,))
    store = ObjectStore.open(elsewhere)
    (key,) = [key for key in store.list("landing/") if key.endswith(".csv")]
    return file_blocks.read_cells(store.get(key), key)


@pytest.fixture
def day(delivered: tuple[Header, Rows]) -> tuple[Header, Rows]:
    """Return a copy of a real day's file."""
    header, rows = delivered
    return list(header), [list(row) for row in rows]


@dataclass(frozen=True)
class World:
    """A bucket and a warehouse for one test."""

    settings: Settings
    conn: Connection
    run: RunContext

    def bring(
        self, data: bytes, n_rows: int, suffix: str = ".csv", hour: int = 4, **claims: str
    ) -> str:
        """Deliver bytes and return the key of their manifest."""
        at = dt.datetime(2013, 3, 11, hour, 30, tzinfo=dt.UTC)
        drop = NewDrop(
            DATASET, DAY.first.day, at, data, n_rows, f"file-{hour}", suffix=suffix, **claims
        )
        write_drop(ObjectStore.open(self.settings), drop)
        return f"landing/{DATASET}/dt={DAY.first}/file-{hour}.manifest.json"

    def ingest(self, attempt: int = 1) -> IngestResult:
        return ingest(
            self.settings, DATASET, DAY, RunContext(self.run.run_id, attempt, self.run.actor)
        )

    def one(self, query: str) -> object:
        row = self.conn.execute(query.encode()).fetchone()
        return row[0] if row else None

    def forget(self) -> None:
        """Empty what ingest writes."""
        self.conn.execute(
            f"delete from raw.{DATASET}; delete from raw.ingested_drops; delete from "
            f"quarantine.refused_rows;"
            " delete from ops.published; delete from ops.loads; delete from ops.fences".encode()
        )

    def stands(self) -> dict[str, list[tuple[object, ...]]]:
        """Return all that an ingest leaves, without the names of its loads."""
        queries = {
            "rows": (
                f"select (to_jsonb(t) - 'load_id')::text from raw.{DATASET} t order by "
                f"source_row, 1"
            ),
            "refused": (
                "select source_row, reason, column_name, delivered::text, row_digest from "
                "quarantine.refused_rows order by 1, 5"
            ),
            "drops": (
                "select known_at, source_uri, source_sha256, n_delivered, n_duplicated, "
                "n_refused, notes from raw.ingested_drops"
            ),
            "published": "select dataset, partition_date, content_hash, n_rows,"
            " detail->>'n_refused', detail->>'n_duplicated'"
            " from ops.published join ops.loads using (dataset, partition_date, load_id)",
        }
        return {
            name: self.conn.execute(query.encode()).fetchall() for name, query in queries.items()
        }


@pytest.fixture
def world(settings: Settings, conn: Connection, run: RunContext) -> World:
    ObjectStore.open(settings).ensure_bucket()
    return World(settings, conn, run)


def as_csv(header: Header, rows: Rows) -> bytes:
    return "".join(",".join(row) + "\n" for row in [header, *rows]).encode()


def as_parquet(header: Header, rows: Rows) -> bytes:
    typed = csv.read_csv(
        io.BytesIO(as_csv(header, rows)),
        convert_options=csv.ConvertOptions(strings_can_be_null=True),
    )
    assert all(
        pa.types.is_integer(typed.schema.field(name).type)
        for name in ("flight_number", "distance_miles")
    )
    sink = io.BytesIO()
    parquet.write_table(typed, sink)
    return sink.getvalue()


def damaged(header: Header, rows: Rows, seed: int, *, n_bad: int = 6) -> Rows:
    """Repeat rows near and far, contradict some, spoil some, and shuffle a part.

    So all of it crosses blocks.
    """
    dice = np.random.default_rng(seed)
    rows = [list(row) for row in rows]
    n = len(rows)
    distance, carrier = header.index("distance_miles"), header.index("carrier")
    for place in dice.choice(n, 12, replace=False):
        rows.insert(int(dice.integers(0, len(rows))), list(rows[place]))
    for place in dice.choice(n, 2, replace=False):
        twin = list(rows[place])
        twin[distance] = str(int(twin[distance] or 100) + 1)
        rows.append(twin)
    for place, wrong in zip(
        dice.choice(n, n_bad, replace=False),
        ["x", "-3", "99999", "", "1e3", "7.5"] * n_bad,
        strict=False,
    ):
        rows[place][distance] = wrong
    if seed % 2:
        rows.insert(50, [*rows[50], "one too many"])
        rows[n // 2] = rows[n // 2][:3]
    rows[3][carrier] = f'"{rows[3][carrier]}"'
    return rows


@pytest.mark.promise("R5")
@pytest.mark.parametrize(
    "seed", [0, 1, 3, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 4, 5))]
)
def test_everything_is_as_the_usual_way_leaves_it(world, streaming, day, seed):
    header, clean = day
    rows = damaged(header, clean, seed)
    data = as_csv(header, rows)
    world.bring(
        gzip.compress(data) if seed == 3 else data, len(rows), ".csv.gz" if seed == 3 else ".csv"
    )
    streaming(False)
    world.ingest()
    usual = world.stands()
    world.forget()

    streaming(True)
    result = world.ingest()

    assert world.stands() == usual
    assert usual["refused"]
    assert usual["drops"][0][4] >= 10
    assert result.n_rows == len(usual["rows"])
    assert not world.ingest().is_new


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_the_same_when_repeated_keys_need_many_readings(
    world, streaming, day, monkeypatch, seed
):
    header, clean = day
    rows = damaged(header, clean, seed)
    world.bring(as_csv(header, rows), len(rows))
    streaming(False)
    world.ingest()
    usual = world.stands()
    world.forget()
    streaming(True)
    monkeypatch.setattr(row_stream, "KEYS_PER_READING", 3)
    monkeypatch.setattr(row_stream, "ROWS_WITH_COPIES", 2)

    world.ingest()

    assert world.stands() == usual
    assert usual["drops"][0][4] >= 10


def test_its_rows_lie_in_the_part_for_large_loads(world, streaming, day):
    header, rows = day
    world.bring(as_csv(header, rows), len(rows))
    world.ingest()

    assert world.one(f"select count(*) from only raw.{DATASET}") == 0
    assert world.one(f'select count(*) from raw."{DATASET}$large"') == len(rows)


def judged_by(world: World) -> list[str]:
    """Return who has judged each expectation of the drop's gate."""
    store = ObjectStore.open(world.settings)
    (key,) = [key for key in store.list(f"data_docs/raw/{DATASET}") if key.endswith(".json")]
    return [result["meta"]["by"] for result in json.loads(store.get(key))["results"]]


def test_its_suite_is_counted_where_the_rows_pass(world, streaming, day, monkeypatch):
    header, rows = day
    monkeypatch.setattr(gates, "ONE_SCAN_ROWS", 1)
    world.bring(as_csv(header, rows), len(rows))
    world.ingest()

    n_expectations = len(read_suite(world.settings.expectations_dir, f"raw/{DATASET}").expectations)
    assert judged_by(world) == ["passing rows"] * n_expectations


def test_its_stage_is_scanned_when_rows_of_it_were_withdrawn(world, streaming, day, monkeypatch):
    header, rows = day
    monkeypatch.setattr(gates, "ONE_SCAN_ROWS", 1)
    world.bring(as_csv(header, [*rows, rows[0]]), len(rows) + 1)
    world.ingest()

    assert set(judged_by(world)) == {"one scan"}


def test_its_stage_is_scanned_for_what_has_come_into_the_suite_since(
    world, streaming, day, monkeypatch
):
    header, rows = day
    suite = json.loads((world.settings.expectations_dir / "raw" / f"{DATASET}.json").read_text())[
        "expectations"
    ]
    monkeypatch.setattr(gates, "ONE_SCAN_ROWS", 1)
    monkeypatch.setattr(
        row_stream,
        "streaming_evaluator",
        lambda *_: StreamingEvaluator(
            [parse_expectation(each) for each in [*suite[7:4:-1], {"type": "gone", "kwargs": {}}]]
        ),
    )
    world.bring(as_csv(header, rows), len(rows))
    world.ingest()

    assert Counter(judged_by(world)) == {"passing rows": 3, "one scan": len(suite) - 3}


def test_typed_columns_mean_the_same_when_the_file_is_parquet(world, streaming, day):
    header, rows = day
    manifest = world.bring(as_csv(header, rows), len(rows))
    world.ingest()
    by_csv = world.one("select content_hash from ops.loads where state = 'published'")
    world.forget()
    s3_client(world.settings).delete_object(Bucket=world.settings.s3_bucket, Key=manifest)

    world.bring(as_parquet(header, rows), len(rows), ".parquet", hour=5)
    world.ingest()

    assert world.one("select content_hash from ops.loads where state = 'published'") == by_csv


def spoilt(kind: str, header: Header, rows: Rows) -> tuple[bytes, int, str, dict[str, str]]:
    """Return bytes, rows that the manifest says, suffix, and its other claims."""
    data, n_rows = as_csv(header, rows), len(rows)
    wrong = [[*row[:-1], "far"] for row in rows]
    few = [list(row) for row in rows]
    for row in few[::20]:
        row[-1] = "far"
    doubled = [*rows, *([*row[:-1], "777"] for row in rows)]
    return {
        "keys in conflict": (as_csv(header, doubled), 2 * n_rows, ".csv", {}),
        "other digest": (data, n_rows, ".csv", {"claimed_sha256": sha256(b"another").hexdigest()}),
        "more rows": (data, n_rows - 1, ".csv", {}),
        "fewer rows": (data, n_rows + 1, ".csv", {}),
        "cut off": (gzip.compress(data)[:-500], n_rows, ".csv.gz", {}),
        "not compressed": (data, n_rows, ".csv.gz", {}),
        "no parquet": (data, n_rows, ".parquet", {}),
        "column missing": (as_csv(["other", *header[1:]], rows), n_rows, ".csv", {}),
        "column retyped": (as_csv(header, wrong), n_rows, ".csv", {}),
        "too many bad rows": (as_csv(header, few), n_rows, ".csv", {}),
        "not text": (data.replace(b"EWR", b"\xff\xfe\xfd"), n_rows, ".csv", {}),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("keys in conflict", RefusedRatioError),
        ("other digest", DigestError),
        ("more rows", RowCountError),
        ("fewer rows", RowCountError),
        ("cut off", UnreadableError),
        ("not compressed", UnreadableError),
        ("no parquet", UnreadableError),
        ("column missing", ColumnsError),
        ("column retyped", TypeChangedError),
        ("too many bad rows", RefusedRatioError),
        ("not text", UnreadableError),
    ],
)
@pytest.mark.parametrize("is_large", [True, pytest.param(False, marks=pytest.mark.long)])
def test_nothing_is_visible_and_the_reason_is_kept_when_the_file_is_wrong(
    world, streaming, day, kind, error, is_large
):
    streaming(is_large)
    data, n_rows, suffix, claims = spoilt(kind, *day)
    world.bring(data, n_rows, suffix, **claims)

    with pytest.raises(error):
        world.ingest()

    assert world.one("select count(*) from ops.published") == 0
    assert world.one("select array_agg(code) from quarantine.refused_drops") == [error.code]
    assert world.one("select count(*) from ops.loads where state = 'staged'") == 0


def test_a_later_drop_stands_for_a_broken_one(world, streaming, day):
    header, rows = day
    data, n_rows, suffix, claims = spoilt("too many bad rows", header, rows)
    world.bring(data, n_rows, suffix, hour=4, **claims)
    world.bring(as_csv(header, rows), len(rows), hour=6)

    assert world.ingest().n_rows == len(rows)
    assert world.one("select array_agg(code) from quarantine.refused_drops") == [
        RefusedRatioError.code
    ]


def test_a_sweep_takes_a_late_one(world, streaming, day):
    header, rows = day
    world.bring(as_csv(header, rows[:-5]), len(rows) - 5, hour=4)
    world.ingest()
    world.bring(as_csv(header, rows), len(rows), hour=6)

    found = load_late_drops(world.settings, DATASET, DAY, world.run)

    assert found.published == (DAY.first.day,)
    assert len(world.stands()["drops"]) == 2


def come_in_chunks(patch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
    """Let files come in small chunks; call a function with the bytes so far before each."""
    real = ObjectStore.chunks

    def chunks(store: ObjectStore, key: str, start: int = 0) -> Iterator[bytes]:
        for chunk in real(store, key, start):
            before(start)
            start += len(chunk)
            yield chunk

    patch.setattr(transfer, "LARGEST_CHUNK", BLOCK)
    patch.setattr(object_stream, "FIRST_BYTES", BLOCK)
    patch.setattr(ObjectStore, "chunks", chunks)


def test_rows_are_staged_before_the_file_has_come(world, streaming, day, monkeypatch):
    header, rows = day
    some_are_staged, real = threading.Event(), row_stream.with_origin
    monkeypatch.setattr(
        row_stream, "with_origin", lambda *given: (some_are_staged.set(), real(*given))[1]
    )

    def wait_for_rows(n_bytes: int) -> None:
        assert n_bytes < 5 * BLOCK or some_are_staged.wait(30), (
            "no row is staged before the whole file is there"
        )

    come_in_chunks(monkeypatch, wait_for_rows)
    world.bring(as_csv(header, rows), len(rows))

    assert world.ingest().n_rows == len(rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_another_digest_is_the_reason_whatever_else_is_wrong(world, streaming, day, suffix):
    header, rows = day
    world.bring(
        as_csv(["other", *header[1:]], rows),
        len(rows) + 9,
        suffix,
        claimed_sha256=sha256(b"another").hexdigest(),
    )

    with pytest.raises(DigestError):
        world.ingest()


@pytest.mark.promise("R13")
@pytest.mark.parametrize("wrong", ["far", "9999"])
def test_nothing_is_held_against_a_file_that_was_damaged_on_its_way(
    world, streaming, day, monkeypatch, wrong
):
    """Not even when the damage looks like a broken contract; a rerun takes it."""
    header, rows = day
    world.bring(as_csv(header, rows), len(rows))
    with monkeypatch.context() as damaging:
        real = ObjectStore.chunks
        damaging.setattr(
            ObjectStore,
            "chunks",
            lambda *given: iter([_with_last_field(b"".join(real(*given)), wrong)]),
        )
        with pytest.raises(ObjectDamagedError):
            world.ingest()
    assert world.one("select count(*) from ops.published") == 0
    assert world.one("select count(*) from quarantine.refused_drops") == 0

    assert world.ingest(attempt=2).n_rows == len(rows)


def _with_last_field(file: bytes, text: str) -> bytes:
    head, *lines = file.split(b"\n")
    return b"\n".join(
        [
            head,
            *(line.rpartition(b",")[0] + b"," + text.encode() if line else line for line in lines),
        ]
    )


@pytest.mark.promise("R13")
def test_an_end_that_is_none_leaves_nothing_and_a_rerun_takes_the_file(
    world, streaming, day, monkeypatch
):
    header, rows = day
    world.bring(as_csv(header, rows), len(rows))

    def break_off(n_bytes: int) -> None:
        if n_bytes > 4 * BLOCK:
            raise ObjectStoreError("The store is gone.", todo="Rerun the task.")

    with monkeypatch.context() as breaking:
        come_in_chunks(breaking, break_off)
        with pytest.raises(ObjectStoreError, match="is gone"):
            world.ingest()
    assert world.one(f"select count(*) from raw.{DATASET}") == 0
    assert world.one("select count(*) from quarantine.refused_drops") == 0

    assert world.ingest(attempt=2).n_rows == len(rows)


def test_no_copy_is_left_and_one_of_a_killed_process_goes_after_a_day(world, streaming, day):
    header, rows = day
    kept, forgotten = (
        world.settings.home / "drops" / name for name in ("of another task", "of a killed task")
    )
    for folder in (kept, forgotten):
        folder.mkdir(parents=True)
    long_ago = time.time() - 25 * 3600
    os.utime(forgotten, (long_ago, long_ago))
    world.bring(as_parquet(header, rows), len(rows), ".parquet")

    world.ingest()

    assert list((world.settings.home / "drops").iterdir()) == [kept]


def test_no_file_but_parquet_needs_a_disk(world, streaming, day):
    header, rows = day
    world.bring(gzip.compress(as_csv(header, rows)), len(rows), ".csv.gz")

    world.ingest()

    assert not (world.settings.home / "drops").exists()


@pytest.fixture
def unarmed() -> Iterator[None]:
    yield
    failpoints.enable("")


@pytest.mark.promise("R4")
@pytest.mark.usefixtures("unarmed")
@pytest.mark.parametrize(
    "point", [Failpoint.INGEST_CHECKED, Failpoint.APPEND_AFTER, Failpoint.INGEST_STAGE_AFTER]
)
def test_a_rerun_ends_the_same_when_it_broke(world, streaming, day, point):
    header, rows = day
    rows = damaged(header, rows, 1)
    world.bring(as_csv(header, rows), len(rows))
    world.ingest()
    undisturbed = world.stands()
    world.forget()

    failpoints.enable(f"{point}:1:exception")
    with pytest.raises((InjectedFaultError, NightshiftError)):
        world.ingest()
    assert world.one("select count(*) from ops.published") == 0
    failpoints.enable("")
    world.ingest(attempt=2)

    after = world.stands()
    assert after["published"] == undisturbed["published"]
    assert set(after["rows"]) == set(undisturbed["rows"])
    assert after["refused"] == undisturbed["refused"]
