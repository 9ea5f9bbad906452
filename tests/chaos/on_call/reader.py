"""A person who is woken and has nothing but the text of a notice: what they read and run.

Nothing else of a notice is used: not its JSON, no page, no list of faults.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

# Half of what adults read silently: who is woken reads slowly. Source: M. Brysbaert, How many words
# do we read per minute?, Journal of Memory and Language 109 (2019): 238 words of non-fiction.
WORDS_PER_MINUTE = 119.0
COPY_SECONDS = 10.0
"""Opens a terminal, copies one line, looks at it again."""
MAX_SECONDS = 60.0
# What only the person knows: why they act, and the day that they meant.
_KNOWN_TO_PERSON = {"<why>": "woken at night"}
_RANKS = ("CRITICAL", "WARNING", "INFO")


@dataclass(frozen=True)
class ReadNotice:
    """One notice as it was read.

    Attributes:
        text: All of it.
        command: What it says to do, with what only the person knows; empty if that is no command.
        seconds: Reading it and copying the command.
    """

    text: str
    command: str
    seconds: float

    @property
    def rank(self) -> int:
        """Return how urgent its first word says it is; 0 is the most urgent."""
        return _RANKS.index(self.text.partition(",")[0])

    @property
    def is_clear(self) -> bool:
        """Return whether there is one complete command that was found in time."""
        return bool(self.command) and self.seconds <= MAX_SECONDS


def read(text: str, day: str) -> ReadNotice:
    """Read a notice.

    Args:
        text: The text that people get.
        day: The day that the person meant, where they have started something.
    """
    n_words = len(text.split())
    seconds = n_words / WORDS_PER_MINUTE * 60 + COPY_SECONDS
    return ReadNotice(text, _command_of(text, day), seconds)


def _command_of(text: str, day: str) -> str:
    """Return the one command of a notice; empty if there is none, several, or a part of one."""
    lines = re.findall(r"^do: +(.+)$", text, re.MULTILINE)
    if len(lines) != 1:
        return ""
    command: str = lines[0]
    for placeholder, value in (_KNOWN_TO_PERSON | {"<day>": day}).items():
        command = command.replace(placeholder, value)
    # Cut to length, or with a value that the notice does not give.
    is_complete = "…" not in command and not re.search(r"<\w+>", command)
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return command if is_complete and words else ""


def opened_texts(documents: list[dict[str, Any]]) -> list[str]:
    """Return the texts of the notices about what has opened, in the order of their arrival."""
    return [document["text"] for document in documents if document["event"] == "opened"]
