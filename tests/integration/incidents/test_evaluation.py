"""The life of incidents: opened once, seen again, closed by themselves; failing rules harm none."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from nightshift.errors import ServiceError
from nightshift.incidents.acts import ActRefusedError, acknowledge, snooze, wake
from nightshift.incidents.context import EvaluationContext
from nightshift.incidents.evaluation import OUT_OF_SIGHT, evaluate
from nightshift.incidents.facts import Fact, Rule, Unchecked
from nightshift.incidents.records import (
    UnknownIncidentError,
    find_incident,
    incident_events,
    open_incidents,
)
from nightshift.incidents.rules import services
from nightshift.incidents.rules.declared import RULES

pytestmark = pytest.mark.integration

FACT = Fact(
    "NS-SCORE-007",
    "warning",
    "degraded",
    "model",
    "churn",
    what="churn is scored by the rule.",
    consequence="Readers keep it.",
    command="nightshift score churn 2013-03-05",
    partitions=(dt.date(2013, 3, 5),),
    models=("churn",),
)
WORSE = replace(FACT, partitions=(dt.date(2013, 3, 5), dt.date(2013, 3, 6)))


class World:
    """Facts that a test changes, and the rule that finds them."""

    def __init__(self, settings, tmp_path):
        (tmp_path / "dags").mkdir()
        self.settings = settings.__class__(**{**dict(settings), "dags_dir": tmp_path / "dags"})
        self.facts: list[object] = []
        self.error: Exception | None = None
        self.other: list[object] = []

    def find(self, context):
        if self.error:
            raise self.error
        # A rule may only read.
        context.conn.execute("select 1")
        return self.facts

    def evaluate(self):
        rules = (
            Rule("fallback", "scores", self.find),
            Rule("other", "rows", lambda _: self.other),
        )
        return evaluate(self.settings, rules=rules)


@pytest.fixture
def world(settings, tmp_path):
    return World(settings, tmp_path)


def events(conn, number):
    return [(event.event, event.actor) for event in incident_events(conn, incident_id=number)]


def test_an_incident_opens_once_is_seen_again_and_closes_by_itself(world, conn):
    world.facts = [FACT]
    assert len(world.evaluate().opened) == 1
    assert world.evaluate().opened == ()
    (incident,) = open_incidents(conn)
    assert (incident.n_seen, incident.state, incident.aspect) == (2, "open", "scores")
    assert incident.touched_tables == ("predictions/churn",)
    assert incident.touched_consumers == ("analytics.churn_current",)
    assert incident.runbook == "docs/runbooks/NS-SCORE-007.md"

    world.facts = []
    assert world.evaluate().closed == (incident.incident_id,)
    assert open_incidents(conn) == []
    assert events(conn, incident.incident_id) == [("opened", "evaluator"), ("closed", "evaluator")]

    # A fact that comes back is another incident.
    world.facts = [FACT]
    (second,) = world.evaluate().opened
    assert second > incident.incident_id


def test_a_snoozed_incident_comes_back_when_it_grows_worse_than_it_ever_was(world, conn):
    world.facts = [FACT]
    (number,) = world.evaluate().opened
    until = snooze(conn, number, dt.timedelta(hours=8), "cli:ann", "known, upstream is told")
    assert until.state == "snoozed"
    assert world.evaluate().worsened == ()
    assert find_incident(conn, number).state == "snoozed"

    world.facts = [WORSE]
    assert world.evaluate().worsened == (number,)
    incident = find_incident(conn, number)
    assert (incident.state, incident.snoozed_until, incident.snoozed_by) == ("open", None, None)
    assert events(conn, number) == [
        ("opened", "evaluator"),
        ("snoozed", "cli:ann"),
        ("worsened", "evaluator"),
        ("woken", "evaluator"),
    ]
    # Better and worse again, but not worse than before: nothing new.
    world.facts = [FACT]
    world.evaluate()
    world.facts = [WORSE]
    assert world.evaluate().worsened == ()
    # A step of severity outweighs the number of partitions.
    world.facts = [replace(FACT, severity="critical")]
    assert world.evaluate().worsened == (number,)


def test_acts_need_an_actor_a_reason_and_an_open_incident(world, conn):
    world.facts = [FACT]
    (number,) = world.evaluate().opened
    for actor, reason in (("", "why"), ("cli:ann", "  ")):
        with pytest.raises(ActRefusedError):
            acknowledge(conn, number, actor, reason)
    for hours in (0, -1, 24 * 8):
        with pytest.raises(ActRefusedError):
            snooze(conn, number, dt.timedelta(hours=hours), "cli:ann", "why")
    assert acknowledge(conn, number, "cli:ann", "at it").acknowledged_by == "cli:ann"
    assert wake(conn, number, "cli:bob", "ann is ill").state == "open"

    world.facts = []
    world.evaluate()
    with pytest.raises(UnknownIncidentError, match="cannot be acted on"):
        acknowledge(conn, number, "cli:ann", "at it")
    with pytest.raises(UnknownIncidentError):
        wake(conn, 4711, "cli:ann", "why")


def test_a_rule_that_fails_is_an_incident_and_harms_no_other(world, conn):
    world.facts, world.other = [FACT], [replace(FACT, subject="sales", models=())]
    world.evaluate()

    world.error, world.other = ValueError("secret 'a' of 4711"), []
    evaluation = world.evaluate()
    assert evaluation.failed_rules == ("fallback",)
    # The incident of the failed rule stays, that of the other one closed.
    assert {(i.kind, i.subject, i.code) for i in open_incidents(conn)} == {
        ("fallback", "churn", "NS-SCORE-007"),
        ("failed rule", "fallback", "NS-INCIDENT-002"),
    }
    # Values of an exception are shown nowhere.
    assert "4711" not in str([incident.document() for incident in open_incidents(conn)])

    world.error = None
    assert len(world.evaluate().closed) == 1
    assert [incident.kind for incident in open_incidents(conn)] == ["fallback"]


def test_a_rule_that_writes_or_breaks_its_transaction_is_an_incident(world, conn):
    def write(context):
        context.conn.execute("delete from ops.incident_rules")

    def break_off(context):
        context.conn.execute("select 1 / 0")

    rules = (Rule("writes", "rows", write), Rule("breaks", "rows", break_off))
    assert evaluate(world.settings, rules=rules).failed_rules == ("writes", "breaks")
    assert conn.execute("select count(*) from ops.incident_rules").fetchone() == (2,)


def test_what_a_rule_did_not_look_at_stays(world, conn):
    world.facts = [FACT]
    (number,) = world.evaluate().opened
    world.facts = [Unchecked("churn")]
    assert world.evaluate().closed == ()
    assert find_incident(conn, number).n_seen == 1


def test_a_rule_with_a_pause_is_not_asked_again_and_keeps_its_incidents(world, conn):
    calls = []

    def find(context):
        calls.append(context)
        return [FACT]

    rules = (Rule("slow", "rows", find, dt.timedelta(minutes=10)),)
    evaluate(world.settings, rules=rules)
    evaluate(world.settings, rules=rules)
    assert len(calls) == 1
    assert len(open_incidents(conn)) == 1


def test_evaluators_at_once_open_200_incidents_once_and_close_them(world, conn):
    world.facts = [replace(FACT, subject=f"m{i}", models=(f"m{i}",)) for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        evaluations = list(pool.map(lambda _: world.evaluate(), range(8)))
    assert len(open_incidents(conn)) == 200
    assert sum(len(evaluation.opened) for evaluation in evaluations) == 200
    assert conn.execute("select count(*) from ops.incident_events").fetchone() == (200,)

    world.facts = []
    evaluation = world.evaluate()
    assert len(evaluation.closed) == 200
    assert open_incidents(conn) == []
    assert evaluation.seconds < 30


def test_a_failing_look_up_of_what_is_touched_loses_no_fact(world, conn, monkeypatch):
    def fail(context, *_):
        context.conn.execute("select 1 / 0")

    monkeypatch.setattr(EvaluationContext, "touched", fail)
    world.facts = [FACT, replace(FACT, subject="sales", models=("sales",))]
    assert len(world.evaluate().opened) == 2
    assert [incident.touched_models for incident in open_incidents(conn)] == [
        ("churn",),
        ("sales",),
    ]


def test_an_incident_out_of_sight_of_its_rule_says_so_when_it_ends(world, conn):
    now = dt.datetime.now(dt.UTC)
    later = replace(FACT, subject="sales", seen_until=now + dt.timedelta(days=1))
    world.facts = [replace(FACT, seen_until=now), later]
    first, second = world.evaluate().opened
    world.facts = []
    world.evaluate()
    ended = {number: incident_events(conn, incident_id=number)[-1] for number in (first, second)}
    assert ended[first].reason == OUT_OF_SIGHT
    assert ended[second].reason == "its fact is gone"
    assert find_incident(conn, first).is_out_of_sight
    assert not find_incident(conn, second).is_out_of_sight


class Airflow:
    """Airflow's API with what a test has put in, or away."""

    is_away = False

    def import_errors(self):
        if self.is_away:
            raise ServiceError("Airflow does not answer.")
        return ["ingest.py: SyntaxError"]

    def dag_ids(self):
        return {"ingest"}

    def heartbeats(self):
        return {}

    def pools(self):
        return []

    def paused_dags(self):
        return set()

    def failed_tasks(self, since):
        if self.is_away:
            raise ServiceError("Airflow does not answer.")
        key = {"dag_id": "ingest", "dag_run_id": "r", "task_id": "begin"}
        ended = dt.datetime.now(dt.UTC).isoformat()
        return [{**key, "partition_key": "2013-03-05", "end_date": ended}]


