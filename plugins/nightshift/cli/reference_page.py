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

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from nightshift.cli.app import app

Parameter = TyperArgument | TyperOption

_HEAD = """# Commands

Every command of `nightshift`, with its arguments and options. This page is generated: `make docs`.
A command that changes what readers see needs `--reason` (or `--note`): without one it asks at a
terminal and is refused in a script ([NS-ACT-001](runbooks/NS-ACT-001.md)). The
same is printed with `--help`. What a change would touch and cost: [plans](plans.md).
"""


def render() -> str:
    """Return the page as Markdown."""
    lines = [_HEAD]
    panel = ""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        # The order of the panels is that of a user's day; groups come after all of them.
        if command.rich_help_panel != panel:
            panel = command.rich_help_panel
            parts = "" if not hasattr(command, "commands") else ": groups"
            heading = f"## {panel}{parts}"
            if heading not in lines:
                lines += [heading, ""]
        lines += _sections(name, command)
    return "\n".join(lines).rstrip() + "\n"


def _sections(name: str, command: TyperCommand | TyperGroup) -> Iterator[str]:
    """Yield the lines of a command, or of a group and its commands."""
    if isinstance(command, TyperGroup):
        for part_name, part in command.commands.items():
            yield from _sections(f"{name} {part_name}", part)
        return
    parameters = [part for part in command.params if not part.hidden and part.name != "help"]
    arguments = [part for part in parameters if part.param_type_name == "argument"]
    required = [part for part in parameters if part.required and part not in arguments]
    usage = [f"nightshift {name}", *(_usage(part) for part in [*arguments, *required])]
    if len(parameters) > len(arguments) + len(required):
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
    if parameter.param_type_name == "argument":
        return value if parameter.required else f"[{value}]"
    return f"{parameter.opts[-1]} {value}"


def _row(parameter: Parameter) -> str:
    """Return the table row of an argument or an option."""
    is_argument = parameter.param_type_name == "argument"
    name = _usage(parameter) if is_argument else ", ".join(parameter.opts)
    meaning = _prose(getattr(parameter, "help", "") or "")
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        meaning += f" One of {', '.join(f'`{choice.value}`' for choice in annotation)}."
    default = parameter.default
    # An empty default means: what the sentence says is done without the option.
    if default and isinstance(default, int | float | str) and default is not True:
        meaning += f" Default: `{getattr(default, 'value', default)}`."
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
