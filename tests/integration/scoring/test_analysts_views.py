"""What analysts read besides predictions: reasons that add up, changes, health, versions."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Iterator
from html import unescape

import psycopg
import pytest
from jinja2 import Environment, select_autoescape
from tests.databases import own_database
from tests.integration.scoring.conftest import (
    DAY,
    Registry,
    make_spec,
    open_registry,
    publish_features,
)

from nightshift.cli.services.migrate import as_admin
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.registry.model_versions import record_missing_explanations
from nightshift.scoring.pipeline import score
from nightshift.scoring.prediction_tables import ensure_prediction_relations, predictions_target
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.analysts.tile import (
    MAX_BYTES,
    NoTableError,
    facts,
    read_health,
    render_html,
    render_svg,
)
from nightshift.warehouse.connection import connect
from nightshift.warehouse.content_hash import measure
from nightshift.warehouse.relations.prediction_views import ViewContractError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("quick_gate"),
]
NEXT_DAY = PartitionRange.of("2013-07-02")
RUN = RunContext("score/test", 1, "test")
MINUS, TO = "\N{MINUS SIGN}", "\N{EN DASH}"
PARCEL = "2013-07-01-8"
"""Its weight is 2 kg when it is first scored, and 14 kg in the rerun."""


def shown_spec() -> ModelSpec:
    scoring = make_spec().scoring.model_dump() | {"reasons": 3}
    causes = [
        {"name": "size", "words": "size of the parcel", "features": ["weight_kg"]},
        {"name": "depot's days", "features": ["depot"]},
    ]
    return make_spec(analytics={"attributes": ["depot"], "causes": causes}, scoring=scoring)


@pytest.fixture(scope="module")
def state(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """Return a warehouse of two nights: one with a rerun, one of another version.

    All three features are reasons, so that the published contributions are complete.
    """
    spec = shown_spec()
    with (
        pytest.MonkeyPatch.context() as patch,
        own_database(session_settings, template_database) as settings,
    ):
        patch.setattr("tests.integration.scoring.conftest.make_spec", shown_spec)
        with open_registry(settings, tmp_path_factory.mktemp("suites")) as registry:
            conn = registry.conn
            conn.execute(
                "insert into ops.feature_words (feature_view, feature, label, unit, description)"
                " values ('parcel', 'weight_kg', 'weight', 'kg', 'Weight of the parcel.'),"
                " ('parcel', 'late_rate_7d', 'late parcels, 7 days', 'share', 'Share.')"
            )
            create_shared_views(conn)
            registry.promote("2013-07-01")
            publish_features(conn)
            score(registry.settings, spec, DAY, RUN)
            publish_features(conn, changed=f"weight_kg = 14 where parcel_id = '{PARCEL}'")
            score(registry.settings, spec, DAY, RUN)
            # Trained on other rows: another base, another calibration.
            registry.promote("2013-07-02", seed=5)
            publish_features(conn, NEXT_DAY, shift=3)
            score(registry.settings, spec, NEXT_DAY, RUN)
            conn.execute(
                "insert into ml.feature_references values"
                " ('parcel_late', 1, 'weight_kg', 3, 12, null),"
                " ('parcel_late', 1, 'depot', null, null, 'south')"
            )
            ensure_prediction_relations(conn, spec, replace_views=True)
            yield registry


def create_shared_views(conn) -> None:
    """Create the views of all models from dbt's models, which read sources only."""
    environment = Environment(autoescape=select_autoescape([], default_for_string=False))
    schemas = {"catalog": "pg_catalog"}
    environment.globals["source"] = lambda name, table: f"{schemas.get(name, name)}.{table}"
    folder = PROJECT_ROOT / "dbt_project" / "models" / "analytics"
    for name in ("health", "data_dictionary"):
        text = (folder / f"{name}.sql").read_text(encoding="utf-8")
        select = environment.from_string(text).render()
        conn.execute(f"create view analytics.{name} as {select}".encode())


@pytest.fixture
def scored(state: Registry) -> Iterator[Registry]:
    """Return the state; what a test changes by its connection is undone."""
    with state.conn.transaction(force_rollback=True):
        yield state


