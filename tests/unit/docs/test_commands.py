"""Every command that a page, an error, an incident or a notice tells people to run is a real one.

The real parsers read them: our own with every option that a command needs, also a reason where it
is refused without one, and Airflow's. Statements are run by tests/integration/docs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.page_commands import PageCommand, code_commands, page_commands, shell_lines, spans

from nightshift.cli.app import app
from nightshift.incidents.runbook_commands import page_advice
from nightshift.settings import PROJECT_ROOT

RUNBOOKS = sorted((PROJECT_ROOT / "docs" / "runbooks").glob("*.md"))
PAGES = [
    *sorted((PROJECT_ROOT / "docs").glob("*.md")),
    *sorted((PROJECT_ROOT / "docs" / "start").glob("*.md")),
    *sorted((PROJECT_ROOT / "docs" / "tutorials").glob("*.md")),
    *(PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "expectations/README.md")),
]
# Made from the parser itself, with a usage line for each command.
PAGES.remove(PROJECT_ROOT / "docs" / "cli.md")
MODULES = sorted((PROJECT_ROOT / "plugins").rglob("*.py"))
OWN_MODEL = "docs/own-model.md"
NOT_TO_RUN = {
    # "`nightshift rescue`, `end-run` and `migrate` never wait for their record."
    ("docs/runbooks/NS-ACT-002.md", "nightshift rescue"),
    # Files that the page's own script makes; tests/integration/docs runs it with its commands.
    (OWN_MODEL, "nightshift deliver shop_hours 2013-01-01 shop_files/2013-01-01.csv --dry-run"),
    (OWN_MODEL, "nightshift deliver-history shop_hours shop_files --at-cutoff"),
    # What the page tells not to use.
    ("docs/runbooks/NS-AIRFLOW-002.md", "airflow dags trigger"),
}
Parser = Callable[[list[str]], "tuple[Any, dict[str, Any]] | None"]


@pytest.fixture(scope="module")
def parse_nightshift() -> Parser:
    """Return a function that parses a command line and runs nothing of it.

    It returns how the command records itself, and its arguments; None for a group's help.
    """
    from typer.main import get_command

    root = get_command(app)
    parsed: list[tuple[Any, dict[str, Any]]] = []

    def leaves(command: Any) -> Iterator[Any]:
        for part in getattr(command, "commands", {}).values():
            yield from leaves(part)
        if not hasattr(command, "commands"):
            yield command

    for leaf in leaves(root):
        recorded = getattr(getattr(leaf.callback, "__wrapped__", None), "recorded", None)

        def note(*, _recorded: Any = recorded, **arguments: Any) -> None:
            parsed.append((_recorded, arguments))

        leaf.callback = note

    def parse(words: list[str]) -> tuple[Any, dict[str, Any]] | None:
        parsed.clear()
        root.main(words, prog_name="nightshift", standalone_mode=False)
        return parsed[0] if parsed else None

    return parse


@pytest.fixture(scope="module")
def airflow_parser(tmp_path_factory: pytest.TempPathFactory) -> ArgumentParser:
    """Return the parser of Airflow's own command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        from airflow.cli.cli_parser import get_parser

        return get_parser()


def runbook_commands() -> list[PageCommand]:
    """Return the commands of all runbooks."""
    commands = []
    for page in RUNBOOKS:
        commands += page_commands(page, page_advice(page.read_text(encoding="utf-8")))
    return commands


def all_commands() -> list[PageCommand]:
    """Return the commands of all pages and messages."""
    commands = runbook_commands()
    for page in PAGES:
        commands += page_commands(page)
    for module in MODULES:
        commands += code_commands(module)
    return [command for command in commands if (command.place, command.written) not in NOT_TO_RUN]


def is_mere_name(command: PageCommand, names: set[str]) -> bool:
    """Return whether prose only names a command: it has no argument and is not to be run."""
    name = command.written.removeprefix("nightshift ").removesuffix(" …")
    return not command.is_advice and name in names


@cache
def command_names() -> set[str]:
    """Return the names of all commands, with their groups."""
    from typer.main import get_command

    names = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        names |= {name, *(f"{name} {part}" for part in getattr(command, "commands", {}))}
    return names


