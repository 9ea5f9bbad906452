"""The table of a model's shadow scores, and the check that a load of it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nightshift.errors import AuditError
from nightshift.registry.canary.membership import hash_bound, in_canary_condition
from nightshift.registry.streams.paired_rows import SHADOW_SCHEMA
from nightshift.scoring.level.level_records import record_levels
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse import partition_write
from nightshift.warehouse.published import join_published
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.schema_lock import change_schema

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.level.level_records import LevelRecord
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord
    from nightshift.warehouse.partition_write import PartitionWrite


class IncompleteShadowError(AuditError):
    """The staged shadow scores are not one row per stream and entity."""

    code = "NS-SCORE-009"


def shadow_target(spec: ModelSpec, *, may_be_empty: bool = False) -> partition_write.Target:
    """Return where a model's shadow scores are written and published."""
    return partition_write.Target(
        spec.shadow_dataset,
        SHADOW_SCHEMA,
        spec.name,
        ("stream", spec.entity.key),
        may_be_empty=may_be_empty,
    )


def ensure_shadow_table(conn: Connection, spec: ModelSpec) -> None:
    """Create a model's table of shadow scores if there is none."""
    from psycopg import sql

    if table_columns(conn, SHADOW_SCHEMA, spec.name):
        return
    classes = [
        sql.SQL("{} double precision,").format(sql.Identifier(name))
        for name in spec.class_columns.values()
    ]
    create = shadow_query(spec, _TABLE, classes=sql.Composed(classes))
    change_schema(conn, lambda: conn.execute(create))


# The key refuses a second row of an entity within a stream, whoever writes it.
_TABLE = """
create table if not exists {shadow} (
    partition_date date not null,
    load_id bigint not null,
    stream text not null,
    {key} text not null,
    model_version integer not null,
    score double precision not null,
    probability double precision,
    features_as_of timestamptz not null,
    {classes}
    primary key (load_id, partition_date, stream, {key})
)
"""


def refuse_incomplete(
    conn: Connection,
    spec: ModelSpec,
    write: PartitionWrite,
    shares: Mapping[str, float],
    features: LoadRecord,
) -> None:
    """Refuse the load unless each stream has one row per row of the feature load that is its own.

    Args:
        conn: A connection to the warehouse.
        spec: The model.
        write: The load.
        shares: By stream, the share of the entities that it scores.
        features: The feature load.

    Raises:
        IncompleteShadowError: It has not.
    """
    query = shadow_query(
        spec,
        "select stream, count(*) from {shadow} where load_id = %s group by stream",
    )
    counts: dict[str, int] = dict(conn.execute(query, [write.load_id]).fetchall())
    # The key of the table refuses a doubled row, so the count alone tells.
    wrong = []
    for stream, share in shares.items():
        n_staged, n_rows = counts.get(stream, 0), _n_expected(conn, spec, features, share)
        if n_staged != n_rows:
            wrong.append(f"{stream}: {n_staged} of {n_rows} rows")
    if not wrong:
        return
    problem = f"shadow scores are incomplete ({', '.join(wrong)})"
    partition_write.refuse(conn, write, problem)
    raise IncompleteShadowError(
        f"The {problem}.",
        expected=f"the rows of load {features.load_id} of {spec.features_dataset} in each stream",
        got=", ".join(wrong),
        todo="Nothing was published, and the predictions are not affected. Rerun the task.",
    )


def _n_expected(conn: Connection, spec: ModelSpec, features: LoadRecord, share: float) -> int:
    """Return how many entities of a feature load are in a share."""
    from psycopg import sql

    if share == 1:
        return features.n_rows or 0
    is_in = in_canary_condition(
        spec.name, sql.Literal(hash_bound(share)), sql.Identifier(spec.entity.key)
    )
    query = model_query(
        spec,
        "select count(*) from {features} where partition_date = %s and load_id = %s and {is_in}",
        is_in=is_in,
    )
    row = conn.execute(query, [features.partition_date, features.load_id]).fetchone()
    return int(row[0]) if row else 0


def shadow_query(spec: ModelSpec, query: str, **parts: sql.Composable) -> sql.Composed:
    """Fill a query's placeholders, as ``model_query``; ``{shadow}`` is the table."""
    from psycopg import sql

    names = {
        "shadow": sql.Identifier(SHADOW_SCHEMA, spec.name),
        "published": join_published(spec.shadow_dataset, "t"),
    }
    return model_query(spec, query, **names, **parts)


def keep_levels(
    conn: Connection, write: PartitionWrite, levels: Iterable[LevelRecord], run: RunContext
) -> None:
    """Record the levels of the challengers, before the first row is staged."""
    record_levels(conn, write.load_id, levels, run)
