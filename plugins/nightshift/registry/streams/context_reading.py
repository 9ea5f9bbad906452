"""Read what the promotion gate decides on: training set, champion, and the stream's nights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.champions import champion_for
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.streams.members import stream_of
from nightshift.registry.streams.nights import StreamEvidence, read_evidence
from nightshift.registry.streams.paired_rows import labelled, read_pairs
from nightshift.training.training_set import find_training_set, mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

MAXIMUM_STREAM_DAYS = 60
"""Newest nights of a stream whose rows the checks read; the test itself counts all nights."""


def read_context(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    challenger: ModelVersion,
    partition: Partition,
) -> PromotionContext:
    """Return the context of a decision that a partition makes about a challenger.

    Raises:
        TrainingSetError: The challenger's training set is not recorded.
    """
    champion = champion_for(conn, challenger.model, partition.shift(1))
    stream = stream_of(spec, challenger.version)
    number = champion.version if champion else None
    evidence = read_evidence(conn, spec, stream, partition, number)
    training_set = find_training_set(conn, challenger.training_set)
    query = "select manifest from ml.training_sets where training_set = %s"
    (manifest,) = conn.execute(query, [training_set.key]).fetchone() or ({},)
    return PromotionContext(
        settings=settings,
        store=ObjectStore.open(settings),
        spec=spec,
        training_set=training_set,
        manifest=manifest,
        challenger=challenger,
        champion=champion,
        evidence=replace(evidence, pairs=_read_pairs(settings, conn, spec, evidence, number)),
    )


def _read_pairs(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    evidence: StreamEvidence,
    champion: int | None,
) -> pa.Table | None:
    """Return the labelled rows of the champion's stream nights; None while there are too few."""
    import pyarrow.compute as pc

    if evidence.since is None or evidence.champion_nights < spec.promotion.minimum_stream_days:
        return None
    partition = evidence.partition
    last = mature_window(spec, partition).last
    # A range without end would read a year of rows for checks that a few weeks answer.
    first = max(evidence.since, last.shift(1 - MAXIMUM_STREAM_DAYS).day)
    partitions = PartitionRange(Partition(first), last)
    pairs = read_pairs(settings, conn, spec, evidence.stream, partitions, partition)
    is_own = pc.equal(pairs.column("champion_version"), champion)
    return labelled(spec, pairs.filter(is_own))
