"""Score a partition with the challengers, through the write path, where no analyst looks.

It happens after the champion's predictions are published, and nothing waits for it: the features
are those that the champion scored, the champion's own scores are the published ones. Reasons are
left out, so that a challenger costs a part of what the champion costs. Source:
docs/adr/0043-promotion-on-streams.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import PartitionRange
from nightshift.prefetch import Prefetcher
from nightshift.scoring.feature_rows import features_of_load, in_key_order, published_features
from nightshift.scoring.plan import digest_rows
from nightshift.scoring.shadow.challengers import find_members, load_challengers
from nightshift.scoring.shadow.shadow_tables import (
    ensure_shadow_table,
    keep_levels,
    refuse_incomplete,
    shadow_query,
    shadow_target,
)
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import stream_arrow
from nightshift.warehouse.fast_io.copy_stream import append_stream

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.shadow.challengers import Challenger
    from nightshift.settings import Settings
    from nightshift.warehouse.damage import LoadRecord


@dataclass(frozen=True)
class ShadowJob:
    """The shadow scoring of one partition.

    Attributes:
        settings: The warehouse and the bucket.
        spec: The model.
        features: The feature load that is scored.
        challengers: What scores it.
        write: The begun write.
        run: Who scores.
    """

    settings: Settings
    spec: ModelSpec
    features: LoadRecord
    challengers: Sequence[Challenger]
    write: partition_write.PartitionWrite
    run: RunContext


def score_shadows(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> partition_write.PublishedLoad | None:
    """Score a partition with every challenger and publish the scores; None without a challenger.

    Idempotent: a partition that is published is scored again by the versions that scored it, so its
    content is equal. A challenger that cannot score is left out.

    Raises:
        FeaturesMissingError: The feature view is not published for the partition.
        DamagedInputError: Its rows differ from what was published.
        ShadowError: No challenger can score.
        IncompleteShadowError: Rows are missing; nothing is published.
        WarehouseError: The warehouse cannot be reached.
    """
    partitions = PartitionRange(partition, partition)
    with connect(settings, run.application_name) as conn:
        members = find_members(conn, spec, partition)
        if not members:
            return None
        [features] = published_features(conn, spec, partitions)
        challengers = load_challengers(
            settings, conn, spec, members, features, run.application_name
        )
        ensure_shadow_table(conn, spec)
        target = shadow_target(spec, may_be_empty=features.n_rows == 0)

        manifest = _manifest(spec, features, challengers, run)
        write = partition_write.begin(conn, [target], partitions, manifest)
        keep_levels(conn, write, [challenger.level for challenger in challengers], run)
        job = ShadowJob(settings, spec, features, challengers, write, run)
        stage_scores(job)
        # The audit counts rows; how many there must be, only the feature load tells.
        shares = {challenger.stream: challenger.share for challenger in challengers}
        refuse_incomplete(conn, spec, write, shares, features)
        partition_write.audit(conn, write)
        [published] = partition_write.publish(conn, write)
        partition_write.collect(conn, [target])
    return published


def _manifest(
    spec: ModelSpec, features: LoadRecord, challengers: Sequence[Challenger], run: RunContext
) -> partition_write.LoadManifest:
    models = [challenger.input for challenger in challengers]
    levels = [
        [challenger.stream, challenger.level.level.input]
        for challenger in challengers
        if challenger.level.level.input
    ]
    inputs = {
        "features": digest_rows([[str(features.partition_date), features.content_hash]]),
        "models": digest_rows(models),
        "spec": spec.digest,
    }
    # As for predictions: a level that adds nothing is no input.
    if levels:
        inputs["levels"] = digest_rows(levels)
    return partition_write.LoadManifest(run, inputs, reads={spec.features_dataset: 0})


def stage_scores(job: ShadowJob) -> int:
    """Replace the staged rows of the load, unless it is audited already; return their number."""
    [target] = job.write.targets
    with Prefetcher(_scored_batches(job)) as batches:
        return append_stream(
            job.settings,
            target.schema,
            target.table,
            batches,
            lambda transaction: _clear_rows(transaction, job),
            job.run.application_name,
        )


def _clear_rows(transaction: partition_write.Transaction, job: ShadowJob) -> bool:
    from psycopg import sql

    # The lock of the load keeps the audit away: nothing is staged after it.
    if partition_write.hold_stage(transaction, job.write) != "staged":
        return False
    delete = shadow_query(
        job.spec,
        "delete from {shadow} where load_id = {load}",
        load=sql.Literal(job.write.load_id),
    )
    transaction.execute(delete)
    return True


def _scored_batches(job: ShadowJob) -> Iterator[pa.Table]:
    """Yield the rows of every stream: each batch of features is read once for all of them."""
    names: dict[str, None] = {}
    for challenger in job.challengers:
        names |= dict.fromkeys(challenger.scorer.feature_names)
    query = features_of_load(job.spec, job.features, list(names))
    # Reading, predicting and writing overlap, so the memory does not grow with the partition.
    stream = stream_arrow(job.settings, query, job.run.application_name)
    with Prefetcher(stream) as batches:
        for batch in batches:
            rows = in_key_order(job.spec, batch)
            for challenger in job.challengers:
                own = challenger.rows_of(job.spec, rows)
                scored = challenger.scorer.score(own, challenger.level.level.shift)
                yield _shadow_rows(job, challenger, own, scored)


def _shadow_rows(
    job: ShadowJob, challenger: Challenger, rows: pa.RecordBatch, scored: pa.Table
) -> pa.Table:
    """Return the columns of the shadow table, shape (n, 8), and one of each class."""
    import pyarrow as pa

    n = rows.num_rows
    key = job.spec.entity.key
    return pa.table(
        {
            "partition_date": rows.column("partition_date"),
            "load_id": pa.repeat(job.write.load_id, n),
            "stream": pa.repeat(challenger.stream, n),
            key: rows.column(key),
            "model_version": pa.repeat(challenger.version, n),
            "score": scored.column("score"),
            "probability": scored.column("probability"),
            "features_as_of": rows.column("as_of"),
            **{name: scored.column(name) for name in job.spec.class_columns.values()},
        }
    )
