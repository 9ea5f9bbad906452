"""The dbt models of predictions: one folder of files per model spec, written from the spec.

The SQL is in ``macros/predictions.sql``; the files say which relations it reads, so that dbt knows
the lineage, and describe the columns. Source: docs/adr/0042-analysts-views.md.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from nightshift.contracts.model_spec import read_specs
from nightshift.warehouse.relations.prediction_columns import (
    describe_columns,
    describe_table,
    table_columns_of,
)
from nightshift.warehouse.relations.view_contracts import PredictionView, prediction_views
from nightshift.warehouse.relations.view_macros import RELATIONS, VIEW_MACROS, spec_words

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

_MARK = "Written by `nightshift dbt` from"
"""In the first line of each file."""
FOLDER = Path("models", "analytics", "predictions")
"""Within the dbt project: a folder per model."""


def write_prediction_models(models_dir: Path, dbt_project_dir: Path) -> list[Path]:
    """Write the dbt models of every valid spec, and remove those of specs that are gone.

    A spec that is wrong today keeps its files: its predictions are still there.

    Args:
        models_dir: Folder of model specs.
        dbt_project_dir: The dbt project; files that are as they should be are left alone.

    Returns:
        The files and folders that changed.
    """
    specs = read_specs(models_dir)
    root = dbt_project_dir / FOLDER
    changed = []
    for spec in specs.documents.values():
        for name, text in model_files(spec, dbt_project_dir).items():
            path = root / spec.name / name
            # Editors watch these files: one that is right is not touched.
            if not _has_text(path, text):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                changed.append(path)

    known = specs.documents.keys() | specs.broken.keys()
    for folder in sorted(root.glob("*/")):
        if folder.name not in known and _is_written_by_us(folder):
            shutil.rmtree(folder)
            changed.append(folder)
    return changed


def _is_written_by_us(folder: Path) -> bool:
    """Return whether a folder holds nothing but files of ours: others are not ours to delete."""
    paths = list(folder.iterdir())
    return all(path.is_file() and _MARK in path.read_text(encoding="utf-8") for path in paths)


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def model_files(spec: ModelSpec, dbt_project_dir: Path) -> dict[str, str]:
    """Return the content of each file of a model, by name."""
    views = prediction_views(spec, _attribute_types(spec, dbt_project_dir))
    head = _SQL_HEADER.substitute(model=spec.name)
    files = {}
    for suffix in views:
        sql = _view_sql(spec, suffix)
        if suffix.startswith("outcomes"):
            # dbt renders a hook when the model runs: only then are the types of the labels known.
            sql = _label_hook(spec, dbt_project_dir) + sql
        files[f"{spec.name}_{suffix}.sql"] = head + sql
    document = {
        "version": 2,
        "sources": _sources(spec, dbt_project_dir),
        "models": [
            _properties(spec, view, views.get(f"{suffix}_v1"))
            for suffix, view in views.items()
            if not view.deprecated_by
        ],
        "exposures": [_exposure(spec, dbt_project_dir)],
    }
    files[f"_{spec.name}.yml"] = _YAML_HEADER.substitute(model=spec.name) + _yaml(document)
    return files


def _view_sql(spec: ModelSpec, suffix: str) -> str:
    """Return the call of a view's macro, with relations by source and ref."""
    if suffix in _SQL_V1:
        return _SQL_V1[suffix].substitute(
            model=spec.name,
            dataset=spec.predictions_dataset,
            key=spec.entity.key,
            maturity_days=spec.label.maturity_days,
        )
    relations = {
        name: f"source('{schema}', '{table}')" for name, (schema, table) in RELATIONS.items()
    }
    relations["predictions"] = f"source('predictions', '{spec.name}')"
    relations["features"] = f"ref('{spec.feature_table}')"
    relations["label_function"] = f"label_function('{spec.name}')"
    # Only what the view reads is in its lineage.
    read = {name: relations[name] for name in _READS[suffix]}
    if suffix in _WITH_ATTRIBUTES and spec.analytics.attributes:
        read["features"] = relations["features"]
    words = spec_words(spec)
    if suffix not in _WITH_CAUSES:
        del words["causes"]
    lines = [f"    '{name}': {_literal(value)}" for name, value in words.items()]
    lines += [f"    '{name}': {relation}" for name, relation in read.items()]
    arguments = ",\n".join(lines)
    return f"{{{{ {VIEW_MACROS[suffix]}(spec={{\n{arguments}\n}}) }}}}\n"


