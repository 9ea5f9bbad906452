"""Rules about runs: tasks that failed for good, and runs that take every slot."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.incidents.context import deadline_of, describe_days, local_time
from nightshift.incidents.facts import Fact
from nightshift.incidents.rules.drops import open_refusals
from nightshift.incidents.runbook_commands import page_command
from nightshift.warehouse.control_tables.waiting_tasks import waiting_tasks
from nightshift.warehouse.ledger import lookback_of

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

HORIZON = dt.timedelta(days=7)
# Half of the active runs of a DAG (`orchestration.defaults.WAITING_RUNS`).
MANY_WAITING_RUNS = 8
# The look-back of a build lacks days that nobody delivers any more.
HOLE = "NS-AIRFLOW-009"
NO_FEATURES = "NS-SCORE-003"
# An object that a stage has written is gone, or is not what was written.
LOST_OBJECT = ("NS-LAKE-002", "NS-LAKE-004")
# The tasks that report that another task failed: that one has the cause.
REPORTERS = {"tell_failures", "announce_raw"}


@dataclass(frozen=True)
class FailedTask:
    """A task whose tries are used up, or that only a person can help.

    Attributes:
        dag_id: Its DAG.
        task_id: The task.
        day: Its partition.
        outcome: Error code, or the class of a foreign exception.
        ended_at: When its last try ended, UTC.
        started_at: When that try began, UTC.
    """

    dag_id: str
    task_id: str
    day: dt.date
    outcome: str
    ended_at: dt.datetime
    started_at: dt.datetime

    @property
    def code(self) -> str:
        """Return the error code; that of errors without one for a foreign exception."""
        return self.outcome if self.outcome.startswith("NS-") else "NS-CORE-000"

    @property
    def stage(self) -> str:
        """Return ``ingest``, ``transform``, ``score``, …."""
        return self.dag_id.partition("__")[0]

    @property
    def model(self) -> str:
        """Return the model of its DAG; empty for the DAGs of data."""
        return self.dag_id.partition("__")[2]


def failed_tasks(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the tasks that failed with no try left, one fact for each DAG and code."""
    groups: dict[tuple[str, str], list[FailedTask]] = defaultdict(list)
    for task in failed_for_good(context):
        groups[task.dag_id, task.code].append(task)
    for (dag_id, code), tasks in groups.items():
        if not _is_reported(context, code, tasks):
            yield _failed(context, dag_id, code, tasks)


def failed_for_good(context: EvaluationContext) -> list[FailedTask]:
    """Return the failed tasks whose work nobody has done since."""
    failed = [FailedTask(*row) for row in context.conn.execute(_FAILED, {"horizon": HORIZON})]
    unsettled = [task for task in failed if not is_done(context, task)]
    causes = {(task.dag_id, task.day) for task in unsettled if task.task_id not in REPORTERS}
    return [
        task
        for task in unsettled
        if task.task_id not in REPORTERS or (task.dag_id, task.day) not in causes
    ]


# Only the newest try of a task counts, over all runs of its partition: a clear, or another run, has
# made a newer one.
_FAILED = """
with newest as (
    select distinct on (dag_id, task_id, map_index, partition_date)
        dag_id, task_id, partition_date, outcome, ended_at, started_at, is_final
    from ops.task_tries
    where started_at > clock_timestamp() - %(horizon)s::interval
    order by dag_id, task_id, map_index, partition_date, started_at desc
)
select distinct on (dag_id, task_id, partition_date)
    dag_id, task_id, partition_date, outcome, ended_at, started_at
from newest where is_final
order by dag_id, task_id, partition_date, ended_at desc
"""


_LATER_RESULT = {
    "train": "select from ml.model_versions where model = %s and created_at > %s",
    "study": "select from ml.feature_reports where model = %s and made_at > %s",
}


