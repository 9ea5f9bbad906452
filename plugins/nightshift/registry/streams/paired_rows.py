"""Rows that champion and challenger have both scored before their outcome was known.

The champion's score is the published one. A row counts only if both scored the same features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.models.calibration import EDGE
from nightshift.models.group_ranks import measure_groups
from nightshift.models.predictions import Predictions, labels_of, with_groups
from nightshift.models.signature import numbers
from nightshift.registry.streams.members import CANARY_ROWS, CHAMPION_ROWS
from nightshift.training.training_query import (
    TrainingQuery,
    feature_as_of,
    refuse_unknown_classes,
)
from nightshift.warehouse.fast_io.arrow_io import read_arrow
from nightshift.warehouse.published import join_published
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition, PartitionRange
    from nightshift.models.arrays import Vector
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

SHADOW_SCHEMA = "shadow"
NDCG_LOSS = "ndcg_loss"
_ABSOLUTE_METRICS = {"mae"}


def proper_loss(spec: ModelSpec) -> str:
    """Return the loss that a stream compares: one that the truth alone minimizes.

    ``log_loss`` of probabilities; of a regression the loss of its declared metric; of a ranking
    ``ndcg_loss``, 1 minus the mean NDCG of the night's groups.
    """
    if spec.task.has_probability:
        return "log_loss"
    if spec.is_ranking:
        return NDCG_LOSS
    # The mean minimizes squares and the median absolute errors: the declared metric says which.
    is_absolute = spec.promotion.metric in _ABSOLUTE_METRICS
    return "absolute_error" if is_absolute else "squared_error"


def row_losses(loss: str, label: Vector, predicted: Vector) -> Vector:
    """Return the loss of each row, shape (n,)."""
    import numpy as np

    if loss == "absolute_error":
        return np.abs(predicted - label)
    if loss == "squared_error":
        return (predicted - label) ** 2
    probability = np.clip(predicted, EDGE, 1 - EDGE)
    # A probability of 0 would cost infinitely much, and one night would decide everything.
    of_label = np.where(label > 0, probability, 1 - probability)
    return -np.log(of_label)


def stored_predictions(
    spec: ModelSpec, pairs: pa.Table, source: str, threshold: float = 0.5
) -> Predictions:
    """Return what ``champion`` or ``challenger`` said before the outcome was known.

    Args:
        spec: The model.
        pairs: Of ``read_pairs``.
        source: Whose.
        threshold: Of a binary task.
    """
    import numpy as np

    if spec.classes:
        columns = [numbers(pairs, f"{source}_{name}") for name in spec.class_columns.values()]
        predictions = Predictions.of_classes(np.column_stack(columns))
        return replace(predictions, score=numbers(pairs, f"{source}_score"))
    score = numbers(pairs, f"{source}_score")
    probability = numbers(pairs, f"{source}_probability") if spec.task.has_probability else None
    return with_groups(spec, pairs, Predictions(score, probability, threshold))


def mean_loss(spec: ModelSpec, label: Vector, predictions: Predictions) -> float:
    """Return the mean of the proper loss of some predictions.

    Those of a ranking have their groups; NaN where no group has an order to judge.
    """
    if spec.is_ranking:
        return 1 - measure_groups(label, predictions).means()["ndcg"]
    return float(row_losses(proper_loss(spec), *predictions.of_outcome(label)).mean())


def has_shadow_scores(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether a challenger has ever scored in the shadow."""
    return bool(table_columns(conn, SHADOW_SCHEMA, spec.name))


