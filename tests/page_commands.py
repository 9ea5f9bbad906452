"""Commands that pages and messages tell people to run, read from where they stand.

A command stands in backticks or in a block of shell. Its placeholders get values from PLACEHOLDERS;
whatever the code fills in itself becomes ``1``, which is a text and a number.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightshift.settings import PROJECT_ROOT

PROGRAMS = ("airflow", "git", "make", "nightshift", "psql")
"""Whose words in backticks are a command; in a block of shell every line is one."""
PLACEHOLDERS = {
    "alert": "flight_delayed",
    "channel": "mail",
    "column": "distance_miles",
    "dag": "score__flight_delayed",
    "dag before": "ingest",
    "database": "warehouse",
    "dataset": "weather",
    "day": "2013-03-10",
    "file": "pyproject.toml",
    "first": "2013-03-01",
    "folder": "docs",
    "hole": "2013-03-02",
    "id": "1",
    "incident": "1",
    "key": "landing/weather/dt=2013-03-10/a.csv",
    "label": "is_delayed",
    "label_relation": "fct_flight_labels",
    "last": "2013-03-10",
    "load_id": "1",
    "login": "nobody",
    "pool": "scoring",
    "model": "flight_delayed",
    "name": "ada",
    "n": "1",
    "night": "2013-03-10",
    "number": "1",
    "partition": "2013-03-10",
    "pid": "1",
    "relation": "raw.weather",
    "row": "1",
    "text": "3",
    "token": "0123456789abcdef",
    "user": "nightshift",
    "version": "1",
    "view": "flight",
    "why": "the file was a test",
}
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
BLOCK = re.compile(r"^ *```(?:sh|bash|shell)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class PageCommand:
    """A command and where it stands.

    Attributes:
        place: The page or module.
        written: The command as people read it.
        is_advice: Whether people are told to run it; else it may be a mere name.
    """

    place: str
    written: str
    is_advice: bool

    @property
    def command(self) -> str:
        """Return the command with values instead of placeholders.

        Raises:
            ValueError: A placeholder has no value.
        """
        command = self.written
        for name in re.findall(r"<([a-z_ ]+)>", command):
            if name not in PLACEHOLDERS:
                raise ValueError(f"<{name}> has no value in tests/page_commands.py")
            command = command.replace(f"<{name}>", PLACEHOLDERS[name])
        return command

    @property
    def words(self) -> list[str]:
        """Return the words of the command as a shell splits them, without our own folder."""
        words = shlex.split(self.command, comments=True)
        return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


def page_commands(path: Path, advice: str | None = None) -> list[PageCommand]:
    """Return the commands of a page.

    Args:
        path: The page.
        advice: The part that tells what to do; None: only blocks of shell do.
    """
    text = path.read_text(encoding="utf-8")
    place = str(path.relative_to(PROJECT_ROOT))
    blocks = list(BLOCK.finditer(text))
    commands = [
        PageCommand(place, line, is_advice=True)
        for block in blocks
        for line in shell_lines(block[1])
    ]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    to_do = spans(advice or "")
    named = [PageCommand(place, text, is_advice=text in to_do) for text in spans(prose)]
    return commands + named


def spans(text: str) -> list[str]:
    """Return the commands that stand in backticks."""
    found = [" ".join(span.split()) for span in SPAN.findall(text)]
    names = [span.removeprefix(".venv/bin/").partition(" ") for span in found]
    return [span for span, (program, _, rest) in zip(found, names, strict=True)
            if program in PROGRAMS and rest]  # fmt: skip


def shell_lines(block: str) -> list[str]:
    """Return the commands of a block of shell; a line that ends with a backslash goes on."""
    joined = re.sub(r"\\\n *", "", block)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def code_commands(path: Path) -> Iterator[PageCommand]:
    """Return the commands in the texts of a module: hints of errors, incidents and notices."""
    place = str(path.relative_to(PROJECT_ROOT))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    hints = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in {"todo", "command"}
        for part in ast.walk(node.value)
    }
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in node.values}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in docstrings or id(node) in inner:
            continue
        text = _text(node)
        is_advice = id(node) in hints
        for written in spans(text):
            yield PageCommand(place, written, is_advice=is_advice)
        # A hint may be nothing but the command.
        if is_advice and text.startswith("nightshift "):
            yield PageCommand(place, text, is_advice=True)


def _text(node: ast.AST) -> str:
    """Return a string of the code, with 1 for each value that is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "1" for part in node.values]
        return "".join(str(part) for part in parts)
    return ""
