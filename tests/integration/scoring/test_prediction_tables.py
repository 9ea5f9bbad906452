"""What analysts see of predictions, and that creating it again changes nothing."""

from __future__ import annotations

import datetime as dt
import shutil

import pytest
from tests.integration.scoring.conftest import make_spec

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import SettingsError
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

pytestmark = pytest.mark.integration
DAY = "2013-07-01"
PREDICTIONS = Target("predictions/parcel_late", "predictions", "parcel_late", ("parcel_id",))


def _publish(conn, probability: float, day: str = DAY) -> int:
    run = RunContext("score/test", 1, "test")
    write = begin(
        conn, [PREDICTIONS], PartitionRange.of(day), LoadManifest(run, {"p": str(probability)})
    )
    conn.execute(
        "insert into predictions.parcel_late (partition_date, load_id, shard, parcel_id,"
        " event_timestamp, score, probability, decile,"
        " features_as_of, score_source, run_id) values (%s, %s, 0, 'p1', '2013-07-02', 0, %s, 1,"
        " '2013-07-02', 'champion', 'r')",
        [day, write.load_id, probability],
    )
    audit(conn, write)
    publish(conn, write)
    return write.load_id


def _label(
    conn, day: str, known_at: str, superseded_at: str | None, is_late: int, parcel: str = "p1"
) -> None:
    conn.execute(
        "insert into marts.fct_parcel_labels values (%s, %s, %s, %s, %s, %s)",
        [parcel, day, day, known_at, superseded_at, is_late],
    )


def test_current_shows_the_newest_load_and_history_all(warehouse):
    first = _publish(warehouse, 0.1)
    second = _publish(warehouse, 0.2)

    assert warehouse.execute(
        "select load_id, probability from analytics.parcel_late_current"
    ).fetchall() == [(second, 0.2)]
    history = warehouse.execute(
        "select load_id, superseded_at is null from analytics.parcel_late_history order by 1"
    ).fetchall()
    assert history == [(first, False), (second, True)]


def test_history_leaves_no_moment_without_a_load(warehouse):
    _publish(warehouse, 0.1)
    _publish(warehouse, 0.2)

    gap = (
        "select lead(published_at) over (order by load_id) - superseded_at from"
        " analytics.parcel_late_history order by load_id limit 1"
    )
    assert warehouse.execute(gap).fetchone() == (dt.timedelta(0),)


def test_outcome_is_the_last_version_and_mature_when_enough_days_came(warehouse):
    _publish(warehouse, 0.1)
    query = "select outcome, is_mature from analytics.parcel_late_outcomes"
    assert warehouse.execute(query).fetchall() == [(None, False)]

    _label(warehouse, "2013-07-02", "2013-07-03", "2013-07-04", 0)
    _label(warehouse, "2013-07-02", "2013-07-04", None, 1)
    assert warehouse.execute(query).fetchall() == [(1, False)]

    _label(warehouse, "2013-07-03", "2013-07-04", None, 0, parcel="other")
    assert warehouse.execute(query).fetchall() == [(1, True)]


def test_a_prediction_stays_one_row_when_its_outcome_moved_to_another_day(warehouse):
    _publish(warehouse, 0.1)
    _label(warehouse, "2013-07-02", "2013-07-03", None, 0)
    _label(warehouse, "2013-07-03", "2013-07-05", None, 1)

    assert warehouse.execute("select outcome from analytics.parcel_late_outcomes").fetchall() == [
        (1,)
    ]


def test_relations_stay_when_created_again(warehouse, spec):
    _publish(warehouse, 0.1)
    ensure_prediction_relations(warehouse, spec, replace_views=True)
    before = warehouse.execute(
        "select oid::text from pg_class where relname like 'parcel_late%' order by relname"
    ).fetchall()
    ensure_prediction_relations(warehouse, spec)
    ensure_prediction_relations(warehouse, spec, replace_views=True)

    assert (
        warehouse.execute(
            "select oid::text from pg_class where relname like 'parcel_late%' order by relname"
        ).fetchall()
        == before
    )


def test_outcomes_view_waits_for_its_labels_when_they_are_absent(conn):
    spec = make_spec()
    ensure_prediction_relations(conn, spec)
    names = "select viewname from pg_views where schemaname = 'analytics' order by 1"
    views = [name for (name,) in conn.execute(names)]
    assert {"parcel_late_current", "parcel_late_history"} <= set(views)
    assert "parcel_late_outcomes" not in views

    conn.execute(
        "create view marts.fct_parcel_labels as select 'p'::text as parcel_id, date '2013-07-01'"
        " as partition_date,"
        " now() as event_timestamp, now() as known_at, null::timestamptz as superseded_at, 1 as"
        " is_late"
    )
    ensure_prediction_relations(conn, spec)
    assert ("parcel_late_outcomes",) in conn.execute(names).fetchall()


def test_every_view_and_column_is_described(warehouse):
    undescribed = warehouse.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " and a.attnum > 0"
        " where c.relnamespace = 'analytics'::regnamespace and (obj_description(c.oid) is null or"
        " col_description(c.oid, a.attnum) is null)"
    ).fetchall()
    assert undescribed == []


def test_one_entity_has_one_row_a_load_when_written_twice(warehouse):
    load_id = _publish(warehouse, 0.1)

    with pytest.raises(Exception, match="duplicate key"):
        warehouse.execute(
            "insert into predictions.parcel_late select * from predictions.parcel_late where"
            " load_id = %s",
            [load_id],
        )


def test_the_error_says_what_to_copy_when_the_dbt_project_has_no_macros_of_predictions(
    warehouse, tmp_path, monkeypatch
):
    """A project of before the macros: views that exist stay, and a missing one has a code."""
    project = tmp_path / "dbt_project"
    project.mkdir()
    shutil.copy(PROJECT_ROOT / "dbt_project" / "dbt_project.yml", project)
    monkeypatch.setenv("NIGHTSHIFT_DBT_PROJECT_DIR", str(project))
    spec = make_spec()
    ensure_prediction_relations(warehouse, spec)

    warehouse.execute("drop view analytics.parcel_late_current")
    with pytest.raises(SettingsError, match=r"has no macros/predictions\.sql"):
        ensure_prediction_relations(warehouse, spec)
