"""Find what is missing or broken in an installation; each finding names its repair."""

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
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, ObjectStoreError, ServiceError, WarehouseError
from nightshift.settings import PROJECT_ROOT, load_settings
from nightshift_local.process import ServerProcess
from nightshift_local.servers.airflow_parts import AirflowPart
from nightshift_local.servers.airflow_settings import QUIET_VENDORS
from nightshift_local.stack import compose, expected_groups
from nightshift_local.supervisor import NAME as SUPERVISOR

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift_local.part import Part

HEAVY_PACKAGES = (
    "adbc_driver_postgresql.dbapi", "airflow.sdk", "boto3", "dbt.cli.main", "evidently",
    "great_expectations", "lightgbm", "matplotlib.pyplot", "mlflow", "nightshift.settings",
    "numba", "numpy", "pandas", "psycopg", "pyarrow.parquet", "sklearn.metrics", "sqlalchemy",
)  # fmt: skip
IMPORT_TIMEOUT_SECONDS = 120
MIN_FREE_BYTES = 5 * 1024**3
"""A year of flights in every layer with its history takes less than 3 GiB."""
MAX_PACKAGES_SHOWN = 8
STORE_SECONDS = 5.0
REINSTALL = "rm -f .venv/installed-lock && make install"
LOGIN_REFUSALS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "(403)")
LOCKED_PACKAGE = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked.
        level: ``ok``, ``warning`` or ``broken``.
        what: The result.
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
        check_store,
        check_services,
        check_dags,
    )
    for check in checks:
        try:
            yield from check(home)
        # One failed check must not hide the findings of the remaining ones.
        except (NightshiftError, OSError, subprocess.SubprocessError) as error:
            name = check.__name__.removeprefix("check_")
            what = f"the check itself failed: {error}"
            yield Finding(name, "broken", what, "Repair what it names, run again.")


def check_python(_home: Path) -> Iterator[Finding]:
    """Yield whether the interpreter is the version that the lock was made for."""
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", running)
    else:
        what = f"{running}, but the lock is for 3.11"
        yield Finding("python", "broken", what, "Run make install PYTHON=/path/to/python3.11")


def check_lock(_home: Path) -> Iterator[Finding]:
    """Yield whether each locked package is installed in its locked version."""
    lock = PROJECT_ROOT / "requirements.txt"
    if not lock.is_file():
        yield Finding("packages", "ok", "not compared: this project has no lock of ours")
        return
    locked = LOCKED_PACKAGE.findall(lock.read_text())
    differing = []
    for name, locked_version in locked:
        installed = _installed_version(name)
        if installed != locked_version:
            differing.append(f"{name} {installed or 'missing'} (locked {locked_version})")
    if differing:
        what = ", ".join(differing[:MAX_PACKAGES_SHOWN])
        yield Finding("packages", "broken", what, REINSTALL)
    else:
        yield Finding("packages", "ok", f"{len(locked)} in their locked versions")


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_imports(_home: Path) -> Iterator[Finding]:
    """Yield which heavy packages cannot be imported; each is tried in a process of its own."""
    # A process each: an import that crashes the interpreter must not end the diagnosis.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        errors = list(pool.map(_import_error, HEAVY_PACKAGES))
    for name, error in zip(HEAVY_PACKAGES, errors, strict=True):
        if error:
            yield Finding("imports", "broken", f"{name}: {error}", REINSTALL)
    if not any(errors):
        yield Finding("imports", "ok", f"{len(errors)} heavy packages import")


def _import_error(module: str) -> str:
    """Return the last line that a failed import printed; empty if it succeeded."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, a module of our list
            [sys.executable, "-c", f"import {module}"],
            env={**os.environ, **QUIET_VENDORS, "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not imported within {IMPORT_TIMEOUT_SECONDS} s"
    if done.returncode == 0:
        return ""
    return [f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]


def check_disk(home: Path) -> Iterator[Finding]:
    """Yield whether there is room for the databases and objects."""
    existing = next(path for path in (home, *home.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    what = f"{free_bytes / 1024**3:.1f} GiB free at {existing}"
    if free_bytes < MIN_FREE_BYTES:
        fix = f"Free {MIN_FREE_BYTES // 1024**3} GiB, or point NIGHTSHIFT_HOME elsewhere"
        yield Finding("disk", "broken", what, fix)
    else:
        yield Finding("disk", "ok", what)


def check_permissions(home: Path) -> Iterator[Finding]:
    """Yield secret files that others could read."""
    paths = [
        *(home / "secrets").glob("*"),
        home / "env",
        home / "admin-env",
        home / "airflow" / "airflow.cfg",
    ]
    n_closed = 0
    secrets = [path for path in paths if path.is_file()]
    for path in secrets:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            what = f"{path} is readable by others"
            yield Finding("permissions", "broken", what, f"chmod 600 '{path}'")
        else:
            n_closed += 1
    if n_closed == len(secrets):
        yield Finding("permissions", "ok", f"{n_closed} secret files are closed to others")


def check_settings(_home: Path) -> Iterator[Finding]:
    """Yield whether the settings are complete, and whether the warehouse accepts them."""
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    address = f"{settings.warehouse_host}:{settings.warehouse_port}"
    yield Finding("settings", "ok", f"warehouse {address}, bucket {settings.s3_bucket}")
    try:
        with connect(settings, "nightshift doctor") as connection:
            yield from _check_warehouse(connection)
    except WarehouseError as error:
        what = f"[{error.code}] {error.what} {error.got or ''}"
        fix = error.todo or "nightshift up, or correct NIGHTSHIFT_WAREHOUSE_*"
        yield Finding("warehouse", "broken", what, fix)


def _check_warehouse(conn: Connection) -> Iterator[Finding]:
    """Yield whether the login may write, no pooler is in front, and analysts have limits."""
    from nightshift.warehouse.analysts.logins import gaps

    release = conn.info.parameter_status("server_version")
    yield Finding("warehouse", "ok", f"PostgreSQL {release} accepts the login")
    if conn.info.parameter_status("in_hot_standby") == "on":
        fix = "Let NIGHTSHIFT_WAREHOUSE_HOST name the primary"
        yield Finding("warehouse", "broken", "a read-only replica: no night can write", fix)
    # A pooler hands the connection to a server process that it has opened itself.
    if conn.execute("select pg_backend_pid()").fetchone() != (conn.info.backend_pid,):
        fix = "Let NIGHTSHIFT_WAREHOUSE_HOST and _PORT name PostgreSQL itself"
        yield Finding("warehouse pooler", "warning", "a connection pooler is in front of it", fix)
    closed = [name for (name,) in conn.execute(_CLOSED_SCHEMAS)]
    if closed:
        fix = "nightshift migrate as the owner, or grant the rights"
        yield Finding("warehouse rights", "broken", f"no right to write {', '.join(closed)}", fix)
    for gap in gaps(conn):
        fix = "nightshift migrate with an admin (docs/production.md, Roles and grants)"
        yield Finding("analysts", "warning", gap, fix)


_CLOSED_SCHEMAS = """
select nspname from pg_namespace
where nspname in ('raw', 'staging', 'marts', 'features', 'ml', 'predictions', 'monitoring', 'ops')
    and not (has_schema_privilege(oid, 'usage') and has_schema_privilege(oid, 'create'))
