"""The write path on a real PostgreSQL: what becomes visible, what is refused, what a rerun does."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from collections.abc import Callable
from itertools import permutations

import pytest
from tests.integration.warehouse.conftest import DAY, PLAIN, VERSIONED, manifest, stage

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import (
    AuditError,
    ContentConflictError,
    LoadStateError,
    LostAnswerError,
    StaleTokenError,
    WarehouseError,
)
from nightshift.warehouse.audit import is_audited_unique
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import (
    Target,
    audit,
    begin,
    collect,
    hold_stage,
    publish,
    read_back,
    refuse,
    resume,
)

pytestmark = pytest.mark.integration
ROWS = [("a", "x", 1.5), ("b", None, 2.5)]
OTHER = [("a", "x", 1.5), ("b", "y", 2.5)]
COMMIT_LOCK = 4711


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _visible(conn) -> list[tuple]:
    return conn.execute("select thing_id, name, value from analytics.thing order by 1").fetchall()


def _states(conn, dataset: str = PLAIN.dataset) -> list[str]:
    return [
        s
        for (s,) in conn.execute(
            "select state from ops.loads where dataset = %s order by load_id", [dataset]
        )
    ]


def test_rows_become_visible_when_published(conn, write_day):
    (published,) = write_day(ROWS)

    assert _visible(conn) == ROWS
    assert (published.dataset, published.partition_date, published.n_rows, published.is_new) == (
        PLAIN.dataset,
        dt.date(2013, 7, 1),
        2,
        True,
    )


def test_rows_stay_invisible_when_only_audited(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)

    assert audit(conn, write) == {(PLAIN.dataset, dt.date(2013, 7, 1)): 2}
    assert _visible(conn) == []
    assert _states(conn) == ["audited"]


def test_columns_count_as_unique_only_when_the_audit_has_shown_it(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    key = ["partition_date", *PLAIN.key]
    assert not is_audited_unique(conn, write.load_id, key)

    audit(conn, write)

    assert is_audited_unique(conn, write.load_id, [*key, "value"])
    assert not is_audited_unique(conn, write.load_id, key[1:])
    assert not is_audited_unique(conn, write.load_id + 1, key)
    refuse(conn, write, "a test")
    assert not is_audited_unique(conn, write.load_id, key)


def test_publish_is_refused_when_audit_is_missing(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)

    with pytest.raises(AuditError, match="no passed audit"):
        publish(conn, write)
    assert _visible(conn) == []


def test_publish_is_refused_when_token_is_stale(conn, tables):
    old = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, old, ROWS)
    audit(conn, old)
    begin(conn, [PLAIN], DAY, manifest())

    with pytest.raises(StaleTokenError, match="newer attempt"):
        publish(conn, old)
    assert _visible(conn) == []


def test_publish_is_refused_when_one_of_many_partitions_is_stale(conn, tables):
    week = PartitionRange.of("2013-07-01", "2013-07-07")
    old = begin(conn, [PLAIN], week, manifest())
    for day in week.days:
        stage(conn, old, ROWS, day=day.isoformat())
    audit(conn, old)
    begin(conn, [PLAIN], PartitionRange.of("2013-07-04"), manifest())

    with pytest.raises(StaleTokenError, match="2013-07-04"):
        publish(conn, old)
    assert _visible(conn) == []


def test_pointer_stays_when_content_is_the_same(conn, write_day):
    (first,) = write_day(ROWS, inputs="a")
    (second,) = write_day(list(reversed(ROWS)), inputs="b")

    assert second == first
    assert not second.is_new
    assert _states(conn) == ["published", "duplicate"]


def test_pointer_moves_when_content_and_inputs_differ(conn, write_day):
    write_day(ROWS, inputs="a")
    (second,) = write_day(OTHER, inputs="b")

    assert second.is_new
    assert _visible(conn) == OTHER
    superseded = conn.execute(
        "select superseded_at is not null from ops.loads order by load_id"
    ).fetchall()
    assert superseded == [(True,), (False,)]


def test_publish_is_refused_loudly_when_same_inputs_give_other_content(conn, write_day):
    write_day(ROWS)

    with pytest.raises(ContentConflictError, match="same inputs"):
        write_day(OTHER)
    assert _visible(conn) == ROWS


def test_a_version_is_refused_loudly_when_the_same_file_and_contract_give_other_rows(
    conn, write_day
):
    delivered = {"target": VERSIONED, "known_at": dt.datetime(2013, 7, 2, tzinfo=dt.UTC)}
    write_day(ROWS, **delivered)

    with pytest.raises(ContentConflictError, match="same inputs"):
        write_day(OTHER, **delivered)
    assert conn.execute("select count(*) from ops.loads where state = 'published'").fetchone() == (
        1,
    )


def test_publish_is_refused_loudly_when_an_earlier_publication_had_the_same_inputs(conn, write_day):
    write_day(ROWS, inputs="a")
    write_day(OTHER, inputs="b")

    with pytest.raises(ContentConflictError, match="same inputs"):
        write_day([("a", "z", 1.5)], inputs="a")
    assert _visible(conn) == OTHER


def test_pointer_returns_when_earlier_inputs_come_back(conn, write_day):
    for inputs, rows in (("a", ROWS), ("b", OTHER), ("a", ROWS)):
        write_day(rows, inputs=inputs)

    assert _visible(conn) == ROWS


def test_null_keys_are_refused_when_the_table_itself_refuses_repeated_ones(conn, tables):
    conn.execute("create unique index on features.feat_thing (thing_id, load_id, partition_date)")
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, [("a", "x", 1.0), (None, "y", 2.0), (None, "z", 3.0)])

    with pytest.raises(AuditError, match="2 rows of 2013-07-01 with a null or repeated key"):
        audit(conn, write)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no rows"),
        ([("a", "x", 1.0), ("a", "y", 2.0)], "1 rows of 2013-07-01 with a null or repeated key"),
        ([(None, "x", 1.0), (None, "y", 2.0)], "2 rows of 2013-07-01 with a null or repeated key"),
    ],
)
def test_audit_refuses_when_rows_or_keys_are_bad(conn, tables, rows, problem):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, rows)

    with pytest.raises(AuditError, match=problem):
        audit(conn, write)
    assert _states(conn) == ["refused"]
    with pytest.raises(AuditError, match="no passed audit"):
        publish(conn, write)


@pytest.mark.parametrize("n_sent", [1, 2, 3])
def test_audit_refuses_when_another_number_of_rows_is_there_than_was_sent(conn, tables, n_sent):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, [("a", "x", 1.0), ("b", "y", 2.0)])
    sent = dict.fromkeys(DAY.days, n_sent)

    if n_sent == 2:
        assert audit(conn, write, sent=sent) == {(PLAIN.dataset, DAY.days[0]): n_sent}
    else:
        with pytest.raises(
            AuditError, match=f"2 rows of 2013-07-01, not the {n_sent} that were sent"
        ):
            audit(conn, write, sent=sent)
    assert _states(conn) == ["audited" if n_sent == 2 else "refused"]


def test_audit_refuses_rows_outside_of_the_range_and_null_keys_when_it_knows_what_was_sent(
    conn, tables
):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, [(None, "x", 1.0)])
    stage(conn, write, ROWS, day="2013-07-02")

    with pytest.raises(
        AuditError, match=r"2013-07-02, outside of the range; .*1 rows of 2013-07-01 with a null"
    ):
        audit(conn, write, sent=dict.fromkeys(DAY.days, 1))


def test_audit_refuses_when_rows_lie_outside_of_the_range(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    stage(conn, write, ROWS, day="2013-07-02")

    with pytest.raises(AuditError, match="2013-07-02, outside of the range"):
        audit(conn, write)


def test_an_empty_partition_is_published_when_the_target_allows_it(conn, tables):
    target = Target(PLAIN.dataset, PLAIN.schema, PLAIN.table, PLAIN.key, may_be_empty=True)
    write = begin(conn, [target], DAY, manifest())
    audit(conn, write)

    (published,) = publish(conn, write)
    assert published.n_rows == 0


def test_a_refused_load_never_publishes_when_audited_again(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)
    refuse(conn, write, "gate")
    audit(conn, write)

    with pytest.raises(AuditError):
        publish(conn, write)
    assert conn.execute("select event from ops.ledger").fetchall() == [("refused",)]


def test_all_targets_flip_together_when_one_is_bad(conn, tables):
    conn.execute("create table features.feat_second (like features.feat_thing)")
    second = Target("features/second", "features", "feat_second", ("thing_id",))
    write = begin(conn, [PLAIN, second], DAY, manifest())
    stage(conn, write, ROWS)

    with pytest.raises(AuditError, match="features/second has no rows"):
        audit(conn, write)
    with pytest.raises(AuditError):
        publish(conn, write)
    assert _visible(conn) == []


def test_nothing_is_staged_behind_an_audit_when_a_slow_writer_wakes_up(conn, settings, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    with connect(settings) as writer, writer.transaction():
        assert hold_stage(writer, write) == "staged"
        conn.execute("set lock_timeout = '100ms'")
        with pytest.raises(Exception, match="lock timeout"):
            audit(conn, write)
    audit(conn, write)

    with conn.transaction():
        assert hold_stage(conn, write) == "audited"


def test_publish_called_twice_gives_the_same_answer(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)

    first, second = publish(conn, write), publish(conn, write)
    assert first == second
    assert second[0].is_new
    assert conn.execute("select count(*) from ops.ledger").fetchone() == (1,)


def test_published_load_is_read_back_when_a_newer_attempt_has_begun(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)
    publish(conn, write)
    begin(conn, [PLAIN], DAY, manifest())

    assert publish(conn, write)[0].load_id == write.load_id


def test_read_back_refuses_when_load_is_not_published(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())

    with pytest.raises(LoadStateError, match="did not become visible"):
        read_back(conn, write)


def test_resume_names_the_least_advanced_state(conn, tables):
    write = begin(conn, [PLAIN], DAY, manifest())

    assert resume(conn, write.load_id, [PLAIN], DAY) == (write, "staged")
    with pytest.raises(LoadStateError, match="no load"):
        resume(conn, 999_999, [PLAIN], DAY)


def test_rerun_reads_back_when_the_answer_of_the_commit_is_lost(conn, settings, tables):
    """The connection breaks while the commit waits; then the commit goes on."""
    conn.execute(
        "create function ops.slow_commit() returns trigger language plpgsql as $$ begin perform"
        f" pg_advisory_xact_lock({COMMIT_LOCK}); return null; end $$"
    )
    conn.execute(
        "create constraint trigger slow_commit after insert on ops.published deferrable initially"
        " deferred"
        " for each row execute function ops.slow_commit()"
    )
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)
    conn.execute("select pg_advisory_lock(%s)", [COMMIT_LOCK])
    with connect(settings) as doomed:
        line = socket.socket(fileno=doomed.fileno())

        def cut() -> None:
            waits = (
                "select from pg_locks where locktype = 'advisory' and objid = %s and not granted"
            )
            wait_until(lambda: conn.execute(waits, [COMMIT_LOCK]).fetchone() is not None)
            line.shutdown(socket.SHUT_RD)

        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(LostAnswerError, match="lost"):
            publish(doomed, write)
        cutter.join()
        line.detach()
    conn.execute("select pg_advisory_unlock(%s)", [COMMIT_LOCK])
    wait_until(lambda: conn.execute("select from ops.published").fetchone() is not None)

    assert [load.load_id for load in publish(conn, write)] == [write.load_id]
    assert _visible(conn) == ROWS
    assert conn.execute("select count(*) from ops.ledger").fetchone() == (1,)


def test_publish_says_that_nothing_changed_when_a_lock_is_not_free(conn, settings, tables):
    write = begin(conn, [PLAIN], DAY, manifest())
    stage(conn, write, ROWS)
    audit(conn, write)
    with connect(settings) as other, other.transaction():
        other.execute("select from ops.fences for update")
        conn.execute("set lock_timeout = '100ms'")
        with pytest.raises(WarehouseError, match="nothing changed"):
            publish(conn, write)
    assert publish(conn, write)[0].is_new


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_raw_pointer_stands_on_the_latest_version_when_deliveries_come_in_any_order(
    conn, write_day, order
):
    versions = [
        (dt.datetime(2013, 7, 2 + i, tzinfo=dt.UTC), [("a", name, 1.0)])
        for i, name in enumerate("xyz")
    ]
    for i in order:
        write_day(versions[i][1], inputs=str(i), target=VERSIONED, known_at=versions[i][0])

    pointed = conn.execute(
        "select t.name from raw.thing t join ops.published p on p.dataset = 'raw/thing' and"
        " p.load_id = t.load_id"
    ).fetchall()
    intervals = conn.execute(
        "select known_at, superseded_at from ops.raw_versions order by known_at"
    ).fetchall()
    assert pointed == [("z",)]
    assert intervals == [
        (versions[0][0], versions[1][0]),
        (versions[1][0], versions[2][0]),
        (versions[2][0], None),
    ]


def test_raw_version_is_a_duplicate_when_the_same_content_is_delivered_again(conn, write_day):
    write_day(ROWS, inputs="a", target=VERSIONED, known_at=dt.datetime(2013, 7, 2, tzinfo=dt.UTC))
    (again,) = write_day(
        ROWS, inputs="b", target=VERSIONED, known_at=dt.datetime(2013, 7, 3, tzinfo=dt.UTC)
    )

    assert not again.is_new
    assert _states(conn, "raw/thing") == ["published", "duplicate"]
    assert conn.execute("select known_at from ops.raw_versions").fetchall() == [
        (dt.datetime(2013, 7, 2, tzinfo=dt.UTC),)
    ]


def test_raw_content_is_a_new_version_when_it_returns_after_a_correction(conn, write_day):
    for day, rows in ((2, ROWS), (3, OTHER), (4, ROWS)):
        write_day(
            rows,
            inputs=str(day),
            target=VERSIONED,
            known_at=dt.datetime(2013, 7, day, tzinfo=dt.UTC),
        )

    assert _states(conn, "raw/thing") == ["published", "published", "published"]


def test_raw_partitions_of_a_range_keep_their_own_delivery_time(conn, tables):
    days = PartitionRange.of("2013-07-01", "2013-07-02")
    known_at = {day: dt.datetime(2013, 7, day.day + 1, 4, tzinfo=dt.UTC) for day in days.days}
    write = begin(conn, [VERSIONED], days, manifest(known_at=known_at))

    rows = conn.execute(
        "select partition_date, known_at from ops.loads where load_id = %s", [write.load_id]
    ).fetchall()
    assert dict(rows) == known_at


def test_begin_refuses_when_a_version_has_no_delivery_time(conn, tables):
    with pytest.raises(LoadStateError, match="delivery"):
        begin(conn, [VERSIONED], DAY, manifest())


def test_collect_deletes_dead_rows_only(conn, write_day):
    write_day(ROWS, inputs="a")
    write_day(ROWS, inputs="b")  # duplicate
    write_day(OTHER, inputs="c")
    refused = begin(conn, [PLAIN], DAY, manifest("d"))
    stage(conn, refused, ROWS)
    refuse(conn, refused, "gate")
    stale = begin(conn, [PLAIN], DAY, manifest("e"))
    stage(conn, stale, ROWS)
    open_write = begin(conn, [PLAIN], DAY, manifest("f"))
    stage(conn, open_write, ROWS)

    assert collect(conn, [PLAIN]) == 6
    left = {
        load_id for (load_id,) in conn.execute("select distinct load_id from features.feat_thing")
    }
    assert left == {1, 3, open_write.load_id}
    assert _states(conn) == [
        "published",
        "duplicate",
        "published",
        "refused",
        "collected",
        "staged",
    ]
    assert _visible(conn) == OTHER


def test_collect_takes_rows_that_a_superseded_attempt_adds_later(conn, tables):
    stale = begin(conn, [PLAIN], DAY, manifest("a"))
    begin(conn, [PLAIN], DAY, manifest("b"))
    collect(conn, [PLAIN])
    stage(conn, stale, ROWS)

    assert collect(conn, [PLAIN]) == 2
    assert collect(conn, [PLAIN]) == 0