def test_who_cannot_see_airflow_leaves_its_incidents_to_who_can(world, conn):
    rules = [rule for rule in RULES if rule.needs_airflow]
    airflow = Airflow()

    def look(airflow=None):
        conn.execute("update ops.incident_rules set evaluated_at = now() - interval '1 day'")
        evaluation = evaluate(world.settings, rules=rules, airflow=airflow)
        assert evaluation.failed_rules == ()
        return sorted(incident.code for incident in open_incidents(conn))

    seen = ["NS-AIRFLOW-007", "NS-SERVICE-012"]
    assert look(airflow) == seen
    assert look() == seen
    evaluated = conn.execute("select max(evaluated_at) < now() from ops.incident_rules").fetchone()
    assert evaluated == (True,)
    # Away, it says nothing about its tasks and files.
    airflow.is_away = True
    assert look(airflow) == ["NS-AIRFLOW-007", "NS-SERVICE-001", "NS-SERVICE-012"]
    airflow.is_away = False
    assert look(airflow) == seen

    conn.execute("update ops.incidents set last_seen_at = last_seen_at - interval '61 minutes'")
    assert look() == []
    reasons = {event.reason for event in incident_events(conn) if event.event == "closed"}
    assert OUT_OF_SIGHT in reasons


def test_a_full_disk_is_that_of_one_host(world, conn, monkeypatch):
    rules = [rule for rule in RULES if rule.kind == "disk space"]
    usage = services.shutil.disk_usage("/")

    def look(host, free_bytes):
        free = usage._replace(free=free_bytes)
        monkeypatch.setattr(services.shutil, "disk_usage", lambda _: free)
        monkeypatch.setattr(services.socket, "gethostname", lambda: host)
        evaluate(world.settings, rules=rules)
        return [incident.subject for incident in open_incidents(conn)]

    assert look("a", services.GIB) == ["disk of a"]
    assert look("b", 9 * services.GIB) == ["disk of a"]
    assert look("b", services.GIB) == ["disk of a", "disk of b"]
    assert look("a", 9 * services.GIB) == ["disk of b"]


