"""Give the metrics to Prometheus: an HTTP server with a bearer token, or a file for node_exporter.

The server answers ``/metrics`` with the token and ``/healthz`` without; nothing else.
"""

from __future__ import annotations

import hmac
import ipaddress
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder

from nightshift.atomic_file import replacing
from nightshift.errors import NightshiftError

# A client that sends nothing must not keep a thread for ever.
CLIENT_TIMEOUT_SECONDS = 15
# What node_exporter, another user, may read.
_TEXTFILE_MODE = 0o644


class MetricsAddressError(NightshiftError):
    """The metrics would be open to everybody on the network, or the address cannot be used."""

    code = "NS-METRICS-001"


class TextfileError(NightshiftError):
    """The metrics could not be written to a file."""

    code = "NS-METRICS-002"


class MetricsServer(ThreadingHTTPServer):
    """Serve a registry.

    Attributes:
        registry: The metrics.
        token: Whoever has it may read; empty lets everybody read.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, token: str) -> None:
        """Listen; nobody is answered before ``serve_forever``.

        Raises:
            MetricsAddressError: The address is taken or not this machine's, or it is not loopback
                and there is no token.
        """
        host, port = address
        if not token and not _is_loopback(host):
            raise MetricsAddressError(
                "The metrics would be open to everybody on the network.",
                expected="a token, or a loopback address",
                got=host,
                todo="Leave out --without-token, or listen on 127.0.0.1.",
            )
        self.registry, self.token = registry, token
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise MetricsAddressError(
                f"Cannot listen on {host}:{port}.",
                got=error.strerror,
                todo="Choose another --host or --port; 0 takes a free one.",
            ) from None


class _Handler(BaseHTTPRequestHandler):
    """Answer one request."""

    timeout = CLIENT_TIMEOUT_SECONDS
    server: MetricsServer

    def do_GET(self) -> None:
        """Answer ``/metrics`` and ``/healthz``."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(200, b"alive\n")
        elif not self._may_read():
            self._answer(401, b"a bearer token is needed\n", {"WWW-Authenticate": "Bearer"})
        elif path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.server.registry), {"Content-Type": content_type})
        else:
            self._answer(404, b"only /metrics and /healthz are here\n")

    def _may_read(self) -> bool:
        if not self.server.token:
            return True
        given = self.headers.get("Authorization", "")
        expected = f"Bearer {self.server.token}"
        # In constant time: how long a comparison takes must not tell how much of it was right.
        return hmac.compare_digest(given.encode(), expected.encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        # A client that did not wait is no fault of the server's.
        with suppress(OSError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no line for each scrape."""


def write_textfile(path: Path, registry: CollectorRegistry) -> None:
    """Write the metrics to a file that its readers see as a whole, readable by every user.

    Raises:
        TextfileError: The folder is missing or cannot be written.
    """
    content = generate_latest(registry)
    try:
        # The draft is in the same folder; node_exporter reads only *.prom.
        with replacing(path, _TEXTFILE_MODE) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise TextfileError(
            f"The metrics could not be written to {path}.",
            got=error.strerror,
            todo="Name a file in a folder that exists and that you may write.",
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
