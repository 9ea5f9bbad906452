"""Choose free loopback ports once and remember them in ``<home>/ports.json``."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.errors import ServiceError

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 15_000, 22_000
"""Below the kernel's ephemeral range (32768 and up), also with SeaweedFS's gRPC twins at +10000."""


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class Ports:
    """The remembered ports of one home.

    Args:
        home: Folder of local state, prepared.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / "ports.json"

    def remembered(self) -> dict[str, int]:
        """Return the ports by service name, as last remembered."""
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def usable(self, name: str, is_usable: Callable[[int], bool] = is_free) -> int:
        """Return the remembered port of a service that is not running, or remember a new one if that is taken.

        Args:
            name: Service name.
            is_usable: Whether the service could start with this port now.

        Raises:
            ServiceError: No port is usable.
        """
        with self._locked():
            ports = self.remembered()
            if name not in ports or not is_usable(ports[name]):
                ports[name] = self._choose(set(ports.values()), is_usable)
                self._write(ports)
            return ports[name]

    def _choose(self, taken: set[int], is_usable: Callable[[int], bool]) -> int:
        for _ in range(200):
            port = random.randrange(FIRST_PORT, LAST_PORT, 10)  # noqa: S311 - a port is no secret
            if port not in taken and is_usable(port):
                return port
        raise ServiceError(
            "No free loopback port was found.",
            expected=f"a free port between {FIRST_PORT} and {LAST_PORT}",
            todo="See what listens there with `ss -ltn`; `nightshift down` ends this home's own services.",
        )

    def _write(self, ports: dict[str, int]) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(ports, indent=2, sort_keys=True) + "\n")
        partial.replace(self._file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
