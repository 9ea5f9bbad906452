"""What a commit message must say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nightshift.settings import PROJECT_ROOT

CHECK = PROJECT_ROOT / ".ci" / "check_commit_message.py"
GOOD = "fix(lake): read a manifest with a byte order mark\n\nPowerShell writes one.\n"


def check(tmp_path: Path, message: str) -> subprocess.CompletedProcess[str]:
    """Check one message as git's hook does."""
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message)
    return subprocess.run(
        [sys.executable, str(CHECK), str(file)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "message", [GOOD, GOOD + "# a comment of git\n", GOOD.replace("fix(lake)", "docs")]
)
def test_a_message_with_scope_and_reason_is_well_formed(tmp_path: Path, message: str):
    done = check(tmp_path, message)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("fix(lake): read a manifest\n", "no body"),
        ("fix(lake): read a manifest\n\n# only a comment\n", "no body"),
        ("fix(lake): read a manifest\nPowerShell writes one.\n\nMore.\n", "second line"),
        ("read a manifest\n\nPowerShell writes one.\n", "kind(scope)"),
        ("fix(lake): read a manifest.\n\nPowerShell writes one.\n", "kind(scope)"),
        (f"fix(lake): {'x' * 62}\n\nPowerShell writes one.\n", "73 characters"),
        ("", "kind(scope)"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_with_the_rule(
    tmp_path: Path, message: str, says: str
):
    done = check(tmp_path, message)
    assert done.returncode == 1
    assert says in done.stdout
