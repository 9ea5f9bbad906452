"""Upstream changes a file's schema.

Noted or stopped, adopted by a new version of the contract, and old partitions still load.
"""

import datetime as dt

import pytest
from tests.conftest import write_suite

from nightshift.contracts.datasets import load_contract, load_contracts
from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import SpecError
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.ingestion.schema_diff import adoption_yaml, compare_schema
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.contract_errors import ColumnsError, TypeChangedError
from nightshift.warehouse.migrate import migrate

pytestmark = [
    pytest.mark.integration,
    pytest.mark.mlts("data-1"),
    pytest.mark.usefixtures("quick_gate"),
]

OLD, NEW = dt.date(2013, 3, 9), dt.date(2013, 3, 10)
BOTH = PartitionRange.of("2013-03-09", "2013-03-10")
HEAD = (
    "name: things\ndescription: d\ndelivery: on_change\nhistory_start: 2013-01-01\n"
    "grain: g\nkey: [id]\n"
)
FIRST = HEAD + (
    "schema_version: 1\ncolumns:\n  - {name: id, type: text}\n  - {name: size, "
    "type: integer, is_nullable: true}\n"
    "  - {name: weight, type: number, is_nullable: true}\n"
)
OLD_FILE = b"id,size,weight\na,1,1.5\nb,2,\n"


@pytest.fixture
def things(settings, conn, tmp_path, run):
    """Return a function that puts a contract in force and returns its settings.

    The old partition is in under the first one.
    """
    number = iter(range(99))

    def adopt(text):
        folder = tmp_path / str(next(number))
        (folder / "datasets").mkdir(parents=True)
        (folder / "datasets" / "things.yaml").write_text(text)
        suites = write_suite(tmp_path / "expectations", "raw/things")
        moved = settings.model_copy(update={"dags_dir": folder, "expectations_dir": suites})
        migrate(conn, load_contracts(moved.datasets_dir))
        return moved

    moved = adopt(FIRST)
    ObjectStore.open(moved).ensure_bucket()
    deliver(moved, OLD, OLD_FILE)
    ingest(moved, "things", PartitionRange.of(str(OLD)), run)
    return adopt


def deliver(settings, day, data, version=1):
    at = dt.datetime(2013, 3, day.day + 1, 5, tzinfo=dt.UTC)
    return write_drop(
        ObjectStore.open(settings),
        NewDrop("things", day, at, data, data.count(b"\n") - 1, "file", version),
    )


def visible(conn, columns="id, size, weight"):
    query = (
        f"select t.partition_date, {columns} from raw.things t join ops.published p "
        f"using (partition_date, load_id) order by 1, 2"
    )
    return conn.execute(query).fetchall()


def printed(settings, drop, data):
    contract = load_contract(settings.datasets_dir, "things")
    return adoption_yaml(contract, drop, compare_schema(contract, drop, data))


def adopted_by(lines):
    """Return the first contract with the printed lines put in as they say.

    Columns of the same name replaced, others added.
    """
    columns = {
        line.split("name: ")[1].split(",")[0]: line
        for line in FIRST.splitlines()
        if line.startswith("  - {")
    }
    columns |= {
        line.split("name: ")[1].split(",")[0].rstrip("}"): line
        for line in lines
        if line.startswith("  - {")
    }
    rest = lines[lines.index("versions:") :]
    return HEAD + "\n".join([lines[0], "columns:", *columns.values(), *rest]) + "\n"


def test_an_added_column_is_ignored_and_noted_until_it_is_adopted(things, conn, run):
    settings = things(FIRST)
    data = b"id,size,weight,colour\na,1,1.5,red\n"
    drop = deliver(settings, NEW, data)
    ingest(settings, "things", BOTH, run)
    assert visible(conn) == [(OLD, "a", 1, 1.5), (OLD, "b", 2, None), (NEW, "a", 1, 1.5)]
    notes = conn.execute(
        "select notes from raw.ingested_drops where partition_date = %s", [NEW]
    ).fetchone()
    assert notes == (["added column ignored: colour"],)

    lines = printed(settings, drop, data)
    assert lines == [
        "schema_version: 2",
        "columns:  # replace those of the same name, add the rest",
        "  - {name: colour, source: colour, type: text, is_nullable: true}",
        "versions:",
        "  2:",
        "    since: 2013-03-10",
        "    added: [colour]",
    ]
    adopted = things(adopted_by(lines))
    result = load_late_drops(adopted, "things", BOTH, run, reread=True)

    assert [drop.partition for drop in result.loaded] == [OLD, NEW]
    assert visible(conn, "id, colour") == [(OLD, "a", None), (OLD, "b", None), (NEW, "a", "red")]
    assert not load_late_drops(adopted, "things", BOTH, run, reread=True).loaded


