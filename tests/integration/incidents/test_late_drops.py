"""A file that lands for a day that no run looks at any more is an incident until it is decided."""

from __future__ import annotations

import datetime as dt

import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.records import open_incidents
from nightshift.incidents.rules import drops
from nightshift.incidents.rules.declared import RULES
from nightshift.ingestion import drop_decisions
from nightshift.lake.drops import NewDrop, partition_prefix, write_drop
from nightshift.lake.landing import read_landing
from nightshift.lake.object_store import ObjectStore

pytestmark = [pytest.mark.integration, pytest.mark.promise("R20")]

LATE_RULES = [rule for rule in RULES if rule.kind == "late drops"]
FIRST, NEWEST = dt.date(2013, 3, 1), dt.date(2013, 6, 1)
DATA = b"a,b\n1,2\n"


@pytest.fixture
def look(settings, conn, monkeypatch):
    """Return a look at three months of published weather; nothing has landed."""
    conn.execute(
        """
        with loads as (
            insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
                actor, code_version, inputs, inputs_digest)
            select 'raw/weather', day, 1, 1, 'published', 'r', 1, 'airflow', 'c', '{}', 'd'
            from generate_series(%s::timestamp, %s, interval '1 day') day
            returning dataset, partition_date, load_id, token
        )
        insert into ops.published (dataset, partition_date, load_id, token) select * from loads
        """,
        [FIRST, NEWEST],
    )
    ObjectStore.open(settings).ensure_bucket()

    def looked(patience: dt.timedelta = dt.timedelta()):
        monkeypatch.setattr(drops, "LATE_PATIENCE", patience)
        conn.execute("delete from ops.incident_rules")
        assert evaluate(settings, rules=LATE_RULES).failed_rules == ()
        return open_incidents(conn)

    return looked


def land(settings, day: dt.date, name: str = "weather_late") -> str:
    """Deliver a file; return its key."""
    delivered_at = dt.datetime(2013, 6, 3, tzinfo=dt.UTC)
    write_drop(ObjectStore.open(settings), NewDrop("weather", day, delivered_at, DATA, 1, name))
    return f"{partition_prefix('weather', day)}{name}.csv"


def test_a_late_file_of_an_old_day_is_told_and_that_of_the_look_back_is_not(settings, look):
    assert look() == []
    # The next run loads it.
    land(settings, NEWEST - dt.timedelta(days=1))
    # A history that nobody has loaded.
    land(settings, FIRST - dt.timedelta(days=1))
    assert look() == []

    land(settings, FIRST + dt.timedelta(days=2))
    land(settings, FIRST + dt.timedelta(days=4))
    (incident,) = look()
    assert (incident.code, incident.subject, incident.severity) == (
        "NS-INCIDENT-011",
        "raw/weather",
        "info",
    )
    assert [str(day) for day in incident.partitions] == ["2013-03-03", "2013-03-05"]
    scope = "--dataset weather --from 2013-03-03 --to 2013-03-05"
    assert incident.command == f'nightshift redo {scope} --reason "<why>"'


def test_it_is_told_after_half_an_hour_and_ends_when_a_person_withdraws_the_file(
    settings, conn, look
):
    day = FIRST + dt.timedelta(days=2)
    key = land(settings, day)
    # Whoever delivers an old day mostly loads it next.
    assert look(dt.timedelta(minutes=30)) == []
    assert len(look()) == 1
    landing = read_landing(ObjectStore.open(settings), "weather", PartitionRange.of(str(day)))
    drop_decisions.withdraw(conn, landing, key, "cli:test", "not needed")
    assert look() == []


def test_a_store_that_is_away_keeps_the_incident_as_it_is(settings, conn, look, monkeypatch):
    land(settings, FIRST + dt.timedelta(days=2))
    (incident,) = look()
    away = settings.model_copy(
        update={"s3_endpoint_url": "http://127.0.0.1:9", "s3_request_attempts": 1}
    )
    conn.execute("delete from ops.incident_rules")
    assert evaluate(away, rules=LATE_RULES).closed == ()
    assert [each.incident_id for each in open_incidents(conn)] == [incident.incident_id]
