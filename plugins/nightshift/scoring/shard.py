"""Score one shard of a plan: read feature rows, predict, and stage the predictions as a stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.prefetch import Prefetcher
from nightshift.scoring.canary.rows import days_by_canary, open_canary
from nightshift.scoring.feature_rows import in_key_order, shard_query
from nightshift.scoring.model_loading import Models, blame_model, load_scorer, load_version
from nightshift.scoring.plan import day_intervals, day_positions, level_shifts
from nightshift.scoring.prediction_tables import SCHEMA, missing_columns, model_query
from nightshift.scoring.without_model.rows import stage_without_model
from nightshift.warehouse.fast_io.arrow_io import stream_arrow
from nightshift.warehouse.fast_io.copy_stream import append_stream
from nightshift.warehouse.partition_write import hold_stage

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.canary.rows import CanaryRows
    from nightshift.scoring.plan import DayPlan, ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import Transaction

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
"""Time between two lines of progress in the task's log."""


@dataclass(frozen=True)
class ShardJob:
    """One shard of a plan, and the run that scores it."""

    settings: Settings
    spec: ModelSpec
    plan: ScorePlan
    shard: int
    run: RunContext


def stage_shard(conn: Connection, job: ShardJob) -> None:
    """Replace the shard's staged rows, unless the load is audited already.

    Reading, predicting and writing overlap, a few batches ahead of each other: the memory does not
    grow with the partition.

    Raises:
        ChampionBrokenError: A model of the plan cannot score.
    """
    # Before the shard's lock is taken: loading may take minutes.
    models = load_models(conn, job)
    _stage_days_without_model(conn, job)
    if not models:
        return
    name = f"shard {job.shard} of {job.spec.name}"
    n_expected = _expected_rows(conn, job)
    scored = _scored_batches(job, models)
    # New code on a warehouse that was not migrated yet: the night does not wait for a column.
    missing = missing_columns(conn, job.spec)
    if missing:
        scored = (_without(rows, missing) for rows in scored)
    with Prefetcher(scored) as batches:
        append_stream(
            job.settings,
            SCHEMA,
            job.spec.name,
            log_progress(batches, name, n_expected),
            lambda transaction: _clear_rows(transaction, job, job.plan.days_with_model),
            job.run.application_name,
        )


def _without(rows: pa.Table, names: Collection[str]) -> pa.Table:
    return rows.drop_columns([name for name in rows.column_names if name in names])


def load_models(conn: Connection, job: ShardJob) -> Models:
    """Return the models of the plan by version.

    Raises:
        ChampionBrokenError: A version cannot be loaded.
    """
    models = {}
    for version in job.plan.days_by_version:
        with blame_model(version, job.run):
            models[version] = load_version(job.settings, conn, job.spec, version)
    return models


def _stage_days_without_model(conn: Connection, job: ShardJob) -> None:
    days = job.plan.days_without_model
    if not days:
        return
    with conn.transaction():
        if _clear_rows(conn, job, days):
            stage_without_model(conn, job.spec, job.plan, job.shard, job.run)


def _clear_rows(transaction: Transaction, job: ShardJob, days: Sequence[DayPlan]) -> bool:
    """Delete the shard's staged rows of some days, and lock the shard for this transaction.

    Returns:
        Whether rows may be staged; nothing is deleted if not.
    """
    from psycopg import sql

    # One writer per shard: a later attempt waits here until the earlier one has ended.
    name = sql.Literal(f"score {job.plan.load_id} {job.shard}")
    lock = sql.SQL("select pg_advisory_xact_lock(hashtextextended({}, 0))::text")
    transaction.execute(lock.format(name))
    # The lock of the load keeps the audit away: nothing is staged after it.
    if hold_stage(transaction, job.plan.write(job.spec)) != "staged":
        return False
    delete = model_query(
        job.spec,
        """
        delete from {predictions}
        where partition_date = any({days}) and load_id = {load_id} and shard = {shard}
        """,
        days=sql.Literal([day.partition_date for day in days]),
        load_id=sql.Literal(job.plan.load_id),
        shard=sql.Literal(job.shard),
    )
    transaction.execute(delete)
    return True


