"""Run the bundled SeaweedFS as a real S3 server on loopback."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from nightshift_local.credentials import Credentials, new_hex_key
from nightshift_local.part import Part, get
from nightshift_local.placement import place_servers
from nightshift_local.ports import LOOPBACK, is_free
from nightshift_local.process import Launch
from nightshift_local.servers.object_files import (
    IDENTITIES_FILE,
    KeyPair,
    write_object_server_files,
)

NAME = "s3"
BUCKET = "nightshift"
REGION = "us-east-1"
START_TIMEOUT_SECONDS = 30.0
GRPC_PORT_OFFSET = 10_000
LISTENER_OFFSETS = {"s3": 0, "master": 1, "volume": 2, "filer": 3, "admin": 6}


class ObjectServer(Part):
    """The S3 server of one home.

    Args:
        home: Folder of local state.
    """

    group = NAME
    unhealthy_limit_seconds = 60.0

    def __init__(self, home: Path) -> None:
        super().__init__(home, NAME)
        self._credentials = Credentials(self._home)

    @property
    def keys(self) -> KeyPair:
        """Return the key pair of the administrator."""
        key_id = self._credentials.get("s3-access-key-id")
        secret = self._credentials.get("s3-secret-access-key")
        return KeyPair(key_id, secret)

    @property
    def mlflow_keys(self) -> KeyPair:
        """Return the key pair that may read ``mlflow/`` in the bucket, and nothing else."""
        key_id = self._credentials.get("s3-mlflow-access-key-id")
        secret = self._credentials.get("s3-mlflow-secret-access-key")
        return KeyPair(key_id, secret)

    def ensure_started(self) -> None:
        """Start the server unless it runs, and wait until it answers.

        Raises:
            ServiceError: It did not answer in time; the message has the end of its log.
        """
        super().ensure_started()
        if not self.becomes_healthy(START_TIMEOUT_SECONDS):
            raise self.start_error("The S3 server did not start.")

    def _prepare(self) -> None:
        """Choose the ports; write the certificates and the identities of the S3 gateway."""
        self._ports.usable(NAME, _are_listeners_free)
        _remove_stale_sockets(self.port)
        placement = place_servers(self._home)
        keys = {"nightshift": self.keys, "mlflow": self.mlflow_keys}
        files = write_object_server_files(placement.own_dir(NAME), keys, BUCKET)
        # The server may run as another user, who cannot read our files.
        for path in files:
            placement.give(path)

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop(grace_seconds=15)
        _remove_stale_sockets(self.port)

    def is_healthy(self) -> bool:
        """Return whether the S3 gateway answers and knows its bucket."""
        return get(self.port, "/healthz") is not None

    def launch(self) -> Launch:
        """Return how its process is started."""
        placement = place_servers(self._home)
        data = placement.own_dir(NAME)
        installed = Path(sysconfig.get_path("scripts")) / "weed"
        program = placement.reachable(installed)
        return Launch(
            [str(program), "mini", *self._options()],
            self._environment(data),
            data,
            placement.uid,
            placement.gid,
        )

    def _options(self) -> list[str]:
        """Return the flags of the server."""
        ports = [f"-{name}.port={self.port + offset}" for name, offset in LISTENER_OFFSETS.items()]
        loopback = [f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"]
        off = [
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        volumes = ["-volume.max=2000", "-master.volumeSizeLimitMB=1024"]
        # By HTTP the master gives everybody a write token for any object; the gateway needs none.
        closed = [
            "-disableHttp",
            f"-s3.config={IDENTITIES_FILE}",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]
        # The folder is `.`: SeaweedFS would read a comma in its path as a list.
        return ["-dir=.", f"-bucket={BUCKET}", *closed, *loopback, *off, *volumes, *ports]

    def _environment(self, data: Path) -> dict[str, str]:
        keys = {
            "WEED_S3_SSE_KEK": "s3-sse-key",
            "WEED_JWT_SIGNING_KEY": "s3-jwt-signing",
            "WEED_JWT_SIGNING_READ_KEY": "s3-jwt-signing-read",
            "WEED_JWT_FILER_SIGNING_KEY": "s3-jwt-filer-signing",
            "WEED_JWT_FILER_SIGNING_READ_KEY": "s3-jwt-filer-signing-read",
        }
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(data), "GOMEMLIMIT": "700MiB"}
        for variable, name in keys.items():
            environment[variable] = self._credentials.get(name, new_hex_key)
        return environment


def _all_ports(port: int) -> list[int]:
    """Return the HTTP and gRPC ports of all inner listeners."""
    http_ports = [port + offset for offset in LISTENER_OFFSETS.values()]
    grpc_ports = [http_port + GRPC_PORT_OFFSET for http_port in http_ports]
    return http_ports + grpc_ports


def _are_listeners_free(port: int) -> bool:
    """Return whether this user can open all listeners and their sockets in /tmp."""
    user = os.geteuid()
    for path in _sockets(port):
        # Only root and its owner can remove a socket that another server left in /tmp.
        if user not in (0, path.stat().st_uid):
            return False
    return all(map(is_free, _all_ports(port)))


def _sockets(port: int) -> list[Path]:
    """Return the sockets that SeaweedFS names after its ports; its code fixes their folder."""
    paths: list[Path] = []
    for listener_port in _all_ports(port):
        paths += Path("/tmp").glob(f"seaweedfs-*-{listener_port}.sock")  # noqa: S108
    return paths


def _remove_stale_sockets(port: int) -> None:
    """Remove the sockets of an ended server: those of another user's server crash the start."""
    for path in _sockets(port):
        path.unlink(missing_ok=True)
