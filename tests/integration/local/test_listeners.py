"""Nobody else on the machine: each listener is on the page, and a stranger gets nothing from it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest
import yaml
from tests.ends_with_us import ENDS_WITH_US
from tests.integration.local.listeners import COMPOSE_FILE, MLFLOW, local_listeners, page
from tests.integration.local.stranger import (
    UID,
    as_stranger,
    attempt,
    try_grpc,
    try_socket,
    try_tls,
)

from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift_local.placement import place_servers, prepare_home, remove_placed_files
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.servers.mlflow_server import MlflowServer
from nightshift_local.servers.object_server import ObjectServer
from nightshift_local.servers.postgres import PostgresServer
from nightshift_local.stack import all_parts
from nightshift_local.watchdog import ends_with_us, stop_everything

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NETWORK_ADDRESS = "127.0.0.2"
GUESS = "a-guess-of-this-test"


@pytest.fixture(
    scope="module", params=["without Airflow", pytest.param("all", marks=pytest.mark.long)]
)
def home(request):
    """Return a home whose parts run."""
    with tempfile.TemporaryDirectory(prefix="night shift ") as folder:
        Path(folder).chmod(0o711)
        path = prepare_home(Path(folder) / "home")
        with ends_with_us(path):
            if request.param == "all":
                _nightshift(path, "up", "--with", "mlflow")
            else:
                _start(path)
            yield path
            stop_everything(path)
        remove_placed_files(path)


def _start(home):
    """Start what needs no Airflow, without a supervisor and without a schema."""
    PostgresServer(home).ensure_started()
    ObjectServer(home).ensure_started()
    server = MlflowServer(home, {})
    server.ensure_started()
    deadline = time.monotonic() + 120
    while not server.is_healthy() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.is_healthy(), server.process.log_tail()


def _nightshift(home, *arguments):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")
    }
    environment |= {"NIGHTSHIFT_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-m", "nightshift.cli", *arguments],
        env=environment,
        capture_output=True,
        check=True,
        timeout=400,
    )


def _processes(home):
    leaders = [process for part in all_parts(home) if (process := part.process.find()) is not None]
    return {one for leader in leaders for one in [leader, *leader.children(recursive=True)]}


def _sockets(home):
    """Return the listening TCP addresses and the named sockets of everything that the home runs."""
    addresses, names = set(), set()
    for process in _processes(home):
        for connection in process.net_connections("all"):
            is_datagram = connection.type == socket.SOCK_DGRAM and not connection.raddr
            if connection.family == socket.AF_UNIX:
                names.add(connection.laddr)
            elif connection.status == psutil.CONN_LISTEN or is_datagram:
                addresses.add((connection.laddr.ip, connection.laddr.port))
    return addresses, {name for name in names if name.startswith("/")}


def test_page_is_what_the_code_says():
    expected = page(yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8")))
    assert (PROJECT_ROOT / "docs" / "listeners.md").read_text(encoding="utf-8") == expected, (
        "run `make docs`"
    )


def test_every_listening_socket_is_on_the_page(home):
    addresses, _ = _sockets(home)
    assert len(addresses) >= 11
    assert {ip for ip, _ in addresses} == {LOOPBACK}
    assert {port for _, port in addresses} <= set(local_listeners(home))


def test_stranger_gets_nothing_from_any_listener(home):
    addresses, names = _sockets(home)
    listeners = local_listeners(home)
    found = []
    for _, port in sorted(addresses):
        found += as_stranger(lambda port=port: attempt(port, listeners[port]))
    for name in sorted(names) if os.geteuid() == 0 else ():
        found += as_stranger(lambda name=name: try_socket(name))
    assert found == []


def test_attempts_are_noticed_when_a_listener_is_open():
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-u", "-m", "http.server", "--bind", LOOPBACK, "0"]
        with subprocess.Popen(
            [*ENDS_WITH_US, *argv],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            port = int(server.stdout.readline().split(" port ")[1].split()[0])
            Path(folder, "metrics").write_text("a number")
            found = as_stranger(lambda: attempt(port, MLFLOW))
            server.kill()
    assert any("GET /metrics 200" in hit for hit in found)


def test_each_wrong_login_is_in_the_log_of_its_part_without_the_password(home):
    parts = {part.name: part for part in all_parts(home) if part.process.find() is not None}
    attempts = {
        "postgres": (_try_postgres, "password authentication failed"),
        "mlflow": (_try_mlflow, "a wrong login was refused"),
        "airflow-api-server": (_try_airflow, "/auth/token"),
    }
    for name in attempts.keys() & parts.keys():
        attempt_login, record = attempts[name]
        log = parts[name].process.log_file
        n_before = log.read_text(errors="replace").count(record)
        for _ in range(3):
            attempt_login(parts[name])
        assert log.read_text(errors="replace").count(record) >= n_before + 3, name
        assert GUESS not in log.read_text(errors="replace"), name


def _try_postgres(part):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host=LOOPBACK, port=part.port, user="nightshift", password=GUESS)


def _try_mlflow(part):
    login = base64.b64encode(f"admin:{GUESS}".encode()).decode()
    assert _status(part.port, "GET", "/", headers={"Authorization": f"Basic {login}"}) == 401


def _try_airflow(part):
    body = json.dumps({"username": "admin", "password": GUESS})
    headers = {"Content-Type": "application/json"}
    assert _status(part.port, "POST", "/auth/token", body, headers) == 401


def _status(port, *request, **named):
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    with contextlib.closing(connection):
        connection.request(*request, **named)
        return connection.getresponse().status


@as_root
def test_seaweedfs_own_shell_works_with_the_certificates_and_for_nobody_else(home):
    server = ObjectServer(home)
    store = ObjectStore.open(Settings(warehouse_host="none", **_keys(server)))
    store.put("landing/x/drop", b"a row")
    placement = place_servers(home)
    program = placement.reachable(Path(sysconfig.get_path("scripts")) / "weed")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder) / "weed"
        shutil.copy(program, copy)
        copy.chmod(0o755)
        ours = _shell(
            copy,
            server,
            placement.uid,
            placement.own_dir("s3"),
            "fs.ls /buckets/nightshift/landing",
        )
        commands = (
            "fs.ls /buckets/nightshift",
            "volume.list",
            "fs.rm -r /buckets/nightshift/landing",
        )
        theirs = _shell(copy, server, UID, Path(folder), *commands)
    assert ours.split() == [b"x"]
    assert b"landing" not in theirs
    assert b"volume:" not in theirs
    assert store.get("landing/x/drop") == b"a row"


def _shell(program, server, uid, folder, *commands):
    """Return the output of SeaweedFS's shell; without a certificate it never reaches the master."""
    try:
        done = subprocess.run(
            [
                str(program),
                "shell",
                f"-master={LOOPBACK}:{server.port + 1}",
                f"-filer={LOOPBACK}:{server.port + 3}",
            ],
            input="\n".join([*commands, "exit\n"]).encode(),
            env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
            cwd=folder,
            user=uid,
            group=uid,
            extra_groups=[],
            capture_output=True,
            timeout=6,
            check=False,
        )
    except subprocess.TimeoutExpired as waiting:
        return (waiting.stdout or b"") + (waiting.stderr or b"")
    return done.stdout + done.stderr