def _literal(value: object) -> str:
    """Return a value as Jinja reads it: its literals are JSON's, with single quotes."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list):
        items = ", ".join(map(_literal, value))
        return f"[{items}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _label_hook(spec: ModelSpec, dbt_project_dir: Path) -> str:
    return _LABEL_HOOK.substitute(
        model=spec.name,
        labels=_label_relation(spec, dbt_project_dir),
        key=spec.entity.key,
        label=spec.label.column,
    )


def _attribute_types(spec: ModelSpec, dbt_project_dir: Path) -> dict[str, str]:
    """Return the types of the attributes that the feature view's YAML declares."""
    import yaml

    if not spec.analytics.attributes:
        return {}
    for path in sorted((dbt_project_dir / "models").rglob("*.yml")):
        text = path.read_text(encoding="utf-8")
        if spec.feature_table not in text or path.is_relative_to(dbt_project_dir / FOLDER):
            continue
        for model in (yaml.safe_load(text) or {}).get("models") or []:
            if model.get("name") == spec.feature_table:
                columns = model.get("columns") or []
                types = {column["name"]: column.get("data_type", "") for column in columns}
                return {name: types.get(name, "") for name in spec.analytics.attributes}
    return {}


_ROW_RELATIONS = ("explanations", "levels", "references", "words", "predictions")
_READS = {
    "current": _ROW_RELATIONS,
    "history": _ROW_RELATIONS,
    "outcomes": (*_ROW_RELATIONS, "label_function"),
    "reasons": _ROW_RELATIONS,
    "causes": _ROW_RELATIONS,
    "changes": ("explanations", "levels", "words", "predictions"),
    "performance": ("performance", "verdicts"),
    "versions": ("versions", "training_sets", "promotions", "succession"),
}
"""Relations that the macro of each view reads."""
_WITH_ATTRIBUTES = frozenset({"current", "history", "outcomes"})
_WITH_CAUSES = frozenset({"reasons", "causes"})
_SQL_HEADER = Template(
    "-- Written by `nightshift dbt` from dags/models/$model.yaml; the SQL is in macros/.\n"
)
_SQL_V1 = {
    "current_v1": Template("""\
{{ current_predictions_v1(
    predictions=source('predictions', '$model'),
    published=source('ops', 'published'),
    dataset='$dataset',
    key='$key'
) }}
"""),
    "history_v1": Template("""\
{{ prediction_history_v1(
    predictions=source('predictions', '$model'),
    loads=source('ops', 'loads'),
    dataset='$dataset',
    key='$key'
) }}
"""),
    "outcomes_v1": Template("""\
{{ prediction_outcomes_v1(
    predictions=source('predictions', '$model'),
    published=source('ops', 'published'),
    label_function=label_function('$model'),
    dataset='$dataset',
    key='$key',
    maturity_days=$maturity_days
) }}
"""),
}
_LABEL_HOOK = Template("""\
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('$model'),
    predictions=source('predictions', '$model').include(database=false),
    labels=$labels.include(database=false),
    key='$key',
    label='$label'
) }}") }}
""")
_YAML_HEADER = Template("""\
# Written by `nightshift dbt` from dags/models/$model.yaml: change that file.
""")


def _label_relation(spec: ModelSpec, dbt_project_dir: Path) -> str:
    """Return how dbt names the label relation: by ref, or by source if no model makes it."""
    if _is_model(dbt_project_dir, spec.label.relation):
        return f"ref('{spec.label.relation}')"
    return f"source('{_label_source(spec)}', '{spec.label.relation}')"


