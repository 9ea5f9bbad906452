"""Choose free loopback ports once and remember them in ``<home>/ports.json``."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nightshift.errors import ServiceError

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 15_000, 22_000
"""Below the kernel's ephemeral range (32768 and up), also with SeaweedFS's gRPC twins at +10000."""
PATIENCE_SECONDS = 10.0
"""A killed server is gone from the process table before the kernel has closed its last socket."""


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
        """Return the remembered port of a service that is not running, or remember a new one if another program took it.

        A port that is taken by no living program is waited for: clients that still run were told
        this one.

        Args:
            name: Service name.
            is_usable: Whether the service could start with this port now.

        Raises:
            ServiceError: No port is usable.
        """
        with self._locked():
            ports = self.remembered()
            if name not in ports or not _becomes_usable(ports[name], is_usable):
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


def _becomes_usable(port: int, is_usable: Callable[[int], bool]) -> bool:
    """Return whether a port is usable, waiting for the sockets of a dead server to close."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_usable(port):
        if time.monotonic() > deadline or _has_living_listener(port):
            return False
        time.sleep(0.05)
    return True


def _has_living_listener(port: int) -> bool:
    """Return whether a program that we can see listens there; a dying one has lost its list of open files."""
    listeners = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
    return any(c.pid is not None and c.laddr.port == port for c in listeners)
