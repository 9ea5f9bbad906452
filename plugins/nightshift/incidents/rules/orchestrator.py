"""Rules about Airflow itself, evaluated where its API can be reached."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError, ServiceError
from nightshift.incidents.context import describe_days, local_time
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.incidents.rules.files import restore_command
from nightshift.incidents.rules.runs import HORIZON, FailedTask, failed_for_good, is_done
from nightshift.incidents.runbook_commands import page_command

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

# A busy machine delays a heartbeat of five seconds by half a minute; three minutes are an end.
SILENT_AFTER = dt.timedelta(minutes=3)
# Parts without which no run goes on; a silent triggerer, which no task of ours needs, is no fault.
NEEDED_PARTS = {
    "scheduler": "No task begins.",
    "dag_processor": "Changed DAG files are not read; after a while their runs end.",
}
LOST, NO_KEY = "NS-AIRFLOW-007", "NS-AIRFLOW-002"
# Outcomes of newest tries that leave nothing to report: the task was done, or a person ended it.
ENDED_WELL = ("success", "skipped", "waiting")


class RunOverdueError(NightshiftError):
    """A run ended by its time limit; Airflow skips what has not ended, so no task has failed."""

    code = "NS-AIRFLOW-013"


def airflow_away(context: EvaluationContext) -> Findings:
    """Yield that Airflow's API does not answer, that a part is silent, or that a file is unread."""
    if context.airflow is None:
        return
    try:
        errors = context.airflow.import_errors()
        heartbeats = context.airflow.heartbeats()
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
    yield from _silent_parts(heartbeats)
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
            command=_dag_file_command(context, path),
        )


def _dag_file_command(context: EvaluationContext, path: str) -> str:
    """Return the command that brings back a DAG file, else the one that shows what is wrong."""
    folder = context.settings.dags_dir
    file = path.removeprefix(f"{folder}/")
    command = restore_command(folder, file)
    # Airflow may read another copy of the folder.
    is_ours = (folder / file).is_file() and command.startswith("git ")
    return command if is_ours else "nightshift airflow dags list-import-errors"


def _silent_parts(heartbeats: dict[str, dt.datetime]) -> Iterator[Fact]:
    """Yield the parts of Airflow whose process has ended while its API answers on."""
    # Heartbeats carry the clock of this machine, on which Airflow runs, and not the warehouse's.
    oldest = dt.datetime.now(dt.UTC) - SILENT_AFTER
    for part, consequence in NEEDED_PARTS.items():
        heard_at = heartbeats.get(part)
        # One that was never started is an installation that is not finished.
        if heard_at is None or heard_at > oldest:
            continue
        yield Fact(
            code="NS-SERVICE-001",
            severity="warning",
            health="degraded",
            subject_type="service",
            subject=f"airflow {part}",
            what=f"Airflow's {part} was last heard of at {local_time(heard_at)}.",
            consequence=f"{consequence} Cron's rescue publishes before the deadline if it is set"
            " up.",
            command="nightshift up",
        )


def lost_tasks(context: EvaluationContext) -> Findings:
    """Yield the DAGs whose tasks failed in Airflow without an error that their own code reported.

    These are tries that died before their code began or in its middle, tasks that a signal ended,
    runs that ended by their time limit, and runs whose key is no partition.
    """
    if context.airflow is None:
        return
    try:
        failed = context.airflow.failed_tasks(context.now - HORIZON)
    except ServiceError:
        # `airflow_away` reports that.
        yield from _unchecked(context, "lost tasks")
        return
    outcomes = _newest_outcomes(context, failed)
    reported = {(task.dag_id, task.day) for task in failed_for_good(context) if task.code == LOST}
    # One incident for a DAG and a code, however many tasks and days.
    groups: dict[tuple[str, str], list[FailedTask]] = defaultdict(list)
    for task in failed:
        outcome, is_final = outcomes.get(_key(task), (None, False))
        # The rule of failed tasks has the final ones.
        if is_final or outcome in ENDED_WELL or _was_waiting(context, task):
            continue
        # Without a partition there is nothing to make, only a person to be told.
        problem = _key_problem(task)
        if problem:
            if not _dag_went_on(context, task):
                yield _wrong_start(task, problem)
            continue
        # By whatever way the partition was published since, nothing is left to do.
        lost = _failed_task(task, outcome)
        # The task that reports lost tries may have begun; its failure is an incident already.
        is_reported = lost.code == LOST and (lost.dag_id, lost.day) in reported
        if not is_reported and not is_done(context, lost):
            groups[lost.dag_id, lost.code].append(lost)
    for (dag_id, code), tasks in groups.items():
        yield _lost(context, dag_id, code, tasks)


