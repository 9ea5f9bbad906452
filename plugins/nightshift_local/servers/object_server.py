"""Run the bundled SeaweedFS as a real S3 server on loopback."""

from __future__ import annotations

import http.client
import os
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from nightshift.errors import ServiceError
from nightshift_local.credentials import Credentials, new_hex_key
from nightshift_local.placement import place_servers, prepare_home
from nightshift_local.ports import LOOPBACK, Ports, is_free
from nightshift_local.process import Launch, ServerProcess
from nightshift_local.servers.object_files import (
    IDENTITIES_FILE,
    KeyPair,
    write_object_server_files,
)

NAME = "s3"
BUCKET = "nightshift"
START_TIMEOUT_SECONDS = 30.0
GRPC_PORT_OFFSET = 10_000
LISTENER_OFFSETS = {"s3": 0, "master": 1, "volume": 2, "filer": 3, "admin": 6}


@dataclass(frozen=True)
class ObjectServerEndpoint:
    """Where a running S3 server listens, and the key pair of its administrator.

    Attributes:
        url: Endpoint URL for S3 clients.
        access_key_id: Key id.
        secret_access_key: Secret key.
        bucket: The bucket that is created at the start.
    """

    url: str
    access_key_id: str
    secret_access_key: str
    bucket: str


class ObjectServer:
    """The S3 server of one home.

    Args:
        home: Folder of local state.
        port: First of the TCP ports; None: free ones, chosen once and remembered.
    """

    name = NAME
    group = NAME
    is_optional = False
    unhealthy_limit_seconds: float | None = 60.0

    def __init__(self, home: Path, port: int | None = None) -> None:
        self._home = prepare_home(home)
        self._fixed_port = port
        self._credentials = Credentials(self._home)
        self.process = ServerProcess(self._home, NAME)

    @property
    def port(self) -> int:
        """Return the S3 port on which the server listens, or last listened."""
        return self._fixed_port or Ports(self._home).remembered().get(NAME, 0)

    @property
    def address(self) -> str:
        """Return where the server is reached."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def endpoint(self) -> ObjectServerEndpoint:
        """Return where the server listens, with its keys."""
        key_id, secret = (
            self._credentials.get("s3-access-key-id"),
            self._credentials.get("s3-secret-access-key"),
        )
        return ObjectServerEndpoint(f"http://{LOOPBACK}:{self.port}", key_id, secret, BUCKET)

    def ensure_started(self) -> ObjectServerEndpoint:
        """Start the server unless it runs, wait until it answers, and return where.

        Raises:
            ServiceError: It did not answer in time; the message has the end of its log.
        """
        if self.process.find() is not None and self.process.is_outdated(self._launch()):
            self.stop()
        if self.process.find() is None:
            if self._fixed_port is None:
                Ports(self._home).usable(NAME, _are_listeners_free)
            _remove_stale_sockets(self.port)
            self._write_files()
            self.process.start(self._launch())
        self._wait_until_healthy()
        return self.endpoint

    @property
    def mlflow_keys(self) -> KeyPair:
        """Return the key pair that may read ``mlflow/`` in the bucket, and nothing else."""
        key_id, secret = (
            self._credentials.get("s3-mlflow-access-key-id"),
            self._credentials.get("s3-mlflow-secret-access-key"),
        )
        return KeyPair(key_id, secret)

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop(grace_seconds=15)
        _remove_stale_sockets(self.port)

    def is_healthy(self) -> bool:
        """Return whether the S3 gateway answers and knows its bucket."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=3)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.process.find() is not None:
            if self.is_healthy():
                return
            time.sleep(0.05)
        raise ServiceError(
            "The S3 server did not start.",
            got=self.process.log_tail(),
            todo=f"Read {self.process.log_file}; `nightshift doctor` checks disk space, ports and permissions.",
        )

    def _write_files(self) -> None:
        """Write what closes the inner listeners, and who may use the S3 gateway."""
        placement = place_servers(self._home)
        endpoint = self.endpoint
        keys = {
            "nightshift": KeyPair(endpoint.access_key_id, endpoint.secret_access_key),
            "mlflow": self.mlflow_keys,
        }
        for path in write_object_server_files(placement.own_dir(NAME), keys, BUCKET):
            placement.give(path)

    def _launch(self) -> Launch:
        placement = place_servers(self._home)
        data = placement.own_dir(NAME)
        program = placement.reachable(Path(sysconfig.get_path("scripts")) / "weed")
        return Launch(
            [str(program), "mini", *self._options()],
            self._environment(data),
            data,
            placement.uid,
            placement.gid,
        )

    def _options(self) -> list[str]:
        """Return the flags; the folder is given as ``.`` since a comma in its path would be read as a list."""
        ports = [
            f"-{listener}.port={self.port + offset}"
            for listener, offset in LISTENER_OFFSETS.items()
        ]
        loopback = [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"]
        off = [
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        volumes = ["-volume.max=2000", "-master.volumeSizeLimitMB=1024"]
        # HTTP of the master gives a write token for any object to whoever asks; the S3 gateway does
        # not use it.
        closed = [
            "-disableHttp",
            f"-s3.config={IDENTITIES_FILE}",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]
        return ["-dir=.", f"-bucket={BUCKET}", *closed, *loopback, *off, *volumes, *ports]

    def _environment(self, data: Path) -> dict[str, str]:
        keys = {
            "WEED_S3_SSE_KEK": "s3-sse-key",
            "WEED_JWT_SIGNING_KEY": "s3-jwt-signing",
            "WEED_JWT_SIGNING_READ_KEY": "s3-jwt-signing-read",
            "WEED_JWT_FILER_SIGNING_KEY": "s3-jwt-filer-signing",
            "WEED_JWT_FILER_SIGNING_READ_KEY": "s3-jwt-filer-signing-read",
        }
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(data),
            "GOMEMLIMIT": "700MiB",
            **{
                variable: self._credentials.get(name, new_hex_key)
                for variable, name in keys.items()
            },
        }


def _are_listeners_free(port: int) -> bool:
    """Return whether all listeners, their gRPC twins and their sockets in /tmp could be opened by us."""
    ports = [
        port + offset + twin
        for offset in LISTENER_OFFSETS.values()
        for twin in (0, GRPC_PORT_OFFSET)
    ]
    foreign_sockets = [p for p in _sockets(port) if os.geteuid() not in (0, p.stat().st_uid)]
    return all(map(is_free, ports)) and not foreign_sockets


def _sockets(port: int) -> list[Path]:
    """Return the sockets that SeaweedFS names after its ports, in a folder that is fixed in its code."""
    ports = [
        port + offset + twin
        for offset in LISTENER_OFFSETS.values()
        for twin in (0, GRPC_PORT_OFFSET)
    ]
    return [path for p in ports for path in Path("/tmp").glob(f"seaweedfs-*-{p}.sock")]  # noqa: S108


def _remove_stale_sockets(port: int) -> None:
    """Remove the sockets of an ended server; of another user's they crash the start."""
    for path in _sockets(port):
        path.unlink(missing_ok=True)
