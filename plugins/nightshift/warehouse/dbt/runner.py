"""Build dbt models, with the verdict of each read from ``run_results.json``; make the relations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import RowsAlteredError, WarehouseRightsError
from nightshift.failpoints import Failpoint, hit
from nightshift.redaction import without_values
from nightshift.stage_times import stage
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt.invocation import DbtError, DbtOutcome, DbtProcessError, run_dbt
from nightshift.warehouse.dbt.project import (
    FeatureView,
    feature_views,
    parsed_project,
    project_digest,
)
from nightshift.warehouse.faults import fault_in
from nightshift.warehouse.schema_lock import DBT_RELATIONS_LOCK

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_RELATIONS_WAIT_SECONDS = 300

_TODO = "Correct the model or its inputs; nothing was published. dbt's log is in <home>/logs/dbt."
_VIEW_CHANGED = (
    "A view may only gain columns, at its end. If this change is meant, `drop view … cascade` it"
    " and run `nightshift migrate`: it makes the view and the analysts' views on it again."
)
_COLUMNS_LOST = (
    "A feature view may gain columns, but not lose or retype them: older loads have them. Keep the"
    " column, or give the view a new name."
)
# PostgreSQL's and dbt's own hints do not fit here: what to do, by words of their message.
_TODO_BY_WORDS = {
    "name of view column": _VIEW_CHANGED,
    "drop columns from view": _VIEW_CHANGED,
    "data type of view column": _VIEW_CHANGED,
    "source and target schemas on this incremental model are out of sync": _COLUMNS_LOST,
}


@dataclass(frozen=True)
class ModelRun:
    """What dbt reports of one model of a run.

    Attributes:
        n_rows: Rows that the server reports to have stored; None where dbt does not say.
    """

    model: str
    status: str
    seconds: float
    message: str
    n_rows: int | None = None


def run_models(
    settings: Settings,
    models: Sequence[str],
    variables: Mapping[str, Any],
    application_name: str = "nightshift dbt",
) -> list[ModelRun]:
    """Run models in one dbt process, on relations that ``ensure_relations`` made for this project.

    Args:
        settings: Where the warehouse is.
        models: Names; empty runs all.
        variables: dbt variables; values come from typed code only, since dbt renders them into SQL.
        application_name: Shown by the warehouse.

    Returns:
        One entry per model.

    Raises:
        WarehouseError: The warehouse stopped or cancelled; its class names the cause.
        DbtError: A model failed; also one that lacks a right, under that code.
        DbtProcessError: dbt failed, or another number of models ran than was requested.
    """
    arguments = ["run", "--vars", json.dumps(variables)]
    if models:
        arguments += ["--select", *models]
    hit(Failpoint.DBT_BEFORE)
    parsed = parsed_project(settings)
    with stage("dbt_build"):
        outcome = run_dbt(settings, arguments, parsed.msgpack, application_name)
    runs = [_model_run(result) for result in outcome.results]
    raise_for_failed_model(runs)
    raise_for_failed_process(runs, outcome, len(models))
    hit(Failpoint.DBT_AFTER)
    return runs


def _model_run(result: Mapping[str, Any]) -> ModelRun:
    return ModelRun(
        # model.<project>.<name>, and .v<n> for a model with versions.
        model=result["unique_id"].split(".")[2],
        status=result["status"],
        seconds=round(result["execution_time"], 2),
        message=without_values(result["message"] or ""),
        n_rows=(result.get("adapter_response") or {}).get("rows_affected"),
    )


def raise_for_failed_model(runs: list[ModelRun]) -> None:
    """Raise the error of the models that failed; a fault of the warehouse by its own code."""
    failed = [run for run in runs if run.status != "success"]
    if not failed:
        return
    # A skipped model only reads a broken one: the broken one has the message.
    broken = next((run for run in failed if run.status == "error"), failed[0])
    fault = fault_in(broken.message)
    if fault is not None and not isinstance(fault, WarehouseRightsError | RowsAlteredError):
        raise fault
    error = DbtError(
        f"dbt model {broken.model} failed ({len(failed)} of {len(runs)} models did not run).",
        got=broken.message.strip() or broken.status,
        todo=_todo_of(broken.message),
    )
    if fault is not None:
        # A right or a policy is about one table: the models that do not read it can be built.
        error = DbtError(fault.what, got=fault.got, todo=fault.todo, code=fault.code)
    # The caller may go on without these models, so all of them are named.
    error.models = tuple(run.model for run in failed)
    raise error


def _todo_of(message: str) -> str:
    for words, todo in _TODO_BY_WORDS.items():
        if words in message:
            return todo
    return _TODO


def raise_for_failed_process(runs: list[ModelRun], outcome: DbtOutcome, n_requested: int) -> None:
    """Raise if dbt ended before all requested models had run."""
    # dbt calls a selection that matches nothing a success.
    is_complete = len(runs) == n_requested
    if n_requested == 0:
        is_complete = bool(runs)
    if outcome.exit_code == 0 and is_complete:
        return
    raise fault_in(outcome.output) or DbtProcessError(
        f"dbt ended with code {outcome.exit_code} and a verdict on {len(runs)} models.",
        expected=f"code 0 and {n_requested or 'all'} models",
        got=outcome.last_output,
        todo="Read dbt's log in <home>/logs/dbt; nothing was published.",
    )


def ensure_relations(settings: Settings) -> bool:
    """Make the views and empty tables of this version of the dbt project, if they are not there.

    Feature views keep their rows; a new column is added, and is null in older loads. Safe from
    several processes at once.

    Returns:
        Whether anything had to be made.

    Raises:
        DbtError: A relation cannot be changed in place, for example a column was renamed.
    """
    digest = project_digest(settings)
    with connect(settings, "nightshift dbt relations") as conn:
        if _relations_digest(conn) == digest:
            return False
        views = feature_views(settings)
        conn.execute(f"set lock_timeout = '{_RELATIONS_WAIT_SECONDS}s'".encode())
        conn.execute("select pg_advisory_lock(%s)", [DBT_RELATIONS_LOCK])
        # Another process may have made them while this one waited.
        if _relations_digest(conn) == digest:
            return False
        hit(Failpoint.RELATIONS_BEFORE)
        for view in views:
            _add_columns(conn, view)
        run_models(settings, [], {"load_id": 0, "as_of": {}})
        # Only now do the relations fit: an attempt that failed begins again.
        conn.execute(f"comment on schema staging is 'dbt project {digest}'".encode())
        return True


def _relations_digest(conn: Connection) -> str | None:
    """Return the digest of the project whose relations the warehouse has; None if it has none."""
    row = conn.execute(
        "select split_part(obj_description(to_regnamespace('staging'), 'pg_namespace'), ' ', 3)"
    ).fetchone()
    return row[0] if row else None


def _add_columns(conn: Connection, view: FeatureView) -> None:
    from psycopg import sql

    table = sql.Identifier("features", view.table)
    statement = sql.SQL("alter table if exists {} add column if not exists {} {}")
    for name, data_type in view.columns.items():
        conn.execute(statement.format(table, sql.Identifier(name), sql.SQL(data_type)))
