"""One bad drop harms only itself.

Whatever it is, the good ones beside it go in, and it is recorded with a code.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import count

import pyarrow as pa
import pytest
from psycopg import errors
from pyarrow import parquet
from tests.integration.ingestion.hostile_world import HEADER, HostileWorld, good_file, hostile_world

from nightshift.contracts.drop_limits import DropLimits
from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import MemoryShortError, NightshiftError, ObjectStoreError, WarehouseError
from nightshift.ingestion import drop_batches, file_faults
from nightshift.ingestion.drop_decisions import DropUnknownError, set_aside, withdraw
from nightshift.ingestion.load import DropMissingError, FileAbsentError
from nightshift.lake.landing import MAX_MANIFEST_BYTES, ManifestError, read_landing
from nightshift.lake.object_store import ObjectStore
from nightshift.quality import contract_check
from nightshift.quality.contract_errors import BackdatedError, ContractError, LimitError

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

_days = count()


@pytest.fixture(scope="module")
def world(session_settings, template_database, tmp_path_factory) -> Iterator[HostileWorld]:
    """Return one world for all tests here: each has days of its own in it."""
    with hostile_world(
        session_settings, template_database, tmp_path_factory.mktemp("hostile")
    ) as one:
        yield one


@pytest.fixture
def day() -> dt.date:
    """Return the first of four days that no other test uses."""
    return dt.date(2013, 2, 1) + dt.timedelta(days=4 * next(_days))


def row(day: dt.date, more: str = ",") -> str:
    return f"hill,{day} 10:00,3{more}\n"


def table_file(columns: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def damaged_parquet(day: dt.date) -> bytes:
    """Return a file whose pages are noise, while its footer is right."""
    data = bytearray(
        table_file(
            {
                "shop": ["hill"] * 100,
                "hour_at": [f"{day} 10:00"] * 100,
                "visitors": list(range(100)),
                "valid_to": [""] * 100,
            }
        )
    )
    data[4:200] = bytes(n * 37 % 256 for n in range(196))
    return bytes(data)


Kind = Callable[[HostileWorld, dt.date], object]
FILES: dict[str, Kind] = {
    "other columns": lambda w, d: w.bring(d, b"shop,at\nhill,x\n", 1),
    "no header": lambda w, d: w.bring(d, row(d).encode() * 2, 1),
    "an empty file": lambda w, d: w.bring(d, b"", 0),
    "a digest of another file": lambda w, d: w.bring(
        d, (HEADER + row(d)).encode(), 1, sha256="0" * 64
    ),
    "more rows than said": lambda w, d: w.bring(d, (HEADER + row(d)).encode(), 7),
    "another type": lambda w, d: w.bring(
        d, (HEADER + f"hill,{d} 10:00,many,\nriver,{d} 10:00,few,\n").encode(), 2
    ),
    "UTF-16 without a mark": lambda w, d: w.bring(
        d, (HEADER + row(d)).replace("\n", "\r\n").encode("utf-16-le"), 1
    ),
    "NUL in the header": lambda w, d: w.bring(
        d, b"shop,hour_at,visi\0tors,valid_to\nhill,x,1,\n", 1
    ),
    "NUL in the name of an added column": lambda w, d: w.bring(
        d, f"shop,hour_at,visitors,valid_to,no\0te\n{row(d, ',,x')}".encode(), 1
    ),
    "an added column with a very long name": lambda w, d: w.bring(
        d, f"{HEADER[:-1]},{'n' * 9000}\n{row(d, ',,x')}".encode(), 1
    ),
    "a quote that is never closed in the header": lambda w, d: w.bring(
        d, b'shop,"hour_at,visitors\nhill,x,1\n', 1
    ),
    "a field of a megabyte in the header": lambda w, d: w.bring(
        d, b"shop," + b"n" * 1_100_000 + b"\nhill,x\n", 1
    ),
    "2,000 columns": lambda w, d: w.bring(
        d, (HEADER[:-1] + "".join(map(",c{}".format, range(2000))) + "\n").encode(), 0
    ),
    "a value of 100,000 characters": lambda w, d: w.bring(
        d, (HEADER + f"{'h' * 100_000},{d} 10:00,3,\n").encode(), 1
    ),
    "a line of two megabytes": lambda w, d: w.bring(
        d, (HEADER + f"{'h' * 2_000_000},{d} 10:00,3,\n").encode(), 1
    ),
    "20,000 malformed rows": lambda w, d: w.bring(d, (HEADER + "x\n" * 20_000).encode(), 20_000),
    "a gzip bomb": lambda w, d: w.bring(
        d, gzip.compress((HEADER + row(d) * 2_000_000).encode(), 9), 2_000_000, suffix=".csv.gz"
    ),
    "gzip that is cut off": lambda w, d: w.bring(
        d, gzip.compress(good_file(d, 500))[:-300], 500, suffix=".csv.gz"
    ),
    "plain text called gzip": lambda w, d: w.bring(d, good_file(d), 24, suffix=".csv.gz"),
    "text called Parquet": lambda w, d: w.bring(d, good_file(d), 24, suffix=".parquet"),
    "Parquet without its end": lambda w, d: w.bring(
        d, table_file({"shop": ["a"]})[:-9], 1, suffix=".parquet"
    ),
    "Parquet with damaged pages": lambda w, d: w.bring(
        d, damaged_parquet(d), 100, suffix=".parquet"
    ),
    "Parquet with lists": lambda w, d: w.bring(
        d,
        table_file({"shop": [["a"]], "hour_at": ["x"], "visitors": [1], "valid_to": [""]}),
        1,
        suffix=".parquet",
    ),
    "a name that is no format": lambda w, d: w.bring(d, good_file(d), 24, suffix=".txt"),
    "an unknown schema version": lambda w, d: w.bring(d, good_file(d), 24, schema_version=99),
    "a huge schema version": lambda w, d: w.bring(d, good_file(d), 24, schema_version=10**30),
    "a number of rows that no file has": lambda w, d: w.bring(d, good_file(d), 24, n_rows=10**30),
    "a number of rows with a point": lambda w, d: w.bring(d, good_file(d), 24, n_rows=24.0),
    "a time that is a text of digits": lambda w, d: w.bring(
        d, good_file(d), 24, delivered_at="1357084800"
    ),
    "delivered beyond the end of UTC": lambda w, d: w.bring(
        d, good_file(d), 24, delivered_at="0001-01-01T00:00:00+23:59"
    ),
    "a time that is a number": lambda w, d: w.bring(d, good_file(d), 24, delivered_at=1357084800),
    "delivered in the year 1": lambda w, d: w.bring(
        d, good_file(d), 24, delivered_at="0001-01-01T00:00:00+14:00"
    ),
    "delivered in the year 9999": lambda w, d: w.bring(
        d, good_file(d), 24, delivered_at="9999-12-31T23:59:59-14:00"
    ),
    "a data key of two points": lambda w, d: w.bring(
        d, good_file(d), 24, data_key=f"landing/visits/dt={d}/.."
    ),
    "a data key with NUL": lambda w, d: w.bring(
        d, good_file(d), 24, data_key=f"landing/visits/dt={d}/a\0.csv"
    ),
    "a data key of 5,000 characters": lambda w, d: w.bring(
        d, None, 24, data_key=f"landing/visits/dt={d}/{'a' * 5000}.csv"
    ),
    "a data key of another dataset": lambda w, d: w.bring(
        d, good_file(d), 24, data_key="landing/planes/dt=2013-01-01/a.csv"
    ),
    "a manifest that is no JSON": lambda w, d: w.bring_manifest(d, b"{"),
    "a manifest in UTF-16": lambda w, d: w.bring_manifest(
        d, json.dumps({"dataset": "visits"}).encode("utf-16")
    ),
    "a manifest that is nested deeply": lambda w, d: w.bring_manifest(d, b"[" * 30_000),
    "a manifest larger than 64 KiB": lambda w, d: w.bring_manifest(
        d, b" " * (MAX_MANIFEST_BYTES + 1)
    ),
    "UTF-16 of a big-endian machine": lambda w, d: w.bring(
        d, (HEADER + row(d)).encode("utf-16-be"), 1
    ),
    "UTF-32 with a mark": lambda w, d: w.bring(d, (HEADER + row(d)).encode("utf-32"), 1),
    "EBCDIC": lambda w, d: w.bring(d, (HEADER + row(d)).encode("cp500"), 1),
    "Windows' encoding in the header": lambda w, d: w.bring(
        d, f"{HEADER[:-1]},café\n{row(d, ',,x')}".encode("cp1252"), 1
    ),
    "Windows' encoding in a value": lambda w, d: w.bring(
        d, (HEADER + f"café,{d} 10:00,3,\n").encode("cp1252"), 1
    ),
    "tabs between columns": lambda w, d: w.bring(
        d, (HEADER + row(d)).replace(",", "\t").encode(), 1
    ),
    "semicolons and decimal commas": lambda w, d: w.bring(
        d, (HEADER + row(d)).replace(",", ";").replace(";3;", ";3,0;").encode(), 1
    ),
    "a line that names the separator": lambda w, d: w.bring(
        d, ("sep=,\n" + HEADER + row(d)).encode(), 2
    ),
    "an HTML page of a proxy": lambda w, d: w.bring(
        d, b"<!DOCTYPE html><html><body>503, try later</body></html>\n", 1
    ),
    "lines of JSON": lambda w, d: w.bring(d, b'{"shop":"hill","visitors":3}\n' * 2, 1),
    "gzip followed by other bytes": lambda w, d: w.bring(
        d, gzip.compress(good_file(d)) + b"signature", 24, suffix=".csv.gz"
    ),
    "gzip within gzip": lambda w, d: w.bring(
        d, gzip.compress(gzip.compress(good_file(d))), 24, suffix=".csv.gz"
    ),
    "a digest of another kind": lambda w, d: w.bring(
        d, good_file(d), 24, sha256="sha1:" + "0" * 40
    ),
    "a time without a zone": lambda w, d: w.bring(
        d, good_file(d), 24, delivered_at=f"{d}T23:00:00"
    ),
    "a manifest in a list": lambda w, d: w.bring_manifest(d, b"[{}]"),
}


CODES = {
    **dict.fromkeys(
        [
            "other columns",
            "no header",
            "tabs between columns",
            "semicolons and decimal commas",
            "a line that names the separator",
            "an HTML page of a proxy",
        ],
        "NS-CONTRACT-004",
    ),
    **dict.fromkeys(
        [
            "an empty file",
            "UTF-16 without a mark",
            "NUL in the header",
            "NUL in the name of an added column",
            "an added column with a very long name",
            "a quote that is never closed in the header",
            "a field of a megabyte in the header",
            "gzip that is cut off",
            "plain text called gzip",
            "text called Parquet",
            "Parquet without its end",
            "Parquet with damaged pages",
            "Parquet with lists",
            "a name that is no format",
            "an unknown schema version",
            "UTF-16 of a big-endian machine",
            "UTF-32 with a mark",
            "EBCDIC",
            "Windows' encoding in the header",
            "Windows' encoding in a value",
            "lines of JSON",
            "gzip followed by other bytes",
            "gzip within gzip",
        ],
        "NS-CONTRACT-007",
    ),
    **dict.fromkeys(
        [
            "2,000 columns",
            "a line of two megabytes",
            "a value of 100,000 characters",
            "20,000 malformed rows",
            "a gzip bomb",
        ],
        "NS-CONTRACT-009",
    ),
    "a digest of another file": "NS-CONTRACT-002",
    "more rows than said": "NS-CONTRACT-003",
    "another type": "NS-CONTRACT-005",
    "a data key of 5,000 characters": "NS-LAKE-010",
}
"""What each is refused for; all others are wrong manifests."""


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_keeps_no_good_one_out_and_is_recorded(world, day, kind):
    other = day + dt.timedelta(days=1)
    FILES[kind](world, day)
    world.bring(other, good_file(other), 24)

    late = world.sweep(day, other)

    assert [drop.partition for drop in late.loaded] == [other]
    assert world.rows(other) == 24
    ((code, _),) = world.refusals(day)
    assert code == CODES.get(kind, "NS-LAKE-010")
    with pytest.raises(NightshiftError) as caught:  # as tonight's only file
        world.ingest(day)
    assert not caught.value.is_retryable
    assert caught.value.code in {code for code, _ in world.refusals(day)}
    world.bring(day, good_file(day), 24, "repaired", hour=9)
    assert world.ingest(day).n_rows == 24
    assert world.unfinished() == []


EITHER_WAY: dict[str, Kind] = {
    "line ends are CR": lambda w, d: w.bring(d, (HEADER + row(d)).replace("\n", "\r").encode(), 1),
    "a time in the year 9999": lambda w, d: w.bring(
        d, f"shop,hour_at,visitors,valid_to\n{row(d, ',9999-12-31 23:59:59')}".encode(), 1
    ),
    "a time in the year 1": lambda w, d: w.bring(
        d, f"shop,hour_at,visitors,valid_to\n{row(d, ',0001-01-01 00:00:00')}".encode(), 1
    ),
    "NUL in a value": lambda w, d: w.bring(d, (HEADER + f"hi\0ll,{d} 10:00,3,\n").encode(), 1),
}


@pytest.mark.parametrize("kind", EITHER_WAY)
def test_a_file_that_may_be_read_or_refused_keeps_no_good_one_out(world, day, kind):
    other = day + dt.timedelta(days=1)
    EITHER_WAY[kind](world, day)
    world.bring(other, good_file(other), 24)

    late = world.sweep(day, other)

    assert other in {drop.partition for drop in late.loaded}
    assert world.rows(day) == 1 or [code[:3] for code, _ in world.refusals(day)] == ["NS-"]
    assert world.unfinished() == []


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("Anna"),
        RecursionError("Anna"),
        KeyError("Anna"),
        UnicodeDecodeError("utf-8", b"A", 0, 1, "Anna"),
        OverflowError("Anna"),
        pa.ArrowInvalid("Anna"),
        errors.DataError("Anna"),
        MemoryError("Anna"),
        ZeroDivisionError("Anna"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_of_the_reader_is_the_refusal_of_its_file(
    world, day, monkeypatch, error, size
):
    from nightshift.ingestion import large_drop, row_stream

    def read(drop, *arguments, **named):
        if drop.partition == day:
            raise error
        return actual(drop, *arguments, **named)

    actual = contract_check.read_rows
    for module in (contract_check, row_stream):
        monkeypatch.setattr(module, "read_rows", read)
    if size == "large":
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1)
    other = day + dt.timedelta(days=1)
    world.bring(day, good_file(day), 24)
    world.bring(other, good_file(other), 24)

    late = world.sweep(day, other)

    assert [drop.partition for drop in late.loaded] == [other]
    ((code, reason),) = world.refusals(day)
    assert code == "NS-CONTRACT-008"
    assert "Anna" not in reason
    assert world.unfinished() == []


@pytest.mark.parametrize(
    "error",
    [
        ObjectStoreError("away"),
        WarehouseError("away"),
        OSError(28, "No space left on device"),
        OSError(5, "I/O error"),
        errors.OperationalError("lost"),
        ImportError("no module"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_machine_is_raised_and_nothing_recorded(world, day, monkeypatch, error):
    def read(*_, **__):
        raise error

    monkeypatch.setattr(contract_check, "read_rows", read)
    world.bring(day, good_file(day), 24)

    for load in (world.ingest, world.sweep):
        with pytest.raises((NightshiftError, OSError, ImportError)):
            load(day)

    assert world.refusals(day) == []
    monkeypatch.undo()
    assert world.ingest(day).n_rows == 24


def test_a_reader_that_fails_on_every_file_is_not_the_fault_of_one(world, day, monkeypatch):
    def broken(*_, **__):
        raise TypeError("a fault of ours")

    monkeypatch.setattr(contract_check, "read_rows", broken)
    world.bring(day, good_file(day), 24)

    with pytest.raises(TypeError):
        world.ingest(day)

    assert world.refusals(day) == []


def test_short_memory_of_the_machine_is_not_the_fault_of_a_file(world, day, monkeypatch):
    def read(*_, **__):
        raise MemoryError

    monkeypatch.setattr(contract_check, "read_rows", read)
    monkeypatch.setattr(file_faults, "ROOM_BYTES", 1 << 62)  # nobody has so much
    world.bring(day, good_file(day), 24)

    with pytest.raises(MemoryShortError):
        world.ingest(day)

    assert world.refusals(day) == []


def test_every_other_day_of_a_range_is_in_when_one_is_bad(world, day):
    days = [day + dt.timedelta(days=n) for n in range(4)]
    for one in days:
        world.bring(one, good_file(one) if one != days[1] else b"shop\nx\n", 24)

    with pytest.raises(ContractError):
        world.ingest(days[0], days[-1])

    assert [world.rows(one) for one in days] == [24, 0, 24, 24]


def test_all_days_are_in_when_a_range_is_larger_than_a_batch(world, day, monkeypatch):
    monkeypatch.setattr(drop_batches, "BATCH_TEXT_BYTES", 1)
    monkeypatch.setattr(drop_batches, "READ_FILES", 3)
    days = [day + dt.timedelta(days=n) for n in range(4)]
    for one in days:
        world.bring(one, good_file(one), 24)

    result = world.ingest(days[0], days[-1])

    assert [(one.day, one.n_rows, one.is_new) for one in result.partitions] == [
        (one, 24, True) for one in days
    ]
    assert not world.ingest(days[0], days[-1]).is_new


def test_a_file_that_is_larger_than_its_manifest_says_streams(world, day, monkeypatch):
    monkeypatch.setattr(contract_check, "IN_MEMORY_BYTES", 2_000)
    streamed = []
    actual = drop_batches.write_large
    monkeypatch.setattr(
        drop_batches,
        "write_large",
        lambda call, drop: streamed.append(drop.partition) or actual(call, drop),
    )
    world.bring(day, gzip.compress(good_file(day, 1000)), 1000, suffix=".csv.gz")

    assert world.ingest(day).n_rows == 1000
    assert streamed == [day]


def test_tonight_waits_when_the_manifest_came_before_its_file(world, day):
    manifest = world.bring(day, None, 24, sha256=sha256(good_file(day)).hexdigest())
    for _ in range(2):
        with pytest.raises(FileAbsentError) as caught:
            world.ingest(day)
    assert isinstance(caught.value, DropMissingError)
    assert caught.value.is_waiting

    late = world.sweep(day)
    assert [code for _, code in late.left] == ["NS-INGEST-003"]
    assert [code for code, _ in world.refusals(day)] == ["NS-INGEST-003"]

    world.store.put(manifest["data_key"], good_file(day))
    assert [drop.partition for drop in world.sweep(day).loaded] == [day]
    assert world.rows(day) == 24


def test_an_earlier_drop_is_taken_while_the_file_of_a_newer_one_is_awaited(world, day):
    world.bring(day, good_file(day), 24)
    world.bring(day, None, 24, "b", hour=9)

    assert world.ingest(day).n_rows == 24


@pytest.mark.parametrize("key", ["deep/er/a.manifest.json", "dt=2013-13-45/a.manifest.json"])
def test_a_manifest_that_lies_elsewhere_stops_nobody(world, day, key):
    place = f"landing/visits/dt={day}/{key}" if key.startswith("deep") else f"landing/visits/{key}"
    world.store.put(place, b"{}")
    world.bring(day, good_file(day), 24)

    assert world.ingest(day).n_rows == 24
    assert world.refusals(day) == []


def landing_of(world: HostileWorld, day: dt.date):
    return read_landing(world.store, "visits", PartitionRange.of(str(day)))


def test_a_wrong_manifest_stands_until_it_is_set_aside_or_a_good_drop_follows(
    world, day, monkeypatch
):
    world.bring(day, good_file(day), 24)
    key = world.bring_manifest(day, b"{}", "later")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    actual = world.store.list_objects

    def an_hour_later(
        _, prefix, start_after=""
    ):  # the store's clock has whole seconds, and a test has no hour
        for listed in actual(prefix, start_after):
            yield replace(listed, received_at=later) if listed.key == key else listed

    monkeypatch.setattr(ObjectStore, "list_objects", an_hour_later)

    with pytest.raises(ManifestError) as caught:
        world.ingest(day)
    assert f"nightshift drop set-aside {key}" in str(caught.value)
    assert world.rows(day) == 24

    set_aside(world.conn, "visits", landing_of(world, day), key, ("me", "a test of mine"))

    assert world.ingest(day).n_rows == 24
    with pytest.raises(DropUnknownError):
        set_aside(world.conn, "visits", landing_of(world, day), key, ("me", "again"))
    assert key in {one.key for one in actual("landing/")}


def test_the_next_best_drop_counts_when_the_newest_is_withdrawn(world, day):
    """A wrong test delivery of one's own: it was what we knew, and is not any more."""
    world.bring(day, good_file(day), 24)
    wrong = world.bring(day, good_file(day, 3), 3, "test", hour=9)
    world.ingest(day)
    before = world.versions(day)
    assert [n_rows for _, n_rows in before] == [24, 3]

    drop = withdraw(world.conn, landing_of(world, day), wrong["data_key"], "me", "my own test")

    assert drop.data_key == wrong["data_key"]
    assert [late.data_key for late in world.sweep(day).loaded] == [f"landing/visits/dt={day}/a.csv"]
    assert world.rows(day) == 24
    assert not world.ingest(day).is_new
    after = world.versions(day)
    assert after[:2] == before
    assert [n_rows for _, n_rows in after] == [24, 3, 24]
    (decided_at,) = world.conn.execute(
        "select max(at) from ops.drop_decisions where partition_date = %s", [day]
    ).fetchone()
    assert after[2][0] == decided_at
    with pytest.raises(DropUnknownError):
        withdraw(world.conn, landing_of(world, day), wrong["data_key"], "me", "again")


