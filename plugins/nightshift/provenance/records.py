"""The warehouse's records about a prediction, as plain values: publication, model, training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, LiteralString

from nightshift.registry.canary.record import CANARY
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.provenance.predictions import Prediction
    from nightshift.warehouse.connection import Connection

    Query = LiteralString | sql.Composed

Facts = dict[str, Any]


def read_publication(conn: Connection, spec: ModelSpec, prediction: Prediction) -> Facts | None:
    """Return when and by whom the load of a prediction was published."""
    # By the ledger, not by the pointer: the load may be superseded.
    query = """
        select load_id, token, run_id, attempt, actor, code_version, started_at, published_at,
            superseded_at, n_rows, content_hash
        from ops.loads
        where dataset = %s and partition_date = %s and load_id = %s
    """
    return first_record(conn, query, [spec.predictions_dataset, prediction.day, prediction.load_id])


def read_level(conn: Connection, spec: ModelSpec, prediction: Prediction) -> Facts | None:
    """Return what the scoring of a prediction added to its version's answer, and from what."""
    # The record is that of the load: a superseded load keeps the level that it was scored with.
    query = """
        select
            shift,
            estimate,
            n_nights,
            n_rows,
            first_night,
            last_night,
            reason
        from ops.score_levels
        where dataset = %s
            and partition_date = %s
            and load_id = %s
            and model_version = %s
    """
    key = [
        spec.predictions_dataset,
        prediction.day,
        prediction.load_id,
        prediction.version,
    ]
    return first_record(conn, query, key)


def read_causes(conn: Connection, spec: ModelSpec, prediction: Prediction) -> dict[str, float]:
    """Return what each cause adds to the raw score of a prediction.

    Nothing where none is kept: before causes were declared, and where no model scored the row.
    """
    from psycopg import sql

    # A table of before has no such column until it is migrated.
    if "causes" not in table_columns(conn, "predictions", spec.name):
        return {}
    query = sql.SQL(
        "select causes from {} where partition_date = %s and load_id = %s and {} = %s"
    ).format(sql.Identifier("predictions", spec.name), sql.Identifier(spec.entity.key))
    # Not as a record: that has its values as text, and these are numbers by name.
    row = conn.execute(query, [prediction.day, prediction.load_id, prediction.key]).fetchone()
    return dict(row[0]) if row and row[0] else {}


def read_model(conn: Connection, spec: ModelSpec, prediction: Prediction) -> Facts | None:
    """Return the version that made a prediction, with its first promotion."""
    version = [spec.name, prediction.version]
    query = """
        select version, digest, model_key, partition_date as trained_on_partition, fit_end,
            training_set, spec_digest, code_version, run_id
        from ml.model_versions where model = %s and version = %s
    """
    model = first_record(conn, query, version)
    if model is None:
        return None
    # A rollback promotes a version once more: the first promotion is the one that let it in. What
    # let the rows of a canary in is the decision that gave it its share.
    query = """
        select promotion_id, at, verdict, effective_partition, actor, run_id, evidence_key,
            evidence_sha256
        from ml.promotions
        where model = %s and version = %s and (verdict = 'canary') = %s
            and verdict not in ('refused', 'shadowed', 'returned')
        order by promotion_id limit 1
    """
    is_canary = prediction.score_source == CANARY
    return {**model, "promotion": first_record(conn, query, [*version, is_canary])}


def read_training_set(conn: Connection, spec: ModelSpec, prediction: Prediction) -> Facts | None:
    """Return the training set of the version that made a prediction."""
    query = """
        select s.training_set, s.sha256, s.n_rows, s.partition_date, s.first_day, s.last_day,
            s.as_of, s.spec_digest, s.code_version, s.run_id,
            jsonb_array_length(s.manifest -> 'partitions') as n_feature_loads
        from ml.training_sets s join ml.model_versions v using (training_set)
        where v.model = %s and v.version = %s
    """
    return first_record(conn, query, [spec.name, prediction.version])


def read_records(conn: Connection, query: Query, parameters: Sequence[Any]) -> list[Facts]:
    """Return the rows of a query as plain dictionaries."""
    from psycopg.rows import dict_row

    with conn.cursor(row_factory=dict_row) as cursor:
        return [plain(row) for row in cursor.execute(query, parameters)]


def first_record(conn: Connection, query: Query, parameters: Sequence[Any]) -> Facts | None:
    """Return the first row of a query; None without any."""
    records = read_records(conn, query, parameters)
    return records[0] if records else None


def plain(values: Facts) -> Facts:
    """Return the values with everything that JSON does not know as text."""
    return {
        name: value if isinstance(value, str | int | float | bool | list | None) else str(value)
        for name, value in values.items()
    }
