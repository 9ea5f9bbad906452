"""The content hash says what rows say, and nothing else."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.integration.warehouse.conftest import DAY, PLAIN, VERSIONED, manifest, stage

from nightshift.warehouse.content_hash import measure
from nightshift.warehouse.partition_write import begin

pytestmark = pytest.mark.integration
DAY_DATE = DAY.first.day
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
ROW = st.tuples(TEXT, st.none() | TEXT, st.none() | st.floats())


def _hash(conn, rows, target=PLAIN) -> str:
    write = begin(conn, [target], DAY, manifest(known_at=DAY.first.end))
    stage(conn, write, rows, target=target)
    return measure(conn, target, write.load_id)[DAY_DATE].content_hash


@pytest.mark.parametrize(
    "other",
    [
        [("a", "", 1.0)],
        [("a", None, 1.0000000000000002)],
        [("a", None, None)],
        [("A", None, 1.0)],
        [("a", "NULL", 1.0)],
        [("a", None, math.nan)],
        [("a", None, 1.0), ("a", None, 1.0)],
        [("a", None, 1.0), ("a", None, 1.0), ("a", None, 1.0)],
    ],
)
def test_hash_changes_when_one_value_or_count_changes(conn, tables, other):
    assert _hash(conn, [("a", None, 1.0)]) != _hash(conn, other)


def test_hash_changes_when_values_swap_rows(conn, tables):
    assert _hash(conn, [("a", "x", 1.0), ("b", "y", 2.0)]) != _hash(
        conn, [("a", "y", 1.0), ("b", "x", 2.0)]
    )


def test_hash_changes_when_values_swap_columns(conn, tables):
    assert _hash(conn, [("x", "y", 1.0)]) != _hash(conn, [("y", "x", 1.0)])


def test_hash_changes_when_only_a_json_document_does(conn, tables):
    """json has no hash in PostgreSQL, jsonb has."""
    for name, kind in (("document", "json"), ("other", "jsonb")):
        conn.execute(
            f"""
            alter table features.feat_thing add column {name} {kind} default '{{"a": 1}}'
            """.encode()
        )
    before = _hash(conn, [("a", "x", 1.0)])
    conn.execute("""alter table features.feat_thing alter document set default '{"a": 2}'""")
    changed = _hash(conn, [("a", "x", 1.0)])
    conn.execute("""alter table features.feat_thing alter other set default '{"a": 2}'""")

    assert len({before, changed, _hash(conn, [("a", "x", 1.0)])}) == 3


def test_hash_sees_delivery_time_only_where_it_is_content(conn, tables):
    conn.execute("alter table features.feat_thing add column known_at timestamptz")
    before, raw_before = _hash(conn, [("a", "x", 1.0)]), _hash(conn, [("a", "x", 1.0)], VERSIONED)
    conn.execute("alter table features.feat_thing alter known_at set default '2013-07-02'")

    assert _hash(conn, [("a", "x", 1.0)]) != before
    conn.execute("update raw.thing set known_at = '2014-01-01'")
    assert measure(conn, VERSIONED, 2)[DAY_DATE].content_hash == raw_before


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROW, min_size=1, max_size=6), random=st.randoms(use_true_random=False))
def test_hash_is_equal_exactly_when_the_rows_are(conn, tables, rows, random):
    shuffled, changed = list(rows), list(rows)
    random.shuffle(shuffled)
    changed[0] = (rows[0][0] + "x", *rows[0][1:])

    assert _hash(conn, rows) == _hash(conn, shuffled)
    assert _hash(conn, rows) != _hash(conn, changed)


@pytest.mark.slow
def test_a_year_of_features_is_measured_in_one_scan(conn, tables, record_property):
    doubles = ", ".join(f"random() as f{i}" for i in range(40))
    conn.execute(
        "create table features.feat_year as select date '2013-01-01' + (i % 365) as"
        " partition_date, 1::bigint as load_id,"
        f" 'flight ' || i as thing_id, {doubles} from generate_series(1, 336776) i".encode()
    )
    from nightshift.warehouse.partition_write import Target

    started = time.perf_counter()
    measured = measure(conn, Target("features/year", "features", "feat_year", ("thing_id",)), 1)
    record_property("seconds", time.perf_counter() - started)
    print(f"\n{time.perf_counter() - started:.2f} s for 336,776 rows x 43 columns")
    assert sum(m.n_rows for m in measured.values()) == 336_776
