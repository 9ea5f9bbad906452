"""A part: one server process of a home that the supervisor keeps running."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import ClassVar

from nightshift.errors import ServiceError
from nightshift_local.placement import prepare_home
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.process import Launch, ServerProcess

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.05


class Part(ABC):
    """One server of a home.

    Args:
        home: Folder of local state.
        name: Name of the part: of its record, its log file and its port.

    Attributes:
        group: The group of ``stack.GROUPS`` to which it belongs.
        is_optional: Whether `nightshift up` succeeds without it.
        unhealthy_limit_seconds: How long it may be unhealthy before it is restarted; None: never.
        process: Its process.
    """

    group: ClassVar[str]
    is_optional: ClassVar[bool] = False
    unhealthy_limit_seconds: ClassVar[float | None] = 180.0

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self._home = prepare_home(home)
        self._ports = Ports(self._home)
        self.process = ServerProcess(self._home, name)

    @property
    def port(self) -> int:
        """Return the port on which it listens, or last listened; 0 before its first start."""
        return self._ports.remembered().get(self.name, 0)

    @property
    def address(self) -> str:
        """Return where a person reaches it, empty for nowhere."""
        return f"http://{LOOPBACK}:{self.port}"

    def ensure_started(self) -> object:
        """Start the process unless it runs with the current settings; does not wait for health.

        Raises:
            ServiceError: It could not be prepared.
        """
        if self.process.find() is not None:
            if not self.process.is_outdated(self.launch()):
                return None
            self.stop()
        self._prepare()
        return self.process.start(self.launch())

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    @abstractmethod
    def is_healthy(self) -> bool:
        """Return whether it does its work."""

    def becomes_healthy(self, seconds: float) -> bool:
        """Return whether it is healthy in time; False as soon as its process is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.is_healthy():
                return True
            if self.process.find() is None:
                break
            time.sleep(POLL_SECONDS)
        return False

    def start_error(self, what: str) -> ServiceError:
        """Return the error of a part that did not start, with the end of its log."""
        return ServiceError(
            what,
            got=self.process.log_tail(),
            todo=f"Read {self.process.log_file}; `nightshift doctor` checks disk and ports.",
        )

    @abstractmethod
    def launch(self) -> Launch:
        """Return how its process is started."""

    def _prepare(self) -> None:
        """Choose its port, and whatever else a start needs."""
        self._ports.usable(self.name)


def stop_parts(parts: Collection[Part], report: Callable[[str], None] | None = None) -> None:
    """Stop parts at the same time; the first failure is raised after all were tried."""

    def stop(part: Part) -> None:
        part.stop()
        if report is not None:
            report(f"  {part.name:<22} stopped")

    # PostgreSQL alone may take its full grace of 30 s.
    with ThreadPoolExecutor(max(len(parts), 1)) as pool:
        results = [pool.submit(stop, part) for part in parts]
    # Read after the block: `pool.map` would cancel what has not begun when the first one fails.
    for result in results:
        result.result()


def get(port: int, path: str) -> bytes | None:
    """Return what a server of ours answers to a GET; None unless it answers with 200."""
    # Not by urllib: a proxy of the environment must not see requests to loopback.
    connection = HTTPConnection(LOOPBACK, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    return content if response.status == HTTPStatus.OK else None
