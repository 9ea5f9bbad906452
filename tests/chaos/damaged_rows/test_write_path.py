"""A rerun of the write path after published rows were damaged: it repairs, the ledger has why."""

from __future__ import annotations

import datetime as dt

import pytest
from tests.chaos.damaged_rows.damages import DAMAGES, DOUBLED, Partition
from tests.integration.warehouse.conftest import DAY, PLAIN, VERSIONED, manifest, stage

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import ContentConflictError
from nightshift.warehouse import damage
from nightshift.warehouse.damage import VanishedRowsError, find_damage, void_loads
from nightshift.warehouse.partition_write import audit, begin, publish, read_back

pytestmark = [pytest.mark.integration, pytest.mark.promise("R1")]
ROWS = [("a", "x", 1.5), ("b", None, 2.5), ("c", "z", 3.5)]
KNOWN_AT = {"known_at": dt.datetime(2013, 7, 2, tzinfo=dt.UTC)}
KINDS = {"plain": (PLAIN, {}), "versioned": (VERSIONED, KNOWN_AT)}
DOUBLE = "insert into {table} select t.* from {table} t where {seen} order by {key} limit 1"


def of(target) -> Partition:
    return Partition(
        target.dataset, (target.schema, target.table), dt.date(2013, 7, 1), "thing_id", "value"
    )


@pytest.mark.parametrize("damage", [*DAMAGES, DOUBLED])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_publishes_a_repair_when_the_published_rows_are_damaged(
    conn, write_day, kind, damage
):
    target, given = KINDS[kind]
    (first,) = write_day(ROWS, target=target, **given)
    partition = of(target)
    right = partition.content(conn)
    assert partition.execute(conn, DAMAGES.get(damage, DOUBLE)) > 0

    (second,) = write_day(ROWS, target=target, **given)

    assert partition.content(conn) == right
    assert (second.n_rows, second.content_hash) == (3, first.content_hash)
    assert second.is_new or (kind == "versioned" and damage == "the pointer lost")
    assert len(partition.repairs(conn)) == 1
    (third,) = write_day(ROWS, target=target, **given)
    assert (third.load_id, third.is_new) == (second.load_id, False)


def test_the_ledger_names_the_damaged_load_and_the_history_leaves_it_out(conn, write_day):
    (first,) = write_day(ROWS)
    of(PLAIN).execute(conn, DAMAGES["some rows deleted"])
    (second,) = write_day(ROWS)

    events = conn.execute(
        "select load_id, event, reason from ops.ledger order by ledger_id"
    ).fetchall()
    assert events == [
        (first.load_id, "published", None),
        (first.load_id, "damaged", "2 of 3 rows are there"),
        (second.load_id, "published", f"repairs load {first.load_id}: 2 of 3 rows are there"),
    ]
    states = conn.execute(
        "select state, superseded_at is not null from ops.loads order by load_id"
    ).fetchall()
    assert states == [("damaged", True), ("published", False)]


def test_a_rerun_of_one_day_repairs_it_when_a_load_of_many_days_lost_rows(conn, tables):
    week = PartitionRange.of("2013-07-01", "2013-07-07")

    def write(days):
        begun = begin(conn, [PLAIN], days, manifest())
        for day in days.days:
            stage(conn, begun, ROWS, day=day.isoformat())
        audit(conn, begun)
        return publish(conn, begun)

    write(week)
    conn.execute(
        "delete from features.feat_thing where partition_date = '2013-07-03' and thing_id = 'a'"
    )

    assert [load.is_new for load in write(PartitionRange.of("2013-07-02"))] == [False]
    assert [load.is_new for load in write(PartitionRange.of("2013-07-03"))] == [True]
    assert [load.is_new for load in write(week)] == [False] * 7
    assert conn.execute("select count(*) from analytics.thing").fetchone() == (21,)


def test_nothing_is_hashed_again_when_the_night_is_an_ordinary_one(conn, write_day, monkeypatch):
    scanned = []
    monkeypatch.setattr(
        damage,
        "find_damage",
        lambda *given: (scanned.append(len(given[2])), find_damage(*given))[1],
    )
    write_day(ROWS, inputs="a")
    write_day([*ROWS, ("d", "new", 1.0)], inputs="b")
    assert scanned == [0, 0]

    write_day([*ROWS, ("d", "new", 1.0)], inputs="b")
    assert scanned == [0, 0, 1]


def test_success_is_refused_when_rows_vanish_behind_the_flip(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)
    conn.execute("delete from features.feat_thing where thing_id = 'b'")

    with pytest.raises(VanishedRowsError, match="do not see") as caught:
        publish(conn, write)
    assert (caught.value.expected, caught.value.got) == (
        f"3 rows of load {write.load_id}",
        "2 rows",
    )
    with pytest.raises(VanishedRowsError):
        read_back(conn, write)


def _from_features(conn, rows):
    """Publish a dataset that reads ``features/thing``, its inputs named by digest as in scoring."""
    target = pointer_target()
    read = {"features/thing": 0}
    begun = begin(conn, [target], DAY, manifest("features of before", reads=read))
    stage(conn, begun, rows, target=target)
    audit(conn, begun)
    return publish(conn, begun)


def pointer_target():
    from nightshift.warehouse.partition_write import Target

    return Target("predictions/thing", "predictions", "thing", ("thing_id",))


@pytest.fixture
def predictions(conn, tables):
    conn.execute("create table predictions.thing (like features.feat_thing)")


def test_right_content_replaces_what_was_made_from_damaged_rows_when_these_were_repaired(
    conn, write_day, predictions
):
    """The digest of the inputs is the same: the damage was not in the record."""
    write_day(ROWS)
    of(PLAIN).execute(conn, DAMAGES["some rows deleted"])
    _from_features(conn, ROWS[1:])
    write_day(ROWS)

    (published,) = _from_features(conn, ROWS)

    assert (published.n_rows, published.is_new) == (3, True)
    with pytest.raises(ContentConflictError, match="same inputs"):
        _from_features(conn, [*ROWS, ("d", "of chance", 0.0)])


def test_other_content_from_equal_inputs_is_published_only_when_a_person_has_voided_what_stands(
    conn, write_day, predictions, run
):
    """Rows that were put back by hand leave no trace: only a person knows that they were gone."""
    write_day(ROWS)
    _from_features(conn, ROWS[1:])
    with pytest.raises(ContentConflictError, match="same inputs") as caught:
        _from_features(conn, ROWS)
    assert "nightshift void" in caught.value.todo

    voided = void_loads(
        conn,
        "predictions/thing",
        dt.date(2013, 7, 1),
        "features were put back by hand",
        RunContext("void/x", 1, "cli:ada"),
    )

    (published,) = _from_features(conn, ROWS)
    assert (published.n_rows, published.is_new, len(voided)) == (3, True, 1)
    recorded = conn.execute(
        "select load_id, actor, reason from ops.ledger where event = 'voided'"
    ).fetchall()
    assert recorded == [(voided[0], "cli:ada", "features were put back by hand")]
