"""Every listener of `nightshift up` and of the compose file: who may use it, what a stranger gets.

``python -m tests.integration.local.listeners`` prints docs/listeners.md. A test starts the parts,
finds each listening socket of theirs, and fails for one that is not here; it then tries each as
another user of the machine, without a login.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightshift.cli.operations.metrics import DEFAULT_PORT
from nightshift.settings import PROJECT_ROOT
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.servers.object_server import GRPC_PORT_OFFSET, LISTENER_OFFSETS

COMPOSE_FILE = PROJECT_ROOT / "docker" / "compose.yaml"

CERTIFICATE = "certificate of this installation, both sides (mTLS)"
NO_HANDSHAKE = "nothing: the TLS handshake fails"
AIRFLOW_OPEN = (
    "/", "/api/v2/version", "/api/v2/monitor/health", "/auth/docs", "/auth/login",
    "/auth/openapi.json", "/docs", "/execution/docs", "/execution/health",
    "/execution/health/ping", "/execution/redoc",
)  # fmt: skip
"""Pages without data: login, empty frame of the user interface, description of the API, health."""


@dataclass(frozen=True)
class Listener:
    """One place that answers.

    Attributes:
        part: Part of `nightshift up`, or service of the compose file.
        what: What listens.
        protocol: ``postgres``, ``s3``, ``http``, ``tls`` or ``socket``.
        login: Who may use it, and how that is proved.
        stranger: What somebody without that gets.
        open_paths: HTTP paths that answer everybody; none of them has data or changes anything.
    """

    part: str
    what: str
    protocol: str
    login: str
    stranger: str
    open_paths: tuple[str, ...] = ()


POSTGRES = Listener(
    "postgres",
    "PostgreSQL",
    "postgres",
    "role and password (SCRAM-SHA-256)",
    "nothing: the login is refused",
)
S3 = Listener(
    "s3",
    "S3 gateway",
    "s3",
    "key pair (SigV4)",
    "403, or that it is alive",
    ("/healthz", "/status"),
)
AIRFLOW = Listener(
    "airflow-api-server",
    "Airflow: user interface, API, execution API",
    "http",
    "Airflow's login (JWT); tasks: a token of their own",
    "401, the login page, version and health, Airflow's API description",
    AIRFLOW_OPEN,
)
MLFLOW = Listener(
    "mlflow", "MLflow's pages, for reading; with `--with mlflow`", "http",
    "user and password (Basic)", "401, or that it is alive", ("/health",),
)  # fmt: skip
PAGE = Listener(
    "page", "the page for people, for reading; by `nightshift page`", "http",
    "password (form; session cookie)", "401 and the form; 421 under another host name",
    ("/style.css",),
)  # fmt: skip
METRICS = Listener(
    "`nightshift metrics`",
    "metrics for Prometheus, while it runs",
    "http",
    "bearer token",
    "401, or that it is alive",
    ("/healthz",),
)
SOCKET = Listener(
    "s3",
    "sockets of the same parts below `/tmp`",
    "socket",
    "the servers' own user (mode 0700)",
    "nothing: no permission",
)


def _inner(part: str) -> Iterator[tuple[int, Listener]]:
    """Yield port offset and listener of SeaweedFS's inner parts, HTTP and gRPC."""
    for name, offset in LISTENER_OFFSETS.items():
        if name != "s3":
            yield (
                offset,
                Listener(part, f"SeaweedFS {name}, HTTP", "tls", CERTIFICATE, NO_HANDSHAKE),
            )
        yield (
            offset + GRPC_PORT_OFFSET,
            Listener(part, f"SeaweedFS {name}, gRPC", "tls", CERTIFICATE, NO_HANDSHAKE),
        )


def local_listeners(home: Path) -> Mapping[int, Listener]:
    """Return what may listen on loopback for a home whose parts have run, by port."""
    ports = Ports(home).remembered()
    known = (POSTGRES, S3, AIRFLOW, MLFLOW, PAGE)
    listeners = {ports[listener.part]: listener for listener in known if listener.part in ports}
    if "s3" in ports:
        listeners |= {ports["s3"] + offset: listener for offset, listener in _inner("s3")}
    return listeners


