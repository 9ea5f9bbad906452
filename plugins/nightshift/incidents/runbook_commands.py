"""The one command of a code, as its runbook page gives it."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from nightshift.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNBOOKS = PROJECT_ROOT / "docs" / "runbooks"
RERUN = "nightshift airflow dags clear <dag> --partition-key <day> --only-failed --yes"


def page_command(code: str, values: Mapping[str, str]) -> str:
    """Return the page's rerun of a DAG, else its first command that has all its values.

    Args:
        code: The error code.
        values: Values of the placeholders, such as ``day``; empty ones are not known.
    """
    commands = [_filled(command, values) for command in _page_commands(code)]
    known = [command for command in commands if "<" not in command]
    reruns = [command for command in known if " dags clear " in command]
    fallback = _filled(RERUN, values)
    if "<" in fallback:
        fallback = "nightshift status"
    # Other commands of a page remove a cause; which one is the cause, only a person can tell.
    return (reruns or known or [fallback])[0]


def _filled(command: str, values: Mapping[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda match: values.get(match[1]) or match[0], command)


@cache
def _page_commands(code: str) -> tuple[str, ...]:
    """Return the commands of a page's advice; none where the project has no such page."""
    path = RUNBOOKS / f"{code}.md"
    if not path.is_file():
        return ()
    advice = page_advice(path.read_text(encoding="utf-8"))
    inline = re.findall(r"`(nightshift [^`]+)`", advice)
    block = re.findall(r"^nightshift .+$", advice, re.MULTILINE)
    return tuple(" ".join(command.split()) for command in [*inline, *block])


def page_advice(text: str) -> str:
    """Return what a runbook page tells to do: at night, and then by day."""
    at_night = text.partition("**At night do.**")[2].partition("**What happened.**")[0]
    # Many pages do nothing at night and say by day how the cause is removed.
    by_day = text.partition("**By day.**")[2].partition("**Escalate**")[0]
    return f"{at_night}\n{by_day}".strip()


def page_of(code: str) -> str:
    """Return the path of a code's runbook page."""
    return f"docs/runbooks/{code}.md"
