"""Receivers of notices on loopback: a mail server and a webhook that can be down, slow and back."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class MailServer:
    """A mail server that keeps what it takes; ``reply`` is what it answers to the end of a mail."""

    def __init__(self) -> None:
        self.mails, self.reply, self.pause = [], "250 taken", 0.0

    async def handle_DATA(self, _server, session, envelope) -> str:  # noqa: N802
        await asyncio.sleep(self.pause)
        if self.reply.startswith("250"):
            mail = message_from_bytes(envelope.content, policy=policy.default)
            self.mails.append((session, envelope, mail))
        return self.reply

    @property
    def subjects(self) -> list[str]:
        return [mail["Subject"] for _, _, mail in self.mails]


@contextmanager
def running_mail_server(
    port: int = 0, certificate: tuple[Path, Path] | None = None, login: tuple[str, str] = ("", "")
) -> Iterator[tuple[MailServer, int]]:
    """Run a mail server; with a certificate it demands STARTTLS, with a login that too."""
    server, options = MailServer(), {}
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        options |= {"tls_context": context, "require_starttls": True}
    if login[0]:
        expected = LoginPassword(login[0].encode(), login[1].encode())
        options |= {
            "auth_required": True,
            "authenticator": lambda *parts: AuthResult(
                success=parts[-1] == expected, handled=False
            ),
        }
    controller = Controller(server, hostname="127.0.0.1", port=port or free_port(), **options)
    controller.start()
    try:
        yield server, controller.port
    finally:
        controller.stop()


class Webhook(BaseHTTPRequestHandler):
    """Keeps what it gets; the server's ``status`` and ``pause`` say how it answers."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.pause)
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.status)
        if self.server.status in {301, 302, 307}:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Hook(ThreadingHTTPServer):
    """A webhook."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Webhook)
        self.received, self.status, self.pause = [], 204, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/a-secret-path"

    @property
    def documents(self) -> list[dict]:
        return [json.loads(body) for _, body in self.received]

    @property
    def keys(self) -> list[str]:
        return [headers["Idempotency-Key"] for headers, _ in self.received]


@contextmanager
def running_hook(port: int = 0) -> Iterator[Hook]:
    """Run a webhook."""
    hook = Hook(port)
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        hook.shutdown()
        thread.join()
        hook.server_close()


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder: Path, host: str = "localhost") -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