def is_done(context: EvaluationContext, task: FailedTask) -> bool:
    """Return whether the partition of the task was published after it failed, by whatever way."""
    if task.stage in _LATER_RESULT:
        # A later training or study has done what this one could not.
        query = f"select exists ({_LATER_RESULT[task.stage]})"
        row = context.conn.execute(query.encode(), [task.model, task.ended_at]).fetchone()
        return row == (True,)
    datasets = _datasets_of(context, task)
    if not datasets:
        return False
    # A rerun with equal content leaves the pointer and the first time of publication alone.
    query = """
        select count(distinct l.dataset) from ops.loads l
        where l.dataset = any(%s) and l.partition_date = %s
            and l.state in ('published', 'duplicate')
            and greatest(l.started_at, l.published_at) > %s
    """
    row = context.conn.execute(query, [datasets, task.day, task.ended_at]).fetchone()
    return row == (len(datasets),)


def _datasets_of(context: EvaluationContext, task: FailedTask) -> list[str]:
    # A reference dataset has no partition on most days, so its load proves nothing.
    if task.task_id == "load_reference":
        return []
    if task.stage == "ingest" and task.task_id.startswith("load_"):
        return [f"raw/{task.task_id.removeprefix('load_')}"]
    if task.stage == "ingest":
        return [contract.dataset for contract in context.daily_contracts]
    if task.stage == "transform":
        return list(context.models_of_view)
    if task.stage in {"score", "rescue"}:
        return [f"predictions/{task.model}"]
    return [f"monitoring/{task.model}"] if task.stage == "monitor" else []


def _is_reported(context: EvaluationContext, code: str, tasks: Sequence[FailedTask]) -> bool:
    """Return whether the refused files of these loads are an incident already."""
    loads = [task for task in tasks if task.task_id.startswith("load_") and task.stage == "ingest"]
    if len(loads) < len(tasks):
        return False
    # Only those that are open: of a settled file nobody hears any more.
    refused = {(dataset, day) for dataset, of, day, _, _ in open_refusals(context) if of == code}
    return all((f"raw/{task.task_id.removeprefix('load_')}", task.day) in refused for task in loads)


def _failed(
    context: EvaluationContext, dag_id: str, code: str, tasks: Sequence[FailedTask]
) -> Fact:
    days = tuple(sorted({task.day for task in tasks}))
    first = tasks[0]
    datasets: set[str] = set()
    for task in tasks:
        datasets.update(_datasets_of(context, task))
    models = (first.model,) if first.model else ()
    _, touched, _ = context.touched(tuple(sorted(datasets)), models)
    deadline = deadline_of(context, touched, days[-1])
    names = sorted({task.task_id for task in tasks})
    is_foreign = not first.outcome.startswith("NS-")
    reason = f"{code} ({first.outcome})" if is_foreign else code
    values = {"dag": dag_id, "day": str(days[-1]), "model": first.model}
    command = page_command(code, values)
    what = f"{', '.join(names[:4])} of {dag_id} failed for {describe_days(days)} with {reason};"
    what += " no try is left."
    if code == HOLE:
        holes = _holes(context, days[-1])
        command = _fill_holes(holes, days[-1])
        what += _describe_holes(holes)
    elif code == NO_FEATURES and not _has_begun(context, "transform", days[-1]):
        # A run that never began cannot be cleared.
        command = _load_again(days[-1], days[-1])
    elif first.stage == "train" and code in LOST_OBJECT:
        # The task before makes the training set again, which is lost or damaged.
        command = f"nightshift airflow dags clear {dag_id} --partition-key {days[-1]} --yes"
    # The night waits for these; what comes after the publication can wait for the morning.
    is_urgent = first.stage in {"ingest", "transform", "score", "rescue"}
    return Fact(
        code=code,
        severity="warning" if is_urgent else "info",
        health="degraded" if is_urgent else "caution",
        subject_type="run",
        subject=dag_id,
        what=what,
        consequence=_consequence(first, deadline),
        command=command,
        key=f"{dag_id} {code}",
        partitions=days,
        owner=context.owner_of(first.model),
        deadline_at=deadline,
        tables=tuple(sorted(datasets)) if is_urgent else (),
        models=models,
        size=len(tasks),
        seen_until=max(task.started_at for task in tasks) + HORIZON,
        facts={"tasks": names, "last_try_ended_at": first.ended_at.isoformat()},
    )


