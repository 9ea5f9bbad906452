"""The hooks of a commit run what `make lint` runs."""

from __future__ import annotations

import re

import yaml

from nightshift.settings import PROJECT_ROOT


def lint_commands() -> list[str]:
    """Return the commands of the target, with folders and patterns of files left out."""
    text = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    target = text.partition("\nlint: ")[2].partition("\n\n")[0]
    commands = re.findall(r"^\t@\$\(BIN\)/(.+)$", target, re.MULTILINE)
    return [" ".join(word for word in command.split() if "*" not in word) for command in commands]


def test_every_check_of_make_lint_is_a_hook() -> None:
    config = yaml.safe_load((PROJECT_ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in config["repos"][0]["hooks"]]
    commands = lint_commands()
    assert len(commands) == 9
    for command in commands:
        tool = (
            command.removesuffix(" .").removesuffix(" --check").removesuffix(" dbt_project/models")
        )
        assert any(hook.startswith(tool) for hook in hooks), command
