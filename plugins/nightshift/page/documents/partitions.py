"""The pages of partitions: a model's calendar, and one partition with its steps in time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.page.critical_path import critical_tasks
from nightshift.page.documents.models import model_facts, model_names
from nightshift.page.documents.requests import MissingPageError
from nightshift.warehouse.analysts.page_reader import CAUSES_FUNCTION

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot, Row

CALENDAR_DAYS = 371
"""Fifty-three weeks."""
MAX_STEPS = 80

_CALENDAR = """
select * from ops.model_calendar
where model = %(model)s and partition_date > (
    select max(newest) from ops.model_progress where model = %(model)s
) - %(days)s::integer
order by partition_date
"""
_OF_DAY = """
select m.*, f.owner from ops.model_partitions m join ops.model_facts f using (model)
where m.model = any(%(models)s) and m.partition_date = %(day)s
order by m.is_fallback desc, m.is_late desc, m.published_at desc, m.model
"""
_STEPS = """
select step_type, step, dag_id, run_id, attempt, started_at, ended_at, outcome
from ops.partition_steps
where partition_date = %(day)s and (
    step = any(%(datasets)s) or starts_with(step, 'raw/') or starts_with(step, %(scoring)s)
    or starts_with(step, 'ingest.') or starts_with(step, 'transform.')
)
order by started_at, step, attempt
"""


_LEVELS = """
select * from ops.published_levels
where model = %(model)s and partition_date = %(day)s
order by model_version
"""
_CAUSES = "select * from ops.night_causes(%(model)s, %(day)s)"


@dataclass(frozen=True)
class _SucceededTask:
    """A try that succeeded, with what the critical path needs."""

    row: dict[str, Any]

    @property
    def run_key(self) -> tuple[str, str]:
        return (self.row["dag_id"], self.row["run_id"])

    @property
    def started_at(self) -> dt.datetime:
        started_at: dt.datetime = self.row["started_at"]
        return started_at

    @property
    def ended_at(self) -> dt.datetime:
        ended_at: dt.datetime = self.row["ended_at"]
        return ended_at


def calendar_document(snapshot: PageSnapshot, model: str | None) -> dict[str, Any]:
    """Return a model's days with their status in one word, and how often each occurs.

    Args:
        snapshot: The warehouse.
        model: Its name; None takes the first one.

    Raises:
        MissingPageError: There is no such model.
    """
    names = model_names(snapshot)
    chosen = model or (names[0] if names else None)
    if chosen is None:
        return {"models": names, "model": None, "days": [], "counts": {}}
    model_facts(snapshot, chosen)
    days = snapshot.rows(_CALENDAR, {"model": chosen, "days": CALENDAR_DAYS})
    counts: dict[str, int] = {}
    for row in days:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return {"models": names, "model": chosen, "days": days, "counts": counts}


def partition_document(snapshot: PageSnapshot, day: dt.date, model: str | None) -> dict[str, Any]:
    """Return what became of a day: every model's publication, and one model's steps.

    Args:
        snapshot: The warehouse.
        day: The partition.
        model: Whose steps are shown; None takes the model that was published last.

    Raises:
        MissingPageError: There is no such model, or no model at all.
    """
    names = model_names(snapshot)
    publications = snapshot.rows(_OF_DAY, {"models": names, "day": day})
    if model is None:
        model = _last_published(publications) or next(iter(names), "")
    if model not in names:
        raise MissingPageError(f"There is no model {model!r}.", todo="Open the page Models.")
    facts = model_facts(snapshot, model)
    scoring = f"score__{model}."
    values = {
        "day": day,
        "datasets": [f"features/{facts['feature_view']}", f"predictions/{model}"],
        "scoring": scoring,
    }
    steps = snapshot.rows(_STEPS, values)
    # Loads stand in for tasks where a command, not Airflow, made the partition.
    tasks = [row for row in steps if row["step_type"] == "task"]
    shown = tasks or steps
    critical = _critical_steps(tasks)
    # Neither stands in older warehouses; the page then names what is missing.
    key = {"model": model, "day": day}
    has_levels = snapshot.has("ops.published_levels")
    has_causes = snapshot.has_function(CAUSES_FUNCTION)
    for row in shown:
        row["is_critical"] = any(row is step for step in critical)
    return {
        "day": day,
        "model": model,
        "models": names,
        "publications": publications,
        "deadline_at": _deadline(publications, model),
        "steps": shown[:MAX_STEPS],
        "n_steps": len(shown),
        "has_tasks": bool(tasks),
        "path": _path(critical),
        "levels": snapshot.rows(_LEVELS, key) if has_levels else [],
        "causes": snapshot.rows(_CAUSES, key) if has_causes else [],
    }


def _last_published(publications: Sequence[Row]) -> str | None:
    newest = max(publications, key=lambda row: row["published_at"], default=None)
    return newest["model"] if newest else None


def _critical_steps(tasks: Sequence[Row]) -> list[Row]:
    """Return the tries that the predictions waited for, in order."""
    # A try that failed held nobody up: the try that succeeded did.
    ended = [row for row in tasks if row["ended_at"] and row["outcome"] == "success"]
    # What a person cleared and ran again later, no publication waited for.
    publications = [row["ended_at"] for row in ended if row["step"].endswith(".publish")]
    if publications:
        last = max(publications)
        ended = [row for row in ended if row["ended_at"] <= last]
    return [task.row for task in critical_tasks([_SucceededTask(row) for row in ended])]


def _path(critical: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the critical path with the seconds that each step waited and worked."""
    path = []
    previous_end: dt.datetime | None = None
    for row in critical:
        # The first step of a partition waited for nothing that we know of.
        start = row["started_at"]
        waited = (start - previous_end).total_seconds() if previous_end else 0.0
        worked = (row["ended_at"] - start).total_seconds()
        path.append({"step": row["step"], "waited_seconds": waited, "worked_seconds": worked})
        previous_end = row["ended_at"]
    return path


def _deadline(publications: Sequence[Row], model: str) -> dt.datetime | None:
    for row in publications:
        if row["model"] == model:
            deadline: dt.datetime = row["deadline_at"]
            return deadline
    return None
