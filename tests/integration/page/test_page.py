"""The page without Airflow: who may see it, what it says, and that it reads nothing else."""

from __future__ import annotations

import datetime as dt
import json
import re

import psycopg
import pytest
from tests.integration.page.conftest import (
    HOST,
    N_DAYS,
    N_FEATURES,
    PASSWORD,
    open_page,
    pages_of,
)
from tests.integration.page.year import HOSTILE, HOSTILE_LEVEL, reference_document

from nightshift.lake.object_store import ObjectStore
from nightshift.page import reader as reader_module
from nightshift.page.documents import drift
from nightshift.page.reader import PageBusyError, PageReader, PageRoleError
from nightshift.warehouse.analysts.page_reader import RELATIONS
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.acts import Act, recorded_act

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STORED = ("/stored/report/model_00/{day}", "/stored/evidence/1", "/stored/gate/{day}/raw/weather")


def test_nobody_sees_anything_without_a_login(settings_of_year, last):
    with open_page(settings_of_year, is_logged_in=False) as stranger:
        addresses = [
            *pages_of(last),
            *(path.format(day=last) for path in STORED),
            "/nothing",
            "/docs",
        ]
        for address in addresses:
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = stranger.request(method, address)
                assert answer.status_code == 401, (method, address)
                assert "model_0" not in answer.text
        assert stranger.get("/style.css").status_code == 200


