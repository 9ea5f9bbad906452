"""Send a JSON document to a command (on standard input) and to a webhook."""

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
_MAX_SHOWN = 300


class NotificationError(NightshiftError):
    """A notification channel failed, or none is set."""

    code = "NS-FRESH-002"
    is_retryable = True


def notify(settings: Settings, document: dict[str, Any]) -> list[str]:
    """Send a document to every channel of the settings; return the channels.

    A channel that fails does not stop the other one.

    Raises:
        NotificationError: No channel is set, or one failed. The message never shows the webhook's
            URL, which is a secret.
    """
    body = json.dumps(document, sort_keys=True).encode()
    url = settings.notify_url.get_secret_value()
    sent: list[str] = []
    failures: list[str] = []
    for channel, target, send in (
        ("command", settings.notify_command, _run),
        ("webhook", url, _post),
    ):
        if not target:
            continue
        failure = send(target, body)
        if failure is None:
            sent.append(channel)
        else:
            failures.append(f"{channel}: {failure}")
    if failures or not sent:
        raise NotificationError(
            "Some notification channels failed."
            if sent
            else "No notification channel accepted the message.",
            expected="NIGHTSHIFT_NOTIFY_COMMAND exits with 0, or NIGHTSHIFT_NOTIFY_URL answers 2xx",
            got="; ".join(failures) or "neither of them is set",
            todo="Correct the channel and test it:"
            " `nightshift check-freshness --notify --at 2100-01-01T00:00Z` is always late.",
        )
    return sent


def _run(command: str, body: bytes) -> str | None:
    """Run a command without a shell; return why it failed."""
    try:
        process = subprocess.run(  # noqa: S603
            shlex.split(command),
            input=body,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"[:_MAX_SHOWN]
    if process.returncode == 0:
        return None
    message = process.stderr.decode(errors="replace").strip()[-_MAX_SHOWN:]
    return f"ended with {process.returncode}: {message}"


def _post(url: str, body: bytes) -> str | None:
    """Post to a webhook; return why it failed, without the URL."""
    if not url.startswith(("https://", "http://")):
        return "not an http(s) URL"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return None
    # The messages of these errors would show the secret URL.
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__
