"""SQL of a training set: published features, joined to the labels that were known at the as-of."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.tasks.ranking import MAXIMUM_RELEVANCE
from nightshift.errors import NightshiftError
from nightshift.warehouse.connection import label_queries
from nightshift.warehouse.fast_io.arrow_io import read_arrow
from nightshift.warehouse.published import join_published, known_at_condition
from nightshift.warehouse.relations.columns import table_columns, text_literal

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

LOAD_COLUMNS = ("load_id", "run_id", "loaded_at")
"""Columns that describe the load of a row. They would give equal rows another content hash."""

# Another seed than that of the scoring shards, so that a sample is not a set of shards.
SAMPLE_SEED = 20130101
SAMPLE_MASK = (1 << 40) - 1


UNKNOWN_CLASS = -1.0
"""Number of a label that is none of the declared classes."""


class UnknownClassError(NightshiftError):
    """Labels have values that the task does not have: no declared class, or no relevance."""

    code = "NS-TRAIN-018"


def label_value(spec: ModelSpec, alias: str) -> sql.Composable:
    """Return the expression of a label of a relation: of classes the number of its class, from 0.

    Labels are compared with the declared classes as texts.
    """
    from psycopg import sql

    label = sql.Identifier(alias, spec.label.column)
    if not spec.classes:
        return label
    # array_position counts from 1 and gives null for what it does not find.
    return sql.SQL(
        "case when {label} is not null then"
        " (coalesce(array_position(array[{classes}], {label}::text), 0) - 1)::double precision end"
    ).format(label=label, classes=sql.SQL(", ").join(map(text_literal, spec.classes)))


def refuse_unknown_classes(spec: ModelSpec, label: Vector) -> None:
    """Refuse labels that the task does not have; every reader of labels calls it.

    Args:
        spec: The model.
        label: Of ``label_value``, shape (n,).

    Raises:
        UnknownClassError: There are labels that are none of the declared classes, or, of a
            ranking, no relevance.
    """
    import numpy as np

    if spec.is_ranking:
        known = label[~np.isnan(label)]
        is_relevance = (known >= 0) & (known <= MAXIMUM_RELEVANCE) & (known % 1 == 0)
        n_wrong = int((~is_relevance).sum())
        if n_wrong:
            raise UnknownClassError(
                f"{n_wrong} of {label.size} labels of {spec.name} are no relevance.",
                expected=f"marts.{spec.label.relation}.{spec.label.column} is a whole number from 0"
                f" (not relevant) to {MAXIMUM_RELEVANCE}",
                got=f"{n_wrong} other value(s)",
                todo="Deliver the outcomes again, or make steps of the value in the label"
                " relation: 0, 1, 2, … for none, some, much.",
            )
    n_unknown = int((label == UNKNOWN_CLASS).sum()) if spec.classes else 0
    if n_unknown:
        raise UnknownClassError(
            f"{n_unknown} of {label.size} labels of {spec.name} are none of its classes.",
            expected=f"marts.{spec.label.relation}.{spec.label.column} is one of"
            f" {', '.join(spec.classes)}",
            got=f"{n_unknown} other value(s)",
            todo="Deliver the outcomes again, or map the value to a class in the label relation; a"
            " model that predicts a new class is one with another name.",
        )


@dataclass(frozen=True)
class TrainingQuery:
    """The queries of one training set; all of them read the same rows.

    Attributes:
        conn: Warehouse connection.
        spec: Feature view, label and entity key.
        window: Feature partitions of the rows.
        partition: Partition of the training, the last one in which a label may stand.
        as_of: Cut-off of the labels, UTC, included.
    """

    conn: Connection
    spec: ModelSpec
    window: PartitionRange
    partition: Partition
    as_of: dt.datetime

    def rows(self, sampled_share: float) -> sql.Composed:
        """Return the query of the labelled rows, ordered by partition and entity key.

        Each key gets the latest version of its label that was known, and not superseded, at
        ``as_of``.
        """
        from psycopg import sql

        # All columns of the view are kept: slices, the rule and later specs read more than the
        # features.
        names = relation_columns(self.conn, "features", self.spec.feature_table)
        columns = [sql.Identifier("f", name) for name in names if name not in LOAD_COLUMNS]
        return sql.SQL(
            """
            with labels as ({labels})
            select {columns}, labels.{label} {features}
            join labels on labels.{key} = f.{key}
            where labels.{label} is not null and {in_sample}
            order by f.partition_date, f.{key} collate "C"
            """
        ).format(
            key=sql.Identifier(self.spec.entity.key),
            label=sql.Identifier(self.spec.label.column),
            columns=sql.SQL(", ").join(columns),
            labels=self.labels,
            features=self._published_features,
            in_sample=in_sample(_sampled_by(self.spec), sampled_share),
        )

    @property
    def labels(self) -> sql.Composed:
        """Return the query of the key and the label of every entity, as known at ``as_of``."""
        from psycopg import sql

        return sql.SQL(
            """
            select distinct on (l.{key}) l.{key}, {value} as {label} {known_labels}
            order by l.{key}, l.known_at desc, l.partition_date desc
            """
        ).format(
            key=sql.Identifier(self.spec.entity.key),
            label=sql.Identifier(self.spec.label.column),
            value=label_value(self.spec, "l"),
            known_labels=self._known_labels,
        )

    def read(self, settings: Settings, query: sql.Composed, application_name: str) -> pa.Table:
        """Run the query of the rows, planned for label relations, and return its result."""
        return read_arrow(settings, query, application_name, is_label_query=True)

    def count_rows(self) -> int:
        """Return the number of published feature rows, with or without a label."""
        from psycopg import sql

        query = sql.SQL("select count(*) {}").format(self._published_features)
        (n_rows,) = self.conn.execute(query).fetchone() or (0,)
        return int(n_rows)

    def find_recurring_keys(self) -> tuple[int, Any]:
        """Return how many keys have features of several days and labels of several days, and one.

        A key with many feature rows and one outcome (predicted every evening until it is known) is
        not among them, nor is one with one feature row whose outcome was delivered twice.
        """
        from psycopg import sql

        query = sql.SQL(
            """
            select count(*), min(labelled.{key}) from (
                select l.{key} {known_labels}
                group by l.{key} having min(l.partition_date) < max(l.partition_date)
            ) labelled
            join (
                select f.{key} {features}
                group by f.{key} having min(f.partition_date) < max(f.partition_date)
            ) predicted on predicted.{key} = labelled.{key}
            """
        ).format(
            key=sql.Identifier(self.spec.entity.key),
            known_labels=self._known_labels,
            features=self._published_features,
        )
        with label_queries(self.conn):
            return self.conn.execute(query).fetchone() or (0, None)

    @cached_property
    def _published_features(self) -> sql.Composed:
        """Return the from-clause of the published feature rows, ``f``."""
        from psycopg import sql

        # ``nightshift repro`` puts the recorded loads in the place of the text "join ops.published
        # p on", which therefore stands once in the query of the rows.
        query = sql.SQL(
            """
            from {view} f {pointer}
                and f.partition_date between {first} and {last}
            """
        )
        return query.format(
            view=sql.Identifier("features", self.spec.feature_table),
            pointer=join_published(self.spec.features_dataset, "f"),
            first=sql.Literal(self.window.first.day),
            last=sql.Literal(self.window.last.day),
        )

    @cached_property
    def _known_labels(self) -> sql.Composed:
        """Return the from-clause of the label versions, ``l``, that were known at ``as_of``."""
        from psycopg import sql

        query = sql.SQL(
            """
            from {labels} l {pointer}
            where l.partition_date between {first} and {last} and {is_known}
            """
        )
        return query.format(
            labels=sql.Identifier("marts", self.spec.label.relation),
            pointer=self._label_pointer(),
            first=sql.Literal(self.window.first.day),
            last=sql.Literal(self.partition.day),
            is_known=known_at_condition(self.as_of, "l"),
        )

    def _label_pointer(self) -> sql.Composed:
        """Return the join that follows the label's pointer; empty for a view of all versions."""
        from psycopg import sql

        dataset = f"marts/{self.spec.label.relation}"
        query = "select exists (select from ops.published where dataset = %s)"
        # A view over all versions has no pointer; ``superseded_at`` ends its versions.
        if self.conn.execute(query, [dataset]).fetchone() != (True,):
            return sql.Composed([])
        return join_published(dataset, "l", "lp")


