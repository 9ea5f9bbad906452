"""Replace files in one step: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[Path]:
    """Yield a draft in the file's folder; it replaces the file only when the block succeeds.

    Args:
        path: The file; its folder exists.
        mode: Its rights from now on.
    """
    # A new file of a name of its own: two writers share no draft, and nobody else has prepared a
    # file, or a link, of that name.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(mode)
        draft.replace(path)
    finally:
        # After the rename there is no draft any more.
        draft.unlink(missing_ok=True)


def write_through(path: Path) -> None:
    """Wait until a draft is on disk; else a power cut may leave a renamed file without content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
