"""Create the analysts' views of one model, from the macros of the dbt project.

dbt makes the same views from the same macros; here they are rendered without starting dbt, because
a scoring run creates what is missing. Sources: docs/adr/0042-analysts-views.md (one SQL),
docs/adr/0048-analysts-contract.md (versions).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import NightshiftError, SpecError
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.relations.view_contracts import PredictionView, prediction_views
from nightshift.warehouse.relations.view_macros import ViewMacros

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.relations.columns import TableColumn

logger = logging.getLogger(__name__)

SCHEMA = "analytics"
REQUIRED = frozenset({"current", "history", "outcomes"})
"""Views without which a scoring run is no success; others may be missing until the next migrate."""
_OLD = "$old"
"""Follows the name of a view while another takes its place; no model can have it."""


class ViewContractError(SpecError):
    """A view would lose or retype columns that its readers use, without a new version."""

    code = "NS-SPEC-006"


def create_prediction_views(conn: Connection, spec: ModelSpec, *, replace: bool) -> None:
    """Create the missing views of a model in schema ``analytics``.

    The outcomes view is created once its label relation exists. Call it within a transaction.

    Args:
        conn: A connection of the warehouse's owner.
        spec: The model; its prediction table exists.
        replace: At a deployment: replace existing views too, which waits for their readers, and
            create the views of older versions.

    Raises:
        ViewContractError: A view would lose columns without a new ``analytics.version``.
        SettingsError: The dbt project has no macros of the views.
    """
    spec = _with_known_attributes(conn, spec)
    macros = ViewMacros(conn, spec)
    _index_attributes(conn, spec)
    views = _possible_views(conn, spec) if replace else missing_views(conn, spec)
    for view in views:
        if replace or view.suffix in REQUIRED:
            _create_view(conn, spec, view, macros)
            continue
        # Predictions come first: a view that only explains them never stops a scoring run.
        try:
            with conn.transaction():
                _create_view(conn, spec, view, macros)
        except _database_errors() as error:
            name = f"{spec.name}_{view.suffix}"
            logger.warning(
                "analytics.%s was not created; run `nightshift migrate`: %s", name, error
            )
    if views:
        _keep_model(conn, spec)
        conn.execute(_GRANT_FUNCTIONS)


def _database_errors() -> tuple[type[Exception], ...]:
    from psycopg import Error

    return (Error, NightshiftError)


def missing_views(conn: Connection, spec: ModelSpec) -> list[PredictionView]:
    """Return the views of a model that could exist and do not; deprecated ones are not missed."""
    return [
        view
        for view in _possible_views(conn, spec)
        if not view.deprecated_by and not table_columns(conn, SCHEMA, f"{spec.name}_{view.suffix}")
    ]


def _possible_views(conn: Connection, spec: ModelSpec) -> list[PredictionView]:
    views = prediction_views(spec)
    # A wrong label in the spec must not keep predictions from being made.
    if spec.label.column not in table_columns(conn, "marts", spec.label.relation):
        for suffix in ("outcomes", "outcomes_v1"):
            views.pop(suffix, None)
    return list(views.values())


def _with_known_attributes(conn: Connection, spec: ModelSpec) -> ModelSpec:
    """Return the spec with those attributes that its feature view has."""
    if not spec.analytics.attributes:
        return spec
    known = table_columns(conn, "features", spec.feature_table)
    names = tuple(name for name in spec.analytics.attributes if name in known)
    if names == spec.analytics.attributes:
        return spec
    # `nightshift migrate` refuses such a spec; a scoring run makes its views without them.
    logger.warning("%s has no column for some of analytics.attributes.", spec.feature_table)
    analytics = spec.analytics.model_copy(update={"attributes": names})
    return spec.model_copy(update={"analytics": analytics})


def _index_attributes(conn: Connection, spec: ModelSpec) -> None:
    """Index the feature view by entity, so that a row's attributes are one look-up."""
    from psycopg import errors, sql

    name = f"{spec.feature_table}_by_entity"
    if not spec.analytics.attributes or table_columns(conn, "features", name):
        return
    create = sql.SQL("create index if not exists {} on {} (load_id, partition_date, {})").format(
        sql.Identifier(name),
        sql.Identifier("features", spec.feature_table),
        sql.Identifier(spec.entity.key),
    )
    try:
        with conn.transaction():
            conn.execute(create)
    except errors.LockNotAvailable:
        # A run writes features at this moment. The views work without it, only slowly.
        logger.warning("%s is not created yet; run `nightshift migrate`.", name)