def _key(task: dict[str, Any]) -> tuple[str, str, str, int]:
    """Return what names a task instance in Airflow and in ``ops.task_tries``."""
    return task["dag_id"], task["dag_run_id"], task["task_id"], task.get("map_index", -1)


def _newest_outcomes(
    context: EvaluationContext, failed: list[dict[str, Any]]
) -> dict[tuple[str, str, str, int], tuple[str | None, bool]]:
    """Return how the newest recorded try of each task ended, and whether it was the last one.

    Args:
        context: The evaluation.
        failed: Task instances as Airflow describes them.
    """
    # By their keys: the table has the tries of years. A clear makes newer ones, so the newest try
    # of a task counts.
    keys = [_key(task) for task in failed]
    rows = context.conn.execute(
        """
        select distinct on (dag_id, dag_run_id, task_id, map_index)
            dag_id,
            dag_run_id,
            task_id,
            map_index,
            outcome,
            is_final
        from ops.task_tries
        join unnest(%s::text[], %s::text[], %s::text[], %s::int[])
            as f (dag_id, dag_run_id, task_id, map_index)
            using (dag_id, dag_run_id, task_id, map_index)
        order by
            dag_id,
            dag_run_id,
            task_id,
            map_index,
            attempt desc
        """,
        [[key[part] for key in keys] for part in range(4)],
    )
    outcomes: dict[tuple[str, str, str, int], tuple[str | None, bool]] = {}
    for dag_id, run_id, task_id, map_index, outcome, is_final in rows:
        outcomes[dag_id, run_id, task_id, map_index] = (outcome, is_final)
    return outcomes


def _was_waiting(context: EvaluationContext, task: dict[str, Any]) -> bool:
    """Return whether a run without a failed task waited for upstream until it ended.

    It has recorded a try that waited. Mostly a person has ended it (``nightshift end-run``); what
    upstream owes is the incident of another rule.
    """
    if task["task_id"]:
        return False
    query = """
        select exists (
            select from ops.task_tries
            where dag_id = %s and dag_run_id = %s and outcome = 'waiting')
    """
    row = context.conn.execute(query, [task["dag_id"], task["dag_run_id"]]).fetchone()
    return row == (True,)


def _key_problem(task: dict[str, Any]) -> str:
    """Return the code of what is wrong with the key of a task's run; empty for a good one.

    Such a task has recorded no try: its own code has refused the key before anything else.
    """
    key = task.get("partition_key")
    if not key:
        return NO_KEY
    try:
        Partition.parse(key)
    except NightshiftError as error:
        return error.code
    return ""


def _dag_went_on(context: EvaluationContext, task: dict[str, Any]) -> bool:
    """Return whether a later run of the DAG worked: then the person has started it rightly.

    Args:
        context: The evaluation.
        task: A failed task of the wrong start, as Airflow describes it.
    """
    query = """
        select exists (
            select from ops.task_tries
            where dag_id = %s and outcome = 'success' and started_at > %s)
    """
    row = context.conn.execute(query, [task["dag_id"], _ended_at(task)]).fetchone()
    return row == (True,)


