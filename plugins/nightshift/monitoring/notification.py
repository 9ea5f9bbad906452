"""Tell people: one JSON document to a command of theirs on standard input, or to a webhook."""

from __future__ import annotations

import json
import shlex
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.settings import Settings

TIMEOUT_SECONDS = 30
_SHOWN = 300


class NotificationError(NightshiftError):
    """Nobody could be told."""

    code = "NS-FRESH-002"
    is_retryable = True


def notify(settings: Settings, document: dict[str, Any]) -> list[str]:
    """Send a document to every channel that the settings name, and return the channels; one that fails does not stop the other.

    Raises:
        NotificationError: No channel is set, or one failed; the message never shows the webhook's
            URL, which is a secret.
    """
    body = json.dumps(document, sort_keys=True).encode()
    url = settings.notify_url.get_secret_value()
    channels = [("command", settings.notify_command, _run), ("webhook", url, _post)]
    wanted = [(name, target, send) for name, target, send in channels if target]
    failures = [
        f"{name}: {failure}" for name, target, send in wanted if (failure := send(target, body))
    ]
    if failures or not wanted:
        raise NotificationError(
            "Nobody could be told."
            if len(failures) == len(wanted)
            else "Not everybody could be told.",
            expected="NIGHTSHIFT_NOTIFY_COMMAND ends with 0, or NIGHTSHIFT_NOTIFY_URL answers with 2xx",
            got="; ".join(failures) or "neither of them is set",
            todo="Correct the channel and try it: `nightshift check-freshness --notify --at 2100-01-01T00:00Z` is always late.",
        )
    return [name for name, _, _ in wanted]


def _run(command: str, body: bytes) -> str | None:
    """Run a command without a shell; return why it failed."""
    try:
        done = subprocess.run(  # noqa: S603
            shlex.split(command),
            input=body,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"[:_SHOWN]
    if done.returncode == 0:
        return None
    return f"ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-_SHOWN:]}"


def _post(url: str, body: bytes) -> str | None:
    if not url.startswith(("https://", "http://")):
        return "not an http(s) URL"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310  (checked above)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__
