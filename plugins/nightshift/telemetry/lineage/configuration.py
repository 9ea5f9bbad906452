"""Whether lineage events are sent: said by OpenLineage's own variables and file.

The standard's client reads the same ones when it sends. They are looked at here without it, so
that nothing of it is imported where lineage is off.
"""

from __future__ import annotations

import os
from pathlib import Path

FILE_NAME = "openlineage.yml"
# Variables that the standard's client reads: a transport by its parts.
TRANSPORT_PREFIX = "OPENLINEAGE__TRANSPORT"


def is_configured() -> bool:
    """Return whether lineage events are to be sent; they are not by default."""
    disabled = os.environ.get("OPENLINEAGE_DISABLED", "")
    disabled = disabled.strip().lower()
    if disabled == "true":
        return False
    # The variable of the standard that people know; further ones name a transport by its parts.
    url = os.environ.get("OPENLINEAGE_URL", "")
    if url.strip():
        return True
    for name in os.environ:
        if name.startswith(TRANSPORT_PREFIX):
            return True
    files = _files()
    return any(path.is_file() for path in files)


def _files() -> list[Path]:
    """Return where the standard's client looks for its file."""
    paths = [
        Path.cwd() / FILE_NAME,
        Path.home() / ".openlineage" / FILE_NAME,
    ]
    named = os.environ.get("OPENLINEAGE_CONFIG")
    if named:
        paths.insert(0, Path(named))
    return paths
