"""Call dbt in a child process, and read what it reports of each model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.settings import LIBRARY_ROOT
from nightshift.warehouse.connection import connection_options

if TYPE_CHECKING:
    from nightshift.settings import Settings

_MAX_OUTPUT = 1_500


class DbtError(NightshiftError):
    """A dbt model failed; names the model and gives the database's message."""

    code = "NS-DBT-001"
    models: tuple[str, ...] = ()
    """All models that did not run: the broken ones, and those that read them."""


class DbtProcessError(NightshiftError):
    """dbt itself failed, or left no verdict."""

    code = "NS-DBT-002"


@dataclass(frozen=True)
class DbtOutcome:
    """Outcome of one dbt command.

    Attributes:
        exit_code: 0 if all went well.
        output: What dbt printed.
        results: One document per model, from ``run_results.json``.
    """

    exit_code: int
    output: str
    results: list[dict[str, Any]]

    @property
    def last_output(self) -> str:
        """Return the end of what dbt printed, for an error's text."""
        return self.output.strip()[-_MAX_OUTPUT:] or "no output"


def run_dbt(
    settings: Settings, arguments: Sequence[str], parsed: Path | None, application_name: str
) -> DbtOutcome:
    """Run one dbt command.

    Args:
        settings: Where the project and the warehouse are.
        arguments: As on dbt's command line, without paths.
        parsed: A parsed project of the same files; None parses again.
        application_name: Shown by the warehouse.
    """
    with target_folder(settings) as target:
        exit_code, output = call_dbt(settings, arguments, target, parsed, application_name)
        results_path = target / "run_results.json"
        # A dbt that failed before its first model leaves none.
        results = []
        if results_path.is_file():
            results = json.loads(results_path.read_text(encoding="utf-8"))["results"]
    return DbtOutcome(exit_code, output, results)


@contextmanager
def target_folder(settings: Settings) -> Iterator[Path]:
    """Give dbt a folder of its own for what it writes: several commands run at the same time."""
    parent = settings.home / "dbt"
    parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def call_dbt(
    settings: Settings,
    arguments: Sequence[str],
    target: Path,
    parsed: Path | None,
    application_name: str,
) -> tuple[int, str]:
    """Run dbt in a child process that ends when we do; return its exit code and what it printed."""
    # One folder a day, so that somebody can delete the old ones.
    logs = settings.home / "logs" / "dbt" / time.strftime("%Y-%m-%d")
    logs.mkdir(parents=True, exist_ok=True)
    paths = {
        "--project-dir": settings.dbt_project_dir,
        "--profiles-dir": settings.dbt_project_dir,
        "--target-path": target,
        "--log-path": logs,
    }
    # Only this call may touch what analysts and models read; a developer's dbt has another target.
    fixed_arguments = ["--target=warehouse", *(f"{name}={path}" for name, path in paths.items())]
    request = {
        "parent": os.getpid(),
        "arguments": [*arguments, *fixed_arguments, "--quiet"],
        "parsed_project": str(parsed) if parsed else None,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "nightshift.warehouse.dbt.child_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dbt_environment(settings, application_name),
        start_new_session=True,
    )
    try:
        # The request goes by stdin: other users of the machine can read a command line.
        output, _ = process.communicate(json.dumps(request))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, output


def dbt_environment(settings: Settings, application_name: str) -> dict[str, str]:
    """Return the child's environment: the only way that the password takes."""
    python_path = [str(LIBRARY_ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
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