def read_pairs(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    stream: str,
    partitions: PartitionRange,
    known_on: Partition,
) -> pa.Table:
    """Return the paired rows of some nights, with the labels that a partition knew.

    Args:
        settings: The warehouse.
        conn: A connection to it.
        spec: The model.
        stream: Name of the stream; ``CANARY_ROWS`` pairs the published rows of a canary with what
            the champion would have said of them.
        partitions: The scored partitions.
        known_on: The partition whose as-of bounds the labels.

    Returns:
        One row per entity whose outcome is known and that the champion, as champion, and the stream
            have scored from the same features: the champion for readers, or in the shadow where a
            canary scored for them. They are ordered by partition and key: ``partition_date``,
            the key, ``champion_`` and ``challenger_`` ``version``, ``score``, ``probability`` and
            ``load``, the label (null for an entity that never gets one), and the columns of slices,
            fairness, rule and group.
    """
    from psycopg import sql

    classes = spec.class_columns.values()
    # Labels as the deciding partition knew them: a later correction changes no past decision.
    as_of = feature_as_of(conn, spec, known_on)
    training_query = TrainingQuery(conn, spec, partitions, known_on, as_of)
    query = sql.SQL(
        """
        with labels as ({labels}),
        published as (
            select t.* from predictions.{model} t {champion_pointer}
            where t.partition_date between {first} and {last}
                and t.score_source in ('champion', 'canary')
        ),
        shadow as (
            select t.* from shadow.{model} t {shadow_pointer}
            where t.partition_date between {first} and {last}
                and t.stream in ({stream}, {champion_rows})
        ),
        champion as (
            select partition_date, {key}, features_as_of, model_version, score, probability, load_id
                {classes}
            from published where score_source = 'champion' and {stream} <> {canary_rows}
            union all
            -- One load published both: what the champion would have said there belongs to it.
            select partition_date, {key}, features_as_of, s.model_version, s.score, s.probability,
                t.load_id {classes_of_s}
            from published t join shadow s using (partition_date, {key}, features_as_of)
            where t.score_source = 'canary' and s.stream = {champion_rows}
        ),
        challenger as (
            select partition_date, {key}, features_as_of, model_version, score, probability, load_id
                {classes}
            from shadow where stream = {stream}
            union all
            select partition_date, {key}, features_as_of, t.model_version, t.score, t.probability,
                s.load_id {classes_of_t}
            from published t join shadow s using (partition_date, {key}, features_as_of)
            where t.score_source = 'canary' and s.stream = {champion_rows}
                and {stream} = {canary_rows}
        ),
        features as (
            select f.* from features.{features} f {features_pointer}
            where f.partition_date between {first} and {last}
        )
        select champion.partition_date, champion.{key},
            champion.model_version as champion_version,
            champion.score as champion_score, champion.probability as champion_probability,
            champion.load_id as champion_load,
            challenger.model_version as challenger_version,
            challenger.score as challenger_score, challenger.probability as challenger_probability,
            challenger.load_id as challenger_load,
            labels.{label} {columns} {classes_of_both}
        from champion
        join challenger using (partition_date, {key}, features_as_of)
        join features on features.partition_date = champion.partition_date
            and features.{key} = champion.{key} and features.as_of = champion.features_as_of
        join labels on labels.{key} = champion.{key}
        order by champion.partition_date, champion.{key} collate "C"
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        label=sql.Identifier(spec.label.column),
        model=sql.Identifier(spec.name),
        features=sql.Identifier(spec.feature_table),
        stream=sql.Literal(stream),
        champion_rows=sql.Literal(CHAMPION_ROWS),
        canary_rows=sql.Literal(CANARY_ROWS),
        first=sql.Literal(partitions.first.day),
        last=sql.Literal(partitions.last.day),
        labels=training_query.labels,
        champion_pointer=join_published(spec.predictions_dataset, "t"),
        shadow_pointer=join_published(spec.shadow_dataset, "t"),
        features_pointer=join_published(spec.features_dataset, "f"),
        columns=_judged_columns(spec),
        classes=_columns(map(sql.Identifier, classes)),
        classes_of_s=_columns(sql.Identifier("s", name) for name in classes),
        classes_of_t=_columns(sql.Identifier("t", name) for name in classes),
        classes_of_both=_renamed("champion", classes) + _renamed("challenger", classes),
    )
    pairs = read_arrow(settings, query, is_label_query=True)
    refuse_unknown_classes(spec, labels_of(spec, pairs))
    return pairs


def labelled(spec: ModelSpec, pairs: pa.Table) -> pa.Table:
    """Return the paired rows that have a label, in their order."""
    return pairs.filter(pairs.column(spec.label.column).is_valid())


def _judged_columns(spec: ModelSpec) -> sql.Composed:
    """Return the columns of the features that the checks read, each once."""
    from psycopg import sql

    promotion = spec.promotion
    slices = [part.column for part in promotion.slices]
    groups = [part.column for part in promotion.fairness]
    rule = spec.scoring.fallback.columns
    names = dict.fromkeys([*slices, *groups, *rule, *spec.group_columns])
    return _columns(sql.Identifier("features", name) for name in names)


def _renamed(source: str, names: Iterable[str]) -> sql.Composed:
    """Return columns of a source under names that begin with its own, each after a comma."""
    from psycopg import sql

    return _columns(
        sql.SQL("{} as {}").format(sql.Identifier(source, name), sql.Identifier(f"{source}_{name}"))
        for name in names
    )


def _columns(columns: Iterable[sql.Composable]) -> sql.Composed:
    """Return columns, each after a comma."""
    from psycopg import sql

    return sql.Composed([sql.SQL(", {}").format(column) for column in columns])
