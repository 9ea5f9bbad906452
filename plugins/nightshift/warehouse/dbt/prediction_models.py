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
    PREDICTION_COLUMNS,
    PredictionView,
    describe_columns,
    describe_table,
    prediction_views,
)

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
    words = {
        "model": spec.name,
        "dataset": spec.predictions_dataset,
        "key": spec.entity.key,
        "labels": _label_relation(spec, dbt_project_dir),
        "label": spec.label.column,
        "maturity_days": spec.label.maturity_days,
    }
    files = {}
    for suffix, template in _SQL.items():
        files[f"{spec.name}_{suffix}.sql"] = template.substitute(words)
    document = {
        "version": 2,
        "sources": _sources(spec, dbt_project_dir),
        "models": [_properties(spec, view) for view in prediction_views(spec).values()],
        "exposures": [_exposure(spec, dbt_project_dir)],
    }
    files[f"_{spec.name}.yml"] = _YAML_HEADER.substitute(words) + _yaml(document)
    return files


_SQL = {
    "current": Template("""\
-- Written by `nightshift dbt` from dags/models/$model.yaml; the SQL is in macros/predictions.sql.
{{ current_predictions(
    predictions=source('predictions', '$model'),
    published=source('ops', 'published'),
    dataset='$dataset',
    key='$key'
) }}
"""),
    "history": Template("""\
-- Written by `nightshift dbt` from dags/models/$model.yaml; the SQL is in macros/predictions.sql.
{{ prediction_history(
    predictions=source('predictions', '$model'),
    loads=source('ops', 'loads'),
    dataset='$dataset',
    key='$key'
) }}
"""),
    # dbt renders a hook when the model runs: only then are the types of the labels known.
    "outcomes": Template("""\
-- Written by `nightshift dbt` from dags/models/$model.yaml; the SQL is in macros/predictions.sql.
{{ config(pre_hook="{{ create_label_function(
    label_function=label_function('$model'),
    predictions=source('predictions', '$model'),
    labels=$labels,
    key='$key',
    label='$label'
) }}") }}
{{ prediction_outcomes(
    predictions=source('predictions', '$model'),
    published=source('ops', 'published'),
    label_function=label_function('$model'),
    dataset='$dataset',
    key='$key',
    maturity_days=$maturity_days
) }}
"""),
}
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
    for name, column in describe_columns(spec, PREDICTION_COLUMNS).items():
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


def _properties(spec: ModelSpec, view: PredictionView) -> dict[str, Any]:
    columns = []
    for name, column in view.columns.items():
        typed = {"name": name}
        if column.data_type:
            typed["data_type"] = column.data_type
        columns.append({**typed, "description": _text(column.description)})
    properties: dict[str, Any] = {
        "name": f"{spec.name}_{view.suffix}",
        "description": _text(view.description),
        "columns": columns,
    }
    # The outcome has the type of the label column, which only the label relation knows.
    if not all(column.data_type for column in view.columns.values()):
        properties["config"] = {"contract": {"enforced": False}}
    return properties


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
