"""The list of all rules, in the order in which they are evaluated."""

from __future__ import annotations

import datetime as dt

from nightshift.incidents.facts import Rule
from nightshift.incidents.rules import (
    channels,
    drops,
    models,
    orchestrator,
    publication,
    registry,
    rows,
    runs,
    services,
)

# What reads rows or sends requests; a fault is still notified within five minutes.
EVERY_TWO_MINUTES = dt.timedelta(minutes=2)
EVERY_THREE_MINUTES = dt.timedelta(minutes=3)

RULES: tuple[Rule, ...] = (
    Rule("late predictions", "publication", publication.late_predictions),
    Rule("missing views", "publication", publication.missing_views),
    Rule("stranded partition", "publication", publication.stranded_partitions),
    Rule("lost rows", "rows", rows.lost_rows),
    Rule("fallback in use", "scores", rows.fallback_in_use),
    Rule("rescued without gate", "scores", rows.rescued_without_gate),
    Rule("missing drop", "inputs", publication.missing_drops),
    Rule("refused drops", "inputs", drops.refused_drops),
    Rule("rows in quarantine", "inputs", drops.rows_in_quarantine, EVERY_THREE_MINUTES),
    Rule("late drops", "inputs", drops.late_drops, EVERY_THREE_MINUTES),
    Rule("failed tasks", "runs", runs.failed_tasks),
    Rule("waiting runs", "runs", runs.waiting_runs),
    Rule("airflow away", "services", orchestrator.airflow_away, needs_airflow=True),
    Rule("lost tasks", "runs", orchestrator.lost_tasks, EVERY_TWO_MINUTES, needs_airflow=True),
    Rule("paused DAGs", "runs", orchestrator.paused_dags, EVERY_TWO_MINUTES, needs_airflow=True),
    Rule("open requests", "model", models.open_requests, EVERY_THREE_MINUTES),
    Rule("old champion", "model", models.old_champions, EVERY_THREE_MINUTES),
    Rule("refused challengers", "model", models.refused_challengers, EVERY_THREE_MINUTES),
    Rule("returned canary", "model", models.returned_canaries, EVERY_THREE_MINUTES),
    Rule("blocked evidence", "drift", models.blocked_evidence, EVERY_THREE_MINUTES),
    Rule("slow changes", "drift", models.slow_changes, EVERY_THREE_MINUTES),
    Rule("mirror behind", "model", models.mirror_behind, EVERY_THREE_MINUTES),
    Rule("champion files", "model", registry.champion_files, EVERY_TWO_MINUTES),
    Rule("broken evidence", "model", registry.broken_evidence, EVERY_TWO_MINUTES),
    Rule("wrong files", "files", services.wrong_files),
    Rule("removed specs", "files", registry.removed_specs),
    Rule("object store", "services", services.object_store),
    Rule("warehouse rights", "services", services.warehouse_rights),
    Rule("free connections", "services", services.free_connections),
    Rule("reader rights", "services", services.reader_rights),
    Rule("wrong clock", "services", services.wrong_clock),
    Rule("disk space", "services", services.disk_space),
    Rule("dead channel", "services", channels.dead_channels),
)
