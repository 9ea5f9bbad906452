"""Compile a feature view: its SQL and that of every model between it and the sources.

Nothing is executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.errors import NightshiftError
from nightshift.warehouse.dbt.invocation import DbtProcessError, run_dbt
from nightshift.warehouse.dbt.project import ParsedProject, parsed_project
from nightshift.warehouse.faults import fault_in

if TYPE_CHECKING:
    from nightshift.settings import Settings

MAX_STORED_VIEWS = 64
"""Compiled views on disk for each version of the project: starting dbt takes longer than a
partition's SQL.
"""


class UnknownViewError(NightshiftError):
    """The dbt project has no such feature view."""

    code = "NS-DBT-003"


@dataclass(frozen=True)
class CompiledModel:
    """One relation that the feature view reads.

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
        models: What it reads in order of dependence, itself the last.
        sources: Relation to ``<schema>/<table>`` of every source that a model reads.
    """

    table: str
    columns: Mapping[str, str]
    models: tuple[CompiledModel, ...]
    sources: Mapping[str, str]


def compile_view(settings: Settings, table: str, variables: Mapping[str, Any]) -> CompiledView:
    """Return the SQL of a feature view for these variables; from disk if it was compiled before.

    Args:
        settings: Where the project is.
        table: The model, for example ``feat_customer``.
        variables: dbt variables; values come from typed code only, since dbt renders them into SQL.

    Raises:
        UnknownViewError: The project has no such model.
        DbtProcessError: dbt failed.
    """
    project = parsed_project(settings)
    request = json.dumps([table, dict(variables)], sort_keys=True)
    name = sha256(request.encode()).hexdigest()[:16]
    path = project.folder / "compiled" / f"{name}.json"
    if content := sealed_file.read(path):
        os.utime(path)  # it is in use: others are deleted first
        return _from_json(json.loads(content))
    view = _compile(settings, project, table, variables)
    _store(path, view)
    return view


def _compile(
    settings: Settings, project: ParsedProject, table: str, variables: Mapping[str, Any]
) -> CompiledView:
    view_id = project.find_model(table)
    if view_id is None:
        raise UnknownViewError(
            f"The dbt project has no model {table}.",
            todo="Make the feature view a model of the project: its rows must be rebuildable.",
        )
    lineage = project.lineage(view_id)
    models = {key: project.models[key] for key in lineage if key in project.models}
    sources = {key: source for key, source in project.sources.items() if key in lineage}

    sql = _compiled_sql(settings, project, [node["name"] for node in models.values()], variables)
    nodes = project.models | sources
    relations = {key: node["relation_name"] for key, node in nodes.items() if node["relation_name"]}
    compiled_models = []
    for key, model in models.items():
        # An ephemeral model has no relation: it is part of the SQL of those that read it.
        if key not in relations:
            continue
        # dbt names what an ephemeral model reads at that model, so the SQL itself is searched.
        reads = [relation for relation in relations.values() if relation in sql[key]]
        compiled_models.append(
            CompiledModel(model["name"], relations[key], sql[key], tuple(sorted(reads)))
        )
    columns = project.models[view_id]["columns"]
    return CompiledView(
        table,
        {name: column["data_type"] for name, column in columns.items()},
        tuple(compiled_models),
        {relations[key]: f"{s['schema']}/{s['identifier']}" for key, s in sources.items()},
    )


def _compiled_sql(
    settings: Settings, project: ParsedProject, names: Sequence[str], variables: Mapping[str, Any]
) -> dict[str, str]:
    """Return the select of each model by dbt's id."""
    arguments = ["compile", "--no-populate-cache", "--indirect-selection", "empty"]
    arguments += ["--vars", json.dumps(dict(variables)), "--select", *names]
    outcome = run_dbt(settings, arguments, project.msgpack, "nightshift dbt compile")
    compiled_models = [result for result in outcome.results if result["status"] == "success"]
    if outcome.exit_code or len(compiled_models) < len(names):
        raise fault_in(outcome.output) or DbtProcessError(
            f"dbt compiled {len(compiled_models)} of {len(names)} models.",
            got=outcome.last_output,
            todo="Correct the model; dbt's log is in <home>/logs/dbt.",
        )
    return {result["unique_id"]: result["compiled_code"] for result in compiled_models}


def _store(path: Path, view: CompiledView) -> None:
    sealed_file.write(path, json.dumps(asdict(view)).encode())
    stored = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for oldest in stored[:-MAX_STORED_VIEWS]:
        oldest.unlink(missing_ok=True)


def _from_json(document: dict[str, Any]) -> CompiledView:
    models = [CompiledModel(**{**m, "reads": tuple(m["reads"])}) for m in document["models"]]
    return CompiledView(document["table"], document["columns"], tuple(models), document["sources"])
