"""The list of all rules, in the order in which they are evaluated."""

from __future__ import annotations

import datetime as dt

from nightshift.incidents.facts import Rule
from nightshift.incidents.rules import (
    channels,
    drops,
    files,
    locks,
    models,
    orchestrator,
    pointers,
    publication,
    registry,
    rows,
    runs,
    services,
    store,
)

# What reads rows or sends requests; a fault is still notified within five minutes.
EVERY_TWO_MINUTES = dt.timedelta(minutes=2)
EVERY_THREE_MINUTES = dt.timedelta(minutes=3)

# What everything stands on comes before what fails of it: the notice of a cause comes first.
RULES: tuple[Rule, ...] = (
    Rule("held locks", "services", locks.held_locks),
    Rule("missing views", "publication", publication.missing_views),
    Rule("missing tables", "rows", rows.missing_tables),
    Rule("warehouse rights", "services", services.warehouse_rights),
    Rule("free connections", "services", services.free_connections),
    Rule("reader rights", "services", services.reader_rights),
    Rule("wrong clock", "services", services.wrong_clock),
    Rule("disk space", "services", services.disk_space),
    Rule("object store", "services", store.object_store),
    Rule("wrong files", "files", files.wrong_files),
    Rule("wrong suites", "files", files.wrong_suites),
    Rule("broken SQL", "files", files.broken_sql),
    Rule("removed specs", "files", files.removed_specs),
    Rule("champion files", "model", registry.champion_files, EVERY_TWO_MINUTES),
    Rule("airflow away", "services", orchestrator.airflow_away, needs_airflow=True),
    Rule("missing DAGs", "runs", files.missing_dags, EVERY_TWO_MINUTES, needs_airflow=True),
    Rule("paused DAGs", "runs", orchestrator.paused_dags, EVERY_TWO_MINUTES, needs_airflow=True),
    Rule("lost rows", "rows", rows.lost_rows),
    Rule("lost pointers", "rows", pointers.lost_pointers),
    Rule("lost champions", "model", pointers.lost_champions),
    Rule("late predictions", "publication", publication.late_predictions),
    Rule("stranded partition", "publication", publication.stranded_partitions),
    Rule("fallback in use", "scores", rows.fallback_in_use),
    Rule("rescued without gate", "scores", rows.rescued_without_gate),
    Rule("missing drop", "inputs", publication.missing_drops),
    Rule("refused drops", "inputs", drops.refused_drops),
    Rule("rows in quarantine", "inputs", drops.rows_in_quarantine, EVERY_THREE_MINUTES),
    Rule("late drops", "inputs", drops.late_drops, EVERY_THREE_MINUTES),
    Rule("failed tasks", "runs", runs.failed_tasks),
    Rule("waiting runs", "runs", runs.waiting_runs),
    Rule("lost tasks", "runs", orchestrator.lost_tasks, EVERY_TWO_MINUTES, needs_airflow=True),
    Rule("open requests", "model", models.open_requests, EVERY_THREE_MINUTES),
    Rule("old champion", "model", models.old_champions, EVERY_THREE_MINUTES),
    Rule("refused challengers", "model", models.refused_challengers, EVERY_THREE_MINUTES),
    Rule("returned canary", "model", models.returned_canaries, EVERY_THREE_MINUTES),
    Rule("blocked evidence", "drift", models.blocked_evidence, EVERY_THREE_MINUTES),
    Rule("slow changes", "drift", models.slow_changes, EVERY_THREE_MINUTES),
    Rule("mirror behind", "model", models.mirror_behind, EVERY_THREE_MINUTES),
    Rule("broken evidence", "model", registry.broken_evidence, EVERY_TWO_MINUTES),
    Rule("dead channel", "services", channels.dead_channels),
)
