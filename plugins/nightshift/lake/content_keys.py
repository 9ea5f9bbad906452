"""Keys with the digest of their content, so that an object can be verified by its key alone."""

from __future__ import annotations

import re
from hashlib import sha256

_NAMED = re.compile(r"([0-9a-f]{64})[.-].*")


def content_key(folder: str, data: bytes, rest: str) -> str:
    """Return ``<folder>/<sha256 of the data><rest>``.

    Args:
        folder: Without a slash at its end.
        data: The object's content.
        rest: What follows the digest; begins with a dot or a hyphen.
    """
    return f"{folder}/{sha256(data).hexdigest()}{rest}"


def digest_in(key: str) -> str | None:
    """Return the SHA-256 in a key, hex; None for a key without one."""
    match = _NAMED.fullmatch(key.rsplit("/", 1)[-1])
    return match[1] if match else None