union all
select c.oid::regclass::text from pg_class c
where c.relnamespace = to_regnamespace('ops') and c.relname in ('loads', 'published', 'ledger')
    and not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert'))
order by 1
"""


def check_store(_home: Path) -> Iterator[Finding]:
    """Yield whether the object store answers, takes the login and has the bucket."""
    from nightshift.lake.object_store import ObjectStore

    limits = {
        "s3_connect_timeout_seconds": STORE_SECONDS,
        "s3_read_timeout_seconds": STORE_SECONDS,
        "s3_request_attempts": 2,
    }
    settings = load_settings().model_copy(update=limits)
    address = settings.s3_endpoint_url or "the S3 of AWS"
    try:
        next(iter(ObjectStore.open(settings).list("doctor/none/")), None)
    except ObjectStoreError as error:
        what = f"[{error.code}] {error.what} {error.got or ''}"
        fix = error.todo or "Correct NIGHTSHIFT_S3_*"
        if any(answer in what for answer in LOGIN_REFUSALS):
            fix = "Correct NIGHTSHIFT_S3_ACCESS_KEY_ID and NIGHTSHIFT_S3_SECRET_ACCESS_KEY"
        yield Finding("object store", "broken", what, fix)
    else:
        yield Finding("object store", "ok", f"{address} has the bucket {settings.s3_bucket}")


def check_services(home: Path) -> Iterator[Finding]:
    """Yield the health of the supervisor and of each local part."""
    stack = compose(home, expected_groups(home))
    if ServerProcess(home, SUPERVISOR).find() is None and stack.parts:
        what = "not running: nothing restarts a part that dies"
        yield Finding("supervisor", "broken", what, "nightshift up")
    else:
        yield Finding("supervisor", "ok", "running")
    for part in stack.parts:
        yield _check_part(part)
    for notice in stack.notices:
        yield Finding("elsewhere", "ok", notice)


def _check_part(part: Part) -> Finding:
    if part.process.find() is None:
        level = "warning" if part.is_optional else "broken"
        return Finding(part.name, level, "not running", "nightshift up")
    if not part.is_healthy():
        fix = f"Read {part.process.log_file}; then nightshift down && nightshift up"
        return Finding(part.name, "broken", "running, but does not answer", fix)
    return Finding(part.name, "ok", part.address or "healthy")


def check_dags(home: Path) -> Iterator[Finding]:
    """Yield the import errors that Airflow has recorded, and how many DAGs it knows."""
    part = next((part for part in compose(home).parts if isinstance(part, AirflowPart)), None)
    if part is None or part.process.find() is None:
        yield Finding("dags", "warning", "not checked: Airflow does not run here", "nightshift up")
        return
    try:
        errors = _json_rows(part.run("dags", "list-import-errors", "--output", "json"))
    except ServiceError as error:
        # The command fails when there are errors, and prints them all the same.
        errors = _json_rows(error.got or "")
    for row in errors:
        # The last line of a traceback has the error.
        traceback = str(row.get("error", "")).strip()
        reason = traceback.rpartition("\n")[2]
        fix = "Repair the file; it is read again within 30 s"
        yield Finding("dags", "broken", f"{row.get('filepath')}: {reason}", fix)
    if errors:
        return
    listed = part.run("dags", "list", "--output", "json")
    n_dags = len(_json_rows(listed))
    what = f"{n_dags} DAGs, no import errors"
    if n_dags:
        yield Finding("dags", "ok", what)
    else:
        yield Finding("dags", "broken", what, "Is NIGHTSHIFT_DAGS_DIR the right folder?")


def _json_rows(output: str) -> list[dict[str, object]]:
    """Return the JSON list that a command printed, among other lines; empty if there is none."""
    start = output.find("[{")
    if start < 0:
        return []
    rows: list[dict[str, object]] = json.JSONDecoder().raw_decode(output[start:])[0]
    return rows
