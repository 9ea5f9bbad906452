"""The page Now: what is broken, how healthy each table and model is, and how far tonight is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot, Row

MAX_INCIDENTS = 100
"""Of more incidents the page says how many there are."""

_INCIDENTS = """
select
    incident_id, severity, state, code, what, consequence, deadline_at, command, runbook, owner,
    subject_type, subject, partitions, opened_at, last_seen_at, touched_tables, touched_models,
    touched_consumers, acknowledged_by, snoozed_until, count(*) over () as n_incidents
from ops.open_incidents
order by (state = 'snoozed'), severity_rank desc, opened_at, incident_id
limit %(limit)s
"""
_EVALUATION = "select evaluated_at, is_fresh from ops.last_evaluation"
_HEALTH = """
select subject_type, subject, owner, health, parts, since, evaluated_at
from ops.health
order by array_position(array['degraded', 'unknown', 'caution', 'healthy'], health), subject_type,
    subject
"""
_PROGRESS = """
select
    model, owner, partition_date, deadline_at, features_published_at, predictions_published_at,
    newest, champion_version, champion_since, deadline_at - clock_timestamp() as time_left
from ops.model_progress
order by (predictions_published_at is not null), deadline_at, model
"""
_RUNNING = """
select partition_date, step, attempt, started_at
from ops.partition_steps
where step_type = 'task' and ended_at is null and outcome is null
    and started_at > clock_timestamp() - interval '6 hours'
order by started_at
limit 50
"""


def now_document(snapshot: PageSnapshot) -> dict[str, Any]:
    """Return the incidents, the health words, tonight's progress and what runs."""
    # None, unlike an empty list, is no good news: the page then says what is missing.
    incidents = None
    if snapshot.has("ops.open_incidents"):
        incidents = snapshot.rows(_INCIDENTS, {"limit": MAX_INCIDENTS})
    # An empty list says nothing if nobody has looked.
    evaluation = None
    if snapshot.has("ops.last_evaluation"):
        evaluation = snapshot.rows(_EVALUATION)[0]
    health = snapshot.rows(_HEALTH) if snapshot.has("ops.health") else None
    return {
        "incidents": incidents,
        "evaluation": evaluation,
        "n_incidents": incidents[0]["n_incidents"] if incidents else 0,
        "health": health,
        "health_counts": _counts(health),
        "progress": snapshot.rows(_PROGRESS),
        "running": snapshot.rows(_RUNNING),
    }


def _counts(health: list[Row] | None) -> dict[str, int]:
    """Return the number of tables and models by health word, the worst first."""
    # Written out, so that a word without any subject is a zero and not a gap.
    counts = {"degraded": 0, "unknown": 0, "caution": 0, "healthy": 0}
    for row in health or ():
        counts[row["health"]] += 1
    return counts
