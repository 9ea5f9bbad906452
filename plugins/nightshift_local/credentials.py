"""Generate the passwords and keys of local services once, one file (mode 0600) each."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def new_password() -> str:
    """Return a new password of 32 URL-safe characters."""
    return secrets.token_urlsafe(24)


def new_hex_key() -> str:
    """Return a new key of 256 bits as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def new_fernet_key() -> str:
    """Return a new key for Airflow's encryption: 256 bits in URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


class Credentials:
    """The generated secrets of one home.

    Args:
        home: Folder of local state; secrets are in its ``secrets`` folder.
    """

    def __init__(self, home: Path) -> None:
        self._dir = home / "secrets"

    def path(self, name: str) -> Path:
        """Return the file of a secret, whether it exists or not."""
        return self._dir / name

    def get(self, name: str, new: Callable[[], str] = new_password) -> str:
        """Return a secret; the first call generates it.

        Args:
            name: Name of the secret and of its file.
            new: Makes the value at the first call.
        """
        path = self.path(name)
        if not path.exists():
            self._create(path, new())
        return path.read_text()

    def _create(self, path: Path, value: str) -> None:
        """Write a secret in one step; of two processes the first one wins."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        # The mode belongs to the creation: a later chmod would leave the secret open for a moment.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
        # A link fails if the name exists, and no reader sees a partially written secret.
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