def _holes(context: EvaluationContext, day: dt.date) -> dict[str, list[dt.date]]:
    """Return the days that the look-back of a day lacks, by dataset."""
    holes: dict[str, list[dt.date]] = {}
    for contract in context.daily_contracts:
        days = lookback_of(contract, Partition(day))
        rows = context.conn.execute(
            "select d from unnest(%s::date[]) d where not exists (select from ops.published p"
            " where p.dataset = %s and p.partition_date = d) order by d",
            [days, contract.dataset],
        )
        missing = [hole for (hole,) in rows]
        if missing:
            holes[contract.dataset] = missing
    return holes


def _describe_holes(holes: dict[str, list[dt.date]]) -> str:
    """Return what is missing, and who has to bring it."""
    if not holes:
        return ""
    dataset, days = next(iter(holes.items()))
    more = f" and of {len(holes) - 1} more" if len(holes) > 1 else ""
    return f" {dataset}{more} lacks {describe_days(tuple(days))}: upstream has to deliver it first."


def _fill_holes(holes: dict[str, list[dt.date]], day: dt.date) -> str:
    """Return the command that loads the missing days of a look-back; then that of the rerun."""
    if not holes:
        return page_command(HOLE, {"dag": "transform", "day": str(day)})
    # One command for all datasets: a day that is loaded already is not published again.
    first = min(days[0] for days in holes.values())
    last = max(days[-1] for days in holes.values())
    return _load_again(first, last)


def _load_again(first: dt.date, last: dt.date) -> str:
    """Return the command that ingests days through Airflow, whose events start the rest."""
    return (
        f"nightshift airflow backfill create --dag-id ingest --from-date {first}"
        f" --to-date {last} --max-active-runs 1"
    )


def _has_begun(context: EvaluationContext, dag_id: str, day: dt.date) -> bool:
    """Return whether a task of a DAG has ever begun for a day."""
    query = "select exists (select from ops.task_tries where dag_id = %s and partition_date = %s)"
    return context.conn.execute(query, [dag_id, day]).fetchone() == (True,)


def _consequence(task: FailedTask, deadline: dt.datetime | None) -> str:
    """Return what happens to the partition if nobody acts."""
    at = f"At {local_time(deadline)}" if deadline else "Until somebody acts"
    if task.stage in {"ingest", "transform"}:
        return f"{at} readers get the last scores or the rule of {task.day}, not the champion's."
    if task.stage in {"score", "rescue"}:
        return f"{at} readers have what the rescue could publish of {task.day}, else older scores."
    if task.stage == "train":
        return f"The champion of {task.model} serves on."
    if task.stage == "study":
        return f"{task.model} has no feature report of this month; it is tried again at noon."
    if task.stage == "monitor":
        return f"Drift and loss of {task.model} on {task.day} are unknown."
    return "Nothing that is published changes."


def waiting_runs(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the DAGs of which runs that wait for upstream take many of the slots."""
    waiting = waiting_tasks(context.conn)
    n_runs = Counter(task.dag_id for task in waiting)
    for dag_id, n in n_runs.items():
        if n < MANY_WAITING_RUNS:
            continue
        days = tuple(sorted(task.day for task in waiting if task.dag_id == dag_id))
        yield Fact(
            code="NS-AIRFLOW-012",
            severity="warning",
            health="caution",
            subject_type="run",
            subject=dag_id,
            what=f"{n} runs of {dag_id} wait for upstream: {describe_days(days)}.",
            consequence="When sixteen wait, tonight's run stays queued.",
            command=f"nightshift end-run {dag_id} {days[0]}",
            partitions=days,
            size=n,
        )
