"""Join published predictions to the outcomes that a night knew of them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.monitoring.maturity import LabelCount
from nightshift.warehouse.connection import label_queries
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class FeaturesNotPublishedError(NightshiftError):
    """The feature view of the partition is not published, so there is nothing to measure yet."""

    code = "NS-MONITOR-001"
    is_retryable = True


def evaluated_partition(spec: ModelSpec, partition: Partition) -> Partition:
    """Return the partition whose predictions become mature on this night: the flights of the day after it are final."""
    return partition.shift(-1 - spec.label.maturity_days)


def knowledge_cutoff(conn: Connection, spec: ModelSpec, partition: Partition) -> dt.datetime:
    """Return the as-of of a night, UTC, as its published feature rows carry it; the partition's cut-off for a night without rows.

    Raises:
        FeaturesNotPublishedError: They are not published.
    """
    from psycopg import sql

    query = sql.SQL(
        "select (select max(as_of) from {}), exists (select from ops.published where dataset = {} and partition_date = {})"
    ).format(
        published_features(spec, partition, partition),
        sql.Literal(spec.features_dataset),
        sql.Literal(partition.day),
    )
    row = conn.execute(query).fetchone()
    if row is None or not row[1]:
        raise FeaturesNotPublishedError(
            f"{spec.features_dataset} of {partition} is not published.",
            expected="one published load",
            todo="Run `transform` for this partition; the monitor follows by itself.",
        )
    as_of: dt.datetime | None = row[0]
    return as_of or partition.cutoff


def published_features(spec: ModelSpec, first: Partition, last: Partition) -> sql.Composed:
    """Return the published rows of the feature view, both partitions included, as a sub-query named ``t``."""
    return _published("features", spec.feature_table, spec.features_dataset, (first, last))


def published_predictions(spec: ModelSpec, first: Partition, last: Partition) -> sql.Composed:
    """Return the published predictions, both partitions included, as a sub-query named ``t``."""
    return _published("predictions", spec.name, spec.predictions_dataset, (first, last))


def _published(
    schema: str, table: str, dataset: str, days: tuple[Partition, Partition]
) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(
        "(select r.* from {table} r join ops.published p on p.dataset = {dataset} and p.partition_date = r.partition_date"
        " and p.load_id = r.load_id where r.partition_date between {first} and {last}) t"
    ).format(
        table=sql.Identifier(schema, table),
        dataset=sql.Literal(dataset),
        first=sql.Literal(days[0].day),
        last=sql.Literal(days[1].day),
    )


def read_outcomes(
    settings: Settings, conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> pa.Table | None:
    """Return the predictions that mature on this night with their outcomes, as known at ``as_of``.

    Entities that never get a label are left out.

    Args:
        settings: Where the warehouse is.
        conn: A connection to it.
        spec: The model.
        partition: The night that looks.
        as_of: What it may know, UTC, included.

    Returns:
        One row per labelled entity in the order of its key: ``score``, ``probability``,
            ``is_positive``, ``model_version``, ``label``, and
        the columns of the slices and of the rule baseline from the feature rows that were scored;
            None without predictions or labels.
    """
    labels = _labels(conn, spec, partition, as_of)
    if labels is None:
        return None
    query = _query(spec, evaluated_partition(spec, partition), labels)
    rows = read_arrow(settings, query, is_label_query=True)
    return rows if rows.num_rows else None


def count_labels(
    conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> LabelCount:
    """Return how many of the predictions that mature on this night had a label at ``as_of``, and how many never get one."""
    from psycopg import sql

    labels, evaluated = _labels(conn, spec, partition, as_of), evaluated_partition(spec, partition)
    if labels is None:
        return LabelCount()
    query = sql.SQL(
        """
        with labels as ({labels}), predictions as (select t.* from {predictions})
        select count(*), count(labels.label), count(*) filter (where labels.{key} is not null and labels.label is null)
        from predictions left join labels using ({key})
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        labels=labels,
        predictions=published_predictions(spec, evaluated, evaluated),
    )
    with label_queries(conn):
        row = conn.execute(query).fetchone()
    return LabelCount(*row) if row else LabelCount()


def _labels(
    conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> sql.Composed | None:
    """Return the labels as known, one row per entity, or None while there are no labels or no predictions at all."""
    from psycopg import sql

    label_columns = _columns(conn, "marts", spec.label.relation)
    if not label_columns or not _columns(conn, "predictions", spec.name):
        return None
    pointer = sql.SQL(
        "join ops.published lp on lp.dataset = {} and lp.partition_date = l.partition_date and lp.load_id = l.load_id"
    )
    return sql.SQL(
        """
        select distinct on (l.{key}) l.{key}, l.{label} as label
        from marts.{labels} l {pointer}
        where l.partition_date between {evaluated} and {night} and l.known_at <= {as_of}
            and (l.superseded_at is null or l.superseded_at > {as_of})
        order by l.{key}, l.known_at desc, l.partition_date desc
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        label=sql.Identifier(spec.label.column),
        labels=sql.Identifier(spec.label.relation),
        pointer=pointer.format(sql.Literal(f"marts/{spec.label.relation}"))
        if "load_id" in label_columns
        else sql.SQL(""),
        evaluated=sql.Literal(evaluated_partition(spec, partition).day),
        night=sql.Literal(partition.day),
        as_of=sql.Literal(as_of),
    )


def _query(spec: ModelSpec, evaluated: Partition, labels: sql.Composed) -> sql.Composed:
    from psycopg import sql

    seen = dict.fromkeys(
        [*(part.column for part in spec.promotion.slices), spec.scoring.fallback.feature]
    )
    return sql.SQL(
        """
        with labels as ({labels}), features as (select t.* from {features}), predictions as (select t.* from {predictions})
        select predictions.score, predictions.probability, predictions.is_positive, predictions.model_version,
            labels.label, {seen}
        from predictions join features using (partition_date, {key}) join labels using ({key})
        where labels.label is not null order by predictions.{key} collate "C"
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        labels=labels,
        features=published_features(spec, evaluated, evaluated),
        predictions=published_predictions(spec, evaluated, evaluated),
        seen=sql.SQL(", ").join(sql.Identifier("features", name) for name in seen),
    )


def _columns(conn: Connection, schema: str, relation: str) -> set[str]:
    found = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0",
        [schema, relation],
    )
    return {name for (name,) in found}
