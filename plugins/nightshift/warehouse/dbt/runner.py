"""Run dbt: one child process a build, on a project that is parsed once, with its verdict read from ``run_results.json``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift import sealed_file
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.redaction import without_values
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.connection import connect, connection_options
from nightshift.warehouse.faults import fault_in
from nightshift.warehouse.schema_lock import DBT_RELATIONS_LOCK

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

PARSED_PROJECT = "partial_parse.msgpack"
_PROJECT_FILES = ("*.sql", "*.yml", "*.csv")
_ENSURE_WAIT_SECONDS = 300
_FEATURE_PREFIX = "feat_"


_TODO = "Correct the model or its inputs; nothing was published. dbt's log is in <home>/logs/dbt."
_REPLACED_VIEW = (
    "A view may only gain columns, at its end. If this change is meant, `drop view … cascade` it and run `nightshift migrate`: it makes it "
    "and the analysts' views on it again."
)
_TODO_BY_WORDS = {
    "name of view column": _REPLACED_VIEW,
    "drop columns from view": _REPLACED_VIEW,
    "data type of view column": _REPLACED_VIEW,
    "source and target schemas on this incremental model are out of sync": (
        "A feature view may gain columns, but not lose or retype them: older loads have them. Keep the column, or give the view a new name."
    ),
}
"""What to do, by words of the message: PostgreSQL's and dbt's own hints do not fit here."""


class DbtError(NightshiftError):
    """A dbt model failed; names the model and gives the database's message."""

    code = "NS-DBT-001"
    models: tuple[str, ...] = ()
    """All models that did not run: the broken ones, and those that read them."""


class DbtProcessError(NightshiftError):
    """dbt itself failed, or left no verdict."""

    code = "NS-DBT-002"