def _create_view(
    conn: Connection, spec: ModelSpec, view: PredictionView, macros: ViewMacros
) -> None:
    from psycopg import errors, sql

    # The view is bound to the function, so the function comes first.
    if view.suffix.startswith("outcomes"):
        conn.execute(macros.label_function())

    name = f"{spec.name}_{view.suffix}"
    # A security barrier: a filter of the reader is never run on rows that the view leaves out, so
    # no error message can show them.
    create = sql.SQL("create or replace view {} with (security_barrier) as {}").format(
        sql.Identifier(SCHEMA, name), macros.select(view.suffix)
    )
    try:
        with conn.transaction():
            conn.execute(create)
    except errors.InvalidTableDefinition:
        # PostgreSQL only adds columns at a view's end; every other change takes a new view.
        _replace_view(conn, name, view, create)
    conn.execute(_comments(name, view))
    _keep_contract(conn, spec, view)


def _comments(name: str, view: PredictionView) -> sql.Composed:
    from psycopg import sql

    relation = sql.Identifier(SCHEMA, name)
    comments = [sql.SQL("comment on view {} is {}").format(relation, sql.Literal(view.description))]
    for column_name, column in view.columns.items():
        comment = sql.SQL("comment on column {}.{} is {}").format(
            relation, sql.Identifier(column_name), sql.Literal(column.description)
        )
        comments.append(comment)
    return sql.SQL("; ").join(comments)


def _replace_view(conn: Connection, name: str, view: PredictionView, create: sql.Composed) -> None:
    """Create a view where one of another shape stands, in the caller's transaction.

    Readers wait for the transaction, and then read the new view under the old name.
    """
    from psycopg import errors

    before = table_columns(conn, SCHEMA, name)
    old_major = _recorded_major(conn, name)
    # A renamed view keeps what other people built on it.
    _rename(conn, name, name + _OLD)
    conn.execute(create)
    after = table_columns(conn, SCHEMA, name)

    if is_compatible(before, after):
        try:
            _drop(conn, name + _OLD)
        except errors.DependentObjectsStillExist as error:
            raise ViewContractError(
                f"analytics.{name} gains columns, and another view reads it.",
                got=str(error.diag.message_detail),
                todo="Drop that view, run `nightshift migrate`, and create it again.",
            ) from None
        return
    if old_major >= view.major:
        lost = [column for column in before if after.get(column) != before[column]]
        raise ViewContractError(
            f"analytics.{name} would lose, retype or reorder columns that its readers use.",
            expected=f"version {old_major} of its contract, with {', '.join(lost) or 'its order'}",
            todo="Keep the columns, or raise `analytics.version` in the spec: the view of before"
            f" then stays as analytics.{name}_v{old_major}.",
        )
    kept = f"{name}_v{old_major}"
    if table_columns(conn, SCHEMA, kept):
        _drop(conn, name + _OLD)
        return
    _rename(conn, name + _OLD, kept)
    conn.execute(_DEPRECATE, {"kept": kept, "name": name, "by": f"analytics.{name}"})


def is_compatible(before: dict[str, TableColumn], after: dict[str, TableColumn]) -> bool:
    """Return whether every column of before is still there, of the same type, in the same order."""
    shared = [name for name in after if name in before]
    return shared == list(before) and all(
        after[name].sql_type == before[name].sql_type for name in shared
    )


def _recorded_major(conn: Connection, name: str) -> int:
    """Return the major version of a view's contract; those without a record are of version 1."""
    query = (
        "select split_part(version, '.', 1)::int from ops.view_contracts where relation_name = %s"
    )
    row = conn.execute(query, [name]).fetchone()
    return int(row[0]) if row else 1


