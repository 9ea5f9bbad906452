"""Faults that a reader of the list before would try next: locks, dropped views, lost records."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.chaos.on_call.fault import Fault, Seen, failed
from tests.chaos.on_call.faults_models import (
    FELL_BACK,
    PREDICTIONS,
    STORE_REFUSES,
    predictions_are_right,
    score_degraded,
)
from tests.chaos.on_call.faults_servers import analysts_read_the_view, blind, lost
from tests.chaos.on_call.history import (
    FEATURES,
    FIRST_DAY,
    HOLE,
    LAST_DAY,
    MODEL,
    NIGHT,
    SCORED,
    promote,
)
from tests.chaos.on_call.world import INGEST, TRANSFORM, World

from nightshift.registry.model_loader import find_version
from nightshift.warehouse.connection import connect

END_SESSION = 'nightshift psql --role admin -c "select pg_terminate_backend(<pid>)"'
FEATURE_SQL = "models/features/flights/feat_flight.sql"
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
TOO_SKEWED = (
    b"<?xml version='1.0'?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between"
    b" the request time and the server's time is too large.</Message></Error>"
)


def dropped(view: str) -> Callable[[World], None]:
    """Return an act: somebody drops a view, and what reads it."""

    def act(world: World) -> None:
        world.admin(f"drop view {view} cascade")

    return act


def is_there(relation: str) -> Callable[[World], bool]:
    """Return whether a relation is there and analysts read on."""

    def check(world: World) -> bool:
        is_made = world.admin("select to_regclass(%s) is not null", relation) == [(True,)]
        return is_made and analysts_read_the_view(world)

    return check


def raw_table_is_dropped(world: World) -> None:
    world.admin("drop table raw.weather cascade")


def locked(table: str) -> Callable[[World], None]:
    """Return an act: a person locks a table, and goes home."""

    def act(world: World) -> None:
        world.hold(f"lock table {table} in access exclusive mode")

    return act


def nobody_holds_a_lock(world: World) -> bool:
    query = """
        select count(*) from pg_locks
        where granted and mode = 'AccessExclusiveLock' and locktype = 'relation'
            and database = (select oid from pg_database where datname = current_database())
    """
    return world.admin(query) == [(0,)]


def sql_has_a_syntax_error(world: World) -> None:
    folder = world.take_own_folder("dbt_project_dir")
    world.commit(folder, at=LONG_AGO)
    path = folder / FEATURE_SQL
    path.write_text(path.read_text().replace("select", "selekt", 1))
    world.commit(folder)
    assert world.start(INGEST, HOLE).is_success
    assert not world.start(TRANSFORM, HOLE).is_success


def champion_decision_is_deleted(world: World) -> None:
    world.admin("set session_replication_role = replica; delete from ml.promotions")


def champion_decision_is_restored(world: World) -> None:
    with connect(world.settings, "test backup") as conn:
        version = find_version(conn, MODEL, 1)
    promote(world.settings, version, NIGHT)


def champion_is_decided(world: World) -> bool:
    return world.admin("select version from ml.succession") == [(1,)]


def pointer_is_deleted(world: World) -> None:
    world.admin(
        "delete from ops.published where dataset = %s and partition_date = %s", PREDICTIONS, NIGHT
    )


def store_clock_is_wrong(world: World) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SkewedStore)
    world.serve(server)
    return score_by(world, f"http://127.0.0.1:{server.server_port}")


def store_certificate_is_of_nobody(world: World) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SkewedStore)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(world.folder / "store.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    world.serve(server)
    return score_by(world, f"https://127.0.0.1:{server.server_port}")


def score_by(world: World, url: str) -> str:
    """Score the night while the store is behind another address; return what status shows."""
    world.change(s3_endpoint_url=url, s3_request_attempts=1)
    return score_degraded(world)


def right_store(world: World) -> None:
    world.restore("s3_endpoint_url", "s3_request_attempts")


class SkewedStore(BaseHTTPRequestHandler):
    """A store whose clock is twenty minutes ahead."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", str(len(TOO_SKEWED)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(TOO_SKEWED)

    do_HEAD = do_PUT = do_GET  # noqa: N815 - names of the standard library

    def date_time_string(self, timestamp: float | None = None) -> str:
        ahead = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=20)
        return super().date_time_string(timestamp or ahead.timestamp())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def write_certificate(path: Path) -> Path:
    """Write a certificate that expired in 2021, with its key, and return the path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(LONG_AGO)
        .not_valid_after(LONG_AGO + dt.timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


def missing() -> tuple[Seen]:
    """Return the incident about a view that is not one model's."""
    return (
        Seen(
            "NS-WAREHOUSE-010",
            "warehouse",
            command="nightshift migrate",
            consequence="What reads them fails",
            severity="critical",
        ),
    )