@dataclass(frozen=True)
class FeatureView:
    """A dbt model ``feat_<name>``.

    Attributes:
        name: Name of the view; its table is ``features.feat_<name>``.
        entity_key: Its identifier column, from ``meta.entity_key`` of the model.
        columns: PostgreSQL type by column, in order, from the model's contract.
        may_be_empty: Whether a night may have no entity, from ``meta.may_be_empty``; the suite has
            its say too.
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
class ModelRun:
    """What dbt says about one model of a run."""

    model: str
    status: str
    seconds: float
    message: str


def feature_views(settings: Settings) -> list[FeatureView]:
    """Return the project's feature views, by name.

    Raises:
        DbtProcessError: The project cannot be parsed.
        DbtError: A feature view names no entity key.
    """
    manifest = json.loads((parsed_project(settings) / "manifest.json").read_text(encoding="utf-8"))
    models = [
        n
        for n in manifest["nodes"].values()
        if n["resource_type"] == "model" and n["name"].startswith(_FEATURE_PREFIX)
    ]
    ordered = sorted(models, key=lambda model: str(model["name"]))
    return [_feature_view(model, _raw_datasets(manifest, model["unique_id"])) for model in ordered]


def _raw_datasets(manifest: Mapping[str, Any], model_id: str) -> frozenset[str]:
    """Return the tables of schema ``raw`` from which a model descends."""
    found: set[str] = set()
    seen: set[str] = set()
    left = [model_id]
    while left:
        node_id = left.pop()
        if node_id in seen:
            continue
        seen.add(node_id)
        source = manifest["sources"].get(node_id)
        if source and source["schema"] == "raw":
            found.add(source["identifier"])
        node = manifest["nodes"].get(node_id, {})
        left += node.get("depends_on", {}).get("nodes", [])
    return frozenset(found)


def _feature_view(model: Mapping[str, Any], raw_datasets: frozenset[str]) -> FeatureView:
    key = model["config"]["meta"].get("entity_key")
    columns = {name: column["data_type"] for name, column in model["columns"].items()}
    if key not in columns:
        raise DbtError(
            f"Feature view {model['name']} names no entity key.",
            expected="config.meta.entity_key, one of its columns",
            got=repr(key),
            todo=f"Add it in {model['patch_path'] or model['original_file_path']}.",
        )
    may_be_empty = model["config"]["meta"].get("may_be_empty") is True
    return FeatureView(
        model["name"].removeprefix(_FEATURE_PREFIX), key, columns, may_be_empty, raw_datasets
    )


def run_models(
    settings: Settings,
    models: Sequence[str],
    variables: Mapping[str, Any],
    application_name: str = "nightshift dbt",
) -> list[ModelRun]:
    """Run models in one dbt process, on relations that ``ensure_relations`` has made for this very project.

    Args:
        settings: Where the warehouse is.
        models: Names; empty runs all.
        variables: dbt variables; values come from typed code only, since dbt renders them into SQL.
        application_name: Shown by the warehouse.

    Returns:
        One entry per model.

    Raises:
        WarehouseError: The warehouse stopped, cancelled or refused; its class says why.
        DbtError: A model failed.
        DbtProcessError: dbt failed, or the number of models that ran is not what was asked for.
    """
    arguments = ["run", "--vars", json.dumps(variables)] + (["--select", *models] if models else [])
    hit(Failpoint.DBT_BEFORE)
    with _target_folder(settings) as target:
        code, output = _call_dbt(
            settings, arguments, target, parsed_project(settings) / PARSED_PROJECT, application_name
        )
        runs = _read_results(target / "run_results.json")
    _raise_for_failures(runs, code, output, len(models))
    hit(Failpoint.DBT_AFTER)
    return runs


def _read_results(path: Path) -> list[ModelRun]:
    if not path.is_file():
        return []
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [
        ModelRun(
            r["unique_id"].rsplit(".", 1)[-1],
            r["status"],
            round(r["execution_time"], 2),
            without_values(r["message"] or ""),
        )
        for r in results
    ]


def _raise_for_failures(runs: list[ModelRun], code: int, output: str, n_wanted: int) -> None:
    failed = [run for run in runs if run.status != "success"]
    broken = next((run for run in failed if run.status == "error"), failed[0] if failed else None)
    if broken:
        if fault := fault_in(broken.message):
            raise fault
        error = DbtError(
            f"dbt model {broken.model} failed ({len(failed)} of {len(runs)} models did not run).",
            got=broken.message.strip() or broken.status,
            todo=next(
                (todo for words, todo in _TODO_BY_WORDS.items() if words in broken.message), _TODO
            ),
        )
        error.models = tuple(run.model for run in failed)
        raise error
    if code or not runs or (n_wanted and len(runs) != n_wanted):
        if fault := fault_in(output):
            raise fault
        raise DbtProcessError(
            f"dbt ended with code {code} and a verdict on {len(runs)} models.",
            expected=f"code 0 and {n_wanted or 'all'} models",
            got=output.strip()[-1500:] or "no output",
            todo="Read dbt's log in <home>/logs/dbt; nothing was published.",
        )


def parsed_project(settings: Settings) -> Path:
    """Return the folder with the parsed project, parsing it if nobody has, or if what is there is damaged.

    Safe from several processes at once.

    Raises:
        DbtProcessError: The project cannot be parsed.
    """
    folder = settings.home / "dbt" / project_digest(settings)
    if not _is_whole(folder):
        with _target_folder(settings) as target:
            code, output = _call_dbt(settings, ["parse"], target, None, "nightshift dbt parse")
            if code:
                raise DbtProcessError(
                    "The dbt project cannot be parsed.",
                    got=output.strip()[-1500:],
                    todo="Correct it; `dbt parse` shows more.",
                )
            sealed_file.write(target / _DIGESTS, _digests_of(target))
            _keep(target, folder)
    return folder


_DIGESTS = "digests"
"""File in the folder of a parsed project: what its SQL is made from must not change without a
word.
"""


def _digests_of(folder: Path) -> bytes:
    names = (PARSED_PROJECT, "manifest.json")
    return json.dumps(
        {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    ).encode()


def _is_whole(folder: Path) -> bool:
    """Return whether a parsed project is there, as dbt has written it."""
    try:
        return sealed_file.read(folder / _DIGESTS) == _digests_of(folder)
    except OSError:
        return False


def _keep(target: Path, folder: Path) -> None:
    """Move a parsed project to its place, a damaged one out of it; who comes second finds the same content there."""
    if not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        target.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise


def project_digest(settings: Settings) -> str:
    """Return a digest of everything that dbt's parse depends on: its files, its version, the database's name."""
    digest = sha256(
        f"{version('dbt-core')} {version('dbt-postgres')} {settings.warehouse_database}".encode()
    )
    root = settings.dbt_project_dir
    for path in sorted(
        p
        for pattern in _PROJECT_FILES
        for p in root.rglob(pattern)
        if not {"target", "logs"} & set(p.parts)
    ):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _target_folder(settings: Settings) -> Iterator[Path]:
    parent = settings.home / "dbt"
    parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _call_dbt(
    settings: Settings,
    arguments: list[str],
    target: Path,
    parsed: Path | None,
    application_name: str,
) -> tuple[int, str]:
    """Run dbt in a child process that ends when we do; return its exit code and what it printed."""
    logs = settings.home / "logs" / "dbt" / time.strftime("%Y-%m-%d")
    logs.mkdir(parents=True, exist_ok=True)
    project = str(settings.dbt_project_dir)
    paths = [
        "--project-dir",
        project,
        "--profiles-dir",
        project,
        "--target-path",
        str(target),
        "--log-path",
        str(logs),
    ]
    request = {
        "parent": os.getpid(),
        "arguments": [*arguments, *paths, "--quiet"],
        "parsed_project": str(parsed) if parsed else None,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "nightshift.warehouse.dbt.child_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(settings, application_name),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(json.dumps(request))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, output


def _environment(settings: Settings, application_name: str) -> dict[str, str]:
    """Return the child's environment, the only way the password goes."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(PROJECT_ROOT / "plugins"), os.environ.get("PYTHONPATH")])
        ),
        "NIGHTSHIFT_WAREHOUSE_HOST": settings.warehouse_host,
        "NIGHTSHIFT_WAREHOUSE_PORT": str(settings.warehouse_port),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
        "NIGHTSHIFT_WAREHOUSE_USER": settings.warehouse_user,
        "NIGHTSHIFT_WAREHOUSE_PASSWORD": settings.warehouse_password.get_secret_value(),
        "NIGHTSHIFT_WAREHOUSE_SSLMODE": settings.warehouse_sslmode,
        "PGAPPNAME": application_name,
        "PGOPTIONS": connection_options(settings),
        "DO_NOT_TRACK": "1",
    }


