"""The landing protocol: manifest last, listed by range, wrong manifests refused."""

import codecs
import datetime as dt
import json
from dataclasses import replace

import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.lake.drops import (
    NewDrop,
    manifest_of,
    write_drop,
)
from nightshift.lake.landing import list_undelivered, read_data, read_landing
from nightshift.lake.object_errors import ObjectConflictError, ObjectMissingError

pytestmark = pytest.mark.integration

DAY = dt.date(2013, 3, 10)
AT = dt.datetime(2013, 3, 11, 4, 5, tzinfo=dt.UTC)
DROP = NewDrop("weather", DAY, AT, b"a,b\n1,2\n", 1, "weather")


def manifest_json(dataset: str, delivered_at: str) -> bytes:
    """Return a manifest as upstream may write it."""
    manifest = {
        "dataset": dataset,
        "partition": "2013-03-10",
        "delivered_at": delivered_at,
        "data_key": f"landing/{dataset}/dt=2013-03-10/x.csv",
        "sha256": "0" * 64,
        "n_rows": 1,
        "schema_version": 1,
    }
    return json.dumps(manifest).encode()


def days_of(drops):
    return [(d.partition.isoformat(), d.data_key.rsplit("/", 1)[1]) for d in drops]


def test_the_range_is_listed_in_the_order_of_delivery_when_drops_lie_around_it(store):
    for day in (9, 10, 11, 12):
        write_drop(store, replace(DROP, partition=dt.date(2013, 3, day)))
    write_drop(
        store,
        replace(
            DROP, name="a_correction", delivered_at=AT + dt.timedelta(days=3), data=b"a,b\n1,3\n"
        ),
    )
    write_drop(store, replace(DROP, dataset="weather2"))

    drops = read_landing(store, "weather", PartitionRange.of("2013-03-10", "2013-03-11")).drops

    assert days_of(drops) == [
        ("2013-03-10", "weather.csv"),
        ("2013-03-10", "a_correction.csv"),
        ("2013-03-11", "weather.csv"),
    ]
    assert drops[0].delivered_at == AT
    assert read_data(store, drops) == [b"a,b\n1,2\n", b"a,b\n1,3\n", b"a,b\n1,2\n"]


def test_a_file_is_not_delivered_when_its_manifest_is_absent(store):
    store.put("landing/weather/dt=2013-03-10/x.csv", b"a\n1\n")
    write_drop(store, DROP)
    one_day = PartitionRange.of("2013-03-10")

    assert days_of(read_landing(store, "weather", one_day).drops) == [("2013-03-10", "weather.csv")]
    assert list_undelivered(store, "weather", one_day) == ["landing/weather/dt=2013-03-10/x.csv"]


def test_delivering_again_changes_nothing_when_the_file_is_the_same(store):
    assert write_drop(store, DROP) == write_drop(store, DROP)
    with pytest.raises(ObjectConflictError):
        write_drop(store, replace(DROP, data=b"a,b\n9,9\n"))


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"{", "Invalid JSON"),
        (b"{}", "sha256: Field required"),
        (manifest_json("planes", "2013-03-11T04:05:00Z"), "another place"),
        (manifest_json("weather", "2013-03-11T04:05:00"), "timezone"),
        (manifest_json("weather", "2099-03-11T04:05:00Z"), "dated in the future"),
    ],
)
def test_a_manifest_is_refused_when_it_is_wrong(store, manifest, says):
    store.put("landing/weather/dt=2013-03-10/x.manifest.json", manifest)

    landing = read_landing(store, "weather", PartitionRange.of("2013-03-10"))

    assert landing.drops == landing.absent == ()
    (wrong,) = landing.wrong
    assert says in str(wrong.error)


def test_other_drops_are_listed_when_a_wrong_manifest_is_passed_over(store):
    write_drop(store, DROP)
    store.put("landing/weather/dt=2013-03-11/x.manifest.json", b"{")

    landing = read_landing(store, "weather", PartitionRange.of("2013-03-10", "2013-03-11"))

    assert days_of(landing.drops) == [("2013-03-10", "weather.csv")]
    assert [wrong.error.code for wrong in landing.wrong] == ["NS-LAKE-010"]


def test_reading_fails_when_the_manifest_names_no_file(store):
    manifest = write_drop(store, DROP)

    with pytest.raises(ObjectMissingError):
        read_data(
            store,
            [manifest.model_copy(update={"data_key": "landing/weather/dt=2013-03-10/other.csv"})],
        )


def test_a_manifest_is_read_as_powershell_writes_it(store):
    drop = manifest_of(DROP)
    store.put(drop.data_key, DROP.data, "text/csv")
    said = drop.model_dump(mode="json") | {"sha256": drop.sha256.upper()}
    store.put(
        "landing/weather/dt=2013-03-10/windows.manifest.json",
        codecs.BOM_UTF8 + json.dumps(said).encode(),
    )

    assert read_landing(store, "weather", PartitionRange.of("2013-03-10")).drops == (drop,)
