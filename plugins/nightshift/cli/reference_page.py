"""Describe every command of ``nightshift`` with its arguments and options on one page.

The page is read from the parser itself, so that it cannot drift from it.
``python -m nightshift.cli.reference_page docs`` writes ``cli.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import cast

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from nightshift.cli.app import app

Parameter = TyperArgument | TyperOption
Command = TyperCommand | TyperGroup

_HEAD = """# Commands

Every command of `nightshift`, with its arguments and options. This page is generated: `make docs`.
A command that changes what readers see needs `--reason` (or `--note`): without one it asks at a
terminal and is refused in a script ([NS-ACT-001](runbooks/NS-ACT-001.md)). The
same is printed with `--help`. What a change would touch and cost: [plans](plans.md).
"""


def render() -> str:
    """Return the page as Markdown."""
    lines = [_HEAD]
    headings = set()
    for name, command in _commands(get_command(app)).items():
        # The order of the panels is that of a user's day; groups come after all of them.
        is_group = isinstance(command, TyperGroup)
        heading = f"## {command.rich_help_panel}"
        if is_group:
            heading += ": groups"
        if heading not in headings:
            lines += [heading, ""]
        headings.add(heading)
        lines += _sections(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _commands(group: object) -> dict[str, Command]:
    """Return the commands of a group by name."""
    return cast("dict[str, Command]", getattr(group, "commands", {}))


def _sections(name: str, command: Command) -> Iterator[str]:
    """Yield the lines of a command, or of a group and its commands."""
    if isinstance(command, TyperGroup):
        for part_name, part in _commands(command).items():
            yield from _sections(f"{name} {part_name}", part)
        return
    given = cast("list[Parameter]", command.params)
    parameters = [part for part in given if not part.hidden and part.name != "help"]
    needed = [part for part in parameters if part.required or isinstance(part, TyperArgument)]
    usage = [f"nightshift {name}"]
    usage += [_usage(part) for part in needed]
    # What need not be given is in the table.
    if len(needed) < len(parameters):
        usage.append("[options]")

    yield f"### {name}\n"
    yield f"`{' '.join(usage)}`\n"
    yield _prose(command.help or "") + "\n"
    if parameters:
        yield "| argument | means |"
        yield "|---|---|"
        yield from (_row(part) for part in parameters)
        yield ""


def _usage(parameter: Parameter) -> str:
    """Return a parameter as it stands on a command line."""
    value = f"<{parameter.name}>"
    if isinstance(parameter, TyperArgument):
        return value if parameter.required else f"[{value}]"
    return f"{parameter.opts[-1]} {value}"


def _row(parameter: Parameter) -> str:
    """Return the table row of an argument or an option."""
    name = ", ".join(parameter.opts)
    if isinstance(parameter, TyperArgument):
        name = _usage(parameter)
    meaning = _prose(parameter.help or "")
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        choices = [f"`{choice.value}`" for choice in annotation]
        meaning += f" One of {', '.join(choices)}."
    default = parameter.default
    # An empty default means: what the sentence says is done without the option.
    if default and isinstance(default, int | float | str) and default is not True:
        shown = getattr(default, "value", default)
        meaning += f" Default: `{shown}`."
    return f"| `{name}` | {meaning.strip()} |"


def _prose(text: str) -> str:
    """Return a help text for a table or a paragraph of Markdown; typer's own mark-up is undone."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\f", "\n\n"))
    prose = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    # Outside of code a placeholder would be read as an HTML element.
    parts = re.split(r"(``?[^`]+``?)", prose)
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;").replace("|", "\\|")
    return "".join(parts)


if __name__ == "__main__":
    (Path(sys.argv[1]) / "cli.md").write_text(render(), encoding="utf-8")
