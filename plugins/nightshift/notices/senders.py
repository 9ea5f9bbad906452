"""Send one message over one channel: SMTP, a chat, a signed webhook, a command.

A sender raises ``SendError`` with a reason that holds no address, no secret and no text of the
receiver: the reason is recorded and shown.
"""

from __future__ import annotations

import hmac
import json
import os
import smtplib
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.notices.notice_settings import (
    Channel,
    CommandChannel,
    EmailChannel,
    SlackChannel,
    WebhookChannel,
)

if TYPE_CHECKING:
    from nightshift.notices.messages import Message

KEY_HEADER = "Idempotency-Key"
TIMESTAMP_HEADER = "X-Nightshift-Timestamp"
SIGNATURE_HEADER = "X-Nightshift-Signature"
KEY_VARIABLE = "NIGHTSHIFT_NOTICE_KEY"
"""In the environment of a command."""
# Of an answer nothing but the status counts; a receiver that never stops must not be read on.
_MAX_ANSWER_BYTES = 4096


# Answers about this very message, not about the channel: another one may be taken.
_REFUSED_CONTENT = {400, 413, 422, 552, 554}


class SendError(NightshiftError):
    """A channel did not take a message; it is tried again.

    Attributes:
        concerns_message: Whether the receiver refused this very message.
    """

    code = "NS-NOTICE-002"
    is_retryable = True
    concerns_message = False

    @classmethod
    def of_status(cls, what: str, protocol: str, status: int) -> SendError:
        """Return the error for a status that the receiver answered."""
        error = cls(what, got=f"{protocol} {status}")
        error.concerns_message = status in _REFUSED_CONTENT
        return error


def send(channel: Channel, message: Message) -> None:
    """Deliver a message; return when the receiver has taken it.

    Raises:
        SendError: It did not, or nobody knows whether it did.
        NoticeSettingsError: A secret is missing.
    """
    if isinstance(channel, EmailChannel):
        _send_email(channel, message)
    elif isinstance(channel, SlackChannel):
        _post(channel.url.resolve(), _chat_body(message), {}, channel.timeout_seconds)
    elif isinstance(channel, WebhookChannel):
        body = _json(message.document())
        headers = _webhook_headers(channel, message, body)
        _post(channel.url.resolve(), body, headers, channel.timeout_seconds)
    elif isinstance(channel, CommandChannel):
        _run(channel, message)


def signature(key: str, timestamp: str, body: bytes) -> str:
    """Return the signature that a receiver compares: HMAC-SHA-256 of timestamp, dot and body."""
    digest = hmac.new(key.encode(), timestamp.encode() + b"." + body, sha256)
    return f"sha256={digest.hexdigest()}"


def as_email(channel: EmailChannel, message: Message) -> EmailMessage:
    """Return a message as e-mail; all of one incident are one thread in a mail program."""
    _, _, domain = parseaddr(channel.sender)[1].partition("@")
    domain = domain or "nightshift.invalid"
    email = EmailMessage()
    email["From"] = channel.sender
    email["To"] = ", ".join(channel.recipients)
    email["Subject"] = message.subject
    email["Date"] = formatdate()
    # The same in every try: a mail server or program recognises a repeated delivery by it.
    email["Message-ID"] = f"<{message.key}@{domain}>"
    email[KEY_HEADER] = message.key
    # No automatic reply of somebody on holiday. Source: RFC 3834.
    email["Auto-Submitted"] = "auto-generated"
    if message.thread:
        email["References"] = f"<{message.thread}@{domain}>"
        email["In-Reply-To"] = f"<{message.thread}@{domain}>"
    email.set_content(message.text + "\n")
    return email


def _send_email(channel: EmailChannel, message: Message) -> None:
    email = as_email(channel, message)
    password = channel.password.resolve() if channel.password else ""
    try:
        server = _connect(channel)
        try:
            if channel.username:
                server.login(channel.username, password)
            server.send_message(email)
        finally:
            # The mail was taken before: a server that hangs up rudely must not get it again.
            with suppress(OSError, smtplib.SMTPException):
                server.quit()
    except smtplib.SMTPResponseException as error:
        # The server's text may quote an address.
        raise SendError.of_status("The mail server refused.", "SMTP", error.smtp_code) from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise SendError("The mail was not taken.", got=type(error).__name__) from None


def _connect(channel: EmailChannel) -> smtplib.SMTP:
    """Connect by the security of the channel; a certificate that does not fit is refused."""
    address = (channel.host, channel.port)
    timeout = channel.timeout_seconds
    if channel.security == "none":
        return smtplib.SMTP(*address, timeout=timeout)
    context = ssl.create_default_context(cafile=channel.ca_file)
    if channel.security == "tls":
        return smtplib.SMTP_SSL(*address, timeout=timeout, context=context)
    server = smtplib.SMTP(*address, timeout=timeout)
    try:
        server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _chat_body(message: Message) -> bytes:
    # These three are markup in a chat of Slack's format. Source: Slack, "Formatting text".
    text = f"*{message.subject}*\n{message.text}"
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _json({"text": escaped})


def _webhook_headers(channel: WebhookChannel, message: Message, body: bytes) -> dict[str, str]:
    headers = {KEY_HEADER: message.key}
    if channel.signing_key is not None:
        timestamp = str(int(time.time()))
        headers[TIMESTAMP_HEADER] = timestamp
        headers[SIGNATURE_HEADER] = signature(channel.signing_key.resolve(), timestamp, body)
    return headers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the signed body is for the receiver that the settings name."""

    def redirect_request(self, *_: object) -> None:
        """Return nothing, which makes the redirect an error."""


def _post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> None:
    if not url.startswith(("https://", "http://")):
        raise SendError("The webhook is not an http(s) URL.")
    all_headers = {"Content-Type": "application/json", "User-Agent": "nightshift", **headers}
    request = urllib.request.Request(url, body, all_headers, method="POST")  # noqa: S310
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=timeout) as answer:
            answer.read(_MAX_ANSWER_BYTES)
    # The messages of these errors would show the secret URL.
    except urllib.error.HTTPError as error:
        error.close()
        raise SendError.of_status("The receiver refused.", "HTTP", error.code) from None
    except urllib.error.URLError as error:
        reason = type(error.reason).__name__
        raise SendError("The receiver was not reached.", got=reason) from None
    except (OSError, ValueError) as error:
        raise SendError("The receiver did not answer.", got=type(error).__name__) from None
    except Exception as error:  # noqa: BLE001 - http.client's errors quote what was received
        raise SendError("The receiver's answer is no HTTP.", got=type(error).__name__) from None


def _run(channel: CommandChannel, message: Message) -> None:
    try:
        process = subprocess.run(  # noqa: S603
            channel.command,
            input=_json(message.document()),
            capture_output=True,
            timeout=channel.timeout_seconds,
            check=False,
            env={**os.environ, KEY_VARIABLE: message.key},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        # The message of the error would show the command's arguments.
        raise SendError("The command did not run to its end.", got=type(error).__name__) from None
    if process.returncode != 0:
        raise SendError("The command failed.", got=f"exit code {process.returncode}")


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
