"""The tables of one model's predictions: the base table, and the views that analysts read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.warehouse.analysts.logins import ANALYST
from nightshift.warehouse.schema_lock import change_schema
from nightshift.warehouse.write_types import Target

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection

SCHEMA = "predictions"

_PREDICTION_COLUMNS = {
    "partition_date": "Operating day whose night made the prediction.",
    "load_id": "The load that wrote the row.",
    "{key}": "The {entity} that is predicted for.",
    "event_timestamp": "When the predicted thing is due to happen, UTC.",
    "score": "What rows are ordered by: {score}.",
    "probability": "Calibrated probability, 0 to 1, of the positive class;"
    " null for models that are not binary.",
    "decile": "10 (highest) to 1: where the score lies among its model's hold-out,"
    " or without a model within its night.",
    "is_positive": "Whether the probability reaches the model's threshold;"
    " null for models that are not binary.",
    "reasons": "The features that moved the score most, as [{{feature, value, contribution}}],"
    " the strongest first.",
    "model_version": "Version of the model that scored tonight's features; null where none did.",
    "features_as_of": "Nothing that was delivered later than this was used, UTC.",
    "score_source": "champion, previous_champion, carried_over (an older score of a model, aged),"
    " fallback_rule; named_version by hand.",
    "score_source_reason": "Why not the champion; for carried_over whose old score,"
    " for named_version by whom; null for a champion.",
    "run_id": "The run that wrote the row.",
}
_HISTORY_COLUMNS = {
    "published_at": "From when readers saw this load, UTC.",
    "superseded_at": "When a newer load took its place, UTC; null while it is current.",
}
_OUTCOME_COLUMNS = {
    "outcome": "What came true: {label} as last delivered;"
    " null while unknown, or when this {entity} never gets one.",
    "outcome_known_at": "When that outcome was delivered, UTC.",
    "is_mature": "Whether so many days of outcomes have been delivered since"
    " that it counts as final.",
}


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


def ensure_prediction_relations(
    conn: Connection, spec: ModelSpec, *, replace_views: bool = False
) -> None:
    """Create the missing ones of a model's base table and its analytics views.

    The views are ``analytics.<model>_{current,history,outcomes}``; the outcomes view is created
    once its label relation exists.

    Args:
        conn: A connection of the warehouse's owner, outside of a transaction.
        spec: The model.
        replace_views: Replace existing views: at a deployment. It waits for their readers, so a
            scoring run does not.
    """
    change_schema(conn, lambda: _create_missing(conn, spec, replace_views=replace_views))


def _create_missing(conn: Connection, spec: ModelSpec, *, replace_views: bool) -> None:
    if not _exists(conn, SCHEMA, spec.name):
        _create_table(conn, spec)
    views = {"current": _CURRENT, "history": _HISTORY}
    label_types = column_types(conn, "marts", spec.label.relation)
    # A wrong label in the spec must not keep predictions from being made.
    if spec.label.column in label_types:
        views["outcomes"] = _OUTCOMES
        _ensure_labels_function(conn, spec, label_types, replace=replace_views)
    for suffix, query in views.items():
        if replace_views or not _exists(conn, "analytics", f"{spec.name}_{suffix}"):
            _create_view(conn, spec, suffix, query)


def _exists(conn: Connection, schema: str, relation: str) -> bool:
    query = "select to_regclass(format('%%I.%%I', %s::text, %s::text)) is not null"
    return conn.execute(query, [schema, relation]).fetchone() == (True,)


def column_types(conn: Connection, schema: str, relation: str) -> dict[str, str]:
    """Return PostgreSQL's type of each column of a relation; empty if there is no relation."""
    rows = conn.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
            and attnum > 0 and not attisdropped
        """,
        [schema, relation],
    )
    return dict(rows.fetchall())


def _create_table(conn: Connection, spec: ModelSpec) -> None:
    from psycopg import sql

    conn.execute(model_query(spec, _TABLE))
    comment = (
        f"Every load of {spec.name}, published or not: read the views in schema analytics."
        f" Grain: partition, load and {spec.entity.name}."
    )
    query = "comment on table {predictions} is {comment}"
    conn.execute(model_query(spec, query, comment=sql.Literal(comment)))


def _ensure_labels_function(
    conn: Connection, spec: ModelSpec, label_types: dict[str, str], *, replace: bool
) -> None:
    """Create the function that reads the label relation for the outcomes view.

    A view is planned with the settings of its reader, and a label relation needs nested loops off
    (``connection.PLAN_LABELS``). Only a function brings its own settings to every login.
    """
    from psycopg import sql

    function = sql.Identifier(SCHEMA, f"{spec.name}_labels")
    old_result = _result_type(conn, f"{spec.name}_labels")
    if old_result is not None and not replace:
        return
    # A relation without the key is refused by the training, which names what it lacks.
    key_type = label_types.get(spec.entity.key, "text")
    new_result = (
        f"TABLE(entity_key {key_type}, outcome {label_types[spec.label.column]},"
        " known_at timestamp with time zone, label_date date)"
    )
    if old_result not in {None, new_result}:
        # The outcomes view is dropped with it, and created again.
        conn.execute(sql.SQL("drop function {}() cascade").format(function))
    body = model_query(
        spec,
        _LABELS_BODY,
        label=sql.Identifier(spec.label.column),
        labels=sql.Identifier("marts", spec.label.relation),
    )
    statement = sql.SQL(_LABELS_FUNCTION).format(
        function=function, result=sql.SQL(new_result), body=sql.Literal(body.as_string(conn))
    )
    conn.execute(statement)
    conn.execute(sql.SQL("revoke all on function {}() from public").format(function))
    if conn.execute("select from pg_roles where rolname = %s", [ANALYST]).fetchone() is not None:
        grant = sql.SQL("grant execute on function {}() to {}")
        conn.execute(grant.format(function, sql.Identifier(ANALYST)))


def _result_type(conn: Connection, function: str) -> str | None:
    row = conn.execute(
        "select pg_get_function_result(to_regprocedure(format('%%I.%%I()', %s::text, %s::text)))",
        [SCHEMA, function],
    ).fetchone()
    return row[0] if row else None


def _create_view(conn: Connection, spec: ModelSpec, suffix: str, query: str) -> None:
    from psycopg import sql

    view = sql.Identifier("analytics", f"{spec.name}_{suffix}")
    extra = {"history": _HISTORY_COLUMNS, "outcomes": _OUTCOME_COLUMNS}.get(suffix, {})
    columns = _describe_columns(spec, _PREDICTION_COLUMNS)
    body = model_query(
        spec,
        query,
        columns=sql.SQL(", ").join(sql.Identifier("t", name) for name in columns),
        dataset=sql.Literal(spec.predictions_dataset),
        labels_function=sql.Identifier(SCHEMA, f"{spec.name}_labels"),
        days_to_maturity=sql.Literal(1 + spec.label.maturity_days),
    )
    # A security barrier: a filter of the reader is never run on rows that the view leaves out, so
    # no error message can show them.
    create = sql.SQL("create or replace view {} with (security_barrier) as {}")
    conn.execute(create.format(view, body))

    comment = sql.Literal(_describe_view(spec, suffix))
    conn.execute(sql.SQL("comment on view {} is {}").format(view, comment))
    comment_column = sql.SQL("comment on column {}.{} is {}")
    for name, text in (columns | _describe_columns(spec, extra)).items():
        conn.execute(comment_column.format(view, sql.Identifier(name), sql.Literal(text)))


def _describe_columns(spec: ModelSpec, templates: dict[str, str]) -> dict[str, str]:
    """Return name and description of columns, in order."""
    score = f"the predicted {spec.label.column}"
    if spec.task is Task.BINARY:
        score = "the probability before calibration"
    words = {
        "key": spec.entity.key,
        "entity": spec.entity.name,
        "label": spec.label.column,
        "score": score,
    }
    return {name.format(**words): text.format(**words) for name, text in templates.items()}


def _describe_view(spec: ModelSpec, suffix: str) -> str:
    grain = f"one row per {spec.entity.name} and night"
    content = {
        "current": f"The predictions that count now. Grain: {grain}.",
        "history": "Every load that was ever published, also the superseded ones."
        f" Grain: {grain} and load.",
        "outcomes": f"The predictions that count now, and what came true. Grain: {grain}.",
    }
    return f"{spec.description} {content[suffix]} Owner: {spec.owner}."


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
        'champion', 'named_version', 'previous_champion', 'carried_over', 'fallback_rule'
    )),
    score_source_reason text,
    run_id text not null,
    primary key (load_id, partition_date, {key})
)
"""
_CURRENT = """
select {columns} from {predictions} t
join ops.published p on p.dataset = {dataset}
    and p.partition_date = t.partition_date and p.load_id = t.load_id
"""
_HISTORY = """
select {columns}, l.published_at, l.superseded_at from {predictions} t
join ops.loads l on l.dataset = {dataset}
    and l.partition_date = t.partition_date and l.load_id = t.load_id and l.state = 'published'
"""
# So many rows are promised that the reader's own join with them is planned as a hash join.
_LABELS_FUNCTION = """
create or replace function {function}() returns {result}
language sql stable security definer rows 1000000
set search_path = pg_catalog, pg_temp set enable_nestloop = off set work_mem = '64MB'
as {body}
"""
_LABELS_BODY = """
select distinct on ({key}) {key}, {label}, known_at, partition_date
from {labels}
where superseded_at is null and partition_date >= (select min(partition_date) from {predictions})
order by {key}, known_at desc, partition_date desc
"""
_OUTCOMES = """
with latest as (select * from {labels_function}())
select {columns}, latest.outcome, latest.known_at as outcome_known_at,
    coalesce(
        t.partition_date + {days_to_maturity} <= (select max(label_date) from latest), false
    ) as is_mature
from {predictions} t
join ops.published p on p.dataset = {dataset}
    and p.partition_date = t.partition_date and p.load_id = t.load_id
left join latest on latest.entity_key = t.{key}
"""