def test_another_host_name_is_refused_before_the_login_is_looked_at(client):
    answer = client.get("/", headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert HOST not in answer.text


def test_a_wrong_password_is_recorded_and_never_written_down(settings_of_year, caplog):
    guess = "a-guess-of-this-test"
    with open_page(settings_of_year, is_logged_in=False) as stranger:
        answer = stranger.post("/login", data={"password": guess})
        assert answer.status_code == 401
        assert not stranger.cookies
        foreign = {"Origin": "https://evil.example"}
        assert (
            stranger.post("/login", data={"password": PASSWORD}, headers=foreign).status_code == 403
        )
        assert stranger.post("/login", content=b"x" * 10_000).status_code == 413
        right = stranger.post("/login", data={"password": PASSWORD}, follow_redirects=False)
    assert "a wrong login was refused" in caplog.text
    assert guess not in caplog.text + answer.text
    cookie = right.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert PASSWORD not in cookie


def test_every_page_is_made_and_its_json_is_the_same_document(client, last):
    for address in pages_of(last):
        page = client.get(address)
        assert page.status_code == 200, (address, page.text[:300])
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "<script" not in page.text
        sign = "&" if "?" in address else "?"
        document = client.get(f"{address}{sign}format=json")
        assert document.headers["content-type"] == "application/json"
        assert document.json()["absent"] == [] or address in ("/", "/acts")


def test_names_from_the_warehouse_are_escaped(client):
    text = client.get("/models/model_00").text
    assert HOSTILE not in text
    assert HOSTILE_LEVEL not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in text
    document = client.get("/models/model_00?format=json").json()
    assert document["facts"]["description"] == HOSTILE


def test_hostile_addresses_are_answered_and_escaped(client):
    for address in (
        "/models/<script>",
        "/drift?last=<script>",
        "/drift?last=0001-01-01",
        "/drift?last=9999-12-31",
        "/partitions/0001-01-01",
        "/partitions/x",
        "/acts?actor=<script>",
        "/data/'--",
    ):
        answer = client.get(address)
        assert answer.status_code in (200, 404)
        assert "<script>" not in answer.text


def test_figures_are_those_of_the_views(client, settings_of_year, last):
    with connect(settings_of_year, "test") as conn:
        in_sql = conn.execute(
            "select status, count(*) from ops.model_calendar where model = 'model_00' group by 1"
        ).fetchall()
        quality = conn.execute(
            "select value from monitoring.performance_published where model = 'model_01'"
            " and slice_name = 'all' and metric = 'roc_auc' order by partition_date"
        ).fetchall()
    calendar = client.get("/partitions?model=model_00&format=json").json()
    assert calendar["counts"] == dict(in_sql)
    document = client.get("/models/model_01?metric=roc_auc&format=json").json()
    assert [row["value"] for row in document["quality"]] == [value for (value,) in quality]


def test_odd_days_have_their_word(client, last):
    first = last - dt.timedelta(days=209)
    calendar = client.get("/partitions?model=model_00&format=json").json()
    by_day = {row["partition_date"]: row["status"] for row in calendar["days"]}
    odd = {day: word for day, word in by_day.items() if word != "published"}
    expected = {
        40: "late",
        90: "fallback",
        91: "fallback",
        92: "fallback",
        120: "republished",
        200: "hole",
    }
    assert odd == {str(first + dt.timedelta(days=index)): word for index, word in expected.items()}


def test_a_failed_try_is_not_on_the_critical_path(client, last):
    document = client.get(f"/partitions/{last}?model=model_01&format=json").json()
    assert [row["step"] for row in document["path"]] == [
        "ingest.load_orders",
        "ingest.announce_raw",
        "transform.build",
        "score__model_01.begin",
        "score__model_01.score_shard",
        "score__model_01.publish",
    ]
    assert {row["step"] for row in document["steps"]} >= {"ingest.load_shops"}


def test_what_was_run_again_after_publication_is_not_on_the_critical_path(changed_year, last):
    with connect(changed_year, "test") as conn:
        conn.execute(
            "insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt,"
            " partition_date, started_at, ended_at, outcome) select dag_id, dag_run_id, task_id,"
            " map_index, 2, partition_date, ended_at + interval '1 hour',"
            " ended_at + interval '2 hours', outcome from ops.task_tries"
            " where dag_id = 'score__model_01' and task_id = 'score_shard'"
            " and partition_date = %s",
            [last],
        )
    with open_page(changed_year) as client:
        document = client.get(f"/partitions/{last}?model=model_01&format=json").json()
    assert [row["step"] for row in document["path"]][-2:] == [
        "score__model_01.score_shard",
        "score__model_01.publish",
    ]


def test_an_unusual_volume_stands_out(client, last):
    first = last - dt.timedelta(days=209)
    document = client.get("/data/raw/weather?format=json").json()
    unusual = [row["partition_date"] for row in document["volumes"] if row["is_unusual"]]
    assert unusual == [str(first + dt.timedelta(days=150))]


def test_quarantine_shows_counts_and_no_value(client):
    text = client.get("/data/raw/weather").text
    assert "is no number" in text
    assert "a secret value" not in text


def test_the_two_distributions_are_those_of_reference_and_partition(changed_year, last):
    store = ObjectStore.open(changed_year)
    store.ensure_bucket()
    content = reference_document(12)
    digest = store.put("models/reference-of-the-test.json", content)
    with connect(changed_year, "test") as conn:
        conn.execute("alter table ml.model_versions disable trigger user")
        conn.execute(
            "update ml.model_versions set metadata_key = %s, metadata_sha256 = %s",
            ["models/reference-of-the-test.json", digest],
        )
    with open_page(changed_year) as client:
        document = client.get(f"/drift/model_00/feature_00/{last}?format=json").json()
        page = client.get(f"/drift/model_00/feature_00/{last}")
    shares = {row["bin"]: row for row in document["bins"]}
    assert sum(row["partition_share"] for row in document["bins"]) == pytest.approx(1)
    assert sum(row["reference_share"] for row in document["bins"]) == pytest.approx(1)
    # The seeded numbers have mean 0.3 and standard deviation 1.1: 34 % lie between 0 and 1.
    assert shares["0 ≤ x < 1"]["partition_share"] == pytest.approx(0.34, abs=0.03)
    assert shares["(missing)"]["partition_share"] == pytest.approx(0.02)
    assert "<svg" in page.text


def test_a_night_shows_its_level_and_what_moved_its_predictions(changed_year, last):
    with connect(changed_year, "test") as conn:
        conn.execute("drop table if exists predictions.model_00 cascade")
        conn.execute(
            "create table predictions.model_00 (partition_date date, load_id bigint, causes jsonb)"
        )
        for causes in ('{"weather": 0.5, "route": -0.1}', '{"weather": -0.3, "route": -0.1}'):
            conn.execute(
                "insert into predictions.model_00 select partition_date, load_id, %s::jsonb"
                " from ops.published where dataset = 'predictions/model_00'"
                " and partition_date = %s",
                [causes, last],
            )
    with open_page(changed_year) as client:
        document = client.get(f"/partitions/{last}?model=model_00&format=json").json()
        text = client.get(f"/partitions/{last}?model=model_00").text
    (level,) = document["levels"]
    assert level["n_nights"] == 14
    weather, route = document["causes"]
    assert (weather["cause"], route["cause"]) == ("weather", "route")
    assert weather["mean_contribution"] == pytest.approx(0.1)
    assert (weather["mean_size"], weather["share"]) == (pytest.approx(0.4), pytest.approx(0.8))
    assert "Level of the night" in text
    assert "80 %" in text
    # The role of the page gets the sums and no row.
    with connect(changed_year, "test") as conn:
        conn.execute("set role page_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from predictions.model_00")


def test_quality_stands_with_its_interval_against_the_baseline(client):
    document = client.get("/models/model_01?metric=roc_auc&format=json").json()
    row = document["quality"][-1]
    assert row["low"] < row["value"] < row["high"]
    assert row["baseline_value"] < row["low"]
    assert {"shift", "n_nights"} <= document["levels"][-1].keys()
    page = client.get("/models/model_01?metric=roc_auc").text
    assert "model, 95 % interval" in page
    assert "Level of each night" in page
    models = {row["model"]: row for row in client.get("/models?format=json").json()["models"]}
    assert models["model_01"]["low"] is not None


def test_importance_is_shown_over_time(client, settings_of_year):
    document = client.get("/models/model_02?format=json").json()
    rows = document["importances"]
    newest = max(row["version"] for row in rows)
    versions = sorted({row["version"] for row in rows})
    assert versions == list(range(newest - 7, newest + 1))
    for version in versions:
        assert sum(r["share"] for r in rows if r["version"] == version) == pytest.approx(1.0)
    with connect(settings_of_year, "test") as conn:
        query = "select feature, share from ml.importances where model = %s and version = %s"
        of_view = dict(conn.execute(query, ["model_02", newest]).fetchall())
    of_page = {row["feature"]: row["share"] for row in rows if row["version"] == newest}
    assert of_page == of_view
    page = client.get("/models/model_02").text
    assert "Importance over time" in page
    first = document["important"][0]
    assert f"<title>{first}, v{newest}: {of_view[first]:.1%}</title>" in page


def test_only_a_version_that_serves_has_a_day_from_which_it_serves(client):
    decisions = client.get("/models/model_01?format=json").json()["decisions"]
    by_verdict = {row["verdict"]: row["serves_from"] for row in decisions}
    assert {"first", "promoted", "refused", "shadowed"} == by_verdict.keys()
    assert by_verdict["refused"] is by_verdict["shadowed"] is None
    for row in decisions:
        if row["verdict"] in ("first", "promoted"):
            assert row["serves_from"] == row["effective_partition"]


def test_an_act_says_what_was_asked_for(changed_year):
    asked = {"dag": "ingest", "partition_key": "2013-02-04", "conf": {}, "note": None, "n": 0}
    act = Act("airflow.trigger", "airflow", "airflow:ann", "a test", asked)
    with recorded_act(changed_year, act):
        pass
    with open_page(changed_year) as client:
        page = client.get("/acts").text
    assert ">dag ingest, n 0, partition_key 2013-02-04</code>" in page


def test_a_year_of_drift_is_the_view_in_json_and_on_the_map(changed_year, last):
    n_days = N_DAYS * N_FEATURES
    query = """
        select partition_date, feature, kind, distance as units, is_drifted, is_slow
        from monitoring.drift_published where model = 'model_01' order by feature, partition_date
    """
    with connect(changed_year, "test") as conn:
        # A gap, and a distance that is unknown: lists must not move against each other.
        conn.execute(
            "delete from monitoring.drift where partition_date = %s and feature = 'feature_03'",
            [last - dt.timedelta(days=9)],
        )
        conn.execute(
            "update monitoring.drift set distance = null, is_drifted = false"
            " where partition_date = %s and feature = 'feature_05'",
            [last - dt.timedelta(days=5)],
        )
        cursor = conn.execute(query)
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    with open_page(changed_year) as client:
        document = client.get("/drift?model=model_01&days=366&format=json").json()
        short = client.get("/drift?model=model_01&days=30").text
    assert len(rows) == n_days - 1
    assert document["cells"] == json.loads(json.dumps(rows, default=str))
    assert document["n_cells"] == len(rows)
    assert short.count('<a href="/drift/model_01/') >= 30 * N_FEATURES - 1
    fewest = min(document["features"], key=lambda row: row["feature"])
    of_one = [row for row in rows if row["feature"] == fewest["feature"]]
    assert fewest["largest_units"] == max(row["units"] for row in of_one)
    assert fewest["n_drifted"] == sum(row["is_drifted"] for row in of_one)
    assert fewest["newest_day"] == str(of_one[-1]["partition_date"])


def test_the_map_of_one_model_reads_the_pointers_of_no_other(settings_of_year, last):
    values = {"model": "model_01", "first": last - dt.timedelta(days=365), "last": last}
    with connect(settings_of_year, "test") as conn:
        plan = conn.execute(f"explain {drift.DRIFT_QUERY}", values).fetchall()
    # By the dataset of the model; by an expression of each row all 50 models' would be read.
    assert any("dataset = 'monitoring_drift/model_01'" in line for (line,) in plan)


def test_a_map_begins_with_the_first_measured_day(changed_year, last):
    with connect(changed_year, "test") as conn:
        conn.execute("delete from monitoring.drift where partition_date < %s", [last])
    with open_page(changed_year) as client:
        document = client.get("/drift?model=model_01&days=366&format=json").json()
    assert document["days"] == [str(last)]


def test_versions_of_before_have_no_importance_and_a_page(changed_year):
    with connect(changed_year, "test") as conn:
        conn.execute("alter table ml.model_versions disable trigger user")
        conn.execute("update ml.model_versions set importance = null where model = 'model_01'")
    with open_page(changed_year) as client:
        page = client.get("/models/model_01")
    assert page.status_code == 200
    assert "Importance over time" not in page.text


def test_a_stored_page_is_a_document_of_its_own_without_rights(changed_year, last):
    store = ObjectStore.open(changed_year)
    store.ensure_bucket()
    with connect(changed_year, "test") as conn:
        key, load_id = conn.execute(
            "select dataset, load_id from ops.published where dataset = 'raw/weather'"
            " and partition_date = %s",
            [last],
        ).fetchone()
    store.put(f"data_docs/{key}/{last}/{load_id}-1.html", b"<h1>Checks</h1>", "text/html")
    with open_page(changed_year) as client:
        frame = client.get(f"/stored/gate/{last}/raw/weather")
        raw = client.get(f"/stored/gate/{last}/raw/weather?raw=1")
        missing = client.get(f"/stored/gate/{last}/raw/orders?raw=1")
        unknown = client.get("/stored/evidence/999999?raw=1")
    assert 'sandbox="allow-scripts"' in frame.text
    assert raw.text == "<h1>Checks</h1>"
    policy = raw.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "allow-same-origin" not in policy
    assert (missing.status_code, unknown.status_code) == (404, 404)


def test_the_role_reads_what_it_is_given_and_nothing_else(settings_of_year):
    pages = PageReader(settings_of_year)
    refused = ("quarantine.refused_rows", "ops.loads", "ml.promotions", "raw.weather")
    with pages.snapshot() as snapshot:
        assert snapshot.rows("select current_user as name")[0]["name"] == "page_reader"
        for relation in RELATIONS:
            if snapshot.has(relation):
                snapshot.rows(f"select * from {relation} limit 1")
    assert len(snapshot.absent) < 5
    for relation in refused:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), pages.snapshot() as snapshot:
            snapshot.rows(f"select * from {relation}")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pages.snapshot() as snapshot:
        snapshot.rows("create temporary table x ()")
    pages.close()


