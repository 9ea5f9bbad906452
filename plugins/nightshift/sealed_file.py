"""Files of our own on the local disk that carry their digest: a damaged one counts as absent.

A power cut can leave a file empty that was renamed in time, and a disk can turn a bit. What is read
from such a file would be believed, so it is not read at all: whoever keeps it can make it again.
"""

from __future__ import annotations

import logging
import os
import tempfile
from hashlib import sha256
from pathlib import Path

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 64
"""SHA-256 in hex, the first line of the file."""


def write(path: Path, content: bytes) -> None:
    """Replace a file: after a power cut there is the old one, the new one, or one that ``read`` does not take.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as draft:
        try:
            draft.write(_digest(path, content) + b"\n" + content)
            draft.flush()
            os.fsync(draft.fileno())  # else the rename may reach the disk before the content
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


def read(path: Path) -> bytes | None:
    """Return what ``write`` wrote; None if there is no file, or one that is not whole, which is logged."""
    try:
        sealed = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); what it held is made again.", path, error.strerror)
        return None
    digest, content = sealed[:_DIGEST_BYTES], sealed[_DIGEST_BYTES + 1 :]
    if _digest(path, content) != digest:
        logger.warning("%s is damaged and not used; what it held is made again.", path)
        return None
    return content


def _digest(path: Path, content: bytes) -> bytes:
    """Return what the first line must be; the name counts, so that a copy under another name is not taken for its own."""
    return sha256(path.name.encode() + b"\n" + content).hexdigest().encode()
