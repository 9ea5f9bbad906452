"""Each way to reach the warehouse, each form of its host, and each refusal under its own code."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from nightshift import errors
from nightshift.cli.services.migrate import as_admin
from nightshift.settings import Settings
from nightshift.warehouse import faults
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt import runner
from nightshift.warehouse.dbt.invocation import DbtOutcome
from nightshift.warehouse.fast_io import arrow_io
from nightshift.warehouse.fast_io.copy_stream import append_stream
from nightshift_local import diagnosis

pytestmark = pytest.mark.integration
ONE = sql.SQL("select 1 as n")


class Relay(threading.Thread):
    """Carries a listening socket's clients to the test server.

    As a pooler it does what PgBouncer does with ``options`` in the start packet: it refuses the
    client (its default), or drops them (``ignore_startup_parameters = options``).
    """

    def __init__(self, server: socket.socket, port: int, options: str = "passed") -> None:
        super().__init__(daemon=True)
        self._server, self._port, self._options = server, port, options

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        packet = client.recv(65536)
        while packet[4:8] in {b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"}:  # asks for TLS or GSS
            client.sendall(b"N")
            packet = client.recv(65536)
        if self._options == "refused" and b"\0options\0" in packet:
            fields = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
            client.close()
            return
        if self._options == "dropped":
            packet = without_options(packet)
        upstream = socket.create_connection(("127.0.0.1", self._port))
        upstream.sendall(packet)
        for source, sink in ((client, upstream), (upstream, client)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    sink.close()


def without_options(packet: bytes) -> bytes:
    """Return a start packet without its parameter ``options``."""
    words = packet[8:].rstrip(b"\0").split(b"\0")
    pairs = [pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0] != b"options"]
    body = packet[4:8] + b"".join(name + b"\0" + value + b"\0" for name, value in pairs) + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


FORMS = ["an address of IPv4", "a name", "an address of IPv6", "a folder with a socket"]


@pytest.fixture(params=FORMS)
def reached(request, settings, tmp_path_factory) -> Iterator[Settings]:
    """Return settings that reach the test server through a host of this form."""
    host, port = {"an address of IPv4": "127.0.0.1", "a name": "localhost"}.get(request.param), None
    server: socket.socket | None = None
    if request.param == "an address of IPv6":
        try:
            server = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 on loopback")
        host, port = "::1", server.getsockname()[1]
    elif request.param == "a folder with a socket":
        host, port = str(tmp_path_factory.mktemp("s")), 5432
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"{host}/.s.PGSQL.{port}")
        server.listen()
    if server is not None:
        Relay(server, settings.warehouse_port).start()
    place = {"warehouse_host": host, "warehouse_port": port or settings.warehouse_port}
    yield settings.model_copy(update=place)
    if server is not None:
        server.close()


def test_every_way_reaches_a_host_of_every_form(reached):
    import pyarrow as pa

    with connect(reached, "test") as opened:
        opened.execute("create table public.taken (n integer)")
    assert arrow_io.read_arrow(reached, ONE).to_pylist() == [{"n": 1}]
    for is_lean in (False, True):
        batches = arrow_io.stream_arrow(reached, ONE, is_lean=is_lean)
        assert sum(batch.num_rows for batch in batches) == 1
    rows = pa.table({"n": pa.array([1, 2], pa.int32())})
    assert append_stream(reached, "public", "taken", [rows], lambda _: True, "test") == 2


@pytest.fixture(params=["refused", "dropped"])
def pooled(request, settings) -> Iterator[Settings]:
    """Return settings whose port is that of a pooler that does not pass ``options``."""
    server = socket.create_server(("127.0.0.1", 0))
    Relay(server, settings.warehouse_port, request.param).start()
    yield settings.model_copy(update={"warehouse_port": server.getsockname()[1]})
    server.close()


def test_a_pooler_is_named_when_it_does_not_pass_our_limits(pooled, monkeypatch, tmp_path):
    with pytest.raises(errors.PoolerError, match="pooler") as caught, connect(pooled, "test"):
        pass
    assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-009", False)

    monkeypatch.setattr(diagnosis, "load_settings", lambda: pooled)
    found = [finding for finding in diagnosis.check_settings(tmp_path) if finding.level != "ok"]
    assert [finding.check for finding in found] == ["warehouse"]
    assert "pooler" in found[0].what
    assert "NIGHTSHIFT_WAREHOUSE_HOST" in found[0].fix


def test_a_limit_of_the_role_does_not_make_a_pooler_right(pooled, settings, conn):
    """Its transaction mode spreads a session's advisory locks, whatever limits the role has."""
    limits = {
        "statement_timeout": settings.statement_timeout_seconds,
        "lock_timeout": settings.lock_timeout_seconds,
    }
    for name, seconds in limits.items():
        change = sql.SQL("alter role {} in database {} set {} = {}").format(
            sql.Identifier(settings.warehouse_user),
            sql.Identifier(settings.warehouse_database),
            sql.Identifier(name),
            sql.Literal(f"{seconds}s"),
        )
        conn.execute(change)

    with pytest.raises(errors.PoolerError, match="pooler"), connect(pooled, "test"):
        pass


