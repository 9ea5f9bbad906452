"""A receiver of OTLP and OpenLineage over HTTP on loopback, which can refuse, hang or be away."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What it was given, and how it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_seconds = 0.0
        self.n_requests = 0
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                pairs = resource.resource.attributes
                self.resources.append({pair.key: pair.value.string_value for pair in pairs})
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
        else:
            assert path == "/api/v1/lineage"
            self.events.append(json.loads(body))


@contextmanager
def running() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.n_requests += 1
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            time.sleep(receiver.delay_seconds)
            if receiver.status < 300:
                receiver.take(self.path, body)
            # Whoever gave up waiting is not there any more.
            with suppress(OSError):
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
