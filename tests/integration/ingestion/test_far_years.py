"""Times at the ends of the calendar, at each door where one can enter: a code, or a refused row.

A door is a value of a row, a manifest, a folder of the lake, or an argument of a command. What
enters harms only its file or its command.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import typer
from pyarrow import parquet
from tests.integration.ingestion.hostile_world import HEADER, HostileWorld, hostile_world
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import find_late_drops, load_late_drops
from nightshift.reprocess.scope import Scope

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

FIRST = dt.date(2013, 2, 1)
N_ROWS = 100
"""One row in so many is within the contract's limit of 2 %."""
TEXTS = [
    "9999-12-31 23:59:59",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-15:59",
    "0001-01-01 00:00:00",
    "0001-01-01T00:00:00+15:59",
    "0000-01-01 00:00:00",
    "10000-01-01 00:00:00",
    "-0001-01-01 00:00:00",
    "292278994-08-17 07:12:55",
    "2262-04-11 23:47:17",
    "1677-09-21 00:12:43",
    "infinity",
    "-infinity",
]
UNITS, END = ("ms", "us", "ns"), 2**63 - 1
INSTANTS = {
    **{f"the last of {unit}": (pa.timestamp(unit), END) for unit in UNITS},
    **{f"the first of {unit}": (pa.timestamp(unit), -END) for unit in UNITS},
    # A file has no seconds: they are stored as milliseconds.
    "the last of s": (pa.timestamp("s"), END // 1000),
    "the first of s": (pa.timestamp("s"), -(END // 1000)),
    "the year 10000": (pa.timestamp("s", "UTC"), 253_402_300_800),
    "the year 0": (pa.timestamp("ms", "UTC"), -62_135_596_800_001),
    "a day of the year 5881580": (pa.date32(), 2**31 - 1),
    "a day before all days": (pa.date32(), -(2**31)),
    "a day in milliseconds": (pa.date64(), 2**62 // 86_400_000 * 86_400_000),
}
"""A type of Arrow and the integer in it."""


@pytest.fixture(scope="module")
def world(session_settings, template_database, tmp_path_factory) -> Iterator[HostileWorld]:
    folder = tmp_path_factory.mktemp("far")
    with hostile_world(session_settings, template_database, folder) as one:
        yield one


def times_of(day: dt.date) -> list[str]:
    return [f"{day} 10:{n // 60:02d}:{n % 60:02d}" for n in range(N_ROWS)]


def text_file(day: dt.date, column: str, value: str) -> bytes:
    """Return a file of good rows, one of which has a far time in one column."""
    rows = [[f"hill{n}", time, str(n), ""] for n, time in enumerate(times_of(day))]
    rows[50][HEADER.strip().split(",").index(column)] = value
    return (HEADER + "".join(",".join(row) + "\n" for row in rows)).encode()


def typed_file(day: dt.date, column: str, value_type: pa.DataType, value: int) -> bytes:
    """Return the same as Parquet, with a column of times that has a far integer in it."""
    times = pa.array(times_of(day)).cast(pa.timestamp("s"))
    table = {
        "shop": pa.array([f"hill{n}" for n in range(N_ROWS)]),
        "hour_at": times,
        "visitors": pa.array(range(N_ROWS)),
        "valid_to": pa.nulls(N_ROWS, value_type),
    }
    storage = pa.int32() if value_type == pa.date32() else pa.int64()
    far = pa.array([value], storage).cast(value_type)
    # The others: the times of the day where they identify a row, nothing where they do not.
    others = times.cast(value_type) if column == "hour_at" else table[column]
    table[column] = pa.concat_arrays([others[:50], far, others[51:]])
    sink = io.BytesIO()
    parquet.write_table(pa.table(table), sink, version="2.6")
    return sink.getvalue()


def files(column: str, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield a name, and a function of the day that makes the file."""
    if kind == "CSV":
        for text in TEXTS:
            yield text, lambda day, text=text: text_file(day, column, text)
        return
    for name, (value_type, value) in INSTANTS.items():
        yield name, lambda day, t=value_type, v=value: typed_file(day, column, t, v)


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
@pytest.mark.parametrize("column", ["hour_at", "valid_to"])
def test_a_far_time_in_a_row_harms_at_most_its_file(world, column, kind):
    place = ["hour_at", "valid_to"].index(column) * 2 + ["CSV", "Parquet"].index(kind)
    first = FIRST + dt.timedelta(days=100 * place)
    suffix = ".csv" if kind == "CSV" else ".parquet"
    names = {}
    for number, (name, make) in enumerate(files(column, kind)):
        day = first + dt.timedelta(days=2 * number)
        names[day] = name
        world.bring(day, make(day), N_ROWS, suffix=suffix)
        after = day + dt.timedelta(days=1)
        world.bring(after, text_file(after, "valid_to", ""), N_ROWS)

    world.sweep(first, first + dt.timedelta(days=2 * len(names)))

    for day, name in names.items():
        assert world.rows(day + dt.timedelta(days=1)) == N_ROWS, name
        n_rows = world.rows(day)
        codes = [code for code, _ in world.refusals(day)]
        assert n_rows in {N_ROWS, N_ROWS - 1} or codes, (name, n_rows, codes)
        assert all(code.startswith("NS-CONTRACT-") for code in codes), (name, codes)
    assert world.unfinished() == []
    # What is in can be read by every client: Python has the years 1 to 9999.
    world.conn.execute("select hour_at, valid_to from raw.visits").fetchall()
    outside = (
        "select count(*) from raw.visits where (hour_at at time zone 'America/New_York')::date"
    )
    assert world.conn.execute(f"{outside} <> partition_date".encode()).fetchone() == (0,)


FOLDERS = ["0001-01-01", "1899-12-31", "2200-01-01", "9999-12-31", "later"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_drop_of_a_day_beyond_the_calendar_is_never_taken(world, folder):
    """Also by the commands that look at all days: it would be the newest day for ever."""
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(days=400)).date()
    day = later if folder == "later" else dt.date.fromisoformat(folder)
    near = dt.date(2014, 6, 1) + dt.timedelta(days=FOLDERS.index(folder))
    known = dt.datetime(2014, 6, 9, tzinfo=dt.UTC).isoformat()
    data = text_file(near, "valid_to", "")
    # `bring` cannot compute the day after the last one.
    name = f"landing/visits/dt={day}/a.csv"
    written = world.bring(near, data, N_ROWS)
    world.store.put(name, data)
    manifest = written | {"partition": str(day), "data_key": name, "delivered_at": known}
    world.bring_manifest(day, json.dumps(manifest).encode())

    ((contract, days),) = Scope(dataset="visits").select(world.settings)
    late = load_late_drops(world.settings, contract.name, days, world.run)
    everything = PartitionRange.of(str(EARLIEST_DAY), str(LATEST_DAY))
    load_late_drops(world.settings, contract.name, everything, world.run)

    assert near in {drop.partition for drop in late.loaded}
    assert world.rows(near) == N_ROWS
    assert day not in {drop.partition for drop in late.loaded}
    newest = "select max(partition_date) from ops.published"
    assert world.conn.execute(newest).fetchone()[0] < dt.date(2015, 1, 1)
    left = find_late_drops(world.conn, world.store, contract.name, everything)
    assert day not in {drop.partition for drop in left}


DAYS = ["9999-12-31", "0001-01-01", "2200-01-01"]
MOMENTS = ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "10000-01-01"]
GIVEN = {
    "model": "flight_delayed",
    "dataset": "weather",
    "versions": "1 2",
    "key": "x",
    "file": "/etc/hostname",
    "row": "1",
    "values": "visitors=3",
    "version": "1",
}
"""Values of other required arguments."""
_DAY_WORDS = re.compile(
    r"YYYY-MM-DD|operating day|First day|Last day|partition\b.*included", re.IGNORECASE
)
_MOMENT_WORDS = re.compile(r"ISO (8601|time)")


def doors() -> Iterator[tuple[str, Any, Any]]:
    """Yield every parameter of every command that takes a day or an instant."""
    pending = [("", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [(f"{name} {n}".strip(), c) for n, c in command.commands.items()]
            continue
        for parameter in command.params:
            words = str(getattr(parameter, "help", "") or "")
            if _DAY_WORDS.search(words) or _MOMENT_WORDS.search(words):
                yield name, command, parameter


def call(name: str, command: Any, door: Any, value: str) -> list[str]:
    """Return the arguments that give one door a value, and others what they need."""
    words = name.split()
    options: list[str] = []
    for parameter in command.params:
        is_door = parameter is door
        given = value if is_door else GIVEN.get(parameter.name or "", "2013-03-10")
        if parameter.param_type_name == "argument":
            # One of some optional arguments may be needed, such as the key of a prediction.
            if parameter.required or is_door or parameter.name in GIVEN:
                words += shlex.split(given)
        elif is_door or parameter.required:
            options += [parameter.opts[0], given]
        elif parameter.name in {"reason", "note"}:
            options += [parameter.opts[0], "a test"]
    return [*words, *options]


DOORS = [pytest.param(*door, id=f"{door[0]} {door[2].name}") for door in doors()]


def test_the_doors_are_found():
    assert len(DOORS) > 30


@pytest.mark.parametrize(("name", "command", "door"), DOORS)
def test_a_far_time_as_an_argument_has_a_code(world, monkeypatch, name, command, door):
    for variable, value in {
        "NIGHTSHIFT_WAREHOUSE_DATABASE": world.settings.warehouse_database,
        "NIGHTSHIFT_S3_BUCKET": world.settings.s3_bucket,
        "NIGHTSHIFT_HOME": str(world.settings.home),
    }.items():
        monkeypatch.setenv(variable, value)
    is_moment = _MOMENT_WORDS.search(str(getattr(door, "help", "")))
    for value in MOMENTS if is_moment else DAYS:
        result = CliRunner().invoke(app, call(name, command, door, value))
        said = f"{name} {value}: {result.exception!r} {result.output[-300:]}"
        error = result.exception
        if isinstance(error, NightshiftError):
            assert error.code in {"NS-TIME-001", "NS-TIME-004", "NS-TIME-007"}, said
        else:
            # `check-freshness` prints its code itself: its exit code means more than "it failed".
            assert isinstance(error, SystemExit), said
            assert re.search(r"NS-TIME-00[147]", result.output), said
        assert result.exit_code != 0, said
