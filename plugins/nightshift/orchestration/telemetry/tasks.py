"""Task body of `telemetry`: one round; whatever a receiver does, the task succeeds."""

from __future__ import annotations

from airflow.sdk import get_current_context, task

from nightshift.orchestration.task_scope import ended_when_overdue
from nightshift.settings import load_settings
from nightshift.telemetry.export_round import export_new

DAG_ID = "telemetry"


@task
def send_new() -> list[str]:
    """Send what receivers have not accepted yet; return what became of each."""
    context = get_current_context()
    limit = context["task"].execution_timeout
    settings = load_settings()
    with ended_when_overdue(limit):
        results = export_new(settings)
    # A receiver that is away is no failed task: the next round sends the rest.
    lines = []
    for result in results:
        outcome = result.problem or "ok"
        lines.append(f"{result.receiver}: {result.n_sent} sent; {outcome}")
    return lines