def test_an_evaluator_whose_clock_is_behind_evaluates_every_time(world, conn):
    conn.execute("create schema fake")
    conn.execute(
        "create function fake.clock_timestamp() returns timestamptz volatile language sql as"
        " $$ select pg_catalog.clock_timestamp() + interval '1 day' $$"
    )
    database = world.settings.warehouse_database
    conn.execute(f"alter database {database} set search_path = fake, pg_catalog, public".encode())
    world.facts = [FACT]
    (number,) = world.evaluate().opened
    # By its own clock every rule was evaluated tomorrow, and none would be due.
    world.evaluate()
    assert find_incident(conn, number).n_seen == 2
    rules = [rule for rule in RULES if rule.kind == "wrong clock"]
    evaluate(world.settings, rules=rules)
    (clock,) = [each for each in open_incidents(conn) if each.kind == "wrong clock"]
    assert clock.code == "NS-TIME-006"
    assert "behind the warehouse's" in clock.what


def test_a_role_that_reads_by_right_is_missed_when_it_is_gone(world, conn):
    rules = [rule for rule in RULES if rule.kind == "reader rights"]
    conn.execute("insert into ops.reader_roles (role) values ('auditors_of_this_test')")
    evaluate(world.settings, rules=rules)
    (incident,) = open_incidents(conn)
    assert (incident.code, incident.subject) == ("NS-WAREHOUSE-005", "role auditors_of_this_test")
    assert "does not exist" in incident.what
    conn.execute("delete from ops.reader_roles")
    evaluate(world.settings, rules=rules)
    assert open_incidents(conn) == []