def test_a_page_never_waits_long_and_holds_few_sessions(settings_of_year, monkeypatch):
    monkeypatch.setattr(reader_module, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(reader_module, "WAIT_SECONDS", 1)
    pages = PageReader(settings_of_year)
    with pytest.raises(PageBusyError, match="in time"), pages.snapshot() as snapshot:
        snapshot.rows("select pg_sleep(5)")
    busy = pytest.raises(PageBusyError, match="in use")
    with pages.snapshot(), pages.snapshot(), pages.snapshot(), busy, pages.snapshot():
        pass
    with pages.snapshot() as snapshot:
        assert snapshot.rows("select 1 as one") == [{"one": 1}]
    pages.close()


def test_a_session_that_the_server_ended_is_replaced(settings_of_year, client):
    assert client.get("/acts").status_code == 200
    with connect(settings_of_year, "test") as conn:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'nightshift page' and datname = current_database()"
        )
    assert client.get("/acts").status_code == 200


def test_a_warehouse_without_the_role_is_named(settings_of_year, monkeypatch):
    monkeypatch.setattr(reader_module, "PAGE_READER", "page_reader_of_nobody")
    with (
        pytest.raises(PageRoleError, match="page_reader_of_nobody"),
        PageReader(settings_of_year).snapshot(),
    ):
        pass


