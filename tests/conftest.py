"""Every test uses real parts.

A session has one PostgreSQL and one S3 server, a test has a fresh database and bucket.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# One folder for all tests, whose homes differ: the kernel is compiled once.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels")
)

import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.run import RunContext
from nightshift.settings import PROJECT_ROOT, Settings, load_settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


pytest_plugins = ["tests.evidence.recorder", "tests.whole_night"]

_WITH_AIRFLOW = {"e2e", "scheduler"}
"""Folders whose tests share one running Airflow."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Begin with the tests of the running Airflow, whatever the shuffle did.

    They take longest, and another process does the rest.
    """
    yield
    items.sort(key=lambda item: not _WITH_AIRFLOW & {*item.path.parts})


class ByServers(LoadScopeScheduling):
    """Keep a module's tests in one process, and all tests of the running Airflow in one.

    What they share is started once.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "airflow" if _WITH_AIRFLOW & {*module.split("/")} else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByServers:
    """Spread the tests over the processes of ``--numprocesses``."""
    return ByServers(config, log)


@pytest.fixture(scope="session")
def services_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return NIGHTSHIFT_* variables of a running PostgreSQL and S3 server.

    ``NIGHTSHIFT_TEST_ENV`` names an env file of servers that already run; without it they are
    started here and stopped at the end.
    """
    if given := os.environ.get("NIGHTSHIFT_TEST_ENV"):
        from nightshift_local.local_env import ADMIN_FILE_NAME, read_env

        path = Path(given)
        yield read_env(path.parent, path.name) | read_env(path.parent, ADMIN_FILE_NAME)
        return
    from nightshift_local.local_env import LocalServers

    with LocalServers(tmp_path_factory.mktemp("night shift")) as servers:
        yield servers.env


@pytest.fixture(scope="session")
def session_settings(
    services_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Return settings of the session's servers."""
    for name in [
        name
        for name in os.environ
        if name.startswith("NIGHTSHIFT_") and name != "NIGHTSHIFT_TEST_ENV"
    ]:
        del os.environ[name]
    os.environ["NIGHTSHIFT_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.update(
        {name: value for name, value in services_env.items() if name != "NIGHTSHIFT_HOME"}
    )
    return load_settings()


@pytest.fixture(scope="session")
def fast_server(session_settings: Settings) -> None:
    """Let the test server skip fsync.

    No test cuts the machine's power, and every test creates a database.
    """
    _admin(session_settings, "alter system set fsync = off")
    _admin(session_settings, "select pg_reload_conf()")


@pytest.fixture(scope="session")
def template_database(session_settings: Settings, fast_server: None) -> Iterator[str]:
    """Return the name of a migrated, empty database; every test gets a copy."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    _admin(session_settings, f"create database {name}")
    settings = session_settings.model_copy(update={"warehouse_database": name})
    with connect(settings, "test template") as conn:
        migrate(conn, load_contracts(PROJECT_ROOT / "dags" / "datasets"))
    yield name
    _admin(session_settings, f"drop database {name} with (force)")


@pytest.fixture
def settings(session_settings: Settings, template_database: str) -> Iterator[Settings]:
    """Return settings of a fresh, migrated database and of a bucket that does not exist yet."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _admin(session_settings, f"create database {name} template {template_database}")
    yield session_settings.model_copy(
        update={"warehouse_database": name, "s3_bucket": name.replace("_", "-")}
    )
    _admin(session_settings, f"drop database {name} with (force)")


@pytest.fixture
def conn(settings: Settings) -> Iterator[Connection]:
    """Return an autocommit connection to the test's own warehouse."""
    with connect(settings, "test") as connection:
        yield connection


def write_suite(expectations_dir: Path, dataset: str) -> Path:
    """Write the least suite that a dataset needs, and return the folder of suites.

    The suite allows a table of any size.
    """
    expectation = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 0}}
    path = expectations_dir / f"{dataset}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": dataset, "expectations": [expectation]}))
    return expectations_dir


@pytest.fixture
def run() -> RunContext:
    """Return the identity that tests write under."""
    return RunContext("test/run", 1, "test")


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Return a function that keeps a measured number for the generated reliability page.

    It takes a name with its unit, and a value.
    """

    def record(name: str, value: float) -> None:
        request.node.user_properties.append((name, value))

    return record


def _admin(settings: Settings, statement: str) -> None:
    """Run one statement in the maintenance database as a role that may create databases."""
    user = settings.warehouse_admin_user or settings.warehouse_user
    password = (
        settings.warehouse_admin_password
        if settings.warehouse_admin_user
        else settings.warehouse_password
    )
    with psycopg.connect(
        host=settings.warehouse_host,
        port=settings.warehouse_port,
        dbname="postgres",
        user=user,
        password=password.get_secret_value(),
        autocommit=True,
    ) as conn:
        conn.execute(statement.encode())
        if statement.startswith("create database"):
            database = statement.split()[2]
            conn.execute(f"alter database {database} owner to {settings.warehouse_user}".encode())
