"""Incidents as the evaluator writes them, without a fault behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


def open_incident(
    conn: Connection,
    subject: str = "flight_delayed",
    severity: str = "critical",
    owner: str = "flight-operations",
    what: str = "",
    code: str = "NS-FRESH-001",
) -> int:
    """Open an incident; return its number."""
    values = {
        "subject": subject,
        "severity": severity,
        "owner": owner,
        "what": what or f"Predictions of {subject} for 2013-03-04 are not published.",
        "code": code,
    }
    row = conn.execute(
        """
        insert into ops.incidents (kind, fact_key, code, severity, health, aspect, subject_type,
            subject, partitions, owner, what, consequence, deadline_at, command, runbook,
            touched_models, touched_consumers, worse_rank)
        values ('late', %(subject)s, %(code)s, %(severity)s, 'degraded', 'publication', 'model',
            %(subject)s, '{2013-03-04}', %(owner)s, %(what)s,
            'Readers keep the predictions of 2013-03-03.', '2013-03-05 09:00+00',
            'nightshift rescue ' || %(subject)s || ' --night 2013-03-04',
            'docs/runbooks/NS-FRESH-001.md', array[%(subject)s],
            array['analytics.' || %(subject)s || '_current'], 1)
        returning incident_id
        """,
        values,
    ).fetchone()
    add_event(conn, row[0], "opened")
    return row[0]


def add_event(conn: Connection, incident_id: int, event: str) -> None:
    """Record an event, and on the incident what it means."""
    if event == "closed":
        conn.execute(
            "update ops.incidents set closed_at = clock_timestamp() where incident_id = %s",
            [incident_id],
        )
    conn.execute(
        """
        insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
        select incident_id, %s, 'evaluator', 'seen', severity, worse_rank
        from ops.incidents where incident_id = %s
        """,
        [event, incident_id],
    )
