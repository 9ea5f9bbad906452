"""The SQL that dbt would run for one feature view, with everything that stands between it and the sources; nothing is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.errors import NightshiftError
from nightshift.warehouse.dbt.runner import (
    PARSED_PROJECT,
    DbtProcessError,
    _call_dbt,
    _target_folder,
    parsed_project,
)
from nightshift.warehouse.faults import fault_in

if TYPE_CHECKING:
    from nightshift.settings import Settings

KEPT_COMPILATIONS = 64
"""Compiled views kept on disk for each version of the project: starting dbt takes longer than a
partition's SQL.
"""


class UnknownViewError(NightshiftError):
    """The dbt project has no such feature view."""

    code = "NS-DBT-003"


@dataclass(frozen=True)
class CompiledModel:
    """One relation that the feature view stands on.

    Attributes:
        name: Name of the model.
        relation: How other SQL names it, quoted, with database and schema.
        sql: Its select.
        reads: Relations of models and sources that it names, in ``relation``'s form.
    """

    name: str
    relation: str
    sql: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class CompiledView:
    """A feature view as dbt would build it.

    Attributes:
        table: Its table within schema ``features``.
        columns: Name and type, in the order of its contract.
        models: What it stands on in order of dependence, itself the last.
        sources: Relation to ``<schema>/<table>`` of every source that a model reads.
    """

    table: str
    columns: Mapping[str, str]
    models: tuple[CompiledModel, ...]
    sources: Mapping[str, str]


def compile_view(settings: Settings, table: str, variables: Mapping[str, Any]) -> CompiledView:
    """Return the SQL of a feature view for these variables; the same question is answered from disk.

    Args:
        settings: Where the project is.
        table: The model, for example ``feat_flight``.
        variables: dbt variables; values come from typed code only, since dbt renders them into SQL.

    Raises:
        UnknownViewError: The project has no such model.
        DbtProcessError: dbt failed.
    """
    parsed = parsed_project(settings)
    asked = sha256(json.dumps([table, dict(variables)], sort_keys=True).encode()).hexdigest()[:16]
    kept = parsed / "compiled" / f"{asked}.json"
    if content := sealed_file.read(kept):
        os.utime(kept)
        return _from_json(json.loads(content))
    view = _compile(settings, parsed, table, variables)
    _keep(kept, view)
    return view


def column_descriptions(settings: Settings, table: str) -> dict[str, str]:
    """Return what the project says about each column of a model; empty if it has no such model.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    manifest = json.loads((parsed_project(settings) / "manifest.json").read_text(encoding="utf-8"))
    columns: dict[str, Any] = next(
        (node["columns"] for node in manifest["nodes"].values() if node["name"] == table), {}
    )
    return {name: column["description"] for name, column in columns.items()}


def raw_lineage(settings: Settings) -> dict[str, frozenset[str]]:
    """Return the raw datasets that each model of the project reads, directly or by other models.

    Returns:
        Name of the model to names in the ledger, such as ``raw/weather``.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    manifest = json.loads((parsed_project(settings) / "manifest.json").read_text(encoding="utf-8"))
    nodes, sources = manifest["nodes"], manifest["sources"]
    models = {key: node for key, node in nodes.items() if node["resource_type"] == "model"}
    read = {node["name"]: _read(nodes, list(_upstream(nodes, key))) for key, node in models.items()}
    raw = {key: _dataset(node) for key, node in sources.items() if node["schema"] == "raw"}
    return {name: frozenset(raw[key] for key in keys if key in raw) for name, keys in read.items()}


def _dataset(source: Mapping[str, Any]) -> str:
    return f"{source['schema']}/{source['identifier']}"


def _compile(
    settings: Settings, parsed: Path, table: str, variables: Mapping[str, Any]
) -> CompiledView:
    manifest = json.loads((parsed / "manifest.json").read_text(encoding="utf-8"))
    models = {
        key: node for key, node in manifest["nodes"].items() if node["resource_type"] == "model"
    }
    last = next((key for key, node in models.items() if node["name"] == table), None)
    if last is None:
        raise UnknownViewError(
            f"The dbt project has no model {table}.",
            todo="Make the feature view a model of the project: its rows must be rebuildable.",
        )
    order = list(dict.fromkeys(_upstream(manifest["nodes"], last)))
    sql = _compiled_sql(settings, parsed, [models[key]["name"] for key in order], variables)
    sources = {
        key: node for key, node in manifest["sources"].items() if key in _read(models, order)
    }
    relations = {
        key: node["relation_name"]
        for key, node in [*models.items(), *sources.items()]
        if node["relation_name"]
    }
    return CompiledView(
        table,
        {name: column["data_type"] for name, column in models[last]["columns"].items()},
        tuple(
            CompiledModel(
                models[key]["name"],
                relations[key],
                sql[key],
                tuple(sorted(r for r in relations.values() if r in sql[key])),
            )
            for key in order
            if key in relations
        ),
        {relations[key]: _dataset(node) for key, node in sources.items()},
    )


def _upstream(nodes: Mapping[str, Any], key: str) -> Iterator[str]:
    """Yield a model and what it stands on, the deepest first."""
    for parent in nodes[key]["depends_on"]["nodes"]:
        if parent in nodes:
            yield from _upstream(nodes, parent)
    yield key


def _read(models: Mapping[str, Any], order: list[str]) -> set[str]:
    return {parent for key in order for parent in models[key]["depends_on"]["nodes"]}


def _compiled_sql(
    settings: Settings, parsed: Path, names: list[str], variables: Mapping[str, Any]
) -> dict[str, str]:
    """Return the select of each model by dbt's id."""
    arguments = [
        "compile",
        "--no-populate-cache",
        "--indirect-selection",
        "empty",
        "--vars",
        json.dumps(dict(variables)),
        "--select",
        *names,
    ]
    with _target_folder(settings) as target:
        code, output = _call_dbt(
            settings, arguments, target, parsed / PARSED_PROJECT, "nightshift dbt compile"
        )
        results = target / "run_results.json"
        compiled = (
            json.loads(results.read_text(encoding="utf-8"))["results"] if results.is_file() else []
        )
    sql = {
        result["unique_id"]: result["compiled_code"]
        for result in compiled
        if result["status"] == "success"
    }
    if code or len(sql) < len(names):
        if fault := fault_in(output):
            raise fault
        raise DbtProcessError(
            f"dbt compiled {len(sql)} of {len(names)} models.",
            got=output.strip()[-1500:] or "no output",
            todo="Correct the model; dbt's log is in <home>/logs/dbt.",
        )
    return sql


def _keep(path: Path, view: CompiledView) -> None:
    sealed_file.write(path, json.dumps(asdict(view)).encode())
    for old in sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)[
        :-KEPT_COMPILATIONS
    ]:
        old.unlink(missing_ok=True)


def _from_json(document: dict[str, Any]) -> CompiledView:
    models = tuple(
        CompiledModel(**{**model, "reads": tuple(model["reads"])}) for model in document["models"]
    )
    return CompiledView(document["table"], document["columns"], models, document["sources"])