def rows(conn, query: str, *values: object) -> list[dict]:
    cursor = conn.execute(query, values)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def test_columns_are_in_the_order_of_a_person_and_ids_come_last(scored):
    query = """
        select column_name from information_schema.columns
        where table_name = 'parcel_late_current' order by ordinal_position
    """
    columns = [name for (name,) in scored.conn.execute(query)]
    assert columns[:9] == [
        "parcel_id", "predicted_day", "depot", "probability", "probability_low",
        "probability_high", "is_positive", "decile", "reason_1",
    ]  # fmt: skip
    assert columns[-2:] == ["load_id", "run_id"]


def test_effects_add_up_to_the_prediction_and_are_said_in_words(scored):
    rated = rows(scored.conn, "select * from analytics.parcel_late_history")
    assert len(rated) == 150
    for row in rated:
        effects = sum(row[f"effect_{number}"] or 0 for number in (1, 2, 3))
        total = 100 * row["base_probability"] + effects + row["other_effects"]
        assert total == pytest.approx(100 * row["probability"], abs=1e-9)
        # All three features are published, so nothing but rounding is left.
        assert abs(row["other_effects"]) < 1e-3
    # An event at 00:01 UTC is still the evening before in New York.
    assert {row["predicted_day"] - row["partition_date"] for row in rated} == {dt.timedelta(0)}

    of_parcel = [row for row in rated if row["parcel_id"] == PARCEL]
    row = min(of_parcel, key=lambda row: row["load_id"])
    reasons = {reason["feature"]: reason for reason in row["reasons"]}
    words = {row[f"reason_{n}"].split(" ")[0]: row[f"reason_{n}"] for n in (1, 2, 3)}
    assert row["depot"] == reasons["depot"]["value"] == "north"
    sign = MINUS if reasons["weight_kg"]["contribution"] < 0 else "+"
    assert words["weight"].startswith(f"weight 2 kg (usual 3{TO}12): {sign}")
    assert words["weight"].endswith(" points")
    assert words["late"].startswith("late parcels, 7 days 10 %: ")
    assert words["depot"].startswith("depot north (usual south): ")


def test_a_superseded_prediction_keeps_the_attributes_of_its_own_features(scored):
    conn = scored.conn
    newest = "(select max(load_id) from features.feat_parcel where partition_date = '2013-07-01')"
    conn.execute(
        f"update features.feat_parcel set depot = 'moved' where load_id = {newest}".encode()
    )
    query = "select depot, superseded_at is null as is_current from analytics.parcel_late_history"
    by_load = rows(conn, f"{query} where parcel_id = '{PARCEL}' order by load_id")
    assert by_load == [
        {"depot": "north", "is_current": False},
        {"depot": "moved", "is_current": True},
    ]


def test_reasons_have_one_row_each_with_description_and_unit(scored):
    query = "select * from analytics.parcel_late_reasons where parcel_id = %s order by rank"
    reasons = rows(scored.conn, query, PARCEL)
    assert [row["rank"] for row in reasons] == [1, 2, 3]
    weight = next(row for row in reasons if row["feature"] == "weight_kg")
    assert (weight["label"], weight["unit"], weight["cause"]) == ("weight", "kg", "size")
    assert (weight["value"], weight["description"]) == ("14", "Weight of the parcel.")
    total = sum(row["effect"] for row in reasons)
    gain = 100 * (weight["probability"] - weight["base_probability"])
    assert total == pytest.approx(gain, abs=1e-3)


