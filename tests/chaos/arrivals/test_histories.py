"""Any order, repetition and renaming of arrivals ends in the versions of the sorted order.

Random histories against a model in Python.
"""

from __future__ import annotations

import datetime as dt
from hashlib import sha256
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.lake import object_store
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.s3_requests import ListedObject
from nightshift.quality import gates
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.promise("R10"),
    pytest.mark.promise("R5"),
    pytest.mark.timeout(900),
]

CONTRACT = """{name: things, description: d, schema_version: 1, delivery: on_change,
 history_start: 2000-01-01, grain: g, key: [id],
 columns: [{name: id, type: text}, {name: size, type: integer}], maximum_refused_ratio: 0.5}"""
CONTENTS = ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}, {"a": "1", "b": "wrong"})
"""What a file can say; the last one has a row that is refused, and then says the same as the one
before it.
"""
N_DAYS = 3
RUN = RunContext("test/arrivals", 1, "test")
LOADS = ("nothing", "day", "range", "sweep")
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, N_DAYS - 1),
        st.integers(0, len(CONTENTS) - 1),
        st.integers(1, 4),
        st.sampled_from(["first", "renamed", "reordered", "doubled"]),
        st.sampled_from(LOADS),
    ),
    min_size=1,
    max_size=9,
)
_bases = count()


class MemoryStore:
    """The object store's methods that ingest uses, over a dictionary.

    The histories are about order, not about S3.
    """

    def __init__(self):
        self.objects = {}

    def put(self, key, data, content_type):
        assert self.objects.setdefault(key, data) == data

    def get(self, key, digest=None, n_bytes=None):
        return self.objects[key]

    def list_objects(self, prefix, start_after=""):
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > start_after]
        return iter(
            [ListedObject(key, len(self.objects[key]), dt.datetime.now(dt.UTC)) for key in keys]
        )

    def uri(self, key):
        return f"memory://{key}"


@pytest.fixture
def world(session_settings, template_database, settings, tmp_path, monkeypatch):
    """Return settings and a connection to a warehouse with one small dataset.

    Each history has days of its own in it.
    """
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "things.yaml").write_text(CONTRACT)
    moved = settings.model_copy(update={"dags_dir": tmp_path})
    # Hundreds of loads: the gate has tests of its own, and takes longer than all the rest.
    monkeypatch.setattr(gates, "run_gate", lambda *_, **__: None)
    store = MemoryStore()
    monkeypatch.setattr(object_store.ObjectStore, "open", lambda _: store)
    with connect(moved, "test arrivals") as conn:
        migrate(conn, load_contracts(moved.datasets_dir))
        yield moved, conn, store


def file_of(content, variant):
    rows = [f"{name},{size}" for name, size in CONTENTS[content].items()]
    rows = {"reordered": rows[::-1], "doubled": rows + rows[:1]}.get(variant, rows)
    return "\n".join(["id,size", *rows, ""]).encode(), len(rows)


def good_rows(content):
    return tuple(
        sorted((name, int(size)) for name, size in CONTENTS[content].items() if size != "wrong")
    )


def play(world, arrivals):
    """Let drops arrive one after the other.

    Loading what has come whenever the history says so; return the model's deliveries.
    """
    moved, _, store = world
    base = Partition(dt.date(2000, 1, 1)).shift(next(_bases) * N_DAYS)
    days = PartitionRange(base, base.shift(N_DAYS - 1))
    store.objects.clear()
    deliveries = set()
    for day, content, hour, variant, load in arrivals:
        partition = base.shift(day)
        known_at = partition.end + dt.timedelta(hours=hour)
        data, n_rows = file_of(content, variant)
        write_drop(
            store,
            NewDrop("things", partition.day, known_at, data, n_rows, f"{variant}-{content}-{hour}"),
        )
        deliveries.add((partition.day, known_at, sha256(data).hexdigest(), content))
        if load == "sweep":
            load_late_drops(moved, "things", days, RUN)
        elif load != "nothing":
            ingest(
                moved, "things", PartitionRange.single(partition) if load == "day" else days, RUN
            )
    load_late_drops(moved, "things", days, RUN)
    assert not ingest(moved, "things", days, RUN).is_new
    return days, deliveries


def expected_versions(deliveries):
    """Return what the sorted order makes of it.

    (day, known_at, rows), one per change, and only if somebody can see it.
    """
    chain = []
    for day, known_at, _, content in sorted(deliveries):
        if not chain or chain[-1][0] != day or chain[-1][2] != good_rows(content):
            chain.append((day, known_at, good_rows(content)))
    return [
        this
        for this, after in zip(chain, [*chain[1:], None], strict=True)
        if after is None or this[:2] != after[:2]
    ]


def actual_versions(conn, days):
    rows = conn.execute(
        """
        select v.partition_date, v.known_at,
            array_agg(t.id order by t.id), array_agg(t.size order by t.id)
        from ops.raw_versions v join raw.things t using (partition_date, load_id)
        where v.dataset = 'raw/things' and v.partition_date between %s and %s
            and (v.superseded_at is null or v.superseded_at > v.known_at)
        group by v.partition_date, v.known_at, v.load_id order by v.partition_date, v.known_at
        """,
        [days.first.day, days.last.day],
    )
    return [
        (day, known_at, tuple(zip(ids, sizes, strict=True))) for day, known_at, ids, sizes in rows
    ]


def visible(conn, days):
    rows = conn.execute(
        "select t.partition_date, t.id, t.size from raw.things t join ops.published p "
        "using (partition_date, load_id)"
        " where p.dataset = 'raw/things' and t.partition_date between %s and %s order by 1, 2",
        [days.first.day, days.last.day],
    )
    return rows.fetchall()


def check(world, arrivals):
    days, deliveries = play(world, arrivals)
    expected = expected_versions(deliveries)
    assert actual_versions(world[1], days) == expected
    last = {day: rows for day, _, rows in expected}
    assert visible(world[1], days) == [(day, *row) for day in sorted(last) for row in last[day]]
    refused = world[1].execute(
        (
            "select partition_date, delivered ->> 'size' from quarantine.refused_rows where "
            "partition_date between %s and %s order by 1"
        ),
        [days.first.day, days.last.day],
    )
    assert refused.fetchall() == [
        (day, "wrong") for day in sorted({day for day, _, _, content in deliveries if content == 3})
    ]


QUIET = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": True,
}


def test_versions_are_those_of_the_sorted_order_when_arrivals_come_in_any_order(
    world, record_figure
):
    n_histories = 0

    @settings(max_examples=200, **QUIET)
    @given(ARRIVALS)
    def histories(arrivals):
        nonlocal n_histories
        check(world, arrivals)
        n_histories += 1

    histories()
    assert n_histories >= 200
    record_figure("random histories of arrivals", n_histories)


@pytest.mark.long
def test_versions_are_those_of_the_sorted_order_in_many_more_histories(world, record_figure):
    n_histories = 0

    @settings(max_examples=2000, **QUIET | {"derandomize": False})
    @given(ARRIVALS)
    def histories(arrivals):
        nonlocal n_histories
        check(world, arrivals)
        n_histories += 1

    histories()
    assert n_histories >= 2000
    record_figure("random histories of arrivals, long run", n_histories)


def test_content_returns_when_its_repetition_came_before_the_change(world):
    """The history that broke the first way of telling duplicates.

    A at 1, A at 3, and only then B at 2.
    """
    check(world, [(0, 0, 1, "first", "day"), (0, 0, 3, "first", "day"), (0, 1, 2, "first", "day")])
