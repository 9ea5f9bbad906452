"""What runs in a fork of a process that has imported dbt; imports little itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nightshift.warehouse.dbt.child_process import run_command


def run_in_fork(env: dict[str, str], request: dict[str, Any], output: str) -> None:
    """Do what ``child_process.main`` does, with this environment and output."""
    os.environ.clear()
    os.environ.update(env)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(run_command(request["arguments"], request["parsed_project"]))
