"""Sealed files: local files that carry their digest, so that a damaged one counts as absent.

A power cut can leave an empty file after a rename, and a disk can flip a bit. A damaged file is
never read; its owner makes the content again.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

from nightshift.atomic_file import replacing, write_through

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 64
"""SHA-256 in hex, the first line of the file."""


def write(path: Path, content: bytes) -> None:
    """Replace a file atomically: ``read`` returns the old content, the new one, or None.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = _digest(path, content)
    with replacing(path) as draft:
        draft.write_bytes(digest + b"\n" + content)
        write_through(draft)


def read(path: Path) -> bytes | None:
    """Return what ``write`` wrote; None without a file, or for a damaged one, which is logged."""
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); its content is made again.", path, error.strerror)
        return None
    digest, content = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES + 1 :]
    if _digest(path, content) != digest:
        logger.warning("%s is damaged and not used; its content is made again.", path)
        return None
    return content


def _digest(path: Path, content: bytes) -> bytes:
    """Return the first line of a file."""
    # With the name, so that a copy under another name is not taken for the file of that name.
    return sha256(path.name.encode() + b"\n" + content).hexdigest().encode()
