"""Find what is missing or broken in an installation, each finding with its repair."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nightshift.errors import NightshiftError, ServiceError
from nightshift.services.airflow_parts import AirflowPart
from nightshift.services.process import ServerProcess
from nightshift.services.stack import compose
from nightshift.services.supervisor import NAME as SUPERVISOR
from nightshift.settings import PROJECT_ROOT, load_settings

HEAVY_PACKAGES = (
    "adbc_driver_postgresql.dbapi", "airflow.sdk", "boto3", "dbt.cli.main", "evidently", "great_expectations", "lightgbm",
    "matplotlib.pyplot", "mlflow", "nightshift.settings", "numba", "numpy", "pandas", "psycopg", "pyarrow.parquet", "sklearn.metrics",
    "sqlalchemy",
)  # fmt: skip
IMPORT_TIMEOUT_SECONDS = 120
MIN_FREE_BYTES = 5 * 1024**3
"""A year of flights in every layer with its history takes less than 3 GiB."""


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        check: What was looked at.
        level: ``ok``, ``warning`` or ``broken``.
        what: What was found.
        fix: What to do about it; empty if nothing.
    """

    check: str
    level: str
    what: str
    fix: str = ""


def diagnose(home: Path) -> Iterator[Finding]:
    """Yield the findings of every check, in the order in which a person would repair them."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        check_python,
        check_lock,
        check_imports,
        check_disk,
        check_permissions,
        check_settings,
        check_services,
        check_dags,
    )
    for check in checks:
        try:
            yield from check(home)
        except (NightshiftError, OSError, subprocess.SubprocessError) as error:
            yield Finding(
                check.__name__.removeprefix("check_"), "broken", f"the check itself failed: {error}", "Repair what it names, run again."
            )


def check_python(_home: Path) -> Iterator[Finding]:
    """Yield whether the interpreter is the one that the lock was made for."""
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", running)
    else:
        yield Finding("python", "broken", f"{running}, but the lock is for 3.11", "Run make install PYTHON=/path/to/python3.11")


def check_lock(_home: Path) -> Iterator[Finding]:
    """Yield whether each locked package is installed in its locked version."""
    locked = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", (PROJECT_ROOT / "requirements.txt").read_text(), re.MULTILINE))
    differing = [f"{name} {found or 'missing'} (locked {wanted})" for name, wanted in locked.items() if (found := _version(name)) != wanted]
    if differing:
        yield Finding("packages", "broken", ", ".join(differing[:8]), "rm -f .venv/installed-lock && make install")
    else:
        yield Finding("packages", "ok", f"{len(locked)} in their locked versions")


def check_imports(_home: Path) -> Iterator[Finding]:
    """Yield which heavy packages cannot be imported; each is tried in a process of its own."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        errors = dict(zip(HEAVY_PACKAGES, pool.map(_import_error, HEAVY_PACKAGES), strict=True))
    broken = {name: error for name, error in errors.items() if error}
    for name, error in broken.items():
        yield Finding("imports", "broken", f"{name}: {error}", "rm -f .venv/installed-lock && make install")
    if not broken:
        yield Finding("imports", "ok", f"{len(errors)} heavy packages import")


def check_disk(home: Path) -> Iterator[Finding]:
    """Yield whether there is room for the databases and objects."""
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    gib = f"{free / 1024**3:.1f} GiB free at {existing}"
    if free < MIN_FREE_BYTES:
        yield Finding("disk", "broken", gib, f"Free {MIN_FREE_BYTES // 1024**3} GiB, or point NIGHTSHIFT_HOME elsewhere")
    else:
        yield Finding("disk", "ok", gib)


def check_permissions(home: Path) -> Iterator[Finding]:
    """Yield secret files that others could read."""
    secrets = [path for path in (*(home / "secrets").glob("*"), home / "env", home / "airflow" / "airflow.cfg") if path.is_file()]
    open_files = [path for path in secrets if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_files:
        yield Finding("permissions", "broken", f"{path} is readable by others", f"chmod 600 '{path}'")
    if not open_files:
        yield Finding("permissions", "ok", f"{len(secrets)} secret files are closed to others")


def check_settings(_home: Path) -> Iterator[Finding]:
    """Yield whether the settings are complete and the warehouse and the bucket answer to them."""
    settings = load_settings()
    yield Finding("settings", "ok", f"warehouse {settings.warehouse_host}:{settings.warehouse_port}, bucket {settings.s3_bucket}")
    import psycopg

    try:
        with psycopg.connect(
            host=settings.warehouse_host,
            port=settings.warehouse_port,
            dbname=settings.warehouse_database,
            user=settings.warehouse_user,
            password=settings.warehouse_password.get_secret_value(),
            sslmode=settings.warehouse_sslmode,
            connect_timeout=5,
        ) as connection:
            release = connection.info.parameter_status("server_version")
    except psycopg.OperationalError as error:
        yield Finding("warehouse", "broken", str(error).strip().splitlines()[-1], "nightshift up, or correct NIGHTSHIFT_WAREHOUSE_*")
    else:
        yield Finding("warehouse", "ok", f"PostgreSQL {release} accepts the login")


def check_services(home: Path) -> Iterator[Finding]:
    """Yield the health of the supervisor and of each local part."""
    stack = compose(home)
    if ServerProcess(home, SUPERVISOR).find() is None and stack.parts:
        yield Finding("supervisor", "broken", "not running: nothing restarts a part that dies", "nightshift up")
    else:
        yield Finding("supervisor", "ok", "running")
    for part in stack.parts:
        if part.process.find() is None:
            yield Finding(part.name, "warning" if part.is_optional else "broken", "not running", "nightshift up")
        elif not part.is_healthy():
            yield Finding(
                part.name, "broken", "running, but does not answer", f"Read {part.process.log_file}; then nightshift down && nightshift up"
            )
        else:
            yield Finding(part.name, "ok", part.address or "healthy")
    for notice in stack.notices:
        yield Finding("elsewhere", "ok", notice)


def check_dags(home: Path) -> Iterator[Finding]:
    """Yield the import errors that Airflow's DAG processor has recorded, and how many DAGs it knows."""
    part = next((part for part in compose(home).parts if isinstance(part, AirflowPart)), None)
    if part is None or part.process.find() is None:
        yield Finding("dags", "warning", "not checked: Airflow does not run here", "nightshift up")
        return
    try:
        errors = _json_rows(part.run("dags", "list-import-errors", "--output", "json"))
    except ServiceError as error:
        errors = _json_rows(error.got or "")
    for row in errors:
        reason = str(row.get("error", "")).strip().splitlines()[-1:]
        yield Finding("dags", "broken", f"{row.get('filepath')}: {' '.join(reason)}", "Repair the file; it is read again within 30 s")
    if not errors:
        n_dags = len(_json_rows(part.run("dags", "list", "--output", "json")))
        level = "ok" if n_dags else "broken"
        yield Finding("dags", level, f"{n_dags} DAGs, no import errors", "" if n_dags else "Is NIGHTSHIFT_DAGS_DIR the right folder?")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_error(module: str) -> str:
    """Return the last line of what importing the module printed when it failed, or nothing."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "GX_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a module of our list
            [sys.executable, "-c", f"import {module}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not imported within {IMPORT_TIMEOUT_SECONDS} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _json_rows(text: str) -> list[dict[str, object]]:
    """Return the JSON list that a command printed, among other lines; empty if there is none."""
    start = text.find("[{")
    if start < 0:
        return []
    rows: list[dict[str, object]] = json.JSONDecoder().raw_decode(text[start:])[0]
    return rows
