"""Read the rows to predict for: published loads of the feature view, by shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.training.feature_query import features_target, select_rows
from nightshift.training.training_query import in_sample
from nightshift.warehouse import partition_write
from nightshift.warehouse.damage import DamagedInputError, published_records, refuse_damaged
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.scoring.plan import DayPlan, ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.content_hash import LoadKey
    from nightshift.warehouse.damage import LoadRecord

SAMPLE_ROWS = 1_000
"""Rows of a model's trial."""


class FeaturesMissingError(NightshiftError):
    """The feature view has no published load of a partition."""

    code = "NS-SCORE-003"


def published_features(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange
) -> list[LoadRecord]:
    """Return the published load of the feature view for each partition, in order.

    Raises:
        FeaturesMissingError: A partition has none.
        DamagedInputError: Its rows differ from what was published.
    """
    loads = published_records(conn, spec.features_dataset, partitions.days)
    missing = sorted(set(partitions.days) - {load.partition_date for load in loads})
    if missing:
        raise FeaturesMissingError(
            f"The feature view {spec.feature_view} is not published for"
            f" {len(missing)} of {len(partitions)} partition(s).",
            expected=f"all of {partitions}",
            got=f"none for {', '.join(map(str, missing[:5]))}",
            todo="Run `transform` for them first.",
        )
    refuse_damaged(conn, features_target(spec), loads)
    return loads


def refuse_damaged_features(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> None:
    """Refuse the load if feature rows vanished or changed while it was scored.

    Raises:
        DamagedInputError: They have.
    """
    scored = {(day.partition_date, day.feature_load_id) for day in plan.days}
    published = published_records(conn, spec.features_dataset, plan.partitions.days)
    # A newer feature load that was published meanwhile was not scored.
    records = [record for record in published if record.key in scored]
    try:
        refuse_damaged(conn, features_target(spec), records)
    except DamagedInputError as error:
        reason = f"{error.code}: {error.what}"
        partition_write.refuse(conn, plan.write(spec), reason)
        raise


def shard_query(
    spec: ModelSpec, plan: ScorePlan, days: Sequence[DayPlan], shard: int, features: Sequence[str]
) -> sql.Composed:
    """Return the query of one shard's feature rows of some days, in no order.

    It selects ``partition_date``, the entity's key, the event timestamp, ``as_of`` and the
    features.
    """
    from psycopg import sql

    condition = _in_loads((day.partition_date, day.feature_load_id) for day in days)
    # Hashing every key costs time, and one shard has all of them.
    if plan.n_shards > 1:
        condition += sql.SQL(" and ") + shard_condition(spec, plan.n_shards, shard)
    return select_rows(spec, features, condition, is_ordered=False)


def features_of_load(
    spec: ModelSpec, load: LoadRecord, features: Sequence[str], share: float = 1.0
) -> sql.Composed:
    """Return the query of the rows of one load, as ``features_of_loads``."""
    return features_of_loads(spec, [load], features, share)


def features_of_loads(
    spec: ModelSpec, loads: Sequence[LoadRecord], features: Sequence[str], share: float = 1.0
) -> sql.Composed:
    """Return the query of the rows of some loads, as ``shard_query``, in no order.

    Below 1, ``share`` takes the entities that a training set's sample of this share has.
    """
    from psycopg import sql

    condition = _in_loads(load.key for load in loads)
    if share < 1:
        key = sql.Identifier(spec.entity.key)
        condition += sql.SQL(" and ") + in_sample(key, share)
    return select_rows(spec, features, condition, is_ordered=False)


def read_sample(
    settings: Settings, spec: ModelSpec, load: LoadRecord, features: Sequence[str]
) -> pa.Table:
    """Return up to ``SAMPLE_ROWS`` rows of one load, with the columns of ``shard_query``."""
    from psycopg import sql

    # Any rows serve: an order would read the complete load.
    rows = features_of_load(spec, load, features)
    limit = sql.SQL(" limit {}").format(sql.Literal(SAMPLE_ROWS))
    return read_arrow(settings, rows + limit)


def _in_loads(loads: Iterable[LoadKey]) -> sql.Composed:
    """Return the SQL condition that keeps the rows of some loads, each of one day."""
    from psycopg import sql

    pair = sql.SQL("({}::date, {})")
    pairs = [pair.format(sql.Literal(day), sql.Literal(load_id)) for day, load_id in loads]
    return sql.SQL("(partition_date, load_id) in ({})").format(sql.SQL(", ").join(pairs))


def shard_condition(spec: ModelSpec, n_shards: int, shard: int) -> sql.Composed:
    """Return the SQL condition that puts every entity into exactly one shard."""
    from psycopg import sql

    return sql.SQL("abs(mod(hashtextextended({}, 0), {})) = {}").format(
        sql.Identifier(spec.entity.key), sql.Literal(n_shards), sql.Literal(shard)
    )


def in_key_order(spec: ModelSpec, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch ordered by partition and key.

    Neighbours in the index are then stored together: the write takes a third of the time.
    """
    import pyarrow.compute as pc

    day, key = rows.column("partition_date"), rows.column(spec.entity.key)
    n_pairs = max(len(rows) - 1, 0)
    is_ordered = pc.and_(
        pc.less_equal(day.slice(0, n_pairs), day.slice(1)),
        pc.less(key.slice(0, n_pairs), key.slice(1)),
    )
    if pc.all(is_ordered).as_py() is not False:
        return rows
    return rows.sort_by([("partition_date", "ascending"), (spec.entity.key, "ascending")])