LOOPBACK_ONLY = {
    "s3": [
        listener
        for _, listener in _inner("s3")
        if "admin" not in listener.what and "s3, gRPC" not in listener.what
    ],
    "scheduler": [
        Listener(
            "scheduler",
            "health of the scheduler, port 8974",
            "http",
            "nobody else in the container",
            "that it is alive",
        )
    ],
}
"""Listeners that a container keeps to itself."""
NETWORK = {
    "postgres": [(5432, POSTGRES)],
    "s3": [
        (8333, S3),
        (18333, Listener("s3", "SeaweedFS s3, gRPC", "tls", CERTIFICATE, NO_HANDSHAKE)),
    ],
    "api-server": [(8080, AIRFLOW)],
    "mlflow": [(5000, MLFLOW)],
}
"""Listeners that the other containers of the same network reach, by service."""


def page(compose: Mapping[str, Any]) -> str:
    """Return docs/listeners.md.

    Args:
        compose: The parsed compose file.
    """
    lines = [
        "# Who listens, and who may use it",
        "",
        (
            "Generated by `make docs` from `tests/integration/local/listeners.py` and"
            " `docker/compose.yaml`; do not edit. A test starts the"
        ),
        (
            "parts, compares every listening socket with this page, and tries each as another user"
            " of the machine."
        ),
        "",
        "## `nightshift up`",
        (
            f"Everything listens on {LOOPBACK}; ports are chosen free and remembered in"
            " `<home>/ports.json`."
        ),
        "",
        "| part | port | what | who may use it | without that |",
        "|---|---|---|---|---|",
        *(_local_rows()),
        "",
        "Airflow's scheduler and DAG processor, and the supervisor, listen nowhere.",
        "",
        "## Commands that listen while they run",
        "Not part of `nightshift up`; without other options on loopback too.",
        "",
        "| command | port | what | who may use it | without that |",
        "|---|---|---|---|---|",
        _row(METRICS.part, f"{DEFAULT_PORT}, or `--port`", METRICS),
        "",
        "## `docker/compose.yaml`",
        (
            "| service | port | networks | published on the host | what | who may use it"
            " | without that |"
        ),
        "|---|---|---|---|---|---|---|",
        *(_compose_rows(compose)),
        "",
        (
            f"Without login, Airflow answers: {', '.join(f'`{path}`' for path in AIRFLOW_OPEN)}"
            " (no data, no change)."
        ),
        (
            "The page for people is below `/nightshift/` of the same server: every path there"
            " answers 401 without Airflow's login,"
        ),
        "403 to a user who may not see the website or read DAGs, and changes nothing.",
        "",
        "## Wrong logins",
        (
            "Each wrong login is recorded: by PostgreSQL as `password authentication failed`, by"
            " Airflow as `path=/auth/token`"
        ),
        (
            "with `status_code=401`, by MLflow and the page as `a wrong login was refused`; locally"
            " in `<home>/logs` (`nightshift page`: its terminal). None is slowed down."
        ),
        (
            "Airflow's simple auth manager has no setting for a limit, and a lock-out would let"
            " each user of the machine keep the"
        ),
        (
            "on-call person out. The passwords are generated, 32 random characters: at a million"
            " tries a second, guessing one"
        ),
        (
            "takes 10^44 years. Where strangers can reach Airflow, use an auth manager with people"
            " of its own, or put a proxy with"
        ),
        "a limit in front of it (docs/production.md).",
    ]
    return "\n".join(lines) + "\n"


def _local_rows() -> Iterator[str]:
    for listener, port in ((POSTGRES, "chosen"), (S3, "P, chosen")):
        yield _row(listener.part, port, listener)
    for offset, listener in _inner("s3"):
        yield _row("s3", f"P + {offset}", listener)
    yield _row("s3", "-", SOCKET)
    for listener in (AIRFLOW, MLFLOW, PAGE):
        yield _row(listener.part, "chosen", listener)


def _compose_rows(compose: Mapping[str, Any]) -> Iterator[str]:
    for name, service in compose["services"].items():
        networks = ", ".join(service["networks"])
        published = ", ".join(service.get("ports", [])) or "-"
        for port, listener in NETWORK.get(name, []):
            yield _row(name, f"{port} | {networks} | {published}", listener)
        for listener in LOOPBACK_ONLY.get(name, []):
            yield _row(name, "inner | in the container only | -", listener)
        if name not in NETWORK and name not in LOOPBACK_ONLY:
            yield f"| {name} | - | {networks} | - | listens nowhere | - | - |"


def _row(part: str, port: str, listener: Listener) -> str:
    return f"| {part} | {port} | {listener.what} | {listener.login} | {listener.stranger} |"


if __name__ == "__main__":
    import yaml

    sys.stdout.write(page(yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))))