def test_causes_are_exact_sums_of_their_features_in_points_and_in_words(scored):
    query = "select * from analytics.parcel_late_causes where parcel_id = %s order by rank"
    causes = rows(scored.conn, query, PARCEL)
    assert {row["cause"] for row in causes} == {"size", "depot's days", "other"}
    reasons = rows(scored.conn, query.replace("_causes", "_reasons"), PARCEL)
    # Each cause has one feature here, so its sum is that feature's contribution.
    added = {row["cause"] or "other": row["contribution"] for row in reasons}
    for row in causes:
        assert row["contribution"] == pytest.approx(added[row["cause"]], abs=1e-6)
    assert sum(row["share"] for row in causes) == pytest.approx(1)

    by_row = rows(
        scored.conn,
        "select sum(effect) as effect, min(probability) as probability,"
        " min(base_probability) as base, array_agg(rank order by abs(effect) desc) as ranks"
        " from analytics.parcel_late_causes group by parcel_id",
    )
    assert len(by_row) == 100
    for row in by_row:
        gain = 100 * (row["probability"] - row["base"])
        assert row["effect"] == pytest.approx(gain, abs=1e-6)
        assert row["ranks"] == [1, 2, 3]

    size = next(row for row in causes if row["cause"] == "size")
    sign = MINUS if size["effect"] < 0 else "+"
    assert re.fullmatch(
        rf"size of the parcel: {re.escape(sign)}[\d.]+ points, above all weight 14 kg"
        rf" \(usual 3{TO}12\)",
        size["reason"],
    )
    words = {row["cause"]: row["words"] for row in causes}
    assert (words["depot's days"], words["other"]) == ("depot's days", "everything else")


def test_another_grouping_is_not_another_prediction(scored):
    target = predictions_target(shown_spec())
    before = measure(scored.conn, target, 1) | measure(scored.conn, target, 2)
    scored.conn.execute("update predictions.parcel_late set causes = null")
    assert measure(scored.conn, target, 1) | measure(scored.conn, target, 2) == before
    scored.conn.execute("update predictions.parcel_late set reasons = '[]'")
    assert measure(scored.conn, target, 1) | measure(scored.conn, target, 2) != before


def test_changes_name_what_moved_a_prediction_after_a_rerun(scored):
    query = "select * from analytics.parcel_late_changes where comparison = 'rerun'"
    changes = rows(scored.conn, query)
    assert len(changes) == 50
    (change,) = [row for row in changes if row["change"] != 0]
    assert change["parcel_id"] == PARCEL
    assert change["is_consecutive"]
    assert change["is_complete"]
    assert change["what_moved_it"].startswith("weight 2 → 14 kg: +")
    expected = 100 * (change["probability"] - change["probability_before"])
    assert change["change"] == pytest.approx(expected, abs=1e-9)
    assert_additive(change)
    assert change["base_effect"] == 0
    assert abs(change["other_effects"]) < 1e-3


def assert_additive(change: dict) -> None:
    known = [
        part["effect"] for part in change["contribution_changes"] if part["effect"] is not None
    ]
    total = change["base_effect"] + sum(known) + change["other_effects"]
    assert total == pytest.approx(change["change"], abs=1e-9)


def test_changes_are_additive_between_versions_and_since_the_night_before(scored):
    conn = scored.conn
    # These parcels are named by the partition: their event is at noon of that day.
    conn.execute(
        "update predictions.parcel_late set event_timestamp = partition_date + time '16:00'"
    )
    query = "select * from analytics.parcel_late_changes where comparison = 'night before'"
    changes = rows(conn, query)
    assert len(changes) == 50
    assert {(row["model_version_before"], row["model_version"]) for row in changes} == {(1, 2)}
    for change in changes:
        assert change["is_complete"]
        assert_additive(change)
        assert abs(change["other_effects"]) < 1e-3
    assert any(abs(change["base_effect"]) > 1e-6 for change in changes)


def test_a_feature_that_only_one_list_names_is_left_to_the_other_effects(scored):
    conn = scored.conn
    # As if only the strongest reason of each row had been published.
    conn.execute("update predictions.parcel_late set reasons = jsonb_build_array(reasons -> 0)")
    n_unknown = 0
    for change in rows(conn, "select * from analytics.parcel_late_changes"):
        assert_additive(change)
        assert not change["is_complete"]
        for part in change["contribution_changes"]:
            is_in_both = None not in (part["contribution_before"], part["contribution_after"])
            assert (part["effect"] is not None) == is_in_both
            n_unknown += not is_in_both
    assert n_unknown > 0