def test_every_error_of_the_page_is_answered_without_its_text(
    settings_of_year, monkeypatch, caplog
):
    def fail(*_):
        raise ValueError("a value of a row")

    monkeypatch.setattr("nightshift.page.documents.now.now_document", fail)
    with open_page(settings_of_year) as client:
        answer = client.get("/")
    assert answer.status_code == 500
    assert "a value of a row" not in answer.text
    assert answer.headers["content-security-policy"]


def look(conn, ago):
    """Record that a rule was evaluated some time ago."""
    conn.execute("delete from ops.incident_rules")
    conn.execute(
        "insert into ops.incident_rules"
        " (kind, aspect, evaluated_at, succeeded_at, seconds, n_found)"
        " select 'late predictions', 'publication', at, at, 0.1, 0"
        " from (select clock_timestamp() - %s::interval as at) now",
        [ago],
    )


def test_no_incident_is_good_news_only_if_somebody_has_just_looked(changed_year):
    with connect(changed_year, "test") as conn, open_page(changed_year) as client:
        conn.execute("delete from ops.incident_rules")
        assert "Nobody has looked yet" in client.get("/").text
        assert "No open incident." not in client.get("/").text
        look(conn, "26 minutes")
        stale = client.get("/").text
        assert "Nobody has looked since" in stale
        assert "No open incident." not in stale
        assert "Last looked for at" not in stale
        look(conn, "1 minute")
        fresh = client.get("/").text
        document = client.get("/?format=json").json()
    assert "No open incident." in fresh
    assert "Nobody has looked" not in fresh
    assert document["evaluation"]["is_fresh"] is True


