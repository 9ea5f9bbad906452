"""A part: one server process of a home that the supervisor keeps running."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from nightshift_local.placement import prepare_home
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.process import Launch, ServerProcess


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
            if not self.process.is_outdated(self._launch()):
                return None
            self.stop()
        self._prepare()
        return self.process.start(self._launch())

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    @abstractmethod
    def is_healthy(self) -> bool:
        """Return whether it does its work."""

    @abstractmethod
    def _launch(self) -> Launch:
        """Return how its process is started."""

    def _prepare(self) -> None:
        """Choose its port, and whatever else a start needs."""
        self._ports.usable(self.name)
