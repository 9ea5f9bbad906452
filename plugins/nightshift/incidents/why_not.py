"""Explain one partition of one model: why it is not published, and the one command that helps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.incidents.context import local_time
from nightshift.incidents.runbook_commands import page_command, page_of
from nightshift.scoring.degraded import FINAL_STEPS
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.ledger import lookback_of

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.incidents.context import EvaluationContext

# A task that has shown no sign of life for so long has most likely died.
SILENT = dt.timedelta(hours=3)
MAX_SHOWN = 3


@dataclass
class Explanation:
    """Why a partition is as it is.

    Attributes:
        model: The model.
        partition: The partition.
        is_published: Whether readers have it.
        sentences: The paragraph.
        code: Error code of the cause; empty without one.
        command: The one command; empty if there is nothing to do.
        is_due: Whether anybody promised it: not of a day before the history.
    """

    model: str
    partition: Partition
    is_published: bool = False
    sentences: list[str] = field(default_factory=list)
    code: str = ""
    command: str = ""
    is_due: bool = True

    def add(self, sentence: str, *, code: str = "", command: str = "") -> None:
        """Add a sentence; the first code and the first command stand."""
        self.sentences.append(sentence)
        self.code = self.code or code
        self.command = self.command or command

    @property
    def paragraph(self) -> str:
        """Return all sentences."""
        return " ".join(self.sentences)

    def document(self) -> dict[str, object]:
        """Return the explanation as plain JSON."""
        return {
            "model": self.model,
            "partition": self.partition.key,
            "is_published": self.is_published,
            "explanation": self.paragraph,
            "code": self.code,
            "runbook": page_of(self.code) if self.code else "",
            "command": self.command,
        }


def explain(context: EvaluationContext, spec: ModelSpec, partition: Partition) -> Explanation:
    """Return why a partition of a model is not published, or how it was."""
    explanation = Explanation(spec.name, partition)
    steps: tuple[Callable[[EvaluationContext, ModelSpec, Explanation], bool], ...] = (
        _explain_published,
        _explain_calendar,
        _explain_scoring,
        _explain_features,
        _explain_raw,
    )
    # From the readers back to upstream: the first stage that lacks something has the cause.
    for step in steps:
        if step(context, spec, explanation):
            break
    if explanation.is_due and not explanation.is_published:
        _add_deadline(context, spec, explanation)
    return explanation


def _explain_published(
    context: EvaluationContext, spec: ModelSpec, explanation: Explanation
) -> bool:
    day = explanation.partition.day
    row = context.conn.execute(
        """
        select p.load_id, p.published_at, l.n_rows from ops.published p
        join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = %s
        """,
        [spec.predictions_dataset, day],
    ).fetchone()
    if row is None:
        explanation.add(f"{spec.name} of {day} is not published.")
        return _explain_lost_pointer(context, spec, explanation)
    load_id, published_at, n_recorded = row
    # Counted rows: what the ledger says was published may have been deleted since.
    query = model_query(
        spec,
        """
        select score_source, min(score_source_reason), count(*) from {predictions}
        where partition_date = %s and load_id = %s group by 1 order by 3 desc
        """,
    )
    sources = context.conn.execute(query, [day, load_id]).fetchall()
    explanation.is_published = True
    names = ", ".join(f"{n} by {source}" for source, _, n in sources) or "0"
    explanation.add(
        f"{spec.name} of {day} is published since {local_time(published_at)}: {names} row(s)."
    )
    n_rows = sum(n for _, _, n in sources)
    if n_rows != n_recorded:
        explanation.add(
            f"But {n_recorded} rows were published: rows vanished or were copied.",
            code="NS-WRITE-007",
            command=f"nightshift score {spec.name} {day}",
        )
    for source, reason, _ in sources:
        if source not in FINAL_STEPS:
            explanation.add(
                f"The champion has not scored it: {reason or 'no reason was recorded'}",
                code="NS-SCORE-007",
                command=f"nightshift score {spec.name} {day}",
            )
            break
    return True


def _explain_lost_pointer(
    context: EvaluationContext, spec: ModelSpec, explanation: Explanation
) -> bool:
    """Say that a partition was published and that no pointer names it any more."""
    day = explanation.partition.day
    query = """
        select max(published_at) from ops.loads
        where dataset = %s and partition_date = %s and state = 'published'
    """
    row = context.conn.execute(query, [spec.predictions_dataset, day]).fetchone()
    published_at = row[0] if row else None
    if published_at is None:
        return False
    explanation.add(
        f"It was, at {local_time(published_at)}: its row of ops.published is gone.",
        code="NS-WRITE-007",
        command=f"nightshift score {spec.name} {day}",
    )
    return True


def _explain_calendar(
    context: EvaluationContext, spec: ModelSpec, explanation: Explanation
) -> bool:
    partition = explanation.partition
    if context.at < partition.cutoff:
        explanation.add(
            f"Its day is not over: its data is complete at {local_time(partition.cutoff)}, then"
            " ingest begins."
        )
        return True
    starts = [contract.history_start for contract in context.daily_contracts]
    if starts and partition.day < min(starts):
        explanation.add(
            f"It is before the history, which begins on {min(starts)}.", code="NS-TIME-003"
        )
        explanation.is_due = False
        return True
    if spec.name in context.spec_files.broken:
        error = context.spec_files.broken[spec.name]
        explanation.add(
            f"The spec cannot be used: {error.what}", code=error.code, command="nightshift migrate"
        )
        return True
    return False


def _explain_scoring(context: EvaluationContext, spec: ModelSpec, explanation: Explanation) -> bool:
    day = explanation.partition.day
    if not _has(context, spec.features_dataset, day):
        return False
    explanation.add(f"{spec.features_dataset} of the day is published.")
    # A person may score it by hand, which leaves no try.
    dag_id = f"score__{spec.name}"
    if _explain_run(context, dag_id, explanation):
        return True
    explanation.add(
        "No scoring of it has begun: the event was lost, the DAG is paused, or nobody scored it.",
        code="NS-INCIDENT-003",
        command=f"nightshift score {spec.name} {day}",
    )
    return True


def _explain_features(
    context: EvaluationContext, spec: ModelSpec, explanation: Explanation
) -> bool:
    day = explanation.partition.day
    missing = [contract for contract in context.daily_contracts if _lacks(context, contract, day)]
    if missing:
        return False
    explanation.add(f"All raw data of the day is published, {spec.features_dataset} is not.")
    # With a hole no build can begin, whatever its tries say.
    holes: list[str] = []
    for contract in context.daily_contracts:
        days = _holes(context, contract, explanation.partition)
        holes += [f"{contract.dataset} {hole}" for hole in days]
    if holes:
        shown = ", ".join(holes[:MAX_SHOWN])
        hole = holes[-1].rpartition(" ")[2]
        explanation.add(
            f"Its look-back has {len(holes)} hole(s): {shown}.",
            code="NS-TRANSFORM-001",
            command="nightshift airflow backfill create --dag-id ingest"
            f" --from-date {hole} --to-date {hole} --max-active-runs 1",
        )
        return True
    if not _explain_run(context, "transform", explanation):
        explanation.add(
            "No build of it has begun: the event was lost, or transform is paused.",
            code="NS-INCIDENT-003",
            command=f"nightshift airflow dags clear ingest --partition-key {day} --yes",
        )
    return True


def _explain_raw(
    context: EvaluationContext,
    spec: ModelSpec,  # noqa: ARG001 - every step has the same arguments
    explanation: Explanation,
) -> bool:
    day = explanation.partition.day
    for contract in context.daily_contracts:
        if not _lacks(context, contract, day):
            continue
        explanation.add(f"{contract.dataset} of the day is not published.")
        if _explain_refused(context, contract, explanation):
            continue
        if _explain_run(context, "ingest", explanation, f"load_{contract.name}"):
            continue
        # Nothing was refused and nothing failed: upstream may still have time.
        wait = dt.timedelta(minutes=contract.maximum_wait_minutes)
        until = explanation.partition.cutoff + wait
        if until > context.at:
            explanation.add(f"Upstream has until {local_time(until)}.")
            continue
        explanation.add(
            "No load of it has reported anything: nothing has landed, or ingest did not run.",
            code="NS-INGEST-001",
            command=f"nightshift deliver {contract.name} {day} <file>",
        )
    return True


def _explain_refused(
    context: EvaluationContext, contract: DatasetContract, explanation: Explanation
) -> bool:
    row = context.conn.execute(
        """
        select code, source_uri from quarantine.refused_drops
        where dataset = %s and partition_date = %s order by quarantined_at desc limit 1
        """,
        [contract.dataset, explanation.partition.day],
    ).fetchone()
    if row is None:
        return False
    code, uri = row
    values = {"dataset": contract.name, "day": explanation.partition.key, "dag": "ingest"}
    explanation.add(
        f"Its file {uri} was refused with {code}.", code=code, command=page_command(code, values)
    )
    return True


def _explain_run(
    context: EvaluationContext, dag_id: str, explanation: Explanation, task_id: str = ""
) -> bool:
    """Say what the newest tries of a DAG, or of one of its tasks, did; False without any try."""
    rows = context.conn.execute(
        """
        select distinct on (task_id, map_index)
            task_id, outcome, is_final, started_at, ended_at, attempt
        from ops.task_tries
        where dag_id = %s and partition_date = %s and (%s = '' or task_id = %s)
        order by task_id, map_index, started_at desc
        """,
        [dag_id, explanation.partition.day, task_id, task_id],
    ).fetchall()
    if not rows:
        return False
    values = {
        "dag": dag_id,
        "day": explanation.partition.key,
        "model": explanation.model,
        "dataset": task_id.removeprefix("load_"),
    }
    for name, outcome, is_final, started_at, ended_at, attempt in sorted(rows, key=_cause_first):
        if outcome in {"success", "skipped"}:
            continue
        since = local_time(started_at)
        if outcome is None and started_at > context.now - SILENT:
            explanation.add(f"{name} of {dag_id} runs since {since}.")
        elif outcome is None:
            explanation.add(
                f"{name} of {dag_id} began at {since} and never reported its end.",
                code="NS-AIRFLOW-007",
                command=page_command("NS-AIRFLOW-007", values),
            )
        elif outcome == "waiting":
            explanation.add(f"{name} of {dag_id} waits for upstream; it looked last at {since}.")
        else:
            code = outcome if outcome.startswith("NS-") else "NS-CORE-000"
            left = "no try is left" if is_final else "Airflow tries it again"
            explanation.add(
                f"Try {attempt} of {name} of {dag_id} failed with {outcome} at"
                f" {local_time(ended_at or started_at)}; {left}.",
                code=code,
                command=page_command(code, values),
            )
        return True
    # Every task succeeded, and still readers do not have it.
    explanation.add(
        f"All tries of {dag_id} that began have succeeded, or wait in Airflow's queue.",
        code="NS-AIRFLOW-005",
        command=page_command("NS-AIRFLOW-005", values),
    )
    return True


def _cause_first(
    row: tuple[str, str | None, bool, dt.datetime, dt.datetime, int],
) -> tuple[bool, dt.datetime]:
    """Order tries by how much they explain: errors, then waiting and running ones."""
    outcome = row[1]
    is_error = outcome is not None and outcome not in {"success", "skipped", "waiting"}
    # Of several errors, the first one is the cause of the later ones.
    return (not is_error, row[3])


def _add_deadline(context: EvaluationContext, spec: ModelSpec, explanation: Explanation) -> None:
    deadline = spec.deadline_of(explanation.partition)
    if deadline <= context.at:
        explanation.add(
            f"Its deadline was {local_time(deadline)}.",
            command=f"nightshift rescue {spec.name} --night {explanation.partition}",
        )
        return
    # The rescue is the last automatic act before the deadline.
    minutes = dt.timedelta(minutes=spec.scoring.rescue_minutes_before_deadline)
    explanation.add(
        f"At {local_time(deadline - minutes)} the rescue publishes what is possible; the"
        f" deadline is {local_time(deadline)}."
    )


def _has(context: EvaluationContext, dataset: str, day: dt.date) -> bool:
    query = "select exists (select from ops.published where dataset = %s and partition_date = %s)"
    return context.conn.execute(query, [dataset, day]).fetchone() == (True,)


def _lacks(context: EvaluationContext, contract: DatasetContract, day: dt.date) -> bool:
    return day >= contract.history_start and not _has(context, contract.dataset, day)


def _holes(
    context: EvaluationContext, contract: DatasetContract, partition: Partition
) -> list[dt.date]:
    days = lookback_of(contract, partition)
    rows = context.conn.execute(
        "select partition_date from ops.published where dataset = %s and partition_date = any(%s)",
        [contract.dataset, days],
    )
    published = {day for (day,) in rows}
    return [day for day in days if day not in published]
