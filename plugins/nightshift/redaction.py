"""Redaction: remove the values of rows from a database's messages before they are logged.

PostgreSQL quotes rows in some lines of its messages (`DETAIL:  Key (email)=(…) already exists.`,
`CONTEXT:  COPY people, line 3: "…"`), and the value itself when it cannot be read as its type.
Source: PostgreSQL, "Error and Notice Message Fields" and "Error Message Style Guide".
"""

from __future__ import annotations

import re

_QUOTING_LINE = re.compile(
    r"^(\s*)(DETAIL|Failing row contains|Key \(|QUERY|STATEMENT)\b.*$|^(\s*)Key \(.*$", re.MULTILINE
)
_COPIED_ROW = re.compile(r"(COPY [^\n]*?, line \d+(?:, column [^\n:]+)?): \"[^\n]*")
_QUOTED_VALUE = re.compile(
    r"((?:invalid input (?:syntax|value) for [^\n:\"]*|[^\n\"]*out of range(?: for type [\w ]+)?"
    r"|[^\n\"]*not recognized|malformed [^\n:\"]*)(?:\"[^\"\n]*\")?: )\"[^\n]*"
)
_STATEMENT_LINE = re.compile(r"^\s*LINE \d+:.*$", re.MULTILINE)
_LITERAL = re.compile(r"'[^']*'?")
_VALUE_BEFORE = re.compile(r"value \"[^\"\n]*\" (is out of range)")


def without_values(message: str) -> str:
    """Return a database's message without the lines and quotes that may hold a value of a row."""
    # Whole lines first: what stands in them needs no pattern of its own.
    message = _QUOTING_LINE.sub("", message)
    message = _COPIED_ROW.sub(r"\1", message)
    message = _QUOTED_VALUE.sub(r"\1…", message)
    # A statement is worth keeping, its literals are not.
    message = _STATEMENT_LINE.sub(lambda line: _LITERAL.sub("'…'", line[0]), message)
    message = _VALUE_BEFORE.sub(r"a value \1", message)
    lines = [line for line in message.splitlines() if line.strip()]
    return "\n".join(lines)


def redact(error: BaseException) -> None:
    """Remove values from the messages of a database error and of its causes.

    A traceback shows them all.
    """
    current: BaseException | None = error
    while current is not None:
        # Only the error of a database driver has it: its message may quote a row.
        if hasattr(current, "sqlstate"):
            current.args = tuple(map(_without_values, current.args))
        current = current.__cause__ or current.__context__


def _without_values(argument: object) -> object:
    return without_values(argument) if isinstance(argument, str) else argument