def test_the_page_now_is_renewed_until_a_reader_stops_it(client):
    renewed = client.get("/")
    assert renewed.headers["refresh"] == "60"
    (href,) = re.findall(r'<a href="([^"]+)">Stop that</a>', renewed.text)
    still = client.get(href)
    assert "refresh" not in still.headers
    assert "Renew it every minute" in still.text
    assert "refresh" not in client.get("/models").headers


def test_two_hundred_incidents_are_one_page(changed_year):
    with connect(changed_year, "test") as conn:
        if conn.execute("select to_regclass('ops.open_incidents')").fetchone() == (None,):
            pytest.skip("this warehouse has no ops.open_incidents")
        conn.execute(
            """
            insert into ops.incidents (kind, fact_key, code, severity, health, aspect, subject_type,
                subject, owner, what, consequence, command, runbook, worse_rank)
            select 'late', i::text, 'NS-FRESH-001', case when i = 150 then 'critical' else 'warning'
                end, 'degraded', 'publication', 'model', 'model_00', 'team', 'What <b>' || i,
                'Readers wait.', 'nightshift rescue', 'docs/runbooks/NS-FRESH-001.md', 1
            from generate_series(1, 200) i
            """
        )
    with open_page(changed_year) as client:
        text = client.get("/").text
        document = client.get("/?format=json").json()
    assert document["n_incidents"] == 200
    # The number is what `nightshift incidents ack` wants.
    assert f"incident {document['incidents'][0]['incident_id']} " in text
    assert document["incidents"][0]["what"] == "What <b>150"
    assert len(document["incidents"]) == 100
    assert "The 100 worst of 200." in text
    assert len(re.findall(r'<li class="incident ', text)) == 100
    assert "<b>" not in text