def _scored_batches(job: ShardJob, models: Models) -> Iterator[pa.Table]:
    """Yield the finished rows of the shard, batch by batch."""
    for version, days in job.plan.days_by_version.items():
        model = models[version]
        with blame_model(version, job.run):
            scorer = load_scorer(job.spec, model)
        for of_canary in days_by_canary(days):
            canary = open_canary(job.settings, job.spec, of_canary, job.run)
            names = model.signature.names + (canary.names_beside(model) if canary else [])
            query = shard_query(job.spec, job.plan, of_canary, job.shard, names)
            stream = stream_arrow(job.settings, query, job.run.application_name)
            with Prefetcher(stream) as feature_batches:
                for batch in feature_batches:
                    rows = in_key_order(job.spec, batch)
                    if canary:
                        rows, its_rows = canary.split(rows)
                        yield from _canary_rows(job, canary, its_rows)
                    # Only what the model does is its fault: the stream and the writer are outside.
                    with blame_model(version, job.run):
                        scored = scorer.score(rows, level_shifts(of_canary, rows))
                    yield _prediction_rows(job, of_canary, rows, scored)


def _canary_rows(job: ShardJob, canary: CanaryRows, rows: pa.RecordBatch) -> Iterator[pa.Table]:
    """Yield the finished rows of a batch that a canary scores; nothing for none."""
    if rows.num_rows:
        yield _prediction_rows(job, canary.steps, rows, canary.score(rows))


def _prediction_rows(
    job: ShardJob, days: Sequence[DayPlan], rows: pa.RecordBatch, scored: pa.Table
) -> pa.Table:
    """Return the columns of the predictions table, shape (n, 18), with causes (n, 19)."""
    import pyarrow as pa

    # A batch may hold rows of several days, and each day has its own step and reason.
    day_index = day_positions(days, rows)
    sources = pa.array([day.score_source for day in days], pa.string())
    reasons = pa.array([day.score_source_reason for day in days], pa.string())
    key = job.spec.entity.key
    columns = {
        "partition_date": rows.column("partition_date"),
        key: rows.column(key),
        "event_timestamp": rows.column(job.spec.event_timestamp),
        "features_as_of": rows.column("as_of"),
        **dict(zip(scored.column_names, scored.columns, strict=True)),
        **day_intervals(days, rows, scored),
        "score_source": sources.take(day_index),
        "score_source_reason": reasons.take(day_index),
    }
    constants: dict[str, int | str | None] = {
        "load_id": job.plan.load_id,
        "shard": job.shard,
        # One version scores all days of a batch.
        "model_version": days[0].model_version,
        "run_id": job.run.run_id,
    }
    for name, value in constants.items():
        columns[name] = pa.repeat(value, rows.num_rows)
    return pa.table(columns)


def _expected_rows(conn: Connection, job: ShardJob) -> int:
    """Return about how many rows the shard has: an even part of the feature loads' rows."""
    # The planned loads, which need not be those that readers see by now.
    query = """
        select coalesce(sum(n_rows), 0) from ops.loads
        where dataset = %s and load_id = any(%s) and partition_date between %s and %s
    """
    loads = [day.feature_load_id for day in job.plan.days_with_model]
    first, last = job.plan.partitions.first.day, job.plan.partitions.last.day
    row = conn.execute(query, [job.spec.features_dataset, loads, first, last]).fetchone()
    return int(row[0]) // job.plan.n_shards if row else 0


def log_progress(batches: Iterable[pa.Table], name: str, n_expected: int) -> Iterator[pa.Table]:
    """Pass batches on; log rows, speed and time left every ten seconds, and the total at the end.

    Args:
        batches: What is staged; a batch counts when the next is requested.
        name: What is scored.
        n_expected: About how many rows there will be.
    """
    n_rows = 0
    started = logged = time.monotonic()
    for batch in batches:
        yield batch
        n_rows += batch.num_rows
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged = now
            rate = max(n_rows, 1) / (now - started)
            # The expectation is an even part: a shard may have more.
            seconds_left = max(n_expected - n_rows, 0) / rate
            rows = f"{n_rows:,} of about {n_expected:,} rows, {rate:,.0f} rows/s"
            logger.info("%s: %s, %.0f s left", name, rows, seconds_left)
    seconds = max(time.monotonic() - started, 1e-9)
    rows = f"{n_rows:,} rows in {seconds:.1f} s, {n_rows / seconds:,.0f} rows/s"
    logger.info("%s: %s", name, rows)