def _sampled_by(spec: ModelSpec) -> sql.Composable:
    """Return the expression of what a sample takes or leaves: the key, or a group of a night."""
    from psycopg import sql

    if not spec.group:
        return sql.Identifier("f", spec.entity.key)
    # A part of a group would be another order to learn.
    return sql.SQL("(f.partition_date::text || coalesce({}::text, ''))").format(
        sql.Identifier("f", spec.group)
    )


def feature_as_of(conn: Connection, spec: ModelSpec, partition: Partition) -> dt.datetime:
    """Return the as-of of the features that a partition published.

    A partition without published features, as in a backtest, has its nominal cut-off.
    """
    from psycopg import sql

    query = sql.SQL("select max(f.as_of) from {} f {} where f.partition_date = {}").format(
        sql.Identifier("features", spec.feature_table),
        join_published(spec.features_dataset, "f"),
        sql.Literal(partition.day),
    )
    row = conn.execute(query).fetchone()
    return (row and row[0]) or partition.cutoff


def relation_columns(conn: Connection, schema: str, relation: str) -> list[str]:
    """Return the names of a relation's columns in alphabetical order; none if it does not exist."""
    return sorted(table_columns(conn, schema, relation))


def in_sample(key: sql.Composable, share: float) -> sql.Composable:
    """Return the condition of a sample by key: the same keys on all days and in every run."""
    from psycopg import sql

    if share >= 1:
        return sql.SQL("true")
    # Sampling by key keeps all days of an entity, and a rerun takes the same rows.
    return sql.SQL("(hashtextextended({}::text, {}) & {}) < {}").format(
        key,
        sql.Literal(SAMPLE_SEED),
        sql.Literal(SAMPLE_MASK),
        sql.Literal(round(share * (SAMPLE_MASK + 1))),
    )
