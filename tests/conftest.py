"""Every test uses real parts.

A session has one PostgreSQL and one S3 server, a test has a fresh database and bucket.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# One folder for all tests, whose homes differ: the kernel is compiled once.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "kernels")
)

import pytest
from psycopg import sql
from tests.databases import own_database, run_as_admin
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.run import RunContext
from nightshift.quality import gates
from nightshift.settings import PROJECT_ROOT, Settings, load_settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


pytest_plugins = ["tests.evidence.recorder", "tests.ready_dbt", "tests.whole_night"]

_WITH_AIRFLOW = {"e2e", "scheduler"}
"""Folders whose tests need a running Airflow: they begin, since it takes longest."""
_TOGETHER = {
    "tests/e2e/": "airflow",
    "tests/chaos/scheduler/": "airflow",
    "tests/dags/": "dags",
    "tests/integration/docs/": "dbt",
    "tests/integration/plans/": "dbt",
    "tests/integration/provenance/": "dbt",
    "tests/integration/reprocess/": "dbt",
    "tests/integration/telemetry/": "dbt",
    "tests/integration/transformation/": "dbt",
    "tests/integration/backtest/": "champion",
    "tests/integration/monitoring/": "champion",
}
"""Folders whose tests share what takes seconds to make: a running Airflow, the DAGs as Airflow
reads them, the relations of dbt and a process that has imported it, a champion with its history.
"""
_SHORT, _RANK_OF_SHORT = {"unit", "dags"}, 3
"""Folders whose modules take seconds, and when they run."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Put the modules that take longest first, whatever the shuffle did.

    One process begins with the running Airflow, another with the rest. The many short modules
    come last, so that all processes end at about the same time.
    """
    yield
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(_rank(item), ranks.get(item.path, _RANK_OF_SHORT))
    items.sort(key=lambda item: ranks[item.path])


def _rank(item: pytest.Item) -> int:
    folders = {*Path(item.location[0]).parts}
    if folders & _WITH_AIRFLOW:
        return 0
    if folders & _SHORT:
        return _RANK_OF_SHORT
    return 1 if item.get_closest_marker("slow") else 2


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what was imported and collected, a million objects.

    It would visit them again and again, and in each test that counts what remains.
    """
    gc.collect()
    gc.freeze()


class ByServers(LoadScopeScheduling):
    """Keep a module's tests in one process, and those of ``_TOGETHER`` too.

    What they share is made once.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        groups = (name for folder, name in _TOGETHER.items() if module.startswith(folder))
        return next(groups, module)


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
    """Let the test server skip fsync, and check passwords quickly.

    No test cuts the machine's power, and every test creates a database. A test connects some ten
    times: the 4,096 rounds of a password's hash are most of what a connection takes here.
    """
    run_as_admin(session_settings, "alter system set fsync = off")
    run_as_admin(session_settings, "select pg_reload_conf()")
    logins = {
        session_settings.warehouse_user: session_settings.warehouse_password,
        session_settings.warehouse_admin_user: session_settings.warehouse_admin_password,
    }
    for user, password in logins.items():
        if user:
            change = sql.SQL("set scram_iterations = 1; alter role {} password {}").format(
                sql.Identifier(user), sql.Literal(password.get_secret_value())
            )
            run_as_admin(session_settings, change.as_string(None))


@pytest.fixture(scope="session")
def template_database(session_settings: Settings, fast_server: None) -> Iterator[str]:
    """Return the name of a migrated, empty database; every test gets a copy."""
    with own_database(session_settings) as settings:
        with connect(settings, "test template") as conn:
            migrate(conn, load_contracts(PROJECT_ROOT / "dags" / "datasets"))
        yield settings.warehouse_database


@pytest.fixture
def settings(session_settings: Settings, template_database: str) -> Iterator[Settings]:
    """Return settings of a fresh, migrated database and of a bucket that does not exist yet."""
    with own_database(session_settings, template_database) as own:
        yield own


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


@pytest.fixture(scope="module")
def quick_gate() -> Iterator[None]:
    """Evaluate suites of small loads as those of large ones: in one scan first.

    Great Expectations, which has tests of its own, then sees only what does not pass.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "ONE_SCAN_ROWS", 0)
        yield


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Leave the drawings of trainings and decisions empty: they take seconds of each training.

    What they show has tests of its own.
    """
    from matplotlib.figure import Figure

    def save(_: Figure, sink: IO[Any], **given: Any) -> None:
        sink.write("<svg></svg>" if given["format"] == "svg" else b"\x89PNG")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


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
