"""Check commit messages: a subject that names its scope, and a body that says why.

``check_commit_message.py FILE`` checks one message, as git's hook ``commit-msg`` gives it;
``check_commit_message.py --range A..B`` checks the messages of these commits, merges left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

SUBJECT_LENGTH = 72
KINDS = ("feat", "fix", "perf", "refactor", "test", "docs", "build", "ci", "style", "revert")
SUBJECT = re.compile(rf"({'|'.join(KINDS)})(\([a-z0-9_, /-]+\))?!?: \S.*[^.\s]")
_SCISSORS = "# ------------------------ >8"


def main() -> int:
    """Return 1 if a message breaks a rule, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="File with one message.")
    parser.add_argument("--range", dest="commits", help="Commits to check, for example main..HEAD.")
    arguments = parser.parse_args()
    if arguments.commits:
        messages = read_commits(arguments.commits)
    else:
        messages = {"message": arguments.file.read_text()}
    problems = []
    for name, text in messages.items():
        problems += [f"{name}: {problem}" for problem in find_problems(text)]
    success = f"{len(messages)} commit message(s) are well formed."
    print("\n".join(problems) or success)  # noqa: T201
    return 1 if problems else 0


def read_commits(commits: str) -> dict[str, str]:
    """Return the messages of a range of commits by short hash."""
    command = ["git", "log", "--no-merges", "--format=%h%x00%B%x01", commits]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    entries = [entry.strip("\n") for entry in listed.stdout.split("\x01")]
    return dict(entry.split("\x00", 1) for entry in entries if entry)


def find_problems(message: str) -> list[str]:
    """Return one sentence for each rule that a message breaks."""
    text = message.partition(_SCISSORS)[0]
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("#")]
    subject, *rest = lines or [""]
    problems = []
    if not SUBJECT.fullmatch(subject):
        problems.append(
            "the subject is not `kind(scope): what it does`,"
            f" kind one of {', '.join(KINDS)}: {subject!r}"
        )
    if len(subject) > SUBJECT_LENGTH:
        problems.append(f"the subject has {len(subject)} characters, at most {SUBJECT_LENGTH}")
    if rest and rest[0]:
        problems.append("the second line is not empty")
    if not any(rest[1:]):
        problems.append("there is no body that says why")
    return problems


if __name__ == "__main__":
    sys.exit(main())