@pytest.mark.parametrize(
    ("data", "expected", "after"),
    [
        (b"id,weight\na,1.5\n", (ColumnsError, r"- size  \(missing\)"), (NEW, "a", None, 1.5)),
        (b"id,siez,weight\na,1,1.5\n", (ColumnsError, r"- size  \(missing\)"), (NEW, "a", 1, 1.5)),
    ],
    ids=["removed", "renamed"],
)
def test_a_breaking_change_stops_before_any_write_and_loads_when_adopted(
    things, conn, run, data, expected, after
):
    settings = things(FIRST)
    drop = deliver(settings, NEW, data)
    n_loads = conn.execute("select count(*) from ops.loads").fetchone()

    with pytest.raises(expected[0], match=expected[1]) as caught:
        ingest(settings, "things", BOTH, run)

    assert conn.execute("select count(*) from ops.loads").fetchone() == n_loads
    for command in (
        "contract diff things 2013-03-10",
        "migrate",
        "redo --dataset things --from 2013-03-10",
    ):
        assert f"nightshift {command}" in str(caught.value)

    adopted = things(adopted_by(printed(settings, drop, data)))
    result = load_late_drops(adopted, "things", BOTH, run)

    assert [drop.partition for drop in result.loaded] == [NEW]
    assert visible(conn) == [(OLD, "a", 1, 1.5), (OLD, "b", 2, None), after]
    before = conn.execute(
        "select load_id from ops.published where partition_date = %s", [OLD]
    ).fetchone()
    assert load_late_drops(adopted, "things", BOTH, run, reread=True).published == ()
    assert not ingest(adopted, "things", BOTH, run).is_new
    assert (
        conn.execute(
            "select load_id from ops.published where partition_date = %s", [OLD]
        ).fetchone()
        == before
    )


def test_a_type_with_a_counterpart_is_converted_when_adopted(things, conn, run):
    seen = "  - {name: seen, type: utc_timestamp, is_nullable: true%s}\n"
    versions = "versions:\n  2:\n    added: [seen]\n"
    settings = things(
        FIRST.replace("schema_version: 1", "schema_version: 2") + seen % "" + versions
    )
    data = b"id,size,weight,seen\na,1,1.5,2013-03-10\nb,,,2013-03-09\n"
    drop = deliver(settings, NEW, data, version=2)
    with pytest.raises(
        TypeChangedError,
        match=(
            "seen: expected utc_timestamp, 2 of 2 values are something else; accepted: "
            "YYYY-MM-DD HH:MM"
        ),
    ):
        ingest(settings, "things", PartitionRange.of(str(NEW)), run)

    lines = printed(settings, drop, data)
    assert (
        lines[2] == "  - {name: seen, type: utc_timestamp, delivered_as: date, is_nullable: true}"
    )
    retyped = versions + "\n".join(lines[lines.index("versions:") + 1 :])
    adopted = things(
        FIRST.replace("schema_version: 1", "schema_version: 3")
        + seen % ", delivered_as: date"
        + retyped
    )
    ingest(adopted, "things", PartitionRange.of(str(NEW)), run)

    midnights = [
        (NEW, "a", dt.datetime(2013, 3, 10, tzinfo=dt.UTC)),
        (NEW, "b", dt.datetime(2013, 3, 9, tzinfo=dt.UTC)),
    ]
    assert visible(conn, "id, seen")[-2:] == midnights


def test_a_type_without_counterpart_gets_a_column_of_its_own_when_adopted(things, conn, run):
    settings = things(FIRST)
    data = b"id,size,weight\na,1,heavy\nb,2,light\n"
    drop = deliver(settings, NEW, data)

    adopted = things(adopted_by(printed(settings, drop, data)))
    ingest(adopted, "things", BOTH, run)

    assert visible(conn, "id, weight, weight_text") == [
        (OLD, "a", 1.5, None),
        (OLD, "b", None, None),
        (NEW, "a", None, "heavy"),
        (NEW, "b", None, "light"),
    ]


def test_the_manifest_says_the_version_when_no_day_is_given(things, conn, run):
    text = FIRST.replace("schema_version: 1", "schema_version: 2").replace(
        "name: size,", "name: size, source: length,"
    )
    settings = things(text + "versions: {2: {renamed: {size: size}}}\n")
    deliver(settings, NEW, b"id,length,weight\nc,3,\n", version=2)

    ingest(settings, "things", BOTH, run)

    assert visible(conn) == [(OLD, "a", 1, 1.5), (OLD, "b", 2, None), (NEW, "c", 3, None)]


def test_old_rows_get_the_default_when_a_column_was_added_later(things, conn, run):
    text = (
        FIRST.replace("schema_version: 1", "schema_version: 2")
        + "  - {name: unit, type: text, default: kg}\n"
    )
    settings = things(text + "versions: {2: {added: [unit]}}\n")

    ingest(settings, "things", PartitionRange.of(str(OLD)), run)

    assert visible(conn, "id, unit") == [(OLD, "a", "kg"), (OLD, "b", "kg")]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("versions: {}\n", "got \\[\\]"),
        ("versions: {2: {added: [nothing]}}\n", "unknown: \\['nothing'\\]"),
        ("versions: {2: {added: [id]}}\n", "every version has it"),
    ],
)
def test_a_contract_is_refused_when_its_versions_do_not_fit(things, changed, says):
    with pytest.raises(SpecError, match=says):
        things(FIRST.replace("schema_version: 1", "schema_version: 2") + changed)


def test_migrate_refuses_when_a_column_changed_its_type(things):
    with pytest.raises(SpecError, match=r"raw\.things\.size has another type") as caught:
        things(FIRST.replace("name: size, type: integer", "name: size, type: text"))
    assert caught.value.code == "NS-SPEC-002"