def problem_of(command: PageCommand, parse: Parser, airflow: ArgumentParser) -> str:
    """Return why a command cannot be run as it is written; empty if it can."""
    try:
        program, *arguments = command.words
    except ValueError as error:
        return str(error)
    if program == "airflow" or arguments[:1] == ["airflow"]:
        rest = arguments if program == "airflow" else arguments[1:]
        return problem_of_airflow(rest, airflow)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if arguments[0] in targets else f"no target {arguments[0]}"
    if program != "nightshift":
        return problem_of_shell(command.command)
    try:
        match = parse(arguments)
    except BaseException as error:  # noqa: BLE001 - also the exit of a parser is an answer
        return f"{type(error).__name__} {getattr(error, 'message', error)}"
    if match is None or match[0] is None:
        return ""
    recorded, values = match
    has_reason = bool(values.get("reason") or values.get("note"))
    return "" if has_reason or not recorded.is_reason_needed(values) else "it needs a reason"


def problem_of_airflow(arguments: list[str], parser: ArgumentParser) -> str:
    """Return why Airflow's command refuses these arguments."""
    try:
        parser.parse_args(arguments)
    except SystemExit as error:
        return f"airflow exits with {error.code}"
    return ""


def problem_of_shell(line: str) -> str:
    """Return why a line of shell cannot be run: its syntax, or a program that nobody has."""
    checked = subprocess.run(
        ["bash", "-n", "-c", line], capture_output=True, text=True, check=False
    )
    if checked.returncode:
        return checked.stderr
    first = re.split(r"[ ;|&]", line.strip())[0]
    builtins = {"cd", "echo", "export", "kill"}
    # A container need not have what an administrator's shell has.
    tools = {"dmesg", "docker", "free", "pgrep", "ps", "promtool", "systemctl", "uptime"}
    is_known = first in builtins | tools or "=" in first or shutil.which(first)
    return "" if is_known or first.startswith(".venv/bin/") else f"no program {first}"


def problems(commands: list[PageCommand], parse: Parser, airflow: ArgumentParser) -> list[str]:
    """Return the commands that cannot be run as they are written, with place and problem."""
    names = command_names()
    found = []
    for command in commands:
        if is_mere_name(command, names):
            continue
        problem = problem_of(command, parse, airflow)
        if problem:
            found.append(f"{command.place}: {command.written}\n    {problem}")
    return found


def test_every_command_of_a_page_and_of_a_message_can_be_run_as_it_is_written(
    parse_nightshift: Parser, airflow_parser: ArgumentParser
) -> None:
    assert len(runbook_commands()) > 400
    found = problems(all_commands(), parse_nightshift, airflow_parser)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("nightshift redo --dataset <dataset> --from <day>", "it needs a reason"),
        ('nightshift redo --dataset <dataset> --reason "<why>"', ""),
        ("nightshift apply <token>", "it needs a reason"),
        ("nightshift evidence <model> <version>", "extra argument"),
        ("nightshift quarantine dismiss <row> --note <why>", "extra argument"),
        ("nightshift incidents acknowledge <id>", "No such command"),
        ("nightshift airflow dags clear <dag> --partition-key <day> --yes", ""),
        ("nightshift airflow dags clear <dag> --partition <day> --yes", "airflow exits with 2"),
        ("nightshift psql -c \"select 'x'\" --csv", ""),
        ("make docs", ""),
        ("make doc", "no target doc"),
        ("git log -5 --oneline -- dags", ""),
        ("nosuchprogram --all", "no program nosuchprogram"),
        ("echo 'open", "No closing quotation"),
        ("nightshift score <mode> <day>", "<mode> has no value"),
    ],
)
def test_a_command_that_would_be_refused_is_found(
    written: str, problem: str, parse_nightshift: Parser, airflow_parser: ArgumentParser
) -> None:
    command = PageCommand("a page", written, is_advice=True)
    answer = problem_of(command, parse_nightshift, airflow_parser)
    assert problem in answer
    assert bool(answer) == bool(problem)


def test_commands_are_read_from_prose_blocks_and_code(tmp_path: Path) -> None:
    prose = "Run `nightshift up`, then\n`nightshift score <model>\n<day>`; `status` is no command."
    assert spans(prose) == ["nightshift up", "nightshift score <model> <day>"]
    assert shell_lines("# why\nmake demo\nnightshift up \\\n  --only s3\n\n") == [
        "make demo",
        "nightshift up --only s3",
    ]
    module = PROJECT_ROOT / "plugins" / "nightshift" / "incidents" / "rules" / "models.py"
    written = [command.written for command in code_commands(module)]
    assert "nightshift report 1 --night 1" in written


def test_the_page_of_commands_is_current_and_has_every_command() -> None:
    """Renew it with ``make docs``."""
    from nightshift.cli.reference_page import render

    page = (PROJECT_ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == render()
    groups = {name.partition(" ")[0] for name in command_names() if " " in name}
    shown = set(re.findall(r"^### (.+)$", page, re.MULTILINE))
    assert command_names() - groups == shown
