"""Read the rows to predict for: whole loads of the feature view, by shard."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.training.feature_query import features_target, select_rows
from nightshift.warehouse.damage import published_records, refuse_damaged
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.scoring.plan import DayPlan, ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

SAMPLE_ROWS = 1_000
"""Rows on which a champion shows that it works before a shard relies on it."""


class FeaturesMissingError(NightshiftError):
    """The feature view has no published load of a partition."""

    code = "NS-SCORE-003"


@dataclass(frozen=True)
class FeatureLoad:
    """The published load of the feature view for one partition."""

    partition_date: dt.date
    load_id: int
    content_hash: str
    n_rows: int


def published_features(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange
) -> list[FeatureLoad]:
    """Return the load of each partition that readers see now, in order.

    Raises:
        FeaturesMissingError: A partition has none.
        DamagedInputError: Its rows are not what was published.
    """
    records = published_records(conn, spec.features_dataset, partitions.days)
    missing = sorted(set(partitions.days) - {record.partition_date for record in records})
    if missing:
        raise FeaturesMissingError(
            f"The feature view {spec.feature_view} is not published for {len(missing)} of {len(partitions)} partition(s).",
            expected=f"all of {partitions}",
            got=f"none for {', '.join(map(str, missing[:5]))}",
            todo="Run `transform` for them first.",
        )
    refuse_damaged(conn, features_target(spec), records)
    return [
        FeatureLoad(record.partition_date, record.load_id, record.content_hash, record.n_rows or 0)
        for record in records
    ]


def shard_query(
    spec: ModelSpec, plan: ScorePlan, days: Sequence[DayPlan], shard: int, features: Sequence[str]
) -> sql.Composed:
    """Return the query of one shard's rows of some days, in no order, from the loads that the plan names.

    It selects ``partition_date``, the entity's key, the event timestamp, ``as_of`` and the
    features.
    """
    from psycopg import sql

    loads = sql.SQL(", ").join(
        sql.SQL("({}::date, {})").format(
            sql.Literal(d.partition_date), sql.Literal(d.feature_load_id)
        )
        for d in days
    )
    condition = sql.SQL("(partition_date, load_id) in ({})").format(loads)
    if plan.n_shards > 1:
        condition += sql.SQL(" and ") + shard_condition(spec, plan.n_shards, shard)
    return select_rows(spec, features, condition, is_ordered=False)


def read_sample(
    settings: Settings, spec: ModelSpec, load: FeatureLoad, features: Sequence[str]
) -> pa.Table:
    """Return some rows of one load, with the columns of ``shard_query``; which ones may differ: an order would read the whole load."""
    from psycopg import sql

    condition = sql.SQL("partition_date = {}::date and load_id = {}").format(
        sql.Literal(load.partition_date), sql.Literal(load.load_id)
    )
    rows = select_rows(spec, features, condition, is_ordered=False)
    return read_arrow(settings, rows + sql.SQL(" limit {}").format(sql.Literal(SAMPLE_ROWS)))


def shard_condition(spec: ModelSpec, n_shards: int, shard: int) -> sql.Composed:
    """Return the SQL condition that puts every entity into exactly one shard."""
    from psycopg import sql

    return sql.SQL("abs(mod(hashtextextended({}, 0), {})) = {}").format(
        sql.Identifier(spec.entity.key), sql.Literal(n_shards), sql.Literal(shard)
    )


def in_key_order(spec: ModelSpec, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch ordered by partition and key: neighbours in the index are then stored together, in a third of the time."""
    import pyarrow.compute as pc

    key = rows.column(spec.entity.key)
    day = rows.column("partition_date")
    is_ordered = pc.and_(
        pc.less_equal(day.slice(0, max(len(day) - 1, 0)), day.slice(1)),
        pc.less(key.slice(0, max(len(key) - 1, 0)), key.slice(1)),
    )
    if pc.all(is_ordered).as_py() is not False:
        return rows
    return rows.sort_by([("partition_date", "ascending"), (spec.entity.key, "ascending")])
