"""Faults of the object store, of the warehouse, and of what stands in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.chaos.on_call.fault import Fault, Seen, failed
from tests.chaos.on_call.faults_models import (
    CLEAR,
    PREDICTIONS,
    SCORE_AGAIN,
    STORE_REFUSES,
    predictions_are_right,
)
from tests.chaos.on_call.history import HOLE, MODEL, NIGHT, SCORED
from tests.chaos.on_call.world import INGEST, SCORE, World

NOBODY_LISTENS = 9
"""The port of the discard service."""


def load_weather(world: World) -> str:
    """Ingest the weather of the day after the night; return the log of the task."""
    return world.start(INGEST, HOLE, only=("load_weather",)).log


def score(world: World) -> str:
    return world.start(SCORE, NIGHT).log


def with_changed(act: Callable[[World], str], **values: object) -> Callable[[World], str]:
    """Return an act under other settings."""

    def changed(world: World) -> str:
        world.change(**values)
        return act(world)

    return changed


def after(statement: str, act: Callable[[World], str]) -> Callable[[World], str]:
    """Return an act after a statement of the admin; ``{database}`` is this warehouse."""

    def broken(world: World) -> str:
        world.admin(statement.format(database=world.settings.warehouse_database))
        return act(world)

    return broken


def view_is_dropped(world: World) -> str:
    world.admin(f"drop view analytics.{MODEL}_current")
    return world.status()


def analysts_read_the_view(world: World) -> bool:
    query = f"select count(*) from analytics.{MODEL}_current where partition_date = '{NIGHT}'"
    code, output = world.nightshift("psql", "--role", "analyst", "--csv", "-c", query)
    has_rows = code == 0 and int(output.split()[-1]) > 0
    return has_rows and world.has(PREDICTIONS)


def feature_rows_are_lost(world: World) -> str:
    world.admin(
        "delete from features.feat_flight where partition_date = %s and flight_id in"
        " (select flight_id from features.feat_flight where partition_date = %s"
        " order by 1 limit 100)",
        *(NIGHT, NIGHT),
    )
    return score(world)


def prediction_rows_are_lost(world: World) -> str:
    world.admin(
        f"delete from predictions.{MODEL} where partition_date = %s and flight_id in"
        f" (select flight_id from predictions.{MODEL} where partition_date = %s"
        " order by 1 limit 242)",
        *(NIGHT, NIGHT),
    )
    return world.status()


def published_in_time(world: World) -> bool:
    """Return whether the check of freshness is content an hour after the deadline."""
    code, _ = world.nightshift("check-freshness", "--at", "2013-01-22T05:00")
    return code == 0 and world.has(PREDICTIONS)


STORE = {
    "commands": (CLEAR,),
    "values": {"dag": INGEST, "day": HOLE},
    "is_right": World.has_weather,
}
WAREHOUSE = {
    "values": {"dag": SCORE},
    "is_right": predictions_are_right,
}
STORE_AWAY = replace(STORE_REFUSES, command="nightshift up")
NO_BUCKET = replace(STORE_REFUSES, code="NS-LAKE-019")


def blind(code: str, command: str, subject: str = "warehouse") -> tuple[Seen]:
    """Return what is told when the warehouse cannot hold an incident."""
    unseen = "Whatever is broken besides stays unseen"
    return (Seen(code, subject, (), command, unseen, "critical"),)


def closed(schema: str) -> Seen:
    """Return the incident about a relation that the warehouse user may not use."""
    grant = f"grant all on all tables in schema {schema} to nightshift"
    return Seen(
        "NS-WAREHOUSE-005",
        "warehouse",
        command=f'nightshift psql --role admin -c "{grant}"',
        consequence="The stages that need them fail",
        severity="critical",
    )


def lost(dataset: str, command: str) -> Seen:
    """Return the incident about rows that readers do not see any more."""
    return Seen(
        "NS-WRITE-007",
        dataset,
        (NIGHT,),
        command,
        "Readers see wrong totals now",
        "critical",
    )


WRITABLE = (
    'nightshift psql --role admin -c "set default_transaction_read_only = off"'
    ' -c "alter role nightshift reset default_transaction_read_only"'
    ' -c "alter database <database> reset default_transaction_read_only"'
)
UNLIMIT = 'nightshift psql --role admin -c "alter database <database> connection limit -1"'
LIMIT = 'nightshift psql --role admin -c "alter database <database> connection limit'
GRANT = 'nightshift psql --role admin -c "grant all on all tables'

FAULTS = (
    Fault(
        "the port of the object store is closed",
        with_changed(
            load_weather,
            s3_endpoint_url=f"http://127.0.0.1:{NOBODY_LISTENS}",
            s3_request_attempts=1,
        ),
        "NS-LAKE-001",
        cause="Could not connect",
        page="server down",
        advice="check `NIGHTSHIFT_S3_*`",
        cure=lambda world: world.restore("s3_endpoint_url", "s3_request_attempts"),
        cured_by="nightshift up",
        seen=(failed(INGEST, "NS-LAKE-001", HOLE), STORE_AWAY),
        **STORE,
    ),
    Fault(
        "the S3 secret is wrong while a drop is loaded",
        with_changed(load_weather, s3_secret_access_key="wrong"),
        "NS-LAKE-001",
        cause="SignatureDoesNotMatch",
        page="wrong key",
        advice="check `NIGHTSHIFT_S3_*`",
        cure=lambda world: world.restore("s3_secret_access_key"),
        cured_by="nightshift doctor",
        finding="NIGHTSHIFT_S3_SECRET_ACCESS_KEY",
        seen=(failed(INGEST, "NS-LAKE-001", HOLE), STORE_REFUSES),
        **STORE,
    ),
    Fault(
        "the bucket does not exist",
        with_changed(load_weather, s3_bucket="no-such-bucket"),
        "NS-LAKE-019",
        cause="no-such-bucket",
        page="it has no bucket of the configured name",
        advice="Correct the setting where the task runs",
        cure=lambda world: world.restore("s3_bucket"),
        cured_by="nightshift doctor",
        finding="Correct NIGHTSHIFT_S3_BUCKET",
        seen=(failed(INGEST, "NS-LAKE-019", HOLE), NO_BUCKET),
        **STORE,
    ),
    Fault(
        "the port of the warehouse is closed",
        with_changed(score, warehouse_port=NOBODY_LISTENS),
        "NS-WAREHOUSE-001",
        cause="Cannot connect",
        page="There is no connection to PostgreSQL",
        advice="check host, port and password",
        cure=lambda world: world.restore("warehouse_port"),
        cured_by="nightshift up",
        seen=blind("NS-WAREHOUSE-001", "nightshift up"),
        commands=(CLEAR,),
        **WAREHOUSE,
    ),
    Fault(
        "the password of the warehouse is wrong",
        with_changed(score, warehouse_password="wrong"),
        "NS-WAREHOUSE-008",
        cause="password",
        page="wrong user, password or database",
        advice="Correct `NIGHTSHIFT_WAREHOUSE_USER`, `_PASSWORD`",
        cure=lambda world: world.restore("warehouse_password"),
        cured_by="nightshift doctor",
        finding="Correct user, password and database",
        seen=blind("NS-WAREHOUSE-008", "nightshift doctor"),
        commands=(CLEAR,),
        **WAREHOUSE,
    ),
    Fault(
        "the warehouse has no connection left",
        after("alter database {database} connection limit 0", score),
        "NS-WAREHOUSE-007",
        cause="no connection left",
        page="All connections of PostgreSQL",
        commands=(LIMIT, CLEAR),
        seen=blind("NS-WAREHOUSE-007", UNLIMIT),
        **WAREHOUSE,
    ),
    Fault(
        "the warehouse has one connection left",
        after("alter database {database} connection limit 1", score),
        "NS-WAREHOUSE-007",
        cause="no connection left",
        page="All connections of PostgreSQL",
        commands=(LIMIT, CLEAR),
        seen=(
            failed(SCORE, "NS-WAREHOUSE-007", NIGHT),
            Seen(
                "NS-WAREHOUSE-007",
                "warehouse",
                command=UNLIMIT,
                consequence="Tasks that begin now are refused",
                severity="critical",
            ),
        ),
        **WAREHOUSE,
    ),
    Fault(
        "the right to write is revoked",
        after(f"revoke insert on predictions.{MODEL} from nightshift", score),
        "NS-WAREHOUSE-005",
        cause=MODEL,
        page="a privilege was revoked",
        advice="Put in your own schema",
        edit=("schema raw", "schema predictions"),
        seen=(failed(SCORE, "NS-WAREHOUSE-005", NIGHT), closed("predictions")),
        commands=(GRANT, "nightshift migrate", CLEAR),
        **WAREHOUSE,
    ),
    Fault(
        "the right to read is revoked",
        after("revoke select on features.feat_flight from nightshift", score),
        "NS-WAREHOUSE-005",
        cause="feat_flight",
        page="a privilege was revoked",
        advice="Put in your own schema",
        edit=("schema raw", "schema features"),
        seen=(failed(SCORE, "NS-WAREHOUSE-005", NIGHT), closed("features")),
        commands=(GRANT, "nightshift migrate", CLEAR),
        **WAREHOUSE,
    ),
    Fault(
        "the warehouse is read-only",
        after("alter database {database} set default_transaction_read_only = on", score),
        "NS-WAREHOUSE-006",
        cause="read-only",
        page="somebody made the database read-only",
        commands=(
            'nightshift psql --role admin -c "set default_transaction_read_only = off"',
            CLEAR,
        ),
        seen=blind("NS-WAREHOUSE-006", WRITABLE, "evaluation"),
        **WAREHOUSE,
    ),
    Fault(
        "a view of the readers is dropped",
        view_is_dropped,
        "NS-WAREHOUSE-010",
        cause=f"analytics.{MODEL}_current",
        page="Somebody dropped it",
        commands=("nightshift migrate",),
        is_right=analysts_read_the_view,
        seen=(
            Seen(
                "NS-WAREHOUSE-010",
                MODEL,
                command="nightshift migrate",
                consequence="Queries of analysts fail",
                severity="critical",
            ),
        ),
        stage=SCORED,
    ),
    Fault(
        "published feature rows are lost",
        feature_rows_are_lost,
        "NS-WRITE-007",
        cause="features/flight",
        page="rows were deleted",
        commands=("nightshift backfill <day>", CLEAR),
        seen=(
            lost("features/flight", f"nightshift backfill {NIGHT} {NIGHT}"),
            failed(SCORE, "NS-WRITE-007", NIGHT),
        ),
        **WAREHOUSE,
    ),
    Fault(
        "published prediction rows are lost",
        prediction_rows_are_lost,
        "NS-WRITE-007",
        cause=PREDICTIONS,
        page="rows were deleted",
        commands=(SCORE_AGAIN,),
        is_right=published_in_time,
        seen=(lost(PREDICTIONS, f"nightshift score {MODEL} {NIGHT}"),),
        stage=SCORED,
    ),
)
