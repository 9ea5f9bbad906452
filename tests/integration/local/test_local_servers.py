"""The bundled servers are closed to others and kept alive, in a home with a space in its path."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from nightshift_local.local_env import ADMIN_FILE_NAME, LocalServers, read_env
from nightshift_local.placement import place_servers, prepare_home, remove_placed_files
from nightshift_local.ports import LOOPBACK
from nightshift_local.process import ServerProcess
from nightshift_local.servers.object_server import ObjectServer
from nightshift_local.servers.postgres import PostgresServer
from nightshift_local.watchdog import ends_with_us

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

WATCHDOG_SECONDS = 20
"""Ten are enough on a quiet machine."""


@pytest.fixture(scope="module")
def home():
    """Return a home that `nightshift up --only postgres,s3` has started."""
    with tempfile.TemporaryDirectory(prefix="night shift ") as folder:
        Path(folder).chmod(0o711)
        path = prepare_home(Path(folder) / "a home")
        with ends_with_us(path):
            _nightshift(path, "up", "--only", "postgres,s3")
            yield path
            _nightshift(path, "down")
        remove_placed_files(path)


def _nightshift(home, *arguments, check=True):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")
    }
    return subprocess.run(
        [sys.executable, "-m", "nightshift.cli", *arguments],
        env={**environment, "NIGHTSHIFT_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=check,
        timeout=300,
    )


def _wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def _connect(home, role, password=None, database="warehouse"):
    server = PostgresServer(home)
    return psycopg.connect(
        host=LOOPBACK,
        port=server.port,
        dbname=database,
        user=role,
        password=password or server.password(role),
    )


def test_settings_answer_when_services_are_up(home):
    with _connect(home, "postgres") as connection:
        names = ("data_checksums", "password_encryption", "TimeZone", "server_encoding")
        values = [
            connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0] for name in names
        ]
    assert values == ["on", "scram-sha-256", "UTC", "UTF8"]


def test_login_is_refused_when_password_is_wrong(home):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        _connect(home, "nightshift", "wrong")


def test_other_databases_are_closed_when_analyst_logs_in(home):
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        _connect(home, "analyst", database="airflow")


def test_write_is_refused_when_analyst_tries(home):
    with (
        _connect(home, "analyst") as connection,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        connection.execute("CREATE TABLE t (a int)")


def test_every_listener_is_on_loopback_when_services_are_up(home):
    servers = [PostgresServer(home).process.find(), ObjectServer(home).process.find()]
    listeners = [
        c.laddr.ip
        for server in servers
        for c in server.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert len(listeners) >= 3
    assert set(listeners) == {LOOPBACK}


def test_files_are_closed_to_others_when_services_are_up(home):
    secrets = [home / "env", *(home / "secrets").iterdir(), *(home / "logs").iterdir()]
    assert len(secrets) > 10
    assert [path for path in secrets if path.stat().st_mode & 0o077] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's servers run as that user")
def test_servers_run_as_a_user_without_an_account_when_root_starts_them(home):
    """Root's other programs that become ``nobody`` reach no file of theirs, and no process."""
    servers = [server.process.find() for server in (PostgresServer(home), ObjectServer(home))]
    users = {identity for server in servers for identity in (*server.uids(), *server.gids())}
    placed = place_servers(home)
    assert users == {placed.uid} == {placed.gid}
    with pytest.raises(KeyError):
        pwd.getpwuid(placed.uid)
    folders = [placed.root / name for name in ("postgres", "s3")]
    owners = {path.stat().st_uid for folder in folders for path in folder.rglob("*")}
    assert owners - {0} == {placed.uid}
    assert [folder.stat().st_mode & 0o077 for folder in folders] == [0, 0]
    read = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    read += [Path(f"/proc/{server.pid}/environ") for server in servers]
    nobody = pwd.getpwnam("nobody")
    got = subprocess.run(
        ["/bin/cat", *read],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert len(read) > 500
    assert got.stdout == b""


def test_env_points_at_the_servers_when_services_are_up(home):
    env = read_env(home)
    assert env["NIGHTSHIFT_WAREHOUSE_PORT"] == str(PostgresServer(home).port)
    assert env["NIGHTSHIFT_S3_ENDPOINT_URL"] == ObjectServer(home).address


def test_committed_row_is_there_when_postgres_was_killed(home):
    with _connect(home, "nightshift") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS a")
    process = PostgresServer(home).process.find()
    os.kill(process.pid, signal.SIGKILL)
    assert _wait_for(
        lambda: (
            PostgresServer(home).process.find() not in (None, process)
            and PostgresServer(home).is_healthy()
        )
    )
    with _connect(home, "nightshift") as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (42,)


def test_s3_answers_again_on_its_port_when_it_was_killed(home):
    process, port = ObjectServer(home).process.find(), ObjectServer(home).port
    os.kill(process.pid, signal.SIGKILL)
    assert _wait_for(
        lambda: (
            ObjectServer(home).process.find() not in (None, process)
            and ObjectServer(home).is_healthy()
        )
    )
    assert ObjectServer(home).port == port, "tasks that run were told the old one"


def test_servers_are_adopted_when_supervisor_was_killed(home):
    before = [server.process.find() for server in (PostgresServer(home), ObjectServer(home))]
    supervisor = ServerProcess(home, "supervisor").find()
    os.kill(supervisor.pid, signal.SIGKILL)
    assert _nightshift(home, "status", check=False).returncode == 1
    _nightshift(home, "up", "--only", "postgres,s3")
    assert ServerProcess(home, "supervisor").find() not in (None, supervisor)
    assert [
        server.process.find() for server in (PostgresServer(home), ObjectServer(home))
    ] == before


def test_psql_answers_when_sql_is_given(home):
    done = _nightshift(home, "psql", "--role", "analyst", "-c", "SELECT current_user, 6 * 7")
    assert "analyst" in done.stdout
    assert "42" in done.stdout
    assert _nightshift(home, "psql", "-c", "SELECT 1/0", check=False).returncode != 0


def test_postgres_moves_to_another_port_when_its_own_was_taken(home):
    _nightshift(home, "down")
    old = PostgresServer(home).port
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind((LOOPBACK, old))
        foreign.listen()
        _nightshift(home, "up", "--only", "postgres,s3")
    assert PostgresServer(home).port != old
    assert read_env(home)["NIGHTSHIFT_WAREHOUSE_PORT"] == str(PostgresServer(home).port)
    with _connect(home, "nightshift") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_postgres_starts_when_its_stale_pid_file_names_another_program(home):
    _nightshift(home, "down")
    server = PostgresServer(home)
    data = Path(server.data_dir)
    (data / "postmaster.pid").write_text(
        f"{os.getppid()}\n{data}\n1\n{server.port}\n\n{LOOPBACK}\n"
    )
    _nightshift(home, "up", "--only", "postgres,s3")
    assert server.is_healthy()


def test_nothing_is_left_running_or_outside_when_local_servers_end(tmp_path):
    with LocalServers(tmp_path / "a home") as servers:
        outside = PostgresServer(tmp_path / "a home").data_dir
        login = {
            key: servers.env[f"NIGHTSHIFT_WAREHOUSE_{key.upper()}"]
            for key in ("host", "port", "user", "password")
        }
        with psycopg.connect(**login, dbname="warehouse") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert PostgresServer(tmp_path / "a home").process.find() is None
    assert os.geteuid() != 0 or not outside.exists()


STARTER = """
import sys, time
from pathlib import Path
import psycopg
from nightshift_local.local_env import LocalServers
with LocalServers(Path(sys.argv[1])) as servers:
    keys = ("host", "port", "user", "password")
    login = {key: servers.env[f"NIGHTSHIFT_WAREHOUSE_{key.upper()}"] for key in keys}
    with psycopg.connect(**login, dbname="warehouse") as connection:
        connection.execute("create table kept as select 42 as a")
    print("started", flush=True)
    time.sleep(600)
"""


def test_servers_end_and_their_data_is_sound_when_their_starter_was_killed(tmp_path):
    home = prepare_home(tmp_path / "a home")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home)], env=environment, stdout=subprocess.PIPE
    )
    assert starter.stdout.readline() == b"started\n"
    parts = [server(home).process for server in (PostgresServer, ObjectServer)]
    leaders = [ServerProcess(home, "watchdog").find(), *(part.find() for part in parts)]
    family = [*leaders, *(child for leader in leaders for child in leader.children(recursive=True))]
    assert len(family) > 6

    starter.kill()
    starter.wait()

    assert _wait_for(lambda: not any(map(_is_alive, family)), WATCHDOG_SECONDS)
    with LocalServers(home), _connect(home, "nightshift") as connection:
        assert connection.execute("SELECT a FROM kept").fetchone() == (42,)


def _is_alive(process):
    """Return whether a process runs; a zombie that its new parent has not reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_both_succeed_when_two_people_start_at_once(tmp_path):
    home = prepare_home(tmp_path / "a home")
    with ends_with_us(home):
        with ThreadPoolExecutor(2) as pool:
            done = list(
                pool.map(lambda _: _nightshift(home, "up", "--only", "s3", check=False), range(2))
            )
        assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
        _nightshift(home, "down", "--delete-data", "--yes")


def test_task_settings_have_no_superuser_when_services_are_up(home):
    assert not [name for name in read_env(home) if "ADMIN" in name]
    assert read_env(home, ADMIN_FILE_NAME)["NIGHTSHIFT_WAREHOUSE_ADMIN_USER"] == "postgres"
    password = PostgresServer(home).password("postgres")
    assert password not in (home / "env").read_text()
    assert (
        _nightshift(home, "psql", "--role", "admin", "-c", "SELECT current_user").stdout.split()[2]
        == "postgres"
    )
