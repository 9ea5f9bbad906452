"""The whole configuration of the local Airflow, as AIRFLOW__* variables."""

from __future__ import annotations

import json
import os
from pathlib import Path

from nightshift.settings import PROJECT_ROOT
from nightshift_local.credentials import Credentials, new_fernet_key, new_hex_key
from nightshift_local.ports import LOOPBACK

USER = "admin"
OLD_NOTICE = '"""Written by `nightshift up`."""'
POOLS = {
    "training": (1, "One training at a time: it takes every core."),
    "warehouse": (4, "Tasks that keep the warehouse busy."),
    "scoring": (4, "Shards that are scored at the same time."),
    "rescue": (2, "Rescues before the deadline, which wait for nobody."),
    "shadow": (1, "Shadow scores of challengers, which wait for everything else."),
}

QUIET_VENDORS = {
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_NO_ANALYTICS": "true",
}
"""No vendor library reports home."""

TASK_DEFAULTS = {
    "GOMP_SPINCOUNT": "10000",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONUNBUFFERED": "1",
    "TZ": "UTC",
}
"""GOMP_SPINCOUNT: spinning threads made a training next to busy neighbours ten times slower
(docs/adr/0002).
"""

TUNING = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "8",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__DEFAULT_TASK_EXECUTION_TIMEOUT": "3600",
    "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "2",
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "60",
    "AIRFLOW__CORE__TEST_CONNECTION": "Disabled",
    "AIRFLOW__CORE__DAEMON_UMASK": "0o077",
    "AIRFLOW__CORE__DEFAULT_TIMEZONE": "utc",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
    "AIRFLOW__API__HOST": LOOPBACK,
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__API__EXPOSE_CONFIG": "False",
    "AIRFLOW__API__EXPOSE_STACKTRACE": "False",
    "AIRFLOW__API__ENABLE_SWAGGER_UI": "False",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "2",
    "AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL": "300",
    "AIRFLOW__SCHEDULER__CATCHUP_BY_DEFAULT": "False",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "180",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "180",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "10",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "40",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "15",
}
"""A variable of the same name in our own environment wins, so that an installation can tune its
Airflow.

Workers retry an unreachable API server for about five minutes, every 15 seconds at the latest; by
Airflow's default they give up after five requests, and each task that begins or ends meanwhile
loses a try. A scheduler that continues after a suspension takes itself for dead if its last
heartbeat is older than SCHEDULER_HEALTH_CHECK_THRESHOLD, and ends its own tasks; they are retried.
"""


def airflow_environment(home: Path, database_url: str, api_port: int) -> dict[str, str]:
    """Return the variables under which every part of the local Airflow runs.

    Args:
        home: Folder of local state, prepared.
        database_url: SQLAlchemy URL of the metadata database.
        api_port: Port of the API server; tasks report to it.
    """
    credentials = Credentials(home)
    url = f"http://{LOOPBACK}:{api_port}"
    return {
        **QUIET_VENDORS,
        **TASK_DEFAULTS,
        **{name: os.environ.get(name, value) for name, value in TUNING.items()},
        # From here on nothing can be changed from outside: the parts must find each other.
        "NIGHTSHIFT_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_dir()),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__FERNET_KEY": credentials.get("airflow-fernet-key", new_fernet_key),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(
            credentials.path("airflow-logins.json")
        ),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__PORT": str(api_port),
        "AIRFLOW__API__SECRET_KEY": credentials.get("airflow-api-secret-key", new_hex_key),
        "AIRFLOW__API_AUTH__JWT_SECRET": credentials.get("airflow-jwt-secret", new_hex_key),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
    }


def dags_dir() -> Path:
    """Return the folder of DAG files: NIGHTSHIFT_DAGS_DIR or ``dags`` in the project."""
    return Path(os.environ.get("NIGHTSHIFT_DAGS_DIR") or PROJECT_ROOT / "dags").resolve()


def write_logins(home: Path) -> None:
    """Write the password file of Airflow's simple auth manager (mode 0600) for our one user."""
    credentials = Credentials(home)
    password = credentials.get("airflow-admin")
    credentials.get("airflow-logins.json", lambda: json.dumps({USER: password}))


def remove_notice(home: Path) -> None:
    """Remove the notice of earlier versions about a triggerer that did not run; it runs now."""
    notice = home / "airflow" / "config" / "airflow_local_settings.py"
    # A file of a person's own stays.
    if notice.is_file() and notice.read_text(encoding="utf-8").startswith(OLD_NOTICE):
        notice.unlink()


def pools_document() -> str:
    """Return the pools in the format of ``airflow pools import``."""
    rows = {}
    for name, (n_slots, text) in POOLS.items():
        rows[name] = {"slots": n_slots, "description": text, "include_deferred": False}
    return json.dumps(rows, indent=2)
