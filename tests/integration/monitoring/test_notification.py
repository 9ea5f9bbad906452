"""People are told by a real command and a real webhook, and a channel that fails is named."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from nightshift.monitoring.notification import NotificationError, notify
from nightshift.settings import Settings

pytestmark = pytest.mark.promise("R20")
PYTHON = shlex.quote(sys.executable)
DOCUMENT = {"event": "late", "late": ["flight_delayed"]}


class Hook(BaseHTTPRequestHandler):
    status = 204
    received: list[dict]

    def do_POST(self) -> None:
        type(self).received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[type[Hook]]:
    handler = type("OneHook", (Hook,), {"received": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}/secret"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def settings_with(command: str = "", url: str = "") -> Settings:
    return Settings(warehouse_host="h", notify_command=command, notify_url=SecretStr(url))


def writer(path: Path) -> str:
    return (
        f"{PYTHON} -c \"import sys, pathlib; pathlib.Path('{path}').write_text(sys.stdin.read())\""
    )


def test_command_gets_the_document_on_standard_input(tmp_path: Path):
    said = tmp_path / "said.json"
    assert notify(settings_with(writer(said)), DOCUMENT) == ["command"]
    assert json.loads(said.read_text()) == DOCUMENT


def test_webhook_gets_the_document(hook: type[Hook]):
    assert notify(settings_with(url=hook.url), DOCUMENT) == ["webhook"]
    assert hook.received == [DOCUMENT]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (
            f"{PYTHON} -c \"import sys; sys.exit('the pager is down')\"",
            "ended with 1: the pager is down",
        ),
        ("/no/such/pager", "FileNotFoundError"),
        ("'never closed", "ValueError"),
    ],
    ids=["ends with 1", "is absent", "is no command"],
)
def test_a_command_that_fails_is_named(command: str, reason: str):
    with pytest.raises(NotificationError, match=reason):
        notify(settings_with(command), DOCUMENT)


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nightshift.monitoring.notification.TIMEOUT_SECONDS", 0.5)
    with pytest.raises(NotificationError, match="TimeoutExpired"):
        notify(settings_with(f"{PYTHON} -c 'import time; time.sleep(60)'"), DOCUMENT)


def test_the_other_channel_is_told_when_one_fails(hook: type[Hook]):
    with pytest.raises(NotificationError, match="Some notification channels") as caught:
        notify(settings_with("/no/such/pager", hook.url), DOCUMENT)
    assert hook.received == [DOCUMENT]
    assert "secret" not in str(caught.value)


def test_a_webhook_that_fails_is_named_without_its_address(hook: type[Hook]):
    hook.status = 500
    with pytest.raises(NotificationError, match="webhook: HTTP 500") as caught:
        notify(settings_with(url=hook.url), DOCUMENT)
    assert "secret" not in str(caught.value)
    with pytest.raises(NotificationError, match="webhook: not an http"):
        notify(settings_with(url="file:///etc/passwd"), DOCUMENT)


def test_nobody_is_told_when_no_channel_is_set():
    with pytest.raises(NotificationError, match="neither"):
        notify(settings_with(), DOCUMENT)
