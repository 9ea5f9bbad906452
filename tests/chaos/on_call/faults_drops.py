"""Faults of delivered files and manifests: the weather of the day after the night."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import replace

from tests.chaos.on_call.fault import Fault, Seen, clear
from tests.chaos.on_call.faults_servers import load_weather
from tests.chaos.on_call.history import HOLE
from tests.chaos.on_call.world import INGEST, World

from nightshift.lake.drops import NewDrop, partition_prefix, write_drop
from nightshift.lake.object_store import ObjectStore

DATASET, DAY = "weather", dt.date.fromisoformat(HOLE)
FOLDER = partition_prefix(DATASET, DAY)
DELIVERED_AT = dt.datetime(2013, 1, 23, 5, 10, tzinfo=dt.UTC)
CLEAR_INGEST = "nightshift airflow dags clear ingest"
STORE_CLOCK_SECONDS = 1.2
"""The store dates objects by whole seconds."""


def good_drop(world: World) -> NewDrop:
    """Return the drop that upstream really delivers."""
    data = ObjectStore.open(world.history.settings).get(f"{FOLDER}{DATASET}.csv")
    return NewDrop(DATASET, DAY, DELIVERED_AT, data, data.count(b"\n") - 1, DATASET)


def deliver(change: Callable[[NewDrop], NewDrop]) -> Callable[[World], str]:
    """Return an act: a changed drop lands, and the night loads it."""

    def act(world: World) -> str:
        drop = change(good_drop(world))
        world.take_own_bucket()
        write_drop(world.store, drop)
        return load_weather(world)

    return act


def data_is(change: Callable[[bytes], bytes], suffix: str = ".csv") -> Callable[[World], str]:
    """Return an act: the file is another one, and its manifest says so."""
    return deliver(lambda drop: replace(drop, data=change(drop.data), suffix=suffix))


def deliver_again(world: World) -> None:
    """Be upstream: deliver the good file under another name, an hour later."""
    time.sleep(STORE_CLOCK_SECONDS)
    later = DELIVERED_AT + dt.timedelta(hours=1)
    write_drop(world.store, replace(good_drop(world), name="weather_again", delivered_at=later))


def with_text(change: Callable[[str], str]) -> Callable[[World], str]:
    return data_is(lambda data: change(data.decode()).encode())


def added_column_with_nul(text: str) -> str:
    header, *rows = text.splitlines()
    return "\n".join([f"{header},no\0te", *(f"{row},x" for row in rows)]) + "\n"


def broken_manifest_after_a_good_drop(world: World) -> str:
    drop = good_drop(world)
    world.take_own_bucket()
    write_drop(world.store, drop)
    time.sleep(STORE_CLOCK_SECONDS)
    world.store.put(f"{FOLDER}broken.manifest.json", b"{")
    return load_weather(world)


def delivered_in_the_year_1(world: World) -> str:
    drop = good_drop(world)
    world.take_own_bucket()
    write_drop(world.store, drop)
    key = f"{FOLDER}{DATASET}.manifest.json"
    manifest = json.loads(world.store.get(key)) | {"delivered_at": "0001-01-01T00:00:00+14:00"}
    world.overwrite(key, json.dumps(manifest).encode())
    return load_weather(world)


def refused(code: str, command: str = "") -> dict[str, object]:
    """Return code and incident of a file that is refused."""
    again = command or clear(INGEST, HOLE)
    seen = Seen(code, f"raw/{DATASET}", (HOLE,), again, f"No features of {HOLE} are built")
    return {"code": code, "seen": (seen,)}


def set_aside(name: str) -> str:
    return f'nightshift drop set-aside {FOLDER}{name}.manifest.json --reason "<why>"'


GOOD_FILE = {
    "cure": deliver_again,
    "commands": (CLEAR_INGEST,),
    "values": {"dag": INGEST, "day": HOLE},
    "is_right": World.has_weather,
    "tells": "upstream has to deliver a good one first",
}
AGAIN = GOOD_FILE | {"advice": "upstream to deliver again"}

# A good file of the day was published before.
CORRECTION = Seen(
    "NS-LAKE-010",
    f"raw/{DATASET}",
    (HOLE,),
    set_aside("broken"),
    "the correction stays out",
    "info",
)

FAULTS = (
    Fault(
        "a manifest is broken",
        broken_manifest_after_a_good_drop,
        cause="broken.manifest.json",
        page="It is no JSON",
        advice="if the drop before it is the right one",
        commands=("nightshift drop set-aside <key>", CLEAR_INGEST),
        values={"dag": INGEST, "day": HOLE, "key": f"{FOLDER}broken.manifest.json"},
        is_right=World.has_weather,
        code="NS-LAKE-010",
        seen=(CORRECTION,),
    ),
    Fault(
        "the digest is that of another file",
        deliver(lambda drop: replace(drop, claimed_sha256="0" * 64)),
        cause="0000",
        page="differs from the one in its manifest",
        **AGAIN,
        **refused("NS-CONTRACT-002"),
    ),
    Fault(
        "the manifest counts other rows",
        deliver(lambda drop: replace(drop, n_rows=drop.n_rows + 1)),
        cause="73",
        page="the row count does not",
        **AGAIN,
        **refused("NS-CONTRACT-003"),
    ),
    Fault(
        "a column has another name",
        with_text(lambda text: text.replace("temperature_f", "temperature", 1)),
        cause="temperature_f",
        page="The file's header differs",
        advice="Ask upstream for the file with the old columns",
        **GOOD_FILE,
        **refused("NS-CONTRACT-004"),
    ),
    Fault(
        "a compressed file is cut off",
        data_is(lambda data: gzip.compress(data)[:-300], ".csv.gz"),
        cause="cannot be read",
        page="it is cut off",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "a file is UTF-16 with a mark",
        data_is(lambda data: data.decode().encode("utf-16")),
        cause="UTF-16",
        page="the message names UTF-16",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "a file is UTF-16 without a mark",
        data_is(lambda data: data.decode().encode("utf-16-le")),
        cause="UTF-16",
        page="the message names UTF-16",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "the lines of a file end in CR",
        data_is(lambda data: data.replace(b"\n", b"\r")),
        cause="CR",
        page="CR line ends",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "the header holds NUL",
        with_text(lambda text: text.replace("temperature_f", "temper\0ature_f", 1)),
        cause="control character",
        page="a control character such as NUL in the header",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "the name of an added column holds NUL",
        with_text(added_column_with_nul),
        cause="control character",
        page="a control character such as NUL in the header",
        **AGAIN,
        **refused("NS-CONTRACT-007"),
    ),
    Fault(
        "the times are of the year 9999",
        with_text(lambda text: text.replace(HOLE, "9999-12-31")),
        cause="72 refused",
        page="values beyond the contract's limits or the calendar, times of another day",
        advice="ask upstream for a corrected file",
        **GOOD_FILE,
        **refused("NS-CONTRACT-006"),
    ),
    Fault(
        "delivered_at is of the year 1",
        delivered_in_the_year_1,
        cause="delivered_at",
        page="is dated in the future or before 1970",
        advice="ask upstream to deliver it again under another name",
        **GOOD_FILE,
        **refused("NS-LAKE-010", set_aside(DATASET)),
    ),
)
