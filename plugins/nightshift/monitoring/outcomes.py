"""Join published predictions to their outcomes, as known at a partition's as-of; count labels."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.errors import NightshiftError
from nightshift.models.signature import numbers
from nightshift.monitoring.trigger import loss_lag_days
from nightshift.registry.canary.record import CANARY
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.training.training_query import label_value, refuse_unknown_classes
from nightshift.warehouse.connection import label_queries
from nightshift.warehouse.fast_io.arrow_io import read_arrow
from nightshift.warehouse.published import join_published, known_at_condition
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


Maturity = Literal["immature", "maturing", "mature"]


@dataclass(frozen=True)
class LabelCount:
    """The known labels of one partition's predictions.

    Attributes:
        n_predictions: Published predictions.
        n_labels: Of these, with a label.
        n_never: Of these, known never to get one: the label row exists, and its label is null.
    """

    n_predictions: int = 0
    n_labels: int = 0
    n_never: int = 0

    @property
    def share(self) -> float | None:
        """Return the share of known labels among those that can exist, 1 is best; None of none."""
        possible = self.n_predictions - self.n_never
        return self.n_labels / possible if possible else None

    def maturity(self, spec: ModelSpec) -> Maturity:
        """Return ``mature`` from the spec's minimum share on, ``immature`` without any label."""
        if not self.n_labels:
            return "immature"
        is_mature = (self.share or 0.0) >= spec.monitoring.minimum_label_share
        return "mature" if is_mature else "maturing"


class FeaturesNotPublishedError(NightshiftError):
    """The feature view of the partition is not published, so nothing can be measured yet."""

    code = "NS-MONITOR-001"
    is_retryable = True


def evaluated_partition(spec: ModelSpec, partition: Partition) -> Partition:
    """Return the partition whose predictions mature: the outcomes of its next day are final."""
    return partition.shift(-loss_lag_days(spec))


