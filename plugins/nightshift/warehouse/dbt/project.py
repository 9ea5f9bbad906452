"""The parsed dbt project: parsed once per version of its files, and read by everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.warehouse.dbt.invocation import (
    DbtError,
    DbtOutcome,
    DbtProcessError,
    call_dbt,
    target_folder,
)

if TYPE_CHECKING:
    from nightshift.settings import Settings

_MSGPACK, _MANIFEST = "partial_parse.msgpack", "manifest.json"
_DIGESTS = "digests"
"""File in the folder of a parsed project with the digests of the two others."""
_PROJECT_SUFFIXES = {".sql", ".yml", ".yaml", ".md", ".csv"}
_WRITTEN_FOLDERS = {"target", "logs"}
_FEATURE_PREFIX = "feat_"


@dataclass(frozen=True)
class FeatureView:
    """A dbt model ``feat_<name>``.

    Attributes:
        name: Name of the view; its table is ``features.feat_<name>``.
        entity_key: Its identifier column, from ``meta.entity_key`` of the model.
        columns: PostgreSQL type by column, in order, from the model's contract.
        may_be_empty: Whether a partition may have no entity, from ``meta.may_be_empty``; the suite
            decides too.
        raw_datasets: Names of the raw datasets that it reads, directly or through other models.
    """

    name: str
    entity_key: str
    columns: Mapping[str, str]
    may_be_empty: bool = False
    raw_datasets: frozenset[str] = frozenset()

    @property
    def dataset(self) -> str:
        """Return the name in the ledger."""
        return f"features/{self.name}"

    @property
    def table(self) -> str:
        """Return the table within schema ``features``."""
        return f"{_FEATURE_PREFIX}{self.name}"


@dataclass(frozen=True)
class ParsedProject:
    """A parsed dbt project on disk.

    Attributes:
        folder: Where its files are.
    """

    folder: Path

    @property
    def msgpack(self) -> Path:
        """Return dbt's own file of the parsed project."""
        return self.folder / _MSGPACK

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        return manifest

    @property
    def sources(self) -> dict[str, Any]:
        """Return the sources by dbt's id."""
        sources: dict[str, Any] = self._manifest["sources"]
        return sources

    @cached_property
    def models(self) -> dict[str, Any]:
        """Return the models by dbt's id."""
        nodes = self._manifest["nodes"].items()
        return {key: node for key, node in nodes if node["resource_type"] == "model"}

    def find_model(self, name: str) -> str | None:
        """Return the id of a model; None if there is none of this name."""
        return next((key for key, model in self.models.items() if model["name"] == name), None)

    def lineage(self, key: str) -> list[str]:
        """Return the ids of all that a model reads, the deepest first and the model itself last."""
        model = self._manifest["nodes"].get(key, {})
        lineage: list[str] = []
        # dbt refuses cycles, so this ends at the sources.
        for parent in model.get("depends_on", {}).get("nodes", []):
            lineage += self.lineage(parent)
        # A parent of several models counts once, at its first and deepest place.
        return list(dict.fromkeys([*lineage, key]))

    def raw_datasets(self, key: str) -> frozenset[str]:
        """Return the tables of schema ``raw`` that a model reads, directly or through others."""
        sources = [self.sources[parent] for parent in self.lineage(key) if parent in self.sources]
        return frozenset(source["identifier"] for source in sources if source["schema"] == "raw")


def feature_views(settings: Settings) -> list[FeatureView]:
    """Return the project's feature views, by name.

    Raises:
        DbtProcessError: The project cannot be parsed.
        DbtError: A feature view names no entity key.
    """
    project = parsed_project(settings)
    ids = {model["name"]: key for key, model in project.models.items()}
    # The prefix is the convention by which dbt's models and the ledger's datasets meet.
    view_names = [name for name in ids if name.startswith(_FEATURE_PREFIX)]
    return [_feature_view(project, ids[name]) for name in sorted(view_names)]


def _feature_view(project: ParsedProject, model_id: str) -> FeatureView:
    model = project.models[model_id]
    columns = {name: column["data_type"] for name, column in model["columns"].items()}
    meta = model["config"]["meta"]
    entity_key = meta.get("entity_key")
    if entity_key not in columns:
        raise DbtError(
            f"Feature view {model['name']} names no entity key.",
            expected="config.meta.entity_key, one of its columns",
            got=repr(entity_key),
            todo=f"Add it in {model['patch_path'] or model['original_file_path']}.",
        )
    return FeatureView(
        model["name"].removeprefix(_FEATURE_PREFIX),
        entity_key,
        columns,
        meta.get("may_be_empty") is True,
        project.raw_datasets(model_id),
    )


def column_descriptions(settings: Settings, table: str) -> dict[str, str]:
    """Return the description of each column of a model; empty if the project has no such model.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    project = parsed_project(settings)
    key = project.find_model(table)
    columns = project.models[key]["columns"] if key else {}
    return {name: column["description"] for name, column in columns.items()}


def raw_lineage(settings: Settings) -> dict[str, frozenset[str]]:
    """Return the raw datasets that each model of the project reads, directly or by other models.

    Returns:
        Name of the model to names in the ledger, such as ``raw/weather``.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    project = parsed_project(settings)
    return {
        model["name"]: frozenset(f"raw/{name}" for name in project.raw_datasets(key))
        for key, model in project.models.items()
    }


def parsed_project(settings: Settings) -> ParsedProject:
    """Return the parsed project; parse it if nobody has, or if the stored one is damaged.

    Safe from several processes at once.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    folder = settings.home / "dbt" / project_digest(settings)
    if not _is_complete(folder):
        with target_folder(settings) as target:
            exit_code, output = call_dbt(settings, ["parse"], target, None, "nightshift dbt parse")
            if exit_code:
                raise DbtProcessError(
                    "The dbt project cannot be parsed.",
                    got=DbtOutcome(exit_code, output, []).last_output,
                    todo="Correct it; `dbt parse` shows more.",
                )
            sealed_file.write(target / _DIGESTS, _digests_of(target))
            _keep(target, folder)
    return ParsedProject(folder)


def project_digest(settings: Settings) -> str:
    """Return a digest of what dbt's parse depends on: files, versions, the database's name."""
    versions = f"{version('dbt-core')} {version('dbt-postgres')}"
    digest = sha256(f"{versions} {settings.warehouse_database}".encode())
    root = settings.dbt_project_dir
    paths = [path for path in root.rglob("*") if path.suffix in _PROJECT_SUFFIXES]
    # Sorted: the order of a folder differs between machines.
    for path in sorted(path for path in paths if _WRITTEN_FOLDERS.isdisjoint(path.parts)):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _digests_of(folder: Path) -> bytes:
    names = (_MSGPACK, _MANIFEST)
    digests = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return json.dumps(digests).encode()


def _is_complete(folder: Path) -> bool:
    """Return whether a parsed project is there, as dbt has written it.

    A damaged file would change the SQL that is run, and nobody would notice.
    """
    try:
        return sealed_file.read(folder / _DIGESTS) == _digests_of(folder)
    except OSError:
        return False


def _keep(target: Path, folder: Path) -> None:
    """Move a parsed project to its folder, and a damaged one out of it."""
    if not _is_complete(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        target.rename(folder)
    except OSError:
        # Another process was faster: the same content is there.
        if not _is_complete(folder):
            raise