def _rename(conn: Connection, name: str, new_name: str) -> None:
    from psycopg import sql

    rename = sql.SQL("alter view {} rename to {}")
    conn.execute(rename.format(sql.Identifier(SCHEMA, name), sql.Identifier(new_name)))


def _drop(conn: Connection, name: str) -> None:
    from psycopg import sql

    conn.execute(sql.SQL("drop view {}").format(sql.Identifier(SCHEMA, name)))


def _keep_model(conn: Connection, spec: ModelSpec) -> None:
    """Record what analysts are promised of a model, which ``analytics.health`` shows."""
    values = {
        "model": spec.name,
        "description": spec.description,
        "task": spec.task.value,
        "owner": spec.owner,
        "runbook": spec.runbook,
        "deadline": spec.deadline,
        "timezone": operating_timezone(),
        "entity": spec.entity.name,
        "predictions_dataset": spec.predictions_dataset,
        "features_dataset": spec.features_dataset,
    }
    conn.execute(_KEEP_MODEL, values)


def _keep_contract(conn: Connection, spec: ModelSpec, view: PredictionView) -> None:
    """Record a view's contract, which the dictionary shows."""
    columns = {
        name: {"unit": column.unit, "replaced_by": column.replaced_by}
        for name, column in view.columns.items()
        if column.unit or column.replaced_by
    }
    values = {
        "relation_name": f"{spec.name}_{view.suffix}",
        "model": spec.name,
        "version": view.version,
        "owner": view.owner,
        "grain": view.grain,
        "freshness": view.freshness,
        "example_query": view.example,
        "deprecated_by": view.deprecated_by or None,
        "removed_after": view.removed_after,
        "columns": json.dumps(columns),
    }
    conn.execute(_KEEP_CONTRACT, values)


_KEEP_MODEL = """
insert into ops.analytics_models (model, description, task, owner, runbook, deadline, timezone,
    entity, predictions_dataset, features_dataset)
values (%(model)s, %(description)s, %(task)s, %(owner)s, %(runbook)s, %(deadline)s, %(timezone)s,
    %(entity)s, %(predictions_dataset)s, %(features_dataset)s)
on conflict (model) do update
set description = excluded.description, task = excluded.task, owner = excluded.owner,
    runbook = excluded.runbook, deadline = excluded.deadline, timezone = excluded.timezone,
    entity = excluded.entity, features_dataset = excluded.features_dataset,
    kept_at = clock_timestamp()
"""
_KEEP_CONTRACT = """
insert into ops.view_contracts (relation_name, model, version, owner, grain, freshness,
    example_query, deprecated_by, removed_after, columns)
values (%(relation_name)s, %(model)s, %(version)s, %(owner)s, %(grain)s, %(freshness)s,
    %(example_query)s, %(deprecated_by)s, %(removed_after)s, %(columns)s)
on conflict (relation_name) do update
set version = excluded.version, owner = excluded.owner, grain = excluded.grain,
    freshness = excluded.freshness, example_query = excluded.example_query,
    deprecated_by = excluded.deprecated_by, removed_after = excluded.removed_after,
    columns = excluded.columns, kept_at = clock_timestamp()
"""
# The contract of a view that keeps its columns under another name is its old one.
_DEPRECATE = """
insert into ops.view_contracts (relation_name, model, version, owner, grain, freshness,
    example_query, deprecated_by, columns)
select %(kept)s, model, version, owner, grain, freshness, example_query, %(by)s, columns
from ops.view_contracts where relation_name = %(name)s
on conflict (relation_name) do update set deprecated_by = excluded.deprecated_by
"""
# A new model's views are read before the next migrate applies all grants.
_GRANT_FUNCTIONS = """
do $do$ begin
    if exists (select from pg_roles where rolname = 'analyst') then
        grant execute on function predictions.published_loads(text, text),
            predictions.sum_of_contributions(jsonb), predictions.sum_of_effects(jsonb),
            predictions.reason_in_words(
                text, jsonb, text, double precision, double precision, text, double precision,
                text, jsonb
            ),
            predictions.contribution_changes(
                jsonb, jsonb, boolean, boolean, double precision, double precision,
                double precision
            )
        to analyst;
    end if;
end $do$
"""
