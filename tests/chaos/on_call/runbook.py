"""A runbook page as on-call reads it: what it says, and the commands that it gives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nightshift.incidents.runbook_commands import page_advice
from nightshift.settings import PROJECT_ROOT

RUNBOOKS = PROJECT_ROOT / "docs" / "runbooks"


@dataclass(frozen=True)
class Page:
    """The page of one code.

    Attributes:
        code: The code.
        text: All of it.
    """

    code: str
    text: str

    @classmethod
    def read(cls, code: str) -> Page:
        """Read the page of a code.

        Raises:
            FileNotFoundError: There is none.
        """
        return cls(code, (RUNBOOKS / f"{code}.md").read_text(encoding="utf-8"))

    @property
    def advice(self) -> str:
        """Return what the page tells to do."""
        return page_advice(self.text)

    def says(self, words: str) -> bool:
        """Return whether the page contains these words, wherever its lines break."""
        return " ".join(words.split()) in " ".join(self.text.split())

    @property
    def commands(self) -> list[str]:
        """Return the commands of the advice: in backticks, or a line of a shell block."""
        inline = re.findall(r"`(nightshift [^`]+)`", self.advice)
        block = re.findall(r"^nightshift .+$", self.advice, re.MULTILINE)
        return [" ".join(command.split()) for command in [*inline, *block]]

    def command(self, beginning: str, values: dict[str, str]) -> str:
        """Return the first command that begins so, with values instead of its placeholders.

        Raises:
            LookupError: The page gives no such command, or a placeholder has no value.
        """
        for command in self.commands:
            if command.startswith(beginning):
                filled = re.sub(r"<(\w+)>", lambda match: values[match[1]], command)
                return filled.strip()
        raise LookupError(f"{self.code} gives no command `{beginning} …`: {self.commands}")
