"""Unit tests open no socket and ask for no server: such tests stand in tests/integration."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nightshift.settings import Settings

_NETWORK_CALLS = ("bind", "connect", "connect_ex", "sendto")


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """Let a test fail that uses a socket of the network; those between processes are allowed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _NETWORK_CALLS:
            patch.setattr(socket.socket, name, _refused(name))
        yield


@pytest.fixture(scope="session")
def session_settings() -> Settings:
    """Fail a test that asks for PostgreSQL or S3, also if another test has started them."""
    pytest.fail("a unit test asks for a server; it belongs to tests/integration")


def _refused(name: str) -> Callable[..., Any]:
    allowed = getattr(socket.socket, name)

    def call(used: socket.socket, *arguments: Any) -> Any:
        if used.family != socket.AF_UNIX:
            pytest.fail(f"a unit test calls socket.{name}; it belongs to tests/integration")
        return allowed(used, *arguments)

    return call
