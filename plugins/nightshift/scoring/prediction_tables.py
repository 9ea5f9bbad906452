"""The table of one model's predictions, and the names that queries of predictions use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.contracts.scoring_spec import SHARES_TOLERANCE
from nightshift.contracts.tasks.classes import CLASS_COLUMN, RAW_COLUMN
from nightshift.contracts.tasks.ranking import RANK_COLUMN, RANK_TYPES, TOP_COLUMN
from nightshift.errors import SpecError
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.warehouse.damage import find_damage_cheaply, version_records
from nightshift.warehouse.relations.columns import table_columns, text_literal
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

    ``{predictions}`` and ``{features}`` are the tables, ``{key}`` and ``{event_timestamp}`` the
    columns, ``{rule}`` the name of the fallback's value and ``{rule_of_f}`` and ``{rule_of_r}`` its
    value in rows of that alias: null where it reads no column. ``{is_binary}`` is true for a binary
    model, ``{has_probability}`` for any but a regression.

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
        "rule": sql.Identifier(spec.scoring.fallback.feature or "no_rule"),
        "is_binary": sql.Literal(spec.task is Task.BINARY),
        "has_probability": sql.Literal(spec.task.has_probability),
    }
    for alias in ("f", "r"):
        # The rule of classes reads no column.
        value: sql.Composable = sql.SQL("null")
        if spec.scoring.fallback.feature:
            value = sql.Identifier(alias, spec.scoring.fallback.feature)
        names[f"rule_of_{alias}"] = sql.SQL("{}::double precision").format(value)
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

    Raises:
        SpecError: The spec declares classes, or a ranking, that the table does not have.
    """
    # Several runs may begin at once: the first creates, the rest find everything there.
    change_schema(conn, lambda: _create_missing(conn, spec, replace_views=replace_views))


def _create_missing(conn: Connection, spec: ModelSpec, *, replace_views: bool) -> None:
    from psycopg import sql

    columns = table_columns(conn, SCHEMA, spec.name)
    if columns:
        _refuse_another_task(spec, columns)
    else:
        conn.execute(model_query(spec, _TABLE, of_task=_task_columns(spec)))
        comment = sql.Literal(describe_table(spec))
        query = "comment on table {predictions} is {comment}"
        conn.execute(model_query(spec, query, comment=comment))
    create_prediction_views(conn, spec, replace=replace_views)


def rank_types(spec: ModelSpec) -> dict[str, str]:
    """Return the columns that only predictions of a ranking have, with their types, in order."""
    return RANK_TYPES if spec.is_ranking else {}


def class_types(spec: ModelSpec) -> dict[str, str]:
    """Return the columns that only predictions of classes have, with their types, in order."""
    if not spec.classes:
        return {}
    probabilities = dict.fromkeys(spec.class_columns.values(), "double precision")
    return {CLASS_COLUMN: "text", RAW_COLUMN: "double precision", **probabilities}


def _task_columns(spec: ModelSpec) -> sql.Composed:
    """Return the definitions of the columns that only the task has, each with a comma."""
    from psycopg import sql

    columns = []
    for name, sql_type in (class_types(spec) | rank_types(spec)).items():
        column = sql.SQL("{} {},").format(sql.Identifier(name), sql.SQL(sql_type))
        columns.append(column)
    return sql.Composed(columns)


def _refuse_another_task(spec: ModelSpec, columns: Collection[str]) -> None:
    """Refuse classes, or a ranking, that were declared since the table was created.

    A new column would change the content hash of every load that stands.

    Raises:
        SpecError: There are some.
    """
    if spec.is_ranking and RANK_COLUMN not in columns:
        raise SpecError(
            f"{spec.name} has predictions without a rank: its task was another one.",
            expected=f"a table with the column {RANK_COLUMN}",
            todo="Give the ranking another name: it predicts another thing.",
            code="NS-SPEC-004",
        )
    new = [name for name, column in spec.class_columns.items() if column not in columns]
    if new:
        raise SpecError(
            f"{spec.name} has predictions without the class(es) {', '.join(new)}.",
            expected="the classes with which its table was created, or fewer",
            todo="Give the model with the new classes another name: it predicts another thing. Or"
            " take them out of `classes` again.",
            code="NS-SPEC-004",
        )


def task_condition(spec: ModelSpec, alias: str) -> sql.Composable:
    """Return the condition of what only the task has.

    Probabilities of classes add up, and the largest is predicted; the rows of a ranking have a
    rank, and the first of a group are its top.
    """
    from psycopg import sql

    if spec.is_ranking:
        query = "coalesce({rank} >= 1 and {is_top} = ({rank} <= {top_k}), false)"
        return sql.SQL(query).format(
            rank=sql.Identifier(alias, RANK_COLUMN),
            is_top=sql.Identifier(alias, TOP_COLUMN),
            top_k=sql.Literal(spec.top_k),
        )
    if not spec.classes:
        return sql.SQL("true")
    columns: list[sql.Composable] = []
    # A class that is none of them gives null, which is not good either.
    of_predicted: list[sql.Composable] = []
    for name, column in spec.class_columns.items():
        probability = sql.Identifier(alias, column)
        columns.append(probability)
        case = sql.SQL("when {} then {}").format(text_literal(name), probability)
        of_predicted.append(case)
    query = """
        coalesce(
            abs({total} - 1) < {tolerance}
            and least({all}) >= 0
            and case {predicted} {cases} end = greatest({all}),
            false
        )
    """
    return sql.SQL(query).format(
        total=sql.SQL(" + ").join(columns),
        all=sql.SQL(", ").join(columns),
        tolerance=sql.Literal(SHARES_TOLERANCE),
        predicted=sql.Identifier(alias, CLASS_COLUMN),
        cases=sql.SQL(" ").join(of_predicted),
    )


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
    {of_task}
    primary key (load_id, partition_date, {key})
)
"""
