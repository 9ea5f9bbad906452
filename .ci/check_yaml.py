"""Check that every YAML file of the repository parses and repeats no key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


def main() -> int:
    """Return 1 if a tracked or new YAML file is broken, else 0."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    command += ["*.yaml", "*.yml"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    # A deleted file is still listed until the deletion is staged.
    results = [_problem(path) for path in paths if path.exists()]
    problems = [problem for problem in results if problem]
    print("\n".join(problems) or f"{len(paths)} YAML files are well formed.")  # noqa: T201
    return 1 if problems else 0


def _problem(path: Path) -> str | None:
    try:
        list(YAML(typ="safe", pure=True).load_all(path))
    except YAMLError as error:
        return f"{path}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
