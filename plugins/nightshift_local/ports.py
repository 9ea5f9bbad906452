"""Choose free loopback ports once and remember them in ``<home>/ports.json``."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nightshift.errors import ServiceError
from nightshift_local.home_files import exclusive, write_private

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 15_000, 22_000
"""Below the kernel's ephemeral range (32768 and up), also with SeaweedFS's gRPC twins at +10000."""
MAX_TRIES = 200
PATIENCE_SECONDS = 10.0
"""The kernel closes the last socket of a killed server after its process is gone."""
POLL_SECONDS = 0.05


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: connections of the last server that still close do not count.
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
        if not self._file.exists():
            return {}
        ports: dict[str, int] = json.loads(self._file.read_text())
        return ports

    def usable(
        self,
        name: str,
        is_usable: Callable[[int], bool] = is_free,
    ) -> int:
        """Return a port for a service that is not running: the remembered one if it is usable.

        A port that no living program holds is waited for, because running clients know it. A port
        that another program took is replaced.

        Args:
            name: Service name.
            is_usable: Whether the service could start with this port now.

        Raises:
            ServiceError: No port is usable.
        """
        lock_file = self._file.with_suffix(".lock")
        # Parts start at the same time; two of them must not choose the same port.
        with exclusive(lock_file):
            ports = self.remembered()
            port = ports.get(name)
            if port is not None and _becomes_usable(port, is_usable):
                return port
            taken = set(ports.values())
            ports[name] = _choose(taken, is_usable)
            text = json.dumps(ports, indent=2, sort_keys=True)
            write_private(self._file, f"{text}\n")
            return ports[name]


def _choose(taken: set[int], is_usable: Callable[[int], bool]) -> int:
    # At random: two homes that start at the same time must rarely try the same port.
    for _ in range(MAX_TRIES):
        # Steps of 10: SeaweedFS listens on the ports after its first one too.
        port = random.randrange(FIRST_PORT, LAST_PORT, 10)  # noqa: S311 - a port is no secret
        if port not in taken and is_usable(port):
            return port
    raise ServiceError(
        "No free loopback port was found.",
        expected=f"a free port between {FIRST_PORT} and {LAST_PORT}",
        todo="See what listens there with `ss -ltn`; `nightshift down` ends this home's services.",
    )


def _becomes_usable(port: int, is_usable: Callable[[int], bool]) -> bool:
    """Return whether a port is usable, waiting for the sockets of a dead server to close."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_usable(port):
        # What lives will not let go of the port: nobody waits for it.
        if time.monotonic() > deadline or _has_living_listener(port):
            return False
        time.sleep(POLL_SECONDS)
    return True


def _has_living_listener(port: int) -> bool:
    """Return whether a living program that we can see listens on a port."""
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
            continue
        # A dying program has lost its list of open files, so that its socket shows no pid.
        if connection.pid is not None:
            return True
    return False