def test_a_withdrawn_drop_is_not_taken_when_it_was_not_in_yet(world, day):
    wrong = world.bring(day, good_file(day, 3), 3)
    withdraw(world.conn, landing_of(world, day), wrong["data_key"], "me", "my own test")

    with pytest.raises(DropMissingError):
        world.ingest(day)

    world.bring(day, good_file(day), 24, "b", hour=9)
    assert world.ingest(day).n_rows == 24
    assert [n_rows for _, n_rows in world.versions(day)] == [24]


def test_a_person_lists_and_withdraws_by_command(world, day, monkeypatch, capsys):
    from nightshift.cli.data import drop as command

    monkeypatch.setattr(command, "load_settings", lambda: world.settings)
    wrong = world.bring(day, good_file(day, 3), 3)
    key = world.bring_manifest(day, b"{}", "wrong")

    command.withdraw(wrong["data_key"], "my own test")
    command.set_aside(f"s3://{world.settings.s3_bucket}/{key}", "rubbish")
    said = capsys.readouterr().out
    command.list_drops("visits", str(day))
    shown = capsys.readouterr().out

    assert f"nightshift redo --dataset visits --from {day} --to {day}" in said
    assert "readers keep what is published" in said
    assert "withdrawn by cli:" in shown
    assert "my own test" in shown
    assert "set_aside by cli:" in shown