def codes_of(settings: Settings, query: str) -> set[str]:
    """Return the codes of all ways to run a query that the warehouse refuses."""

    def by_psycopg() -> None:
        with connect(settings, "test") as conn:
            conn.execute(query.encode())

    statement = sql.SQL(query)
    ways = [
        by_psycopg,
        lambda: arrow_io.read_arrow(settings, statement),
        lambda: list(arrow_io.stream_arrow(settings, statement)),
        lambda: list(arrow_io.stream_arrow(settings, statement, is_lean=True)),
    ]
    found = set()
    for way in ways:
        with pytest.raises(errors.WarehouseError) as caught:
            way()
        found.add(caught.value.code)
    return found


def test_a_right_that_was_revoked_has_its_code(settings, conn):
    with connect(as_admin(settings), "test") as admin:
        admin.execute("create table public.theirs (n integer)")
    assert codes_of(settings, "select * from public.theirs") == {"NS-WAREHOUSE-005"}
    assert not errors.WarehouseRightsError.is_retryable


def test_a_write_to_a_read_only_warehouse_has_its_code(settings, conn):
    conn.execute("create table public.ours (n integer)")
    with pytest.raises(errors.ReadOnlyWarehouseError) as caught, connect(settings) as opened:
        opened.execute("begin read only; insert into public.ours values (1)")
    assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-006", True)


def test_a_statement_over_its_limit_has_its_code(settings, monkeypatch):
    monkeypatch.setattr(arrow_io, "STREAM_TIMEOUT_SECONDS", 1)
    impatient = settings.model_copy(update={"statement_timeout_seconds": 1})
    assert codes_of(impatient, "select pg_sleep(30)::text as n") == {"NS-WAREHOUSE-004"}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"warehouse_user": "nobody_at_all"}, "NS-WAREHOUSE-008"),
        ({"warehouse_database": "no_such_database"}, "NS-WAREHOUSE-008"),
        ({"warehouse_port": 1}, "NS-WAREHOUSE-001"),
    ],
)
def test_a_refused_login_is_told_from_a_server_that_is_away(settings, changed, code):
    with (
        pytest.raises(errors.WarehouseError) as caught,
        connect(settings.model_copy(update=changed)),
    ):
        pass
    assert caught.value.code == code
    assert caught.value.is_retryable == (code == "NS-WAREHOUSE-001")


def test_no_connection_left_has_its_code(settings, conn):
    login = f"few_{settings.warehouse_database[-12:]}"
    secret = settings.warehouse_password
    with connect(as_admin(settings), "test") as admin:
        quoted = sql.Literal(secret.get_secret_value())
        create = sql.SQL("create role {} login connection limit 1 password {}")
        admin.execute(create.format(sql.Identifier(login), quoted))
        own = settings.model_copy(update={"warehouse_user": login})
        with connect(own), pytest.raises(errors.NoConnectionLeftError) as caught, connect(own):
            pass
        admin.execute(sql.SQL("drop role {}").format(sql.Identifier(login)))
    assert (caught.value.code, caught.value.is_retryable) == ("NS-WAREHOUSE-007", True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("server closed the connection unexpectedly", "NS-WAREHOUSE-001"),
        ("terminating connection due to administrator command", "NS-WAREHOUSE-001"),
        ('connection to server at "x", port 1 failed: Connection refused', "NS-WAREHOUSE-001"),
        ("FATAL:  the database system is shutting down", "NS-WAREHOUSE-001"),
        ("canceling statement due to statement timeout", "NS-WAREHOUSE-004"),
        ("permission denied for table flights", "NS-WAREHOUSE-005"),
        ("query would be affected by row-level security policy for table x", "NS-WAREHOUSE-015"),
        ("cannot execute INSERT in a read-only transaction", "NS-WAREHOUSE-006"),
        ("FATAL:  sorry, too many clients already", "NS-WAREHOUSE-007"),
        ("FATAL:  remaining connection slots are reserved for x", "NS-WAREHOUSE-007"),
        ('FATAL:  password authentication failed for user "x"', "NS-WAREHOUSE-008"),
    ],
)
def test_dbt_names_what_the_warehouse_refused(text, code):
    """Of an error dbt keeps the words only."""
    run = runner.ModelRun("feat_x", "error", 1.0, f"Database Error in model feat_x\n  {text}")
    with pytest.raises(errors.NightshiftError) as by_model:
        runner.raise_for_failed_model([run])
    with pytest.raises(errors.WarehouseError) as by_dbt:
        runner.raise_for_failed_process([], DbtOutcome(2, f"Runtime Error\n  {text}", []), 1)
    assert (by_model.value.code, by_dbt.value.code) == (code, code)
    assert by_model.value.got == text


def test_a_mistake_in_a_model_stays_dbts():
    text = 'Database Error\n  column "wnid" does not exist'
    run = runner.ModelRun("feat_x", "error", 1.0, text)
    with pytest.raises(runner.DbtError):
        runner.raise_for_failed_model([run])
    assert faults.fault_in(text) is None


def test_a_fault_behind_sqlalchemy_is_named():
    from sqlalchemy.exc import DBAPIError

    wrapped = DBAPIError("select 1", None, psycopg.errors.QueryCanceled("canceling"))
    fault = faults.fault_of(wrapped)
    assert fault is not None
    assert fault.code == "NS-WAREHOUSE-004"


def test_doctor_is_content_with_a_direct_connection(settings, conn, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(diagnosis, "load_settings", lambda: settings)
    found = [
        finding for finding in diagnosis.check_settings(tmp_path) if finding.check != "analysts"
    ]
    assert {finding.level for finding in found} == {"ok"}
