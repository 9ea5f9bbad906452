"""Create the analysts' views of one model's predictions, from the macros of the dbt project.

dbt makes the same views from the same macros; here they are rendered without starting dbt, because
a scoring run creates what is missing. Source: docs/adr/0042-analysts-views.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.contracts.dbt_variables import dbt_folder
from nightshift.errors import SettingsError
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.relations.prediction_columns import PredictionView, prediction_views

if TYPE_CHECKING:
    from jinja2.environment import TemplateModule
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection

MACROS = Path("macros", "predictions.sql")


def create_prediction_views(conn: Connection, spec: ModelSpec, *, replace: bool) -> None:
    """Create the missing ones of ``analytics.<model>_{current,history,outcomes}``.

    The outcomes view is created once its label relation exists. Call it within a transaction.

    Args:
        conn: A connection of the warehouse's owner.
        spec: The model; its prediction table exists.
        replace: Replace existing views too; it waits for their readers.
    """
    macros = _Macros(conn, spec)
    views = _possible_views(conn, spec) if replace else missing_views(conn, spec)
    for view in views:
        _create_view(conn, spec, view, macros)


def missing_views(conn: Connection, spec: ModelSpec) -> list[PredictionView]:
    """Return the views of a model's predictions that could exist and do not."""
    return [
        view
        for view in _possible_views(conn, spec)
        if not table_columns(conn, "analytics", f"{spec.name}_{view.suffix}")
    ]


def _possible_views(conn: Connection, spec: ModelSpec) -> list[PredictionView]:
    views = prediction_views(spec)
    # A wrong label in the spec must not keep predictions from being made.
    if spec.label.column not in table_columns(conn, "marts", spec.label.relation):
        del views["outcomes"]
    return list(views.values())


def _create_view(conn: Connection, spec: ModelSpec, view: PredictionView, macros: _Macros) -> None:
    from psycopg import sql

    # The view is bound to the function, so the function comes first.
    if view.suffix == "outcomes":
        conn.execute(macros.label_function())

    name = sql.Identifier("analytics", f"{spec.name}_{view.suffix}")
    # A security barrier: a filter of the reader is never run on rows that the view leaves out, so
    # no error message can show them.
    create = sql.SQL("create or replace view {} with (security_barrier) as {}")
    conn.execute(create.format(name, macros.select(view.suffix)))

    comment = sql.SQL("comment on view {} is {}")
    conn.execute(comment.format(name, sql.Literal(view.description)))
    comment_column = sql.SQL("comment on column {}.{} is {}")
    for column_name, column in view.columns.items():
        text = sql.Literal(column.description)
        conn.execute(comment_column.format(name, sql.Identifier(column_name), text))


@dataclass(frozen=True)
class _Macros:
    """The macros of the project, called with the warehouse's own relations."""

    conn: Connection
    spec: ModelSpec

    @cached_property
    def _module(self) -> TemplateModule:
        from jinja2 import (
            Environment,
            FileSystemLoader,
            StrictUndefined,
            TemplateNotFound,
            select_autoescape,
        )

        environment = Environment(
            loader=FileSystemLoader(dbt_folder()),
            # A name that only dbt knows must fail here, not vanish from the SQL.
            undefined=StrictUndefined,
            autoescape=select_autoescape([]),
        )
        try:
            return environment.get_template(MACROS.as_posix()).module
        except TemplateNotFound:
            raise SettingsError(
                f"The dbt project {dbt_folder()} has no {MACROS}.",
                todo="Copy the file from nightshift's own dbt project: it makes the views that"
                " analysts read.",
            ) from None

    def label_function(self) -> sql.SQL:
        """Return the statement that makes the function that reads labels."""
        label = self.spec.label
        return self._render(
            "create_label_function",
            label_function=self._function,
            predictions=self._relation("predictions", self.spec.name),
            labels=self._relation("marts", label.relation),
            key=self.spec.entity.key,
            label=label.column,
        )

    def select(self, suffix: str) -> sql.SQL:
        """Return the select of a view."""
        rows = {
            "predictions": self._relation("predictions", self.spec.name),
            "dataset": self.spec.predictions_dataset,
            "key": self.spec.entity.key,
        }
        if suffix == "history":
            return self._render("prediction_history", loads=self._relation("ops", "loads"), **rows)
        rows["published"] = self._relation("ops", "published")
        if suffix == "current":
            return self._render("current_predictions", **rows)
        days = self.spec.label.maturity_days
        return self._render(
            "prediction_outcomes", label_function=self._function, maturity_days=days, **rows
        )

    def _render(self, macro: str, **arguments: object) -> sql.SQL:
        from psycopg import sql

        return sql.SQL(str(getattr(self._module, macro)(**arguments)))

    @property
    def _function(self) -> str:
        return f'"predictions"."{self.spec.name}_labels"'

    def _relation(self, schema: str, name: str) -> str:
        """Return a relation as dbt writes it: with the database, everything quoted."""
        from psycopg import sql

        return sql.Identifier(self.conn.info.dbname, schema, name).as_string(self.conn)
