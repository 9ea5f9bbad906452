"""The tables of incidents: what they refuse, and what readers get."""

from __future__ import annotations

import datetime as dt

import psycopg
import pytest

from nightshift.incidents.records import (
    UnknownIncidentError,
    find_incident,
    incident_events,
    open_incidents,
    read_health,
)

pytestmark = pytest.mark.integration


def insert(conn, **values):
    """Store an incident of the model ``churn`` with other values than these."""
    row = {
        "kind": "fallback",
        "fact_key": "churn",
        "code": "NS-SCORE-007",
        "severity": "warning",
        "health": "degraded",
        "aspect": "scores",
        "subject_type": "model",
        "subject": "churn",
        "owner": "crm",
        "what": "w",
        "consequence": "c",
        "command": "nightshift score churn 2013-03-05",
        "runbook": "docs/runbooks/NS-SCORE-007.md",
        "partitions": [dt.date(2013, 3, 5)],
        "touched_tables": ["predictions/churn"],
        "touched_models": ["churn"],
        "worse_rank": 1,
    }
    row |= values
    names = ", ".join(row)
    marks = ", ".join(["%s"] * len(row))
    query = f"insert into ops.incidents ({names}) values ({marks}) returning incident_id"
    return conn.execute(query, list(row.values())).fetchone()[0]


def subjects(conn):
    conn.execute(
        """
        insert into ops.health_subjects (subject_type, subject, owner) values
            ('model', 'churn', 'crm'), ('table', 'predictions/churn', 'crm'),
            ('table', 'raw/weather', ''), ('model', 'sales', 'shop')
        """
    )
    conn.execute(
        """
        insert into ops.incident_rules (kind, aspect, evaluated_at, succeeded_at, seconds, n_found)
        values ('fallback', 'scores', now(), now(), 0.1, 1)
        """
    )


def words(conn):
    return {health.subject: (health.health, health.parts) for health in read_health(conn)}


def test_a_fact_has_one_open_incident_and_a_new_one_after_it_closed(conn):
    first = insert(conn)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(conn)
    conn.execute("update ops.incidents set closed_at = now()")
    second = insert(conn)

    assert [incident.incident_id for incident in open_incidents(conn)] == [second]
    assert find_incident(conn, first).state == "closed"
    assert find_incident(conn, second).partitions == (dt.date(2013, 3, 5),)
    with pytest.raises(UnknownIncidentError):
        find_incident(conn, 999)


def test_events_are_append_only_and_need_an_actor_and_a_reason(conn):
    number = insert(conn)
    query = """
        insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
        values (%s, 'opened', %s, %s, 'warning', 1)
    """
    conn.execute(query, [number, "evaluator", "seen"])
    for actor, reason in (("", "seen"), ("evaluator", "")):
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute(query, [number, actor, reason])
    changes = {"delete from": "", "truncate": " cascade", "update": " set reason = 'x'"}
    for statement, change in changes.items():
        with pytest.raises(psycopg.errors.RaiseException):
            conn.execute(f"{statement} ops.incident_events{change}")
    assert [event.reason for event in incident_events(conn, incident_id=number)] == ["seen"]


def test_health_is_the_worst_part_and_what_is_broken_elsewhere_is_caution(conn):
    subjects(conn)
    assert list(words(conn).values()) == [("healthy", {})] * 4

    insert(conn)
    insert(
        conn,
        kind="missing drop",
        fact_key="raw/weather",
        subject_type="table",
        subject="raw/weather",
        aspect="inputs",
        touched_tables=["raw/weather", "predictions/churn"],
        touched_models=["churn"],
    )
    degraded = {"scores": "degraded", "upstream": "caution"}
    assert words(conn) == {
        "churn": ("degraded", degraded),
        "predictions/churn": ("degraded", degraded),
        "raw/weather": ("degraded", {"inputs": "degraded"}),
        "sales": ("healthy", {}),
    }


def test_health_is_unknown_when_a_rule_failed_or_nobody_evaluates(conn):
    subjects(conn)
    conn.execute("update ops.incident_rules set problem = 'NS-WAREHOUSE-004'")
    assert list(words(conn).values()) == [("unknown", {"scores": "unknown"})] * 4

    conn.execute(
        "update ops.incident_rules set problem = null, evaluated_at = now() - interval '26 minutes'"
    )
    assert list(words(conn).values()) == [("unknown", {"evaluation": "unknown"})] * 4