def ensure_relations(settings: Settings) -> bool:
    """Make the views and empty tables of the dbt project, if the warehouse has those of another version of it.

    Feature views keep their rows; a new column is added, and is null in older loads. Safe from
    several places at once.

    Returns:
        Whether anything had to be made.

    Raises:
        DbtError: A relation cannot be changed in place, for example a column was renamed.
    """
    digest = project_digest(settings)
    with connect(settings, "nightshift dbt relations") as conn:
        if _made_digest(conn) == digest:
            return False
        views = feature_views(settings)
        conn.execute(f"set lock_timeout = '{_ENSURE_WAIT_SECONDS}s'".encode())
        conn.execute("select pg_advisory_lock(%s)", [DBT_RELATIONS_LOCK])
        if _made_digest(conn) == digest:
            return False
        hit(Failpoint.RELATIONS_BEFORE)
        for view in views:
            _add_columns(conn, view)
        run_models(settings, [], {"load_id": 0, "as_of": {}})
        conn.execute(f"comment on schema staging is 'dbt project {digest}'".encode())
        return True


def _made_digest(conn: Connection) -> str | None:
    row = conn.execute(
        "select split_part(obj_description(to_regnamespace('staging'), 'pg_namespace'), ' ', 3)"
    ).fetchone()
    return row[0] if row else None


def _add_columns(conn: Connection, view: FeatureView) -> None:
    from psycopg import sql

    for name, data_type in view.columns.items():
        statement = sql.SQL("alter table if exists {} add column if not exists {} {}")
        conn.execute(
            statement.format(
                sql.Identifier("features", view.table), sql.Identifier(name), sql.SQL(data_type)
            )
        )