def test_health_says_late_complete_and_degraded(scored):
    (health,) = rows(scored.conn, "select * from analytics.health")
    assert health["table_name"] == "parcel_late_current"
    # Deadlines of 2013 are long over, and nothing newer is published.
    assert (health["status"], health["is_late"]) == ("late", True)
    assert (health["n_predictions"], health["share_of_entities"]) == (50, 1.0)
    assert (health["champion_version"], health["share_by_champion"]) == (2, 1.0)
    assert not health["is_degraded"]
    assert health["fresh_as_of"] == dt.datetime(2013, 7, 3, tzinfo=dt.UTC)
    # 4 o'clock in New York; it was published today.
    assert health["deadline_at"] == dt.datetime(2013, 7, 3, 8, tzinfo=dt.UTC)
    assert health["is_deadline_kept"] is False

    scored.conn.execute("update predictions.parcel_late set score_source = 'fallback_rule'")
    (health,) = rows(scored.conn, "select * from analytics.health")
    assert health["is_degraded"]
    assert health["rows_by_source"] == {"fallback_rule": 50}


def test_health_is_ok_when_the_due_night_is_complete(scored):
    conn = scored.conn
    shift = "(now() at time zone 'America/New_York')::date - date '2013-07-02' - 1"
    for table in ("ops.published", "ops.loads", "predictions.parcel_late"):
        conn.execute(f"update {table} set partition_date = partition_date + ({shift})".encode())
    (health,) = rows(conn, "select * from analytics.health")
    assert (health["status"], health["is_late"]) == ("ok", False)
    assert health["predicted_day"] == health["partition_date"] + dt.timedelta(days=1)


def test_health_counts_the_rows_of_a_load_once(scored):
    conn = scored.conn
    (before,) = rows(conn, "select * from analytics.health")
    conn.execute("create sequence counted_loads")
    conn.execute(
        """
        create or replace function predictions.load_summary(of_model text, of_day date,
            of_load bigint) returns jsonb language plpgsql stable as $body$
        begin
            perform nextval('counted_loads');
            return '{"rows": {"champion": 50}, "known_as_of": "2013-07-03T00:00:00Z"}';
        end $body$
        """
    )
    assert rows(conn, "select * from analytics.health") == [before]
    # One model. Where a select list counts, each later step that names the count counts again.
    (calls,) = rows(conn, "select last_value, is_called from counted_loads")
    assert calls == {"last_value": 1, "is_called": True}


def test_versions_say_who_was_champion_when_and_why(scored):
    query = "select * from analytics.parcel_late_versions order by model_version"
    versions = rows(scored.conn, query)
    spans = [(row["champion_from"], row["champion_until"]) for row in versions]
    assert spans == [
        (dt.date(2013, 7, 1), dt.date(2013, 7, 1)),
        (dt.date(2013, 7, 2), None),
    ]
    assert [row["is_newest_champion"] for row in versions] == [False, True]
    assert {row["verdict"] for row in versions} == {"promoted"}


def test_an_analyst_reads_every_view_and_calls_no_function_of_theirs(state):
    from psycopg import errors

    query = "select viewname from pg_views where schemaname = 'analytics'"
    views = [name for (name,) in state.conn.execute(query)]
    assert len(views) == 13
    with connect(as_admin(state.settings), "test admin") as admin:
        apply_grants(admin)
        admin.execute("set role analyst")
        for name in views:
            admin.execute(f"select * from analytics.{name}".encode()).fetchall()
        with pytest.raises(errors.InsufficientPrivilege):
            admin.execute("select predictions.load_summary('parcel_late', '2013-07-01', 1)")


def test_versions_of_before_get_their_words_when_the_warehouse_is_migrated(scored):
    conn = scored.conn
    query = "select * from ml.version_explanations order by version"
    before = rows(conn, query)
    conn.execute("delete from ml.feature_references")
    conn.execute("delete from ml.version_explanations")
    # Without words a reason has no effect, and the row is there all the same.
    current = "select * from analytics.parcel_late_current where parcel_id = %s"
    (row,) = rows(conn, current, PARCEL)
    assert row["effect_1"] is None
    assert row["reason_1"]

    assert record_missing_explanations(conn, scored.store, "parcel_late") == 2
    assert rows(conn, query) == before
    assert record_missing_explanations(conn, scored.store, "parcel_late") == 0


