"""The tutorial docs/own-model.md is run as it stands: its files, its script and its commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.page_commands import PageCommand, shell_lines

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.training_set import build_training_set, read_rows

PAGE = PROJECT_ROOT / "docs" / "own-model.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILE = re.compile(
    r"^`((?:dags|dbt_project|expectations)/[^`]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
STEP = TEXT.partition("## 5. Run it\n")[2].partition("\n## ")[0]


def block(language: str) -> str:
    """Return the block of the step that is in this language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", STEP, re.MULTILINE | re.DOTALL)
    assert match, language
    return match[1]


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings of a project without the flights, with the page's files."""
    ignored = shutil.ignore_patterns("target", "logs", "flights", "predictions")
    shutil.copytree(PROJECT_ROOT / "dbt_project", tmp_path / "dbt_project", ignore=ignored)
    for name, content in FILE.findall(TEXT):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    (tmp_path / "shops.py").write_text(block("python"), encoding="utf-8")
    folders = {
        "dags_dir": tmp_path / "dags",
        "dbt_project_dir": tmp_path / "dbt_project",
        "expectations_dir": tmp_path / "expectations",
    }
    return settings.model_copy(update={**folders, "home": tmp_path / "home"})


@pytest.fixture
def environment(own: Settings, session_settings: Settings) -> dict[str, str]:
    """Return the variables of a shell in which the project's own settings hold."""
    differing = {
        f"NIGHTSHIFT_{name.upper()}": str(value)
        for name, value in own
        if value != getattr(session_settings, name)
    }
    return {**os.environ, **differing, "PYTHONPATH": str(PROJECT_ROOT / "plugins")}


def run_command(line: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command of the page in a process of its own; return what it printed."""
    programs = {"nightshift": ["-m", "nightshift.cli"], "python": []}
    program, *arguments = PageCommand("docs/own-model.md", line, is_advice=True).words
    done = subprocess.run(
        [sys.executable, *programs[program], *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_the_page_do_what_it_says_when_its_files_stand_in_an_empty_project(
    own: Settings, environment: dict[str, str], tmp_path: Path, run: RunContext
) -> None:
    lines = shell_lines(block("sh"))
    assert len(lines) == 8
    outputs = [run_command(line, tmp_path, environment) for line in lines]

    # The page shows what its last command prints.
    shown = [line.split() for line in block("text").splitlines() if "_" in line]
    printed = [line.split() for line in outputs[-1].splitlines() if "_" in line]
    assert printed == shown
    assert len(printed) == 5

    spec = load_spec(own.models_dir, "shop_visitors")
    days = {"minimum_days": 3, "validation_days": 1, "holdout_days": 1, "gap_days": 0}
    short = spec.model_copy(update={"training": spec.training.model_copy(update=days)})
    rows = read_rows(
        ObjectStore.open(own), build_training_set(own, short, Partition.parse("2013-01-10"), run)
    )
    pairs = zip(rows["shop_day"].to_pylist(), rows["visitors"].to_pylist(), strict=True)
    assert list(pairs)[:3] == [
        ("2013-01-02_hill", 30),
        ("2013-01-02_river", 20),
        ("2013-01-03_hill", 50),
    ]