def test_a_decision_cannot_be_changed(world, day):
    wrong = world.bring(day, good_file(day, 3), 3)
    withdraw(world.conn, landing_of(world, day), wrong["data_key"], "me", "my own test")
    with pytest.raises(errors.RaiseException, match="append-only"):
        world.conn.execute("delete from ops.drop_decisions")


def test_when_a_drop_was_received_is_kept_once(world, day):
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)
    world.bring(day, good_file(day), 24)
    world.ingest(day)
    query = "select known_at, received_at from ops.received_drops where partition_date = %s"
    ((known_at, received_at),) = world.conn.execute(query, [day]).fetchall()

    world.ingest(day)

    assert known_at.date() == day + dt.timedelta(days=1)
    assert before <= received_at <= dt.datetime.now(dt.UTC)
    assert world.conn.execute(query, [day]).fetchall() == [(known_at, received_at)]


def test_what_a_partition_was_known_as_is_not_rewritten_by_an_old_date(world, day):
    """A drop that comes a week after the first version and says it was delivered before it."""
    world.bring(day, good_file(day), 24)
    world.conn.execute(
        (
            "insert into ops.received_drops select 'raw/visits', %s, %s, %s, %s, now() - "
            "interval '7 days'"
        ),
        [
            day,
            world.store.uri(f"landing/visits/dt={day}/a.csv"),
            sha256(good_file(day)).hexdigest(),
            dt.datetime.combine(day, dt.time(4), dt.UTC) + dt.timedelta(days=1),
        ],
    )
    world.ingest(day)
    world.bring(day, good_file(day, 3), 3, "forged", hour=1)
    world.bring(
        day, good_file(day, 5), 5, "today", delivered_at=dt.datetime.now(dt.UTC).isoformat()
    )

    late = world.sweep(day)

    assert [drop.n_rows for drop in late.loaded] == [5]
    assert [code for _, code in late.left] == [BackdatedError.code]
    assert [n_rows for _, n_rows in world.versions(day)] == [24, 5]
    world.contract(maximum_backdating_days="unlimited")
    try:
        world.ingest(day)
        assert [n_rows for _, n_rows in world.versions(day)] == [3, 24, 5]
    finally:
        world.contract()


