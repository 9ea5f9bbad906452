"""What Prometheus is given is what the warehouse says, also when it is slow, broken or away."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from prometheus_client import CollectorRegistry
from tests.integration.metrics.world import DAY, MODEL, make_world, publish_night

from nightshift.metrics import collector
from nightshift.metrics.collector import WarehouseCollector
from nightshift.metrics.metric_views import MAX_ROWS, SCHEMA, metric_views
from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration]
HALF_AN_HOUR_LATE = dt.datetime(2013, 3, 5, 9, 30, tzinfo=dt.UTC)
"""Deadline of the night is 04:00 in New York, 09:00 UTC."""


@pytest.fixture
def read(settings, monkeypatch):
    """Return a function that reads the metrics now, as a registry."""
    monkeypatch.setattr(collector, "MIN_SECONDS_BETWEEN_READS", 0)

    def read_now(at=HALF_AN_HOUR_LATE, changed=settings):
        registry = CollectorRegistry()
        registry.register(WarehouseCollector(changed, at))
        return registry

    return read_now


def value(registry, name, **labels):
    return registry.get_sample_value(f"nightshift_{name}", labels)


def test_every_number_is_that_of_the_warehouse(conn, read):
    make_world(conn)
    metrics = read()

    assert value(metrics, "up") == 1
    predictions = f"predictions/{MODEL}"
    assert value(metrics, "dataset_rows", dataset=predictions) == 4
    # The audit of the write path recorded the memory of this very process.
    assert value(metrics, "dataset_load_peak_memory_bytes", dataset=predictions) > 20e6
    assert value(metrics, "dataset_load_rows_per_second", dataset="raw/weather") == pytest.approx(
        485, rel=0.01
    )
    midnight = dt.datetime(2013, 3, 4, tzinfo=dt.UTC).timestamp()
    assert (
        value(metrics, "dataset_newest_partition_timestamp_seconds", dataset="raw/weather")
        == midnight
    )
    assert value(metrics, "delivery_delivered_rows", dataset="raw/weather") == 1000
    assert value(metrics, "delivery_refused_rows", dataset="raw/weather") == 30
    assert value(metrics, "delivery_open_refused_rows", dataset="raw/weather") == 1
    assert value(metrics, "champion_version", model=MODEL) == 3
    assert value(metrics, "champion_age_seconds", model=MODEL) == 10 * 86400
    assert value(metrics, "predictions_fallback_ratio", model=MODEL) == 0.25
    assert value(metrics, "predictions_rows", model=MODEL, source="fallback_rule") == 1
    assert value(metrics, "predictions_rows", model=MODEL, source="carried_over") == 0
    assert value(metrics, "monitor_drifted_features", model=MODEL) == 12
    assert value(metrics, "monitor_broken_features", model=MODEL) == 2
    assert value(metrics, "monitor_score_distance", model=MODEL) == 1.5
    assert value(metrics, "monitor_is_drift_breached", model=MODEL) == 1
    assert value(metrics, "quality_value", model=MODEL, metric="roc_auc") == 0.71
    assert value(metrics, "quality_baseline", model=MODEL, metric="roc_auc") == 0.55
    assert value(metrics, "retrain_open_requests", model=MODEL) == 1
    two_days = dt.timedelta(days=2).total_seconds()
    assert value(metrics, "retrain_oldest_seconds", model=MODEL) == pytest.approx(two_days, abs=60)
    memory = value(metrics, "task_peak_memory_bytes", dag=f"score__{MODEL}", task="score_shard")
    assert memory == 700e6
    for stage in ("ingest", "score", "monitor", "train", "promotion"):
        seconds = value(metrics, "stage_last_success_timestamp_seconds", stage=stage)
        assert dt.datetime.now(dt.UTC).timestamp() - seconds < 120
    assert value(metrics, "stage_last_success_timestamp_seconds", stage="transform") is None


def test_an_evaluator_that_has_stopped_is_seen(conn, read):
    assert value(read(), "evaluation_last_timestamp_seconds") == 0
    conn.execute(
        """
        insert into ops.incident_rules
            (kind, aspect, evaluated_at, succeeded_at, seconds, n_found, problem)
        values ('late predictions', 'publication', '2013-03-05 09:00+00', null, 0.1, 0, 'NS-X-001'),
            ('lost rows', 'rows', '2013-03-05 09:20+00', '2013-03-05 09:20+00', 0.1, 0, null)
        """
    )
    looked_at = dt.datetime(2013, 3, 5, 9, 20, tzinfo=dt.UTC).timestamp()
    assert value(read(), "evaluation_last_timestamp_seconds") == looked_at
    assert value(read(), "evaluation_failed_rules") == 1


def test_delay_is_counted_from_the_first_publication(conn, read):
    publish_night(conn, ["fallback_rule"])
    conn.execute("alter table ops.ledger disable trigger ledger_is_append_only")
    conn.execute("update ops.ledger set at = '2013-03-05 08:40+00'")
    # The correction of the next week publishes the same night again.
    publish_night(conn, ["champion"])
    metrics = read()
    assert value(metrics, "predictions_late", model=MODEL) == 0
    assert value(metrics, "predictions_delay_seconds", model=MODEL) == -20 * 60
    # The other model has published nothing: its delay grows until now.
    late = "arrival_delay_minutes"
    assert value(metrics, "predictions_late", model=late) == 1
    assert value(metrics, "predictions_delay_seconds", model=late) == 30 * 60
    due = value(metrics, "predictions_next_deadline_timestamp_seconds", model=late)
    assert dt.datetime.fromtimestamp(due, dt.UTC) == dt.datetime(2013, 3, 6, 9, tzinfo=dt.UTC)


def test_a_warehouse_that_is_away_is_a_metric_and_no_error(settings, read):
    away = settings.model_copy(update={"warehouse_port": 1})
    metrics = read(changed=away)
    assert value(metrics, "up") == 0
    assert value(metrics, "read_problem", code="NS-WAREHOUSE-001") == 1
    assert value(metrics, "dataset_rows", dataset=f"predictions/{MODEL}") is None


def test_a_broken_and_a_slow_view_take_no_other_with_them(conn, read, monkeypatch):
    monkeypatch.setattr(collector, "STATEMENT_TIMEOUT_SECONDS", 1)
    make_world(conn)
    conn.execute(
        "create view metrics.broken as select 'a'::text as label, 1 / (random() < 0)::int as x"
    )
    conn.execute("create view metrics.slow as select 'a'::text as label, 1 as x from pg_sleep(300)")
    metrics = read()
    assert value(metrics, "up") == 1
    assert value(metrics, "read_failed", view="broken") == 1
    assert value(metrics, "read_failed", view="slow") == 1
    # It was ended; the others may take their time on a busy machine.
    assert value(metrics, "read_seconds") < 60
    # Read before and after the two.
    assert value(metrics, "champion_version", model=MODEL) == 3
    assert value(metrics, "predictions_fallback_ratio", model=MODEL) == 0.25


def test_series_are_bounded_and_the_rest_is_counted(conn, read):
    conn.execute(
        """
        create view metrics.many as
        select 'label ' || n as label, n as x from generate_series(1, 1200) n
        """
    )
    metrics = read()
    many = [family for family in metrics.collect() if family.name == "nightshift_many_x"]
    assert len(many[0].samples) == MAX_ROWS
    assert value(metrics, "dropped_rows", view="many") == 1200 - MAX_ROWS


def test_nothing_can_be_written(conn, read, settings):
    conn.execute("create table public.t (x int)")
    conn.execute(
        """
        create function metrics.f() returns int language plpgsql as
        $$ begin insert into public.t values (1); return 1; end $$
        """
    )
    conn.execute("create view metrics.writes as select 'a'::text as label, metrics.f() as x")
    assert value(read(), "read_failed", view="writes") == 1
    assert conn.execute("select count(*) from public.t").fetchone() == (0,)


def test_many_scrapes_at_once_read_the_warehouse_once(settings, monkeypatch):
    n_reads = []
    monkeypatch.setattr(collector, "metric_views", lambda _: n_reads.append(1) or [])
    source = WarehouseCollector(settings)
    threads = [threading.Thread(target=lambda: list(source.collect())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(n_reads) == 1


def test_every_metric_is_explained_in_the_catalog_and_on_the_page(conn):
    page = (PROJECT_ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    views = metric_views(conn)
    assert {"dataset", "champion", "quality"} <= {view.name for view in views}
    for view in views:
        # Two samples of one metric need a label; one row needs none, also in an empty warehouse.
        if not view.labels:
            assert len(conn.execute(view.query()).fetchall()) == 1, f"{SCHEMA}.{view.name}"
        assert all(view.values.values()), f"{SCHEMA}.{view.name} has a column without a comment"
        for column in view.values:
            assert f"`nightshift_{view.name}_{column}`" in page


def test_a_published_load_is_counted_once(conn, read, settings):
    publish_night(conn, ["champion"])
    registry = read()
    assert value(registry, "predictions_rows", model=MODEL, source="champion") == 1
    # Rows that nobody published do not change a load; the count of the first scrape stays.
    conn.execute(f"delete from predictions.{MODEL}".encode())
    assert value(registry, "predictions_rows", model=MODEL, source="champion") == 1
    publish_night(conn, ["fallback_rule", "fallback_rule"], DAY)
    assert value(registry, "predictions_rows", model=MODEL, source="fallback_rule") == 2
