"""dbt without its start: relations that are made once, and a process that has imported dbt.

Parsing the project, making its relations and importing dbt take longer than what most tests
build. Tests of exactly that do not use these fixtures.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.databases import new_name, own_database, run_as_admin
from tests.dbt_fork import run_in_fork

from nightshift.settings import Settings
from nightshift.warehouse.dbt import invocation
from nightshift.warehouse.dbt.runner import ensure_relations

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["dbt.cli.main", "dbt.adapters.postgres", "dbt.contracts.graph.manifest", "dbt.parser.manifest"]
)


@pytest.fixture(scope="session")
def dbt_database(session_settings: Settings, template_database: str) -> Iterator[tuple[str, str]]:
    """Return a template with the relations of the dbt project, and the name its copies must have.

    A parsed project names its database: copies of this name share one, in the session's home.
    """
    name, template = new_name(), new_name()
    with own_database(session_settings, template_database, template):
        run_as_admin(session_settings, f"alter database {template} rename to {name}")
        with pytest.MonkeyPatch.context() as patch:
            patch_dbt(patch)
            ensure_relations(session_settings.model_copy(update={"warehouse_database": name}))
        run_as_admin(session_settings, f"alter database {name} rename to {template}")
        yield template, name


@pytest.fixture
def dbt_settings(session_settings: Settings, dbt_database: tuple[str, str]) -> Iterator[Settings]:
    """Return settings of a fresh database in which the relations of the dbt project are made."""
    with own_database(session_settings, *dbt_database) as own:
        yield own


@pytest.fixture(scope="module")
def warm_dbt() -> Iterator[None]:
    """Let dbt run in forks of a process that has imported it."""
    with pytest.MonkeyPatch.context() as patch:
        patch_dbt(patch)
        yield


def patch_dbt(patch: pytest.MonkeyPatch) -> None:
    """Let ``call_dbt`` start a fork instead of an interpreter."""
    warm = SimpleNamespace(Popen=WarmDbt, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    patch.setattr(invocation, "subprocess", warm)


class WarmDbt:
    """What ``call_dbt`` uses of ``subprocess.Popen``: the same program in a fork.

    Args:
        env: The environment of the program.
    """

    def __init__(self, _command: list[str], *, env: dict[str, str], **_pipes: Any) -> None:
        self._env = env
        self._process: Any = None

    def communicate(self, request: str) -> tuple[str, None]:
        """Run it to its end; return what it printed."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            output.touch()
            arguments = (self._env, json.loads(request), str(output))
            self._process = FORKS.Process(target=run_in_fork, args=arguments)
            self._process.start()
            self._process.join()
            return output.read_text(), None

    @property
    def returncode(self) -> int | None:
        """Return the exit code, None before the end."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code, None before the end."""
        return self._process.exitcode if self._process else None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.join()