def _label_source(spec: ModelSpec) -> str:
    # Two models may read the same table, and dbt takes a table of a source only once.
    return f"{spec.name}_labels"


def _is_model(dbt_project_dir: Path, name: str) -> bool:
    # A reference to a model that does not exist would stop the parse of the whole project.
    return any((dbt_project_dir / "models").rglob(f"{name}.sql"))


def _sources(spec: ModelSpec, dbt_project_dir: Path) -> list[dict[str, Any]]:
    columns = []
    for name, column in describe_columns(spec, table_columns_of(spec)).items():
        columns.append({"name": name, "description": _text(column.description)})
    table = {
        "name": spec.name,
        "description": _text(describe_table(spec)),
        "columns": columns,
    }
    predictions = {
        "name": "predictions",
        "schema": "predictions",
        "description": "Every prediction, written by scoring; the views follow the pointer.",
        "tables": [table],
    }
    if _is_model(dbt_project_dir, spec.label.relation):
        return [predictions]
    description = "Labels that no dbt model makes."
    labels = {
        "name": _label_source(spec),
        "schema": "marts",
        "description": description,
        "tables": [{"name": spec.label.relation, "description": description}],
    }
    return [predictions, labels]


def _properties(
    spec: ModelSpec, view: PredictionView, older: PredictionView | None
) -> dict[str, Any]:
    """Return a view as a dbt model with its versions."""
    name = f"{spec.name}_{view.suffix}"
    latest: dict[str, Any] = {"v": view.major, "defined_in": name, "config": {"alias": name}}
    if not view.is_typed:
        latest["config"]["contract"] = {"enforced": False}
    versions = [latest]
    if older is not None:
        version: dict[str, Any] = {
            "v": older.major,
            "deprecation_date": str(older.removed_after),
            "description": _text(older.description),
            "columns": [{"include": []}, *_columns(older)],
        }
        # The outcome has the type of the label column, which only the label relation knows.
        if not older.is_typed:
            version["config"] = {"contract": {"enforced": False}}
        versions.append(version)
    return {
        "name": name,
        "description": _text(view.description),
        "latest_version": view.major,
        "config": {
            "meta": {
                "security_barrier": True,
                "owner": view.owner,
                "grain": view.grain,
                "freshness": view.freshness,
                "contract_version": view.version,
            }
        },
        "columns": _columns(view),
        "versions": versions,
    }


def _columns(view: PredictionView) -> list[dict[str, Any]]:
    columns = []
    for name, column in view.columns.items():
        typed: dict[str, Any] = {"name": name}
        if column.data_type:
            typed["data_type"] = column.data_type
        typed["description"] = _text(column.description)
        meta = {"unit": column.unit, "replaced_by": column.replaced_by}
        if any(meta.values()):
            typed["config"] = {"meta": {key: value for key, value in meta.items() if value}}
        columns.append(typed)
    return columns


def _exposure(spec: ModelSpec, dbt_project_dir: Path) -> dict[str, Any]:
    """Return the model itself, as dbt knows things that read its relations."""
    relations = [spec.feature_table, spec.label.relation]
    reads = [f"ref('{name}')" for name in relations if _is_model(dbt_project_dir, name)]
    return {
        "name": spec.name,
        "type": "ml",
        "description": _text(spec.description),
        "owner": {"name": spec.owner},
        "depends_on": reads,
    }


def _text(text: str) -> str:
    """Return text that dbt shows as it is: it renders descriptions as Jinja."""
    has_jinja = any(mark in text for mark in ("{{", "{%", "{#"))
    return f"{{% raw %}}{text}{{% endraw %}}" if has_jinja else text


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    # One line per column: a change of one is one line of a diff.
    text: str = yaml.safe_dump(
        document,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=sys.maxsize,
    )
    return text


if __name__ == "__main__":
    write_prediction_models(*map(Path, sys.argv[1:]))
