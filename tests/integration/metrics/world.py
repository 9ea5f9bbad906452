"""A small warehouse with something to measure in every view of schema ``metrics``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.scoring.prediction_tables import ensure_prediction_relations, predictions_target
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.partition_write import LoadManifest, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

MODEL = "flight_delayed"
DAY = "2013-03-04"


def publish_night(conn: Connection, sources: list[str], day: str = DAY, model: str = MODEL) -> int:
    """Publish one row per score source through the write path; return the load."""
    spec = load_spec(PROJECT_ROOT / "dags" / "models", model)
    ensure_prediction_relations(conn, spec)
    manifest = LoadManifest(RunContext("test"), {"sources": json.dumps(sources)})
    write = begin(conn, [predictions_target(spec)], PartitionRange.of(day), manifest)
    for number, source in enumerate(sources):
        conn.execute(
            f"insert into predictions.{model} (partition_date, load_id, shard, flight_id,"
            " event_timestamp, score, decile, features_as_of, score_source, run_id)"
            " values (%s, %s, 0, %s, now(), 0.5, 1, now(), %s, 'r')".encode(),
            [day, write.load_id, f"f{number}", source],
        )
    audit(conn, write)
    publish(conn, write)
    return write.load_id


def publish_record(conn: Connection, dataset: str, day: str, n_rows: int, seconds: float) -> int:
    """Record a published load that took so long; its rows are nowhere, the views read none."""
    (load_id,) = conn.execute("select nextval('ops.load_id_seq')").fetchone()
    values = {"dataset": dataset, "day": day, "load": load_id, "rows": n_rows, "s": seconds}
    conn.execute(
        """
        insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
            actor, code_version, inputs, inputs_digest, n_rows, started_at, published_at,
            peak_memory_bytes)
        values (%(dataset)s, %(day)s, %(load)s, 1, 'published', 'r', 1, 'airflow', 'c', '{}', 'd',
            %(rows)s, now() - make_interval(secs => %(s)s), now(), 512000000)
        """,
        values,
    )
    conn.execute(
        """
        insert into ops.published (dataset, partition_date, load_id, token)
        values (%(dataset)s, %(day)s, %(load)s, 1)
        on conflict (dataset, partition_date) do update set load_id = excluded.load_id
        """,
        values,
    )
    conn.execute(
        """
        insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor)
        values (%(dataset)s, %(day)s, %(load)s, 'published', 1, 'r', 'airflow')
        """,
        values,
    )
    return load_id


def make_world(conn: Connection) -> None:
    """Publish a night with a fallback, refused rows, a champion, drift, quality and a request."""
    publish_night(conn, ["champion", "champion", "champion", "fallback_rule"])
    load_id = publish_record(conn, "raw/weather", DAY, 970, 2.0)
    conn.execute(
        """
        insert into raw.ingested_drops (dataset, partition_date, load_id, known_at, source_uri,
            source_sha256, contract_digest, n_delivered, n_duplicated, n_refused, n_accepted)
        values ('raw/weather', %s, %s, now(), 'u', 's', 'c', 1000, 0, 30, 970)
        """,
        [DAY, load_id],
    )
    conn.execute(
        """
        insert into quarantine.refused_rows (dataset, partition_date, load_id, known_at, source_uri,
            source_sha256, source_row, reason, delivered, row_digest)
        values ('raw/weather', %s, %s, now(), 'u', 's', 7, 'wrong', '{}', 'd')
        """,
        [DAY, load_id],
    )
    make_champion(conn)
    make_verdict(conn)
    conn.execute(
        """
        insert into monitoring.retrain_decisions (model, partition_date, reasons, evidence,
            opened_by, opened_at)
        values (%s, %s, '{drift}', '{}', 'test', now() - interval '2 days')
        """,
        [MODEL, DAY],
    )
    conn.execute(
        """
        insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt, partition_date,
            ended_at, outcome, peak_memory_bytes)
        values ('score__flight_delayed', 'r', 'score_shard', 0, 1, %s, now(), 'success', 700000000)
        """,
        [DAY],
    )


def make_champion(conn: Connection) -> None:
    """Register version 3, whose fit ended ten days before, and promote it."""
    conn.execute(
        """
        insert into ml.training_sets (training_set, model, partition_date, as_of, first_day,
            last_day, n_rows, sha256, spec_digest, code_version, manifest, run_id)
        values ('t', %s, '2013-02-24', now(), '2013-01-01', '2013-02-22', 9, 's', 'd', 'c',
            '{}', 'r')
        """,
        [MODEL],
    )
    conn.execute(
        """
        insert into ml.model_versions (model, version, digest, model_key, model_sha256,
            metadata_key, metadata_sha256, trees_sha256, training_set, partition_date, fit_end,
            spec_digest, code_version, metrics, figures, run_id)
        values (%s, 3, 'd', 'k', 's', 'k', 's', 's', 't', '2013-02-24', '2013-02-22', 'd', 'c',
            '{}', '{}', 'r')
        """,
        [MODEL],
    )
    conn.execute(
        """
        insert into ml.promotions (model, version, verdict, partition_date, effective_partition,
            reasons, numbers, run_id, actor)
        values (%s, 3, 'first', '2013-02-24', '2013-02-25', '{}', '{}', 'r', 'test')
        """,
        [MODEL],
    )


def make_verdict(conn: Connection) -> None:
    """Publish a verdict with 12 of 40 features drifted, and a mature metric."""
    load_id = publish_record(conn, f"monitoring/{MODEL}", DAY, 1, 1.0)
    conn.execute(
        """
        insert into monitoring.verdicts (partition_date, load_id, model, model_version,
            drift_status, score_drift_status, performance_status, n_features, n_drifted, n_faults,
            score_distance, metric, metric_value, metric_expected, n_labels, evaluated_partition,
            breached_days, in_cooldown, has_triggered, reasons)
        values (%s, %s, %s, 3, 'breached', 'ok', 'unknown', 40, 12, 2, 1.5, 'roc_auc', 0.71, 0.74,
            800, '2013-03-02', '{}', false, false, '[]')
        """,
        [DAY, load_id, MODEL],
    )
    load_id = publish_record(conn, f"monitoring_performance/{MODEL}", DAY, 1, 1.0)
    conn.execute(
        """
        insert into monitoring.performance (partition_date, load_id, model, evaluated_partition,
            slice_name, slice_value, metric, value, baseline_value, n_labels, model_version,
            maturity)
        values (%s, %s, %s, '2013-03-02', 'all', 'all', 'roc_auc', 0.71, 0.55, 800, 3, 'mature')
        """,
        [DAY, load_id, MODEL],
    )