FAULTS = (
    Fault(
        "a view of all models is dropped",
        dropped("analytics.health"),
        "NS-WAREHOUSE-010",
        cause="analytics.health",
        page="another view of the warehouse",
        commands=("nightshift migrate",),
        is_right=is_there("analytics.health"),
        seen=missing(),
        stage=SCORED,
    ),
    Fault(
        "a view of the pipeline is dropped",
        dropped("ml.succession"),
        "NS-WAREHOUSE-010",
        cause="ml.succession",
        page="another view of the warehouse",
        commands=("nightshift migrate",),
        is_right=is_there("ml.succession"),
        seen=(*missing(), replace(missing()[0], subject=MODEL, consequence="Queries of analysts")),
        stage=SCORED,
    ),
    Fault(
        "a table of published rows is dropped",
        raw_table_is_dropped,
        "NS-WAREHOUSE-014",
        cause="raw.weather",
        page="`nightshift migrate` makes raw tables",
        commands=("nightshift migrate", "nightshift backfill <first> <last>"),
        values={"first": FIRST_DAY},
        is_right=lambda world: world.has("raw/weather"),
        seen=(
            Seen(
                "NS-WAREHOUSE-014",
                "raw/weather",
                command="nightshift migrate",
                consequence="Readers and stages fail",
                severity="critical",
            ),
        ),
        stage=SCORED,
    ),
    Fault(
        "a session holds a table of the ledger",
        locked("ops.published"),
        "NS-WAREHOUSE-017",
        cause="ops.published",
        page="PostgreSQL undoes what it has not committed",
        commands=(),
        cure=World.end_held_sessions,
        is_right=nobody_holds_a_lock,
        seen=(
            Seen(
                "NS-WAREHOUSE-017",
                "warehouse",
                command=END_SESSION,
                consequence="Stages that need them wait and fail",
                severity="critical",
            ),
        ),
        stage=SCORED,
    ),
    Fault(
        "a session holds the table of incidents",
        locked("ops.incidents"),
        "NS-WAREHOUSE-017",
        cause="ops.incidents",
        page="If it is a table of incidents itself, nobody sees what else is broken",
        commands=(),
        cure=World.end_held_sessions,
        is_right=nobody_holds_a_lock,
        seen=blind("NS-WAREHOUSE-017", END_SESSION, "evaluation"),
        stage=SCORED,
    ),
    Fault(
        "the SQL of a feature view has a syntax error",
        sql_has_a_syntax_error,
        "NS-DBT-001",
        cause=FEATURE_SQL,
        page="syntax error: roll back the last deployment",
        commands=("nightshift airflow dags clear transform",),
        values={"day": HOLE},
        cure=lambda world: world.check_out("dbt_project_dir", FEATURE_SQL),
        is_right=lambda world: world.has("features/flight", HOLE),
        seen=(
            Seen(
                "NS-DBT-001",
                f"dbt_project/{FEATURE_SQL}",
                command=f"git -C dbt_project checkout <commit> -- {FEATURE_SQL}",
                consequence="No features are built",
            ),
            failed(TRANSFORM, "NS-DBT-001", HOLE),
        ),
        stage=FEATURES,
    ),
    Fault(
        "the clock of the object store is twenty minutes ahead",
        store_clock_is_wrong,
        "NS-LAKE-008",
        cause="clock",
        page="more than a quarter of an hour",
        advice="set the clock",
        commands=("nightshift score <model> <day>",),
        cure=right_store,
        cured_by="timedatectl status",
        finding="local time",
        is_right=predictions_are_right,
        seen=(
            FELL_BACK,
            Seen(
                "NS-LAKE-008",
                "object store",
                command="timedatectl status",
                consequence="Nothing is ingested",
                severity="critical",
            ),
        ),
    ),
    Fault(
        "the certificate of the object store is not accepted",
        store_certificate_is_of_nobody,
        "NS-LAKE-009",
        cause="certificate",
        page="of an authority that this machine does not know",
        advice="its operator renews it",
        commands=("nightshift score <model> <day>",),
        cure=right_store,
        cured_by="nightshift doctor",
        finding="certificate",
        is_right=predictions_are_right,
        seen=(
            FELL_BACK,
            Seen(
                "NS-LAKE-009",
                "object store",
                command="nightshift doctor",
                consequence=STORE_REFUSES.consequence,
                severity="critical",
            ),
        ),
    ),
    Fault(
        "the decision about the champion is deleted",
        champion_decision_is_deleted,
        "NS-REGISTRY-006",
        cause="ml.promotions",
        page="somebody switched its guard off",
        advice="Restore the row of `ml.promotions` from a backup",
        cure=champion_decision_is_restored,
        tells="a backup has it",
        commands=(),
        is_right=champion_is_decided,
        seen=(
            Seen(
                "NS-REGISTRY-006",
                MODEL,
                command=f"nightshift train {MODEL} {LAST_DAY}",
                consequence="The next night is scored by the champion before it",
            ),
        ),
        stage=SCORED,
    ),
    Fault(
        "the pointer of published predictions is deleted",
        pointer_is_deleted,
        "NS-WRITE-007",
        cause="ops.published",
        page="the row of `ops.published` that names the load is gone",
        commands=("nightshift score <model> <day>",),
        is_right=predictions_are_right,
        seen=(
            replace(
                lost(PREDICTIONS, f"nightshift score {MODEL} {NIGHT}"),
                consequence="Readers lack these days now",
            ),
        ),
        stage=SCORED,
    ),
)
