"""Rules about Airflow itself, evaluated where its API can be reached."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nightshift.incidents.context import describe_days
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.incidents.rules.runs import HORIZON

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext


def airflow_away(context: EvaluationContext) -> Findings:
    """Yield that Airflow's API does not answer, or that it has not read files."""
    if context.airflow is None:
        return
    from nightshift.errors import ServiceError

    try:
        errors = context.airflow.import_errors()
    except ServiceError as error:
        yield Fact(
            code="NS-SERVICE-001",
            severity="warning",
            health="degraded",
            subject_type="service",
            subject="airflow",
            what=error.what,
            consequence="No run begins; cron's rescue publishes before the deadline if it is set"
            " up.",
            command="nightshift up",
        )
        # It cannot say which files it has not read.
        yield from _unchecked(context, "airflow away")
        return
    for line in errors:
        path = line.partition(": ")[0]
        yield Fact(
            code="NS-SERVICE-012",
            severity="warning",
            health="degraded",
            subject_type="file",
            subject=path,
            what=f"Airflow cannot read {line}"[:300],
            consequence="The DAGs of that file do not run.",
            command="nightshift airflow dags list-import-errors",
        )


def lost_tasks(context: EvaluationContext) -> Findings:
    """Yield the DAGs whose tasks failed in Airflow although none of their tries has an error."""
    if context.airflow is None:
        return
    from nightshift.errors import ServiceError

    try:
        failed = context.airflow.failed_tasks(context.now - HORIZON)
    except ServiceError:
        # `airflow_away` reports that.
        yield from _unchecked(context, "lost tasks")
        return
    reported = _reported(context, failed)
    lost: dict[str, set[dt.date]] = defaultdict(set)
    ended: dict[str, list[dt.datetime]] = defaultdict(list)
    for task in failed:
        day = task.get("partition_key") or ""
        if _key(task) not in reported and len(day) == len("2024-01-01"):
            lost[task["dag_id"]].add(dt.date.fromisoformat(day))
            ended[task["dag_id"]].append(dt.datetime.fromisoformat(task["end_date"]))
    for dag_id, days in lost.items():
        ordered = tuple(sorted(days))
        yield Fact(
            code="NS-AIRFLOW-007",
            severity="warning",
            health="degraded",
            subject_type="run",
            subject=dag_id,
            what=f"Tasks of {dag_id} of {describe_days(ordered)} failed before their own code"
            " began.",
            consequence="Nothing runs them again by itself.",
            command=f"nightshift airflow dags clear {dag_id} --partition-key {ordered[-1]}"
            " --only-failed --yes",
            partitions=ordered,
            seen_until=max(ended[dag_id]) + HORIZON,
        )


def _key(task: dict[str, Any]) -> tuple[str, str, str]:
    """Return what names a task instance in Airflow and in ``ops.task_tries``."""
    return task["dag_id"], task["dag_run_id"], task["task_id"]


def _reported(
    context: EvaluationContext, failed: list[dict[str, Any]]
) -> set[tuple[str, str, str]]:
    """Return the keys of the failed tasks whose own code has reported an end.

    Args:
        context: The evaluation.
        failed: Task instances as Airflow describes them.
    """
    # By their keys: the table has the tries of years.
    keys = [_key(task) for task in failed]
    rows = context.conn.execute(
        """
        select distinct dag_id, dag_run_id, task_id from ops.task_tries
            join unnest(%s::text[], %s::text[], %s::text[]) as f (dag_id, dag_run_id, task_id)
            using (dag_id, dag_run_id, task_id)
        where outcome is not null
        """,
        [[key[part] for key in keys] for part in range(3)],
    )
    return set(rows.fetchall())


def paused_dags(context: EvaluationContext) -> Findings:
    """Yield the DAGs of nightly data that a person has paused."""
    if context.airflow is None or not context.nightly_datasets:
        return
    from nightshift.errors import ServiceError

    try:
        paused = context.airflow.paused_dags()
    except ServiceError:
        yield from _unchecked(context, "paused DAGs")
        return
    needed = {"ingest", "transform", "catch_up"}
    for model in context.specs:
        if f"predictions/{model}" in context.nightly_datasets:
            needed |= {f"score__{model}", f"rescue__{model}"}
    for dag_id in sorted(paused & needed):
        yield Fact(
            code="NS-INCIDENT-008",
            severity="warning",
            health="caution",
            subject_type="run",
            subject=dag_id,
            what=f"{dag_id} is paused.",
            consequence="Its runs do not begin, and events for it are lost while it is paused.",
            command=f"nightshift airflow dags unpause {dag_id}",
        )


def _unchecked(context: EvaluationContext, rule_name: str) -> Iterator[Unchecked]:
    """Yield the open facts of a rule about which an Airflow that is away says nothing.

    Args:
        context: The evaluation.
        rule_name: The rule.
    """
    for key in context.open_keys(rule_name):
        yield Unchecked(key)
