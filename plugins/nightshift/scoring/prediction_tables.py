"""The table of one model's predictions, and the names that queries of predictions use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.warehouse.damage import find_damage_cheaply, version_records
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.relations.prediction_columns import describe_table
from nightshift.warehouse.relations.prediction_views import create_prediction_views
from nightshift.warehouse.schema_lock import change_schema
from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    import datetime as dt

    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection

SCHEMA = "predictions"
ADDED_COLUMNS = ("causes", *INTERVAL_COLUMNS)
"""Columns that tables of before do not have: rows are staged without them."""


def model_query(spec: ModelSpec, query: str, **parts: sql.Composable) -> sql.Composed:
    """Fill a query's placeholders with the names of a model's relations and columns.

    ``{predictions}`` and ``{features}`` are the tables, ``{key}``, ``{event_timestamp}`` and
    ``{rule}`` (of the fallback) the columns, ``{is_binary}`` is true for a binary model.

    Args:
        spec: The model.
        query: SQL with these placeholders, all optional.
        parts: More placeholders; they replace the standard ones of the same name.
    """
    from psycopg import sql

    # Every name is quoted: a spec may call a column what SQL keeps for itself.
    names: dict[str, sql.Composable] = {
        "predictions": sql.Identifier(SCHEMA, spec.name),
        "features": sql.Identifier("features", spec.feature_table),
        "key": sql.Identifier(spec.entity.key),
        "event_timestamp": sql.Identifier(spec.event_timestamp),
        "rule": sql.Identifier(spec.scoring.fallback.feature),
        "is_binary": sql.Literal(spec.task is Task.BINARY),
    }
    return sql.SQL(query).format(**(names | parts))


def predictions_target(spec: ModelSpec) -> Target:
    """Return where a model's predictions are written and published."""
    return Target(spec.predictions_dataset, SCHEMA, spec.name, (spec.entity.key,))


def missing_columns(conn: Connection, spec: ModelSpec) -> set[str]:
    """Return the columns that the table lacks until the warehouse is migrated."""
    return set(ADDED_COLUMNS) - table_columns(conn, SCHEMA, spec.name).keys()


def ensure_prediction_relations(
    conn: Connection, spec: ModelSpec, *, replace_views: bool = False
) -> None:
    """Create the missing ones of a model's base table and its analytics views.

    The views are those of ``relations.view_contracts``; the outcomes view is created once its
    label relation exists.

    Args:
        conn: A connection of the warehouse's owner, outside of a transaction.
        spec: The model.
        replace_views: Replace existing views: at a deployment. It waits for their readers, so a
            scoring run does not.
    """
    # Several runs may begin at once: the first creates, the rest find everything there.
    change_schema(conn, lambda: _create_missing(conn, spec, replace_views=replace_views))


def _create_missing(conn: Connection, spec: ModelSpec, *, replace_views: bool) -> None:
    from psycopg import sql

    if not table_columns(conn, SCHEMA, spec.name):
        conn.execute(model_query(spec, _TABLE))
        comment = sql.Literal(describe_table(spec))
        query = "comment on table {predictions} is {comment}"
        conn.execute(model_query(spec, query, comment=comment))
    create_prediction_views(conn, spec, replace=replace_views)


def has_damaged_rows(conn: Connection, spec: ModelSpec, loads: Mapping[dt.date, int]) -> bool:
    """Return whether rows of retained loads, by day, vanished or changed since."""
    # A copy would publish the damage.
    retained = version_records(conn, spec.predictions_dataset, min(loads), max(loads))
    records = [record for record in retained if record.key in loads.items()]
    return bool(find_damage_cheaply(conn, predictions_target(spec), records))


# The key refuses a second row of an entity within a load, whoever writes it.
_TABLE = """
create table {predictions} (
    partition_date date not null,
    load_id bigint not null,
    shard integer not null,
    {key} text not null,
    event_timestamp timestamptz not null,
    score double precision not null,
    probability double precision,
    decile smallint,
    is_positive boolean,
    reasons jsonb not null default '[]',
    model_version integer,
    features_as_of timestamptz not null,
    score_source text not null check (score_source in (
        'champion', 'named_version', 'previous_champion', 'carried_over', 'fallback_rule', 'canary'
    )),
    score_source_reason text,
    run_id text not null,
    causes jsonb,
    median double precision,
    interval_low double precision,
    interval_high double precision,
    primary key (load_id, partition_date, {key})
)
"""
