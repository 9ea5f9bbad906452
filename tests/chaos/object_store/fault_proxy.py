"""An HTTP proxy on loopback that breaks chosen S3 requests, or their answers.

Requests pass byte for byte (Host and path too), so their signatures stay valid. Only the faults are
played; everything else is real.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"
HANG_LIMIT_SECONDS = 30.0
DRIP_SECONDS = 0.05
DRIP_BYTES = 256
TRICKLE_SECONDS = 0.1
_ERROR = (
    b"<?xml version='1.0'?><Error><Code>%s</Code>"
    b"<Message>played by the fault proxy</Message></Error>"
)

KINDS = {
    "503": "the server is busy; the request does not reach it",
    "500": "the server fails; the request does not reach it",
    "reset_before": "the connection is reset before the server sees the request",
    "reset_during": "the connection is reset when half of the request's body was sent",
    "lost_answer": "the server did it, and the connection is reset before the answer",
    "hang_before": "nothing happens; the request does not reach the server",
    "hang_after": "the server did it, and nothing comes back",
    "truncated": "the answer ends in the middle of its body; one without body in its head",
    "truncated_head": "the answer ends in the middle of its head",
    "flipped": "one bit of the answer's body is another; of an answer without body, of the digest"
    " that it states",
    "flipped_request": "one bit of the request's body is another",
    "drip": "the answer comes in small pieces, slowly",
    "trickle": "the answer comes byte by byte, each before a timeout would notice",
}


@dataclass
class Fault:
    """What to play.

    Attributes:
        kind: One of ``KINDS``.
        operation: Which requests count: ``head_bucket``, ``create_bucket``, ``list``,
            ``list_next``, ``head``, ``get``, ``put``.
        first: Which of them is the first to break, from 1.
        times: How many in a row; None: all that follow.
        n_seen: Requests of the operation so far.
        n_played: How often it was played.
    """

    kind: str
    operation: str
    first: int = 1
    times: int | None = 1
    n_seen: int = field(default=0, init=False)
    n_played: int = field(default=0, init=False)

    def is_due(self, operation: str) -> bool:
        """Count a request and return whether it is to break."""
        if operation != self.operation:
            return False
        self.n_seen += 1
        due = self.n_seen >= self.first and (
            self.times is None or self.n_seen < self.first + self.times
        )
        self.n_played += due
        return due


@dataclass(frozen=True)
class Message:
    """One HTTP message: its head with the empty line, and its body."""

    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body


class FaultProxy:
    """Listens in a with block in front of one S3 server.

    Args:
        upstream_url: ``http://host:port`` of the real server.
    """

    def __init__(self, upstream_url: str) -> None:
        upstream = urlsplit(upstream_url)
        assert upstream.hostname
        assert upstream.port
        self._upstream = (upstream.hostname, upstream.port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.faults: list[Fault] = []
        self.operations: list[str] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(HANG_LIMIT_SECONDS)

    def play(self, fault: Fault) -> Fault:
        """Break what the fault says, instead of anything played before."""
        with self._lock:
            self.faults = [fault]
        return fault

    def heal(self) -> None:
        """Break nothing any more, and forget what was asked."""
        with self._lock:
            self.faults, self.operations = [], []

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(
            target=target,  # type: ignore[arg-type]
            args=arguments,
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Pass one connection's requests on until the client ends it or a fault breaks it."""
        client.settimeout(0.1)
        with client:
            try:
                while (head := self._read_head(client)) and self._handle(client, head):
                    pass
            except OSError:
                return

    def _handle(self, client: socket.socket, head: bytes) -> bool:
        """Play or pass one request; return whether the connection lives on."""
        kind = self._judge(head)
        if kind == "reset_before":
            return _reset(client)
        length = int(_header(head, "content-length") or 0)
        if _header(head, "expect") and length:
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._read_body(client, length // 2 if kind == "reset_during" else length)
        if kind == "reset_during":
            return _reset(client)
        if kind == "hang_before":
            return self._hang(client)
        if kind in ("500", "503"):
            return _refuse(client, kind, head)
        request = Message(head, _flip(body) if kind == "flipped_request" else body)
        return self._answer(client, self._forward(request), kind)

    def _judge(self, head: bytes) -> str | None:
        operation = operation_of(head)
        with self._lock:
            self.operations.append(operation)
            return next((fault.kind for fault in self.faults if fault.is_due(operation)), None)

    def _answer(self, client: socket.socket, answer: Message, kind: str | None) -> bool:
        if kind == "lost_answer":
            return _reset(client)
        if kind == "hang_after":
            return self._hang(client)
        if kind == "truncated" and answer.body:
            client.sendall(answer.head + answer.body[: len(answer.body) // 2])
            return False
        if kind in ("truncated", "truncated_head"):
            client.sendall(answer.head[: len(answer.head) // 2])
            return False
        if kind == "flipped":
            answer = (
                Message(answer.head, _flip(answer.body))
                if answer.body
                else Message(_flip_digest(answer.head), b"")
            )
        if kind == "drip":
            return self._drip(client, answer, DRIP_BYTES, DRIP_SECONDS)
        if kind == "trickle":
            return self._drip(client, answer, 1, TRICKLE_SECONDS)
        client.sendall(answer.raw)
        return True

    def _drip(self, client: socket.socket, answer: Message, n_bytes: int, seconds: float) -> bool:
        for start in range(0, len(answer.raw), n_bytes):
            client.sendall(answer.raw[start : start + n_bytes])
            if self._closing.wait(seconds):
                return False
        return True

    def _hang(self, client: socket.socket) -> bool:
        """Say nothing until the client goes away."""
        end = time.monotonic() + HANG_LIMIT_SECONDS
        while time.monotonic() < end and not self._closing.is_set():
            try:
                if not client.recv(1):
                    break
            except TimeoutError:
                continue
        return False

    def _forward(self, request: Message) -> Message:
        with socket.create_connection(self._upstream, timeout=HANG_LIMIT_SECONDS) as server:
            server.sendall(request.raw)
            head = self._read_head(server)
            while head.startswith(b"HTTP/1.1 100"):
                head = self._read_head(server)
            if request.head.startswith(b"HEAD ") or head.split(b" ", 2)[1] in (b"204", b"304"):
                return Message(head, b"")
            if length := _header(head, "content-length"):
                return Message(head, self._read_body(server, int(length)))
            return self._unchunked(server, head)

    def _unchunked(self, server: socket.socket, head: bytes) -> Message:
        """Return a complete chunked answer, still in chunked form, so that its head stays right."""
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += self._receive(server, 65536)
        return Message(head, body)

    def _read_head(self, peer: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := self._receive(peer, 1)):
                return b""
            head += byte
        return head

    def _read_body(self, peer: socket.socket, length: int) -> bytes:
        parts: list[bytes] = []
        while length and (part := self._receive(peer, min(length, 65536))):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _receive(self, peer: socket.socket, size: int) -> bytes:
        while not self._closing.is_set():
            try:
                return peer.recv(size)
            except TimeoutError:
                continue
        return b""


def operation_of(head: bytes) -> str:
    """Return the name of the S3 operation that a request's head asks for."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    has_key = len(url.path.strip("/").split("/", 1)) == 2
    if method == "GET" and not has_key and "list-type" in query:
        goes_on = "continuation-token" in query or query.get("start-after", [""]) != [""]
        return "list_next" if goes_on else "list"
    names = (
        {"HEAD": "head", "GET": "get", "PUT": "put"}
        if has_key
        else {"HEAD": "head_bucket", "PUT": "create_bucket"}
    )
    return names.get(method, f"other {method}")


def _header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def _flip(body: bytes) -> bytes:
    """Return the body with the lowest bit of its middle byte turned."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


def _flip_digest(head: bytes) -> bytes:
    """Return a head whose SHA-256 has one other character; the same head if it has none."""
    before, name, rest = head.partition(b"X-Amz-Checksum-Sha256: ")
    return before + name + (b"B" if rest[:1] == b"A" else b"A") + rest[1:] if name else head


def _refuse(client: socket.socket, status: str, head: bytes) -> bool:
    body = _ERROR % {"503": b"SlowDown", "500": b"InternalError"}[status]
    lines = [
        b"HTTP/1.1 " + status.encode() + b" Fault",
        b"Content-Type: application/xml",
        b"Content-Length: %d" % len(body),
        b"",
        b"",
    ]
    client.sendall(b"\r\n".join(lines) + (b"" if head.startswith(b"HEAD ") else body))
    return True


def _reset(client: socket.socket) -> bool:
    """End the connection by RST, not by FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
