"""``nightshift metrics``: serve the metrics to Prometheus, or write them to a file."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import instant_or_now
from nightshift.settings import Settings, load_settings

if TYPE_CHECKING:
    from nightshift.metrics.exposition import MetricsServer

DEFAULT_PORT = 9464
TOKEN_FILE = "metrics-token"  # noqa: S105 - the name of a file
_TOKEN_BYTES = 24


def metrics(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = (
        DEFAULT_PORT
    ),
    textfile: Annotated[
        Path | None,
        typer.Option(help="Write this file once and end, for node_exporter's textfile collector."),
    ] = None,
    without_token: Annotated[
        bool,
        typer.Option(
            "--without-token", help="Let every user of this machine read; on loopback only."
        ),
    ] = False,
    at: Annotated[
        str,
        typer.Option(help="Instant whose deadlines count, ISO 8601; now by default."),
    ] = "",
) -> None:
    """Serve the metrics of the warehouse at /metrics, with a bearer token.

    The token is NIGHTSHIFT_METRICS_TOKEN, or else the content of the file metrics-token in the
    home, which the first start writes.
    """
    from prometheus_client import CollectorRegistry

    from nightshift.metrics.collector import WarehouseCollector
    from nightshift.metrics.exposition import MetricsServer, write_textfile

    settings = load_settings()
    registry = CollectorRegistry()
    registry.register(WarehouseCollector(settings, instant_or_now(at) if at else None))
    if textfile is not None:
        write_textfile(textfile, registry)
        return
    token = "" if without_token else _token(settings)
    with MetricsServer((host, port), registry, token) as server:
        name, bound_port = server.server_address[:2]
        typer.echo(f"Metrics: http://{name!s}:{bound_port}/metrics")
        if token and not settings.metrics_token.get_secret_value():
            typer.echo(f"Token: in {settings.home / TOKEN_FILE}")
        sys.stdout.flush()
        _serve_until_told(server)


def _token(settings: Settings) -> str:
    """Return the token of the settings, or that of the home, which is made when it is missing."""
    given = settings.metrics_token.get_secret_value()
    if given:
        return given
    path = settings.home / TOKEN_FILE
    settings.home.mkdir(parents=True, exist_ok=True)
    # Of two first starts at once, one writes the file and the other one reads it.
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(_TOKEN_BYTES))
    return path.read_text(encoding="utf-8").strip()


def _serve_until_told(server: MetricsServer) -> None:
    """Serve until SIGTERM, which ends as quietly as a person's interrupt."""

    def stop(_signal: int, _frame: object) -> None:
        # `shutdown` waits for the loop, which this handler interrupts: another thread must call it.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