def page_queries() -> list[str]:
    """Return the queries of the analysts' page, with the names of this module's model."""
    page = (PROJECT_ROOT / "docs" / "analysts.md").read_text(encoding="utf-8")
    for name, own in PAGE_NAMES.items():
        page = page.replace(name, own)
    return re.findall(r"```sql\n(.+?)```", page, re.DOTALL)


PAGE_NAMES = {
    "flight_delayed": "parcel_late",
    "2013-09-06_EV_4133_EWR": PARCEL,
    "2013-09-06": "2013-07-01",
    "flight_id": "parcel_id",
    "origin": "depot",
    # The state was published now, not before nine o'clock of yesterday.
    "current_date - 1": "current_date + 1",
}


def test_each_query_of_the_page_answers(scored):
    conn = scored.conn
    conn.execute(
        "insert into marts.fct_parcel_labels select parcel_id, partition_date, event_timestamp,"
        " event_timestamp, null::timestamptz, 1 from predictions.parcel_late union all"
        " select 'of a later day', '2013-07-10', now(), now(), null, 0"
    )
    conn.execute(
        "insert into ops.published (dataset, partition_date, load_id, token) values"
        " ('monitoring_performance/parcel_late', '2013-07-02', 1, 1)"
    )
    conn.execute(
        "insert into monitoring.performance (partition_date, load_id, model, evaluated_partition,"
        " slice_name, slice_value, metric, value, baseline_value, n_labels, maturity) values"
        " ('2013-07-02', 1, 'parcel_late', '2013-06-30', 'all', '', 'log_loss', 0.5, 0.6, 50,"
        " 'mature')"
    )
    conn.execute(
        "update predictions.parcel_late set event_timestamp = partition_date + time '16:00'"
    )
    conn.execute("set local search_path = analytics")
    queries = page_queries()
    assert len(queries) == 11
    for query in queries:
        answer = rows(conn, query.strip().rstrip(";"))
        assert answer, query
    # Of the questions: the newest performance, the slices, and the one row that a rerun changed.
    (performance,) = rows(conn, queries[2].strip().rstrip(";"))
    assert (performance["log_loss"], performance["of_the_rule"]) == (0.5, 0.6)
    slices = rows(conn, queries[3].strip().rstrip(";"))
    assert {row["depot"] for row in slices} == {"north", "south"}
    assert [row["parcel_id"] for row in rows(conn, queries[4].strip().rstrip(";"))] == [PARCEL]


@pytest.mark.parametrize("status", ["ok", "late", "degraded", "unknown"])
def test_a_tile_is_small_and_says_what_health_says(scored, status):
    at = dt.datetime(2013, 7, 3, tzinfo=dt.UTC)
    health = read_health(scored.conn, "parcel_late") | {"status": status, "owner": "a <b> & c"}
    if status == "unknown":
        health["partition_date"] = None
    svg = render_svg(health, at)
    words = unescape(re.sub(r"<[^>]+>", " ", svg))
    assert f"parcel_late: {status}" in words
    assert "owner a <b> & c" in words
    if status != "unknown":
        assert "50 rows, 100 % of entities" in words
        assert "champion version 2, 100 % of rows" in words
    for content in (svg, render_html(health, at)):
        assert len(content.encode()) < MAX_BYTES
        assert "script" not in content
        assert "http" not in content.replace("http://www.w3.org/2000/svg", "")


def test_a_share_that_is_not_complete_never_reads_as_complete(scored):
    health = read_health(scored.conn, "parcel_late") | {"share_of_entities": 0.99999}
    complete = next(line for line in facts(health) if line.label == "Complete")
    assert (complete.value, complete.is_good) == ("50 rows, 99.9 % of entities", False)


def test_a_tile_of_an_unknown_model_names_where_to_look(scored):
    with pytest.raises(NoTableError, match=r"analytics\.health"):
        read_health(scored.conn, "nobody")


