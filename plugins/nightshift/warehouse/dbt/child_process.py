"""The child process that runs dbt: it ends with its parent and reads its request from stdin."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

_PR_SET_PDEATHSIG = 1  # Source: prctl(2)


def main() -> int:
    """Read the request, ``{parent, arguments, parsed_project}``, and run it."""
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    return run_command(request["arguments"], request["parsed_project"])


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends in any way.

    That is so on Linux; elsewhere only the parent's own clean-up does it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the kernel was told.
    if os.getppid() != parent:
        sys.exit("the parent has ended")


def run_command(arguments: list[str], parsed_project: str | None) -> int:
    """Run one dbt command; return 0, 1 if a model failed, or 2 if dbt itself did.

    Args:
        arguments: As on dbt's command line.
        parsed_project: A ``partial_parse.msgpack`` of the same project and database; with it
            nothing is parsed again.
    """
    from dbt.cli.main import dbtRunner

    manifest = _read_manifest(Path(parsed_project)) if parsed_project else None
    result = dbtRunner(manifest=manifest).invoke(arguments)
    if result.exception is not None:
        # The parent reads it.
        name = type(result.exception).__name__
        print(f"{name}: {result.exception}", file=sys.stderr)  # noqa: T201
        return 2
    return 0 if result.success else 1


def _read_manifest(path: Path) -> Manifest:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    return Manifest.from_msgpack(path.read_bytes(), decoder=extended_mashumuro_decoder)


if __name__ == "__main__":
    sys.exit(main())