def knowledge_cutoff(conn: Connection, spec: ModelSpec, partition: Partition) -> dt.datetime:
    """Return the as-of of the published feature rows, UTC; without rows the partition's cut-off.

    Raises:
        FeaturesNotPublishedError: They are not published.
    """
    from psycopg import sql

    # One statement, one snapshot: the rows are those of the pointer that was found. A night
    # without rows is published too.
    query = sql.SQL(
        """
        select (select max(as_of) from {}), exists (
            select from ops.published where dataset = {} and partition_date = {})
        """
    ).format(
        _features_query(spec, partition),
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


def read_features(
    settings: Settings, spec: ModelSpec, partition: Partition, application_name: str
) -> pa.Table:
    """Return the published feature rows of a partition, sorted by entity key."""
    from psycopg import sql

    query = sql.SQL("select t.* from {} order by t.{} collate {}").format(
        _features_query(spec, partition),
        sql.Identifier(spec.entity.key),
        sql.Identifier("C"),
    )
    return read_arrow(settings, query, application_name)


def _features_query(spec: ModelSpec, partition: Partition) -> sql.Composed:
    return _published("features", spec.feature_table, spec.features_dataset, partition)


def has_predictions(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether the model has a table of predictions."""
    return bool(table_columns(conn, "predictions", spec.name))


def source_left_out(conn: Connection, spec: ModelSpec, partition: Partition) -> str:
    """Return ``canary`` if a canary made some published predictions, else nothing.

    What is measured of the champion is measured on the rows alongside them.
    """
    from psycopg import sql

    if not has_predictions(conn, spec):
        return ""
    query = sql.SQL("select exists (select from {} where score_source = {})").format(
        predictions_query(spec, partition),
        sql.Literal(CANARY),
    )
    return CANARY if conn.execute(query).fetchone() == (True,) else ""


def predictions_query(spec: ModelSpec, partition: Partition) -> sql.Composed:
    """Return a sub-query, named ``t``, of the published predictions of a partition."""
    return _published("predictions", spec.name, spec.predictions_dataset, partition)


def _published(schema: str, table: str, dataset: str, partition: Partition) -> sql.Composed:
    from psycopg import sql

    query = sql.SQL("(select r.* from {table} r {published} where r.partition_date = {day}) t")
    return query.format(
        table=sql.Identifier(schema, table),
        published=join_published(dataset, "r"),
        day=sql.Literal(partition.day),
    )


def read_outcomes(
    settings: Settings, conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> pa.Table | None:
    """Return the predictions that mature at a partition with their outcomes.

    Entities that never get a label are left out.

    Args:
        settings: The warehouse.
        conn: A connection to it.
        spec: The model.
        partition: The monitored partition.
        as_of: Knowledge cut-off, UTC, included.

    Returns:
        One row per labelled entity, sorted by its key: ``score``, ``probability``,
            ``is_positive``, ``decile``, ``model_version``, ``score_source``, ``label``, the columns
            of the slices, of the rule and of the group from the scored feature rows, those of the
            interval and of the classes; None without predictions or labels.

    Raises:
        UnknownClassError: A label is none of the declared classes.
    """
    from psycopg import sql

    labels = _labels(conn, spec, partition, as_of)
    if labels is None:
        return None
    evaluated = evaluated_partition(spec, partition)
    # A column may be both a slice and the rule's feature: it is selected once.
    slices = [part.column for part in spec.promotion.slices]
    columns = dict.fromkeys([*slices, *spec.scoring.fallback.columns, *spec.group_columns])
    # A warehouse that was not migrated yet has no intervals.
    table = table_columns(conn, "predictions", spec.name)
    more = [name for name in (*INTERVAL_COLUMNS, *spec.class_columns.values()) if name in table]
    query = sql.SQL(
        """
        with labels as ({labels}),
        features as (select t.* from {features}),
        predictions as (select t.* from {predictions})
        select predictions.score, predictions.probability, predictions.is_positive,
            predictions.decile, predictions.model_version, predictions.score_source,
            labels.label {columns} {more}
        from predictions
        join features using (partition_date, {key})
        join labels using ({key})
        where labels.label is not null order by predictions.{key} collate "C"
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        labels=labels,
        features=_features_query(spec, evaluated),
        predictions=predictions_query(spec, evaluated),
        columns=_more_columns("features", columns),
        more=_more_columns("predictions", more),
    )
    rows = read_arrow(settings, query, is_label_query=True)
    if not rows.num_rows:
        return None
    refuse_unknown_classes(spec, numbers(rows, "label"))
    return rows


def _more_columns(relation: str, names: Iterable[str]) -> sql.Composed:
    """Return columns of a relation, each after a comma."""
    from psycopg import sql

    columns = [sql.SQL(", {}").format(sql.Identifier(relation, name)) for name in names]
    return sql.Composed(columns)


def count_labels(
    conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> LabelCount:
    """Count the labels, known at ``as_of``, of the predictions that mature at a partition."""
    from psycopg import sql

    labels = _labels(conn, spec, partition, as_of)
    if labels is None:
        return LabelCount()
    evaluated = evaluated_partition(spec, partition)
    query = sql.SQL(
        """
        with labels as ({labels}), predictions as (select t.* from {predictions})
        select count(*), count(labels.label),
            count(*) filter (where labels.{key} is not null and labels.label is null)
        from predictions left join labels using ({key})
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        labels=labels,
        predictions=predictions_query(spec, evaluated),
    )
    with label_queries(conn):
        row = conn.execute(query).fetchone()
    return LabelCount(*row) if row else LabelCount()


def _labels(
    conn: Connection, spec: ModelSpec, partition: Partition, as_of: dt.datetime
) -> sql.Composed | None:
    """Return a query of the labels as known, one row per entity; None before their tables exist."""
    from psycopg import sql

    relation = spec.label.relation
    label_columns = table_columns(conn, "marts", relation)
    if not label_columns or not has_predictions(conn, spec):
        return None
    # A view of raw versions has no loads of its own: known_at alone tells what was known.
    published = sql.Composed([])
    if "load_id" in label_columns:
        published = join_published(f"marts/{relation}", "l", "lp")
    query = sql.SQL(
        """
        select distinct on (l.{key}) l.{key}, {label} as label
        from marts.{labels} l {published}
        where l.partition_date between {first} and {last} and {is_known}
        order by l.{key}, l.known_at desc, l.partition_date desc
        """
    )
    return query.format(
        key=sql.Identifier(spec.entity.key),
        label=label_value(spec, "l"),
        labels=sql.Identifier(relation),
        published=published,
        first=sql.Literal(evaluated_partition(spec, partition).day),
        last=sql.Literal(partition.day),
        is_known=known_at_condition(as_of, "l"),
    )