def _ended_at(task: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(task["end_date"])


def _wrong_start(task: dict[str, Any], code: str) -> Fact:
    """Return the fact about a run that a person has started with a key that is no partition.

    Args:
        task: One of its failed tasks, as Airflow describes it.
        code: What is wrong with the key.
    """
    dag_id, key = task["dag_id"], task.get("partition_key")
    return Fact(
        code=code,
        severity="info",
        health="caution",
        subject_type="run",
        subject=dag_id,
        what=f"A run of {dag_id} failed: its partition key is {key or 'missing'!s:.40}.",
        consequence="It did nothing; the day that somebody meant is not made by it.",
        command="nightshift airflow backfill create --dag-id ingest --from-date <day>"
        " --to-date <day> --max-active-runs 1",
        key=f"{dag_id} {code}",
        size=1,
        seen_until=_ended_at(task) + HORIZON,
    )


def _failed_task(task: dict[str, Any], outcome: str | None) -> FailedTask:
    """Return a task that Airflow calls failed, with the outcome of its newest try.

    A try without an outcome died before its own code began, or in its middle.

    Args:
        task: As Airflow describes it.
        outcome: What its own code has reported; None if it has reported nothing.
    """
    ended_at = _ended_at(task)
    day = Partition.parse(task["partition_key"]).day
    code = outcome or (LOST if task["task_id"] else RunOverdueError.code)
    # Its begin is not known here; nothing was published between it and its end.
    return FailedTask(task["dag_id"], task["task_id"], day, code, ended_at, ended_at)


def _lost(context: EvaluationContext, dag_id: str, code: str, tasks: list[FailedTask]) -> Fact:
    """Return the fact about the tasks of a DAG that ended without an error of their own.

    Args:
        context: The evaluation.
        dag_id: The DAG.
        code: Of their newest try.
        tasks: At least one.
    """
    days = tuple(sorted({task.day for task in tasks}))
    names = sorted({task.task_id for task in tasks} - {""})
    what = f"Tasks of {dag_id} of {describe_days(days)} ended with {code}: {', '.join(names[:4])}."
    if code == LOST:
        what = (
            f"Tasks of {dag_id} of {describe_days(days)} failed before their own code began or in"
            f" its middle: {', '.join(names[:4])}."
        )
    elif code == RunOverdueError.code:
        what = f"The run of {dag_id} of {describe_days(days)} ended by its time limit."
    model = tasks[0].model
    return Fact(
        code=code,
        severity="warning",
        health="degraded",
        subject_type="run",
        subject=dag_id,
        what=what,
        consequence="Nothing runs them again by itself.",
        command=page_command(code, {"dag": dag_id, "day": str(days[-1]), "model": model}),
        key=dag_id if code == LOST else f"{dag_id} {code}",
        partitions=days,
        owner=context.owner_of(model),
        models=(model,) if model in context.specs else (),
        seen_until=max(task.ended_at for task in tasks) + HORIZON,
        facts={"tasks": names},
    )


def paused_dags(context: EvaluationContext) -> Findings:
    """Yield the DAGs of nightly data that a person has paused, and the pools without a slot."""
    if context.airflow is None or not context.nightly_datasets:
        return
    try:
        paused = context.airflow.paused_dags()
        pools = context.airflow.pools()
    except ServiceError:
        yield from _unchecked(context, "paused DAGs")
        return
    # Readers wait for the first ones; what learns and watches can wait for the morning.
    needed = {"ingest", "transform", "catch_up"}
    useful = set()
    for model in context.specs:
        if f"predictions/{model}" in context.nightly_datasets:
            needed |= {f"score__{model}", f"rescue__{model}"}
            useful |= {f"monitor__{model}", f"train__{model}"}
    for dag_id in sorted(paused & (needed | useful)):
        yield Fact(
            code="NS-INCIDENT-008",
            severity="warning" if dag_id in needed else "info",
            health="caution",
            subject_type="run",
            subject=dag_id,
            what=f"{dag_id} is paused.",
            consequence="Its runs do not begin, and events for it are lost while it is paused.",
            command=f"nightshift airflow dags unpause {dag_id}",
        )
    # A pool that was deleted starts no task either, but Airflow then logs it each time.
    for pool in pools:
        # Airflow takes -1 for a pool without a limit. A full pool is ordinary: its tasks end.
        if pool["slots"] == 0:
            yield _closed_pool(pool["name"])


def _closed_pool(name: str) -> Fact:
    """Return the fact about a pool that begins no task."""
    # One slot is slow and safe; how many there should be, the deployment knows.
    return Fact(
        code="NS-INCIDENT-010",
        severity="warning",
        health="caution",
        subject_type="service",
        subject=f"airflow pool {name}",
        what=f"The pool {name} of Airflow has no slot.",
        consequence="No task of that pool begins; its runs wait until they end by their limit.",
        command=f'nightshift airflow pools set {name} 1 "opened by on-call"',
        key=f"pool {name}",
    )


def _unchecked(context: EvaluationContext, rule_name: str) -> Iterator[Unchecked]:
    """Yield the open facts of a rule about which an Airflow that is away says nothing.

    Args:
        context: The evaluation.
        rule_name: The rule.
    """
    for key in context.open_keys(rule_name):
        yield Unchecked(key)