@pytest.mark.mlts("data-5")
def test_no_value_is_told_when_a_file_has_no_header(world, day):
    person = b"Anna Muster,anna@example.org,1970-01-02,CH9300762011623852957\n"
    world.bring(day, person * 3, 2)

    with pytest.raises(ContractError) as caught:
        world.ingest(day)

    ((_, reason),) = world.refusals(day)
    for text in (str(caught.value), reason):
        assert "4 column(s) that the contract does not know" in text
        assert not [value for value in ("Anna", "anna@", "1970", "CH93") if value in text]


@pytest.mark.parametrize("offset", ["+23:59", "-23:59", "+16:00", "-00:00"])
def test_a_delivery_of_any_offset_is_in_and_stops_nobody(world, day, offset):
    """PostgreSQL takes no offset beyond 15:59: one such manifest has stopped all late drops."""
    other = day + dt.timedelta(days=1)
    world.bring(day, good_file(day), 24, delivered_at=f"{other}T04:00:00{offset}")
    world.bring(other, good_file(other), 24)

    late = world.sweep(day, other)

    assert [drop.partition for drop in late.loaded] == [day, other]
    hours, minutes = int(offset[1:3]), int(offset[4:])
    ahead = dt.timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
    at = dt.datetime.combine(other, dt.time(4), dt.UTC) - ahead
    assert world.versions(day) == [(at, 24)]


def test_no_name_of_a_zone_is_told(world, day):
    columns = {
        "shop": ["hill"],
        "hour_at": pa.array([0]).cast(pa.timestamp("us", "Quackenbush/Street")),
        "visitors": [1],
        "valid_to": [""],
    }
    world.bring(day, table_file(columns), 1, suffix=".parquet")

    world.sweep(day)

    ((code, reason),) = world.refusals(day)
    assert code == "NS-CONTRACT-007"
    assert "zone" in reason
    assert "Quackenbush" not in reason


def test_no_row_is_told_when_it_has_too_many_fields(world, day):
    rows = "".join(f"Anna Muster,{n},anna@example.org,x,y,z\n" for n in range(10_500))
    world.bring(day, (HEADER + rows).encode(), 10_500)

    with pytest.raises(LimitError) as caught:
        world.ingest(day)

    assert "limits.malformed_rows" in str(caught.value)
    assert DropLimits().malformed_rows == 10_000
    assert "Anna" not in str(caught.value) + world.refusals(day)[0][1]