def test_a_view_of_before_stays_under_its_version_when_columns_change_their_order(scored):
    conn, spec = scored.conn, shown_spec()
    oid = "select 'analytics.parcel_late_current{}'::regclass::oid::bigint"
    # A warehouse of the release before: the view that is v1 now was the only one.
    conn.execute("drop view analytics.parcel_late_current")
    conn.execute("alter view analytics.parcel_late_current_v1 rename to parcel_late_current")
    conn.execute("delete from ops.view_contracts where relation_name like 'parcel_late%'")
    conn.execute(
        "create view public.of_a_person as select score from analytics.parcel_late_current"
    )
    (before,) = conn.execute(oid.format("").encode()).fetchone()

    # A scoring run changes no view that is there.
    ensure_prediction_relations(conn, spec)
    assert conn.execute(oid.format("").encode()).fetchone() == (before,)

    ensure_prediction_relations(conn, spec, replace_views=True)
    assert conn.execute(oid.format("_v1").encode()).fetchone() == (before,)
    (row,) = rows(conn, "select * from analytics.parcel_late_current limit 1")
    assert list(row)[:2] == ["parcel_id", "predicted_day"]
    assert conn.execute("select count(*) from public.of_a_person").fetchone() == (100,)


def test_readers_see_every_row_while_a_view_of_before_is_replaced(state):
    conn, spec = state.conn, shown_spec()
    counts, failures = [], []
    has_ended = threading.Event()

    def read() -> None:
        with connect(state.settings, "test reader") as reader:
            while not has_ended.is_set():
                try:
                    query = "select count(*) from analytics.parcel_late_current"
                    counts.append(reader.execute(query).fetchone()[0])
                except psycopg.Error as error:
                    failures.append(error)

    with conn.transaction():
        conn.execute("drop view analytics.parcel_late_current")
        conn.execute("alter view analytics.parcel_late_current_v1 rename to parcel_late_current")
        conn.execute("delete from ops.view_contracts where relation_name like 'parcel_late%'")
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        ensure_prediction_relations(conn, spec, replace_views=True)
    finally:
        has_ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(counts) == {100}
    (row,) = rows(conn, "select * from analytics.parcel_late_current limit 1")
    assert list(row)[:2] == ["parcel_id", "predicted_day"]


def test_an_attribute_goes_only_with_a_new_version_of_the_contract(scored):
    conn, spec = scored.conn, shown_spec()
    without = make_spec(scoring=spec.scoring.model_dump())
    with pytest.raises(ViewContractError, match="depot"), conn.transaction():
        ensure_prediction_relations(conn, without, replace_views=True)
    assert "depot" in rows(conn, "select * from analytics.parcel_late_current limit 1")[0]

    without = make_spec(scoring=spec.scoring.model_dump(), analytics={"version": 2})
    ensure_prediction_relations(conn, without, replace_views=True)
    assert "depot" not in rows(conn, "select * from analytics.parcel_late_current limit 1")[0]
    assert "depot" in rows(conn, "select * from analytics.parcel_late_current_v2 limit 1")[0]
    (contract,) = rows(
        conn, "select * from ops.view_contracts where relation_name = 'parcel_late_current_v2'"
    )
    assert (contract["version"], contract["deprecated_by"]) == (
        "2.1.0",
        "analytics.parcel_late_current",
    )

    # A new attribute is a compatible change, although it stands among the first columns.
    more = make_spec(
        scoring=spec.scoring.model_dump(), analytics={"version": 2, "attributes": ["weight_kg"]}
    )
    ensure_prediction_relations(conn, more, replace_views=True)
    (row,) = rows(conn, "select * from analytics.parcel_late_current limit 1")
    assert list(row)[:3] == ["parcel_id", "predicted_day", "weight_kg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (1020.4, "hPa", 1013.0, 1018.2, -11.3),
            f"x 1,020 hPa (usual 1,013{TO}1,018): {MINUS}11.3 points",
        ),
        ((0.25, "share", 0.1, 0.1, 0.04), "x 25 % (usual 10): +0.04 points"),
        ((0.0, "in", None, 0.02, 2.0), "x 0 in (usual up to 0.02): +2 points"),
        ((-7.0, "", 3.0, None, 99.97), "x -7 (usual from 3): +100 points"),
        ((None, "in", None, None, None), "x unknown"),
    ],
)
def test_a_reason_in_words_is_short(state, arguments, words):
    value, *more = arguments
    query = "select predictions.reason_in_words('x', %s, %s, %s, %s, null, %s, 'points')"
    assert state.conn.execute(query, [json.dumps(value), *more]).fetchone() == (words,)
