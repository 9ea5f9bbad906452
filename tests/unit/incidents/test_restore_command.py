"""The command that brings a file back, run as a person runs it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from nightshift.incidents.rules.files import restore_command

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
FILE = "models/late.yaml"
GOOD, WRONG = "task: binary\n", "task: [\n"


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, content: str) -> None:
    (folder / FILE).write_text(content)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a change")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my project" / "dags"
    (made / "models").mkdir(parents=True)
    git(made, "init", "--quiet")
    commit(made, GOOD)
    return made


def run(command: str) -> None:
    subprocess.run(shlex.split(command), check=True, capture_output=True)


def test_a_committed_mistake_is_undone(folder: Path) -> None:
    commit(folder, WRONG)
    run(restore_command(folder, FILE))
    assert (folder / FILE).read_text() == GOOD


def test_an_edit_without_a_commit_is_put_aside_and_not_lost(folder: Path) -> None:
    (folder / FILE).write_text(WRONG)
    run(restore_command(folder, FILE))
    assert (folder / FILE).read_text() == GOOD
    git(folder, "stash", "pop")
    assert (folder / FILE).read_text() == WRONG


def test_a_deleted_file_comes_back(folder: Path) -> None:
    (folder / FILE).unlink()
    run(restore_command(folder, FILE))
    assert (folder / FILE).read_text() == GOOD


def test_without_version_control_the_state_is_looked_at(tmp_path: Path) -> None:
    assert restore_command(tmp_path, FILE) == "nightshift status"
