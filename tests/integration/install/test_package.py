"""The library installs as a package; the wheel holds all that it needs and nothing else of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the wheel was unpacked, as pip does."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(PROJECT_ROOT / "plugins", source / "plugins")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / name, source / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_the_library_with_its_sql_and_the_command(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"nightshift", "nightshift_local"}
    in_tree = (PROJECT_ROOT / "plugins" / "nightshift").rglob("*.sql")
    in_wheel = (installed / "nightshift").rglob("*.sql")
    assert {path.name for path in in_wheel} == {path.name for path in in_tree} != set()
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "nightshift = nightshift.cli.app:main" in entry_points.read_text()


@pytest.mark.parametrize("is_named", [True, False])
def test_installed_library_works_on_the_project_it_is_called_in(
    installed: Path, tmp_path: Path, is_named: bool
) -> None:
    for name in ("dags", "dbt_project", "expectations"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name)
    code = (
        "from nightshift import settings as s;"
        " from nightshift.contracts.model_spec import load_specs;"
        "print(s.LIBRARY_ROOT, s.PROJECT_ROOT,"
        " sorted(load_specs(s.PROJECT_ROOT / 'dags' / 'models')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("NIGHTSHIFT_HOME", None)
    if is_named:
        environment["NIGHTSHIFT_PROJECT_DIR"] = str(tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/" if is_named else tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    models = "['arrival_delay_minutes', 'flight_delayed']"
    assert result.stdout.strip() == f"{installed} {tmp_path} {models}"


def test_production_lock_has_no_tool_of_the_developers() -> None:
    locks = {
        name: set(_packages(PROJECT_ROOT / name))
        for name in ("requirements.txt", "requirements-dev.txt")
    }
    assert locks["requirements.txt"] < locks["requirements-dev.txt"]
    tools = {"pytest", "ruff", "mypy", "hypothesis", "coverage", "sqlfluff", "import-linter", "uv"}
    assert not tools & {line.partition("==")[0] for line in locks["requirements.txt"]}
    assert len(locks["requirements.txt"]) > 200


def _packages(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines() if "==" in line[:60]]