def _keys(server):
    keys = server.keys
    return {
        "s3_endpoint_url": server.address,
        "s3_access_key_id": keys.key_id,
        "s3_secret_access_key": keys.secret,
    }


def test_mlflow_key_reads_its_own_prefix_and_nothing_else(home):
    import boto3
    from botocore.exceptions import ClientError

    server = ObjectServer(home)
    store = ObjectStore.open(Settings(warehouse_host="none", **_keys(server)))
    for key in ("mlflow/m/figure", "landing/x/row", "mlflow2/x"):
        store.put(key, b"content")
    keys = server.mlflow_keys
    login = {
        "aws_access_key_id": keys.key_id,
        "aws_secret_access_key": keys.secret,
        "region_name": "us-east-1",
    }
    client = boto3.client("s3", endpoint_url=server.address, **login)
    assert (
        client.get_object(Bucket="nightshift", Key="mlflow/m/figure")["Body"].read() == b"content"
    )
    assert client.list_objects_v2(Bucket="nightshift", Prefix="mlflow/m/")["KeyCount"] == 1
    attempts = {
        "get": lambda: client.get_object(Bucket="nightshift", Key="landing/x/row"),
        "get beside": lambda: client.get_object(Bucket="nightshift", Key="mlflow2/x"),
        "list": lambda: client.list_objects_v2(Bucket="nightshift", Prefix="landing/"),
        "list all": lambda: client.list_objects_v2(Bucket="nightshift"),
        "put": lambda: client.put_object(Bucket="nightshift", Key="mlflow/m/other", Body=b"x"),
        "copy": lambda: client.copy_object(
            Bucket="nightshift", Key="mlflow/y", CopySource="nightshift/landing/x/row"
        ),
        "delete": lambda: client.delete_object(Bucket="nightshift", Key="mlflow/m/figure"),
    }
    for attempt_name, call in attempts.items():
        with pytest.raises(ClientError, match="AccessDenied"):
            pytest.fail(f"{attempt_name}: {call()}")
    assert store.get("landing/x/row") == b"content"


def test_object_server_of_compose_opens_its_gateway_only(tmp_path):
    """Its own command, with another loopback address for the network, and free ports."""
    service = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))["services"]["s3"]
    port = Ports(prepare_home(tmp_path / "home")).usable("s3")
    moved = f"-master.port={port + 1} -volume.port={port + 2} -filer.port={port + 3}"
    moved += f" -s3.ip.bind={NETWORK_ADDRESS}"
    script = (
        service["command"][-1]
        .replace("-s3.port=8333", f"-s3.port={port} {moved}")
        .replace("-s3.ip.bind=0.0.0.0", "")
    )
    programs = os.pathsep.join([sysconfig.get_path("scripts"), "/usr/bin:/bin"])
    own = {
        name: name.lower() * 4
        for name in service["environment"]
        if re.match("WEED_JWT|.*_KEY", name)
    }
    environment = {
        **own,
        "WEED_S3_SSE_KEK": "ab" * 32,
        "HOME": str(tmp_path),
        "PATH": programs,
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
    }
    (tmp_path / "data").mkdir()
    argv = [*service["command"][:-1], script]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*ENDS_WITH_US, *argv],
            env=environment,
            cwd=tmp_path / "data",
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        assert _answers(f"http://{NETWORK_ADDRESS}:{port}/healthz"), (tmp_path / "log").read_text()[
            -3000:
        ]
        listening = [
            c.laddr
            for c in psutil.Process(server.pid).net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        ]
        found = [
            hit
            for address in listening
            if address.port != port
            for hit in as_stranger(
                lambda address=address: (
                    try_tls(address.port, address.ip) + try_grpc(address.port, address.ip)
                )
            )
        ]
    finally:
        server.kill()
        server.wait()
    assert {a.port for a in listening if a.ip != LOOPBACK} == {port, port + 10_000}
    assert {a.ip for a in listening} == {LOOPBACK, NETWORK_ADDRESS}
    assert found == []


def _answers(url):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return answer.status == 200
        except OSError:
            time.sleep(0.2)
    return False
