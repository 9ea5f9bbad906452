"""Another user of the machine, who knows a port and nothing else, tries what can be tried.

Each attempt returns what it got although it should not; an empty list is what we want.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - loaded before the child loses the right to read it
import http.client
import json
import os
import socket
import ssl
import traceback
from collections.abc import Callable

import boto3
import botocore
import grpc
import psycopg
from botocore.config import Config
from tests.integration.local.listeners import AIRFLOW_OPEN, Listener

from nightshift_local.ports import LOOPBACK

UID = 1
SECONDS = 20
PATHS = (
    *AIRFLOW_OPEN, "/healthz", "/health", "/status", "/version", "/metrics", "/admin",
    "/debug/pprof/", "/api/v2/dags", "/api/v2/connections", "/api/v2/config",
    "/api/v2/variables", "/api/v2/eventLogs", "/ui/config", "/execution/variables/a",
    "/execution/task-instances/1/run", "/auth/token", "/nightshift", "/nightshift/landing/",
    "/nightshift/x", "/buckets/", "/dir/assign", "/dir/status", "/dir/lookup?volumeId=1",
    "/vol/grow?count=1", "/vol/status", "/cluster/status", "/col/delete?collection=x",
    "/submit", "/graphql", "/get-artifact?path=a&run_uuid=b", "/gateway/",
    "/ajax-api/2.0/mlflow/experiments/search?max_results=5",
    "/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/3.0/mlflow/assistant/message",
    "/ajax-api/3.0/mlflow/server-info", "/api/2.0/mlflow/experiments/create",
    "/ajax-api/2.0/mlflow/upload-artifact", "/model-versions/get-artifact", "/v1/traces",
    "/ajax-api/3.0/jobs/", "/nightshift/models", "/models", "/login", "/style.css",
    "/drift", "/stored/evidence/1?raw=1", "/ajax-api/2.0/mlflow/webhooks",
    "/static-files/index.html",
)  # fmt: skip
GRPC_CALLS = (
    "/filer_pb.SeaweedFiler/GetFilerConfiguration",
    "/filer_pb.SeaweedFiler/ListEntries",
    "/master_pb.Seaweed/Statistics",
    "/volume_server_pb.VolumeServer/VolumeServerStatus",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


def as_stranger(attempt: Callable[[], list[str]]) -> list[str]:
    """Run an attempt as another user with an empty environment; an ordinary user stays."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(UID)
                os.setuid(UID)
            os.environ.clear()
            found = attempt()
        except BaseException:  # noqa: BLE001 - the parent tells it
            found = [traceback.format_exc()]
        os.write(writer, json.dumps(found)[:60_000].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        text = answers.read()
    os.waitpid(child, 0)
    return json.loads(text)


def attempt(port: int, listener: Listener) -> list[str]:
    """Try one listener by its protocol, and by plain HTTP whatever it is."""
    if listener.protocol == "postgres":
        return try_postgres(port)
    found = try_http(port, listener)
    if listener.protocol == "s3":
        found += try_s3(port)
    if listener.protocol == "tls":
        found += try_tls(port)
        found += try_grpc(port)
    return found


def try_http(port: int, listener: Listener) -> list[str]:
    """Request many paths with every method; only refusals and the open paths are right."""
    found = []
    for path in PATHS:
        for method in ("GET", "POST", "PUT", "DELETE"):
            status, body = _ask(port, method, path)
            is_page = body.lstrip().lower().startswith(b"<!doctype html>")
            is_open = method == "GET" and (
                path in listener.open_paths or (listener.part == "airflow-api-server" and is_page)
            )
            if status and status < 400 and not is_open:
                found.append(f"{listener.what}: {method} {path} {status} {body[:80]!r}")
    return found


def _ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=SECONDS)
    try:
        connection.request(
            method,
            path,
            body=None if method == "GET" else b"{}",
            headers={"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        return answer.status, answer.read(2000)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def try_postgres(port: int) -> list[str]:
    """Try to log in as each role with passwords that anybody would guess."""
    found = []
    for user in ("postgres", "nightshift", "analyst", "airflow", "mlflow"):
        for password in ("", user, "postgres"):
            try:
                psycopg.connect(
                    host=LOOPBACK,
                    port=port,
                    dbname="postgres",
                    user=user,
                    password=password,
                    connect_timeout=SECONDS,
                ).close()
                found.append(f"login of {user} with password {password!r}")
            except psycopg.OperationalError:
                pass
    return found


def try_s3(port: int) -> list[str]:
    """List, read, write and delete anonymously and with a key that nobody gave out."""
    found = []
    unsigned = Config(signature_version=botocore.UNSIGNED, retries={"total_max_attempts": 1})
    wrong_key = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    for name, signing in (("anonymous", {"config": unsigned}), ("wrong key", wrong_key)):
        client = boto3.client(
            "s3", endpoint_url=f"http://{LOOPBACK}:{port}", region_name="us-east-1", **signing
        )
        calls = {
            "list buckets": client.list_buckets,
            "list": lambda client=client: client.list_objects_v2(Bucket="nightshift"),
            "put": lambda client=client: client.put_object(
                Bucket="nightshift", Key="landing/x", Body=b"forged"
            ),
            "delete": lambda client=client: client.delete_object(
                Bucket="nightshift", Key="landing/x"
            ),
            "create": lambda client=client: client.create_bucket(Bucket="other"),
        }
        for call, run in calls.items():
            try:
                run()
                found.append(f"S3 {call}, {name}")
            except botocore.exceptions.ClientError:
                pass
    return found


def try_tls(port: int, host: str = LOOPBACK) -> list[str]:
    """Speak TLS without a certificate, and ask for a page over it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), SECONDS) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(b"GET /cluster/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = secured.recv(500)
    except OSError:
        return []
    return [f"TLS without a certificate on {port}: {answer[:80]!r}"] if answer else []


def try_grpc(port: int, host: str = LOOPBACK) -> list[str]:
    """Call methods of the inner parts: a secure server does not even answer."""
    found = []
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for call in GRPC_CALLS:
            try:
                found.append(
                    f"{call} on {port}: {channel.unary_unary(call)(b'', timeout=SECONDS)[:80]!r}"
                )
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    found.append(f"{call} on {port}: answered {error.code()}")
    return found


def try_socket(path: str) -> list[str]:
    """Connect to a socket in the file system."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    except OSError:
        return []
    return [f"{path} can be connected"]
