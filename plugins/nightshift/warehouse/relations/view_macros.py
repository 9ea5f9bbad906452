"""Render the macros of the dbt project that are the analysts' views, without starting dbt.

Source: docs/adr/0042-analysts-views.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.contracts.dbt_variables import dbt_folder
from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import operating_timezone
from nightshift.errors import SettingsError
from nightshift.warehouse.relations.columns import table_columns
from nightshift.warehouse.relations.prediction_columns import effect_unit

if TYPE_CHECKING:
    from jinja2.environment import TemplateModule
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection

MACROS = (
    Path("macros", "predictions.sql"),
    Path("macros", "explanations.sql"),
    Path("macros", "model_record.sql"),
)
"""Files of the dbt project; a macro may call those of the other files, as in dbt."""
VIEW_MACROS = {
    "current": "current_predictions",
    "history": "prediction_history",
    "outcomes": "prediction_outcomes",
    "reasons": "prediction_reasons",
    "causes": "prediction_causes",
    "changes": "prediction_changes",
    "performance": "model_performance",
    "versions": "model_versions",
}
"""The macro of each view, which takes the words of ``spec_words`` and relations."""
RELATIONS = {
    "explanations": ("ml", "version_explanations"),
    "references": ("ml", "feature_references"),
    "versions": ("ml", "model_versions"),
    "training_sets": ("ml", "training_sets"),
    "promotions": ("ml", "promotions"),
    "succession": ("ml", "succession"),
    "words": ("ops", "feature_words"),
    "levels": ("ops", "score_levels"),
    "performance": ("monitoring", "performance_published"),
    "verdicts": ("monitoring", "verdicts_published"),
}
"""Relations that the views of every model read, by the name that macros use."""


def spec_words(spec: ModelSpec) -> dict[str, Any]:
    """Return what macros read of a spec, besides relations."""
    # Views of other tasks, whose SQL is in the dbt project of their owners, know no such word.
    classes = {"classes": [list(part) for part in spec.class_columns.items()]}
    return {
        **(classes if spec.classes else {}),
        **({"is_ranking": True} if spec.is_ranking else {}),
        "name": spec.name,
        "key": spec.entity.key,
        "timezone": operating_timezone(),
        "is_binary": spec.task is Task.BINARY,
        "attributes": list(spec.analytics.attributes),
        "n_reasons": spec.scoring.reasons,
        "causes": [
            [cause.name, cause.words or cause.name, list(cause.features)]
            for cause in spec.analytics.causes
        ],
        "effect_unit": effect_unit(spec),
        "maturity_days": spec.label.maturity_days,
        "metric": spec.promotion.metric,
        "feature_view": spec.feature_view,
        "predictions_dataset": spec.predictions_dataset,
        "features_dataset": spec.features_dataset,
    }


@lru_cache(maxsize=2)
def _compiled(template: str) -> TemplateModule:
    """Return the macros of a template; compiling the project's takes 0.2 s, once a process."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(
        # A name that only dbt knows must fail here, not vanish from the SQL.
        undefined=StrictUndefined,
        autoescape=select_autoescape([], default_for_string=False),
    )
    return environment.from_string(template).module


@dataclass(frozen=True)
class ViewMacros:
    """The macros of the project, called with the warehouse's own relations.

    Attributes:
        conn: A connection of the warehouse.
        spec: The model.
    """

    conn: Connection
    spec: ModelSpec

    @cached_property
    def _module(self) -> TemplateModule:
        files = [dbt_folder() / path for path in MACROS]
        for path in files:
            if not path.is_file():
                name = path.relative_to(dbt_folder())
                raise SettingsError(
                    f"The dbt project {dbt_folder()} has no {name}.",
                    todo="Copy the file from nightshift's own dbt project: it makes the views that"
                    " analysts read.",
                )
        # One template: a macro finds those of the other files, as in dbt.
        return _compiled("\n".join(path.read_text(encoding="utf-8") for path in files))

    def label_function(self) -> sql.SQL:
        """Return the statement that makes the function that reads labels."""
        from psycopg import sql

        label = self.spec.label
        # Its text is kept as it is written: a copy of the database may have another name.
        predictions = sql.Identifier("predictions", self.spec.name)
        labels = sql.Identifier("marts", label.relation)
        return self._render(
            "create_label_function",
            label_function=self._function,
            predictions=predictions.as_string(self.conn),
            labels=labels.as_string(self.conn),
            key=self.spec.entity.key,
            label=label.column,
        )

    def select(self, suffix: str) -> sql.SQL:
        """Return the select of a view."""
        # Views of version 1 have macros with other arguments.
        if suffix in VIEW_MACROS:
            return self._render(VIEW_MACROS[suffix], spec=self._spec_argument)
        rows = {
            "predictions": self._relation("predictions", self.spec.name),
            "dataset": self.spec.predictions_dataset,
            "key": self.spec.entity.key,
        }
        if suffix == "history_v1":
            loads = self._relation("ops", "loads")
            return self._render("prediction_history_v1", loads=loads, **rows)
        rows["published"] = self._relation("ops", "published")
        if suffix == "current_v1":
            return self._render("current_predictions_v1", **rows)
        days = self.spec.label.maturity_days
        return self._render(
            "prediction_outcomes_v1", label_function=self._function, maturity_days=days, **rows
        )

    @property
    def _spec_argument(self) -> dict[str, Any]:
        relations = {name: self._relation(*where) for name, where in RELATIONS.items()}
        table = table_columns(self.conn, "predictions", self.spec.name)
        return {
            **spec_words(self.spec),
            **relations,
            # A warehouse that was not migrated yet: the views show that there are none.
            "lacks_intervals": "interval_low" not in table,
            "predictions": self._relation("predictions", self.spec.name),
            "features": self._relation("features", self.spec.feature_table),
            "label_function": self._function,
        }

    def _render(self, macro: str, **arguments: object) -> sql.SQL:
        from psycopg import sql

        call = getattr(self._module, macro, None)
        if call is None:
            raise SettingsError(
                f"The dbt project {dbt_folder()} has no macro {macro}.",
                todo="Copy the folder macros from nightshift's own dbt project: its files are of an"
                " older version.",
            )
        return sql.SQL(str(call(**arguments)))

    @property
    def _function(self) -> str:
        return f'"predictions"."{self.spec.name}_labels"'

    def _relation(self, schema: str, name: str) -> str:
        """Return a relation as dbt writes it: with the database, everything quoted."""
        from psycopg import sql

        return sql.Identifier(self.conn.info.dbname, schema, name).as_string(self.conn)
