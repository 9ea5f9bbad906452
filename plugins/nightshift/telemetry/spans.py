"""The spans of a night: root, runs of DAGs, tries of tasks, their stages, and loads.

A run that is cleared and runs again is a new span in the same trace. A span has names and numbers
that the project declares, never a value of a row, a message of an error or a person's text.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nightshift.telemetry.identifiers import (
    airflow_run_id,
    declared_name,
    declared_word,
    error_name,
    span_id,
    trace_id,
)
from nightshift.telemetry.night_records import (
    SUCCEEDED,
    Load,
    ModelFact,
    NightRecords,
    Try,
    task_of,
)

Value = str | int | float | bool
Attributes = dict[str, Value]

ROOT = "night"
# A run whose tasks pause longer than this has ended: the longest pause between tries is shorter.
QUIET = dt.timedelta(minutes=30)


@dataclass(frozen=True)
class SpanEvent:
    """Something that happened at one instant of a span."""

    name: str
    at: dt.datetime
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    """One span of a trace.

    Attributes:
        key: What it is about; its id is a digest of it.
        parent: Key of the span around it; None for the root.
        error: Code or class of the error that ended it; empty without one.
        is_complete: Whether nothing of it can still go on.
    """

    key: str
    parent: str | None
    name: str
    started_at: dt.datetime
    ended_at: dt.datetime
    attributes: Attributes
    error: str = ""
    is_complete: bool = True
    events: tuple[SpanEvent, ...] = ()


@dataclass(frozen=True)
class NightTrace:
    """The trace of a partition; the first span is the root."""

    trace_id: int
    day: dt.date
    spans: list[Span] = field(default_factory=list)

    def id_of(self, key: str) -> int:
        """Return the id of the span with that key."""
        return span_id(self.trace_id, key)

    def hex_id_of(self, key: str) -> str:
        """Return that id as people and receivers write it."""
        return f"{self.id_of(key):016x}"


@dataclass(frozen=True)
class _Run:
    """The tries of one execution of a DAG run: until a task that had ended begins once more."""

    key: str
    number: int
    tries: list[Try]

    @property
    def started_at(self) -> dt.datetime:
        return min(each.started_at for each in self.tries)

    @property
    def ended_at(self) -> dt.datetime:
        return max(each.ended_at or each.started_at for each in self.tries)

    @property
    def last_tries(self) -> list[Try]:
        """Return the last try of each task."""
        return list({each.task: each for each in self.tries}.values())

    def is_over(self, now: dt.datetime) -> bool:
        """Return whether no task runs, waits, or is about to begin."""
        if any(each.is_waiting for each in self.last_tries):
            return False
        return now - self.ended_at >= QUIET


RunsByIdentity = Mapping[tuple[str, str, str], list[_Run]]
"""The executions of a run by the identity of a task."""


def make_trace(deployment: str, records: NightRecords, now: dt.datetime) -> NightTrace:
    """Return the trace of a night; without any record it has no span."""
    trace = NightTrace(trace_id(deployment, records.day), records.day)
    if not (records.tries or records.loads):
        return trace
    runs = list(_runs_of(records.tries))
    spans: list[Span] = []
    for run in runs:
        spans.append(_run_span(run, now))
        for each in run.tries:
            spans += _try_spans(run, each, records.facts)
    # Loads know the task that began them, by the identity that it writes under.
    runs_by_identity = _runs_by_identity(runs)
    for load in records.loads:
        # The monitor's other tables are written with the verdict, at the same time.
        if load.layer.startswith("monitoring_"):
            continue
        spans.append(_load_span(load, runs_by_identity, records.verdicts))
    trace.spans.append(_root_span(records, runs, spans, now))
    trace.spans.extend(spans)
    return trace


def _runs_of(tries: Iterable[Try]) -> Iterator[_Run]:
    """Yield the executions of all DAG runs."""
    by_run: dict[tuple[str, str], list[Try]] = defaultdict(list)
    for each in tries:
        by_run[each.dag_id, each.dag_run_id].append(each)
    for (dag_id, dag_run_id), members in by_run.items():
        executions: list[list[Try]] = [[]]
        ended: set[tuple[str, int]] = set()
        for each in members:
            # Airflow runs a task that has ended again only when its run was cleared.
            if each.task in ended:
                executions.append([])
                ended = set()
            executions[-1].append(each)
            if each.is_final or each.outcome in {"success", "skipped"}:
                ended.add(each.task)
        for number, group in enumerate(executions, start=1):
            yield _Run(f"run {dag_id} {dag_run_id} {number}", number, group)


def _runs_by_identity(runs: Iterable[_Run]) -> RunsByIdentity:
    runs_by_identity: dict[tuple[str, str, str], list[_Run]] = defaultdict(list)
    for run in runs:
        for identity in {each.identity for each in run.tries}:
            runs_by_identity[identity].append(run)
    return runs_by_identity


def _root_span(
    records: NightRecords, runs: list[_Run], spans: list[Span], now: dt.datetime
) -> Span:
    last_runs = {(run.tries[0].dag_id, run.tries[0].dag_run_id): run for run in runs}
    errors = map(_error_of, last_runs.values())
    failed = [error for error in errors if error]
    ended_at = max(span.ended_at for span in spans)
    attributes: Attributes = {
        "nightshift.partition": records.day.isoformat(),
        "nightshift.runs": len(runs),
        "nightshift.tries": len(records.tries),
        "nightshift.loads": len(records.loads),
    }
    has_open_run = any(not run.is_over(now) for run in runs)
    is_over = not has_open_run and now - ended_at >= QUIET
    return Span(
        ROOT,
        None,
        ROOT,
        min(span.started_at for span in spans),
        ended_at,
        attributes,
        error=failed[0] if failed else "",
        is_complete=is_over,
    )


def _error_of(run: _Run) -> str:
    """Return the error of the first task whose last try failed; empty if none did."""
    errors = [each.error for each in run.last_tries if each.error]
    return error_name(errors[0]) if errors else ""


def _run_span(run: _Run, now: dt.datetime) -> Span:
    first = run.tries[0]
    dag_id = declared_name(first.dag_id)
    attributes: Attributes = {
        "airflow.dag_id": dag_id,
        "airflow.run_id": airflow_run_id(first.dag_run_id),
        "nightshift.execution": run.number,
    }
    return Span(
        run.key,
        ROOT,
        dag_id,
        run.started_at,
        run.ended_at,
        attributes,
        error=_error_of(run),
        is_complete=run.is_over(now),
    )


def _try_spans(run: _Run, this: Try, facts: Iterable[ModelFact]) -> Iterator[Span]:
    """Yield the span of a try, then those of its stages."""
    key = _try_key(this)
    attributes: Attributes = {
        "airflow.dag_id": declared_name(this.dag_id),
        "airflow.task_id": declared_name(this.task_id),
        "nightshift.attempt": this.attempt,
        "nightshift.outcome": error_name(this.outcome or "running"),
    }
    if this.map_index >= 0:
        attributes["airflow.map_index"] = this.map_index
    if this.peak_memory_bytes is not None:
        attributes["nightshift.peak_memory_bytes"] = this.peak_memory_bytes
    yield Span(
        key,
        run.key,
        declared_name(f"{this.dag_id}.{this.task_id}"),
        this.started_at,
        this.ended_at or this.started_at,
        attributes,
        error=error_name(this.error) if this.error else "",
        is_complete=not this.is_waiting,
        events=tuple(_events_of(this, facts)),
    )
    for index, document in enumerate(this.stages):
        if document["ended_at"]:
            yield _stage_span(key, index, document)


def _try_key(this: Try) -> str:
    # The start too: a task that waits for upstream begins the same try again.
    name = f"{this.dag_id} {this.dag_run_id} {this.task_id} {this.map_index} {this.attempt}"
    return f"try {name} {this.started_at.isoformat()}"


def _events_of(this: Try, facts: Iterable[ModelFact]) -> Iterator[SpanEvent]:
    for fact in facts:
        # Another try of the task finds the same version again: the record is of the first.
        if task_of(fact.run_id) == this.identity and this.started_at <= fact.at <= (
            this.ended_at or fact.at
        ):
            attributes: Attributes = {
                "nightshift.model": declared_name(fact.model),
                "nightshift.version": fact.version,
            }
            if fact.verdict:
                attributes["nightshift.verdict"] = declared_word(fact.verdict)
            yield SpanEvent(fact.name, fact.at, attributes)


def _stage_span(try_key: str, index: int, document: Mapping[str, Any]) -> Span:
    parent, outcome = document["parent"], document["outcome"]
    attributes: Attributes = {}
    for name, value in document["attributes"].items():
        # Texts are names, but for the verdict, which is a word.
        attribute = value
        if isinstance(value, str):
            attribute = declared_word(value) if name == "verdict" else declared_name(value)
        attributes[f"nightshift.{declared_word(name)}"] = attribute
    return Span(
        f"{try_key} stage {index}",
        try_key if parent is None else f"{try_key} stage {parent}",
        declared_word(document["name"]),
        dt.datetime.fromisoformat(document["started_at"]),
        dt.datetime.fromisoformat(document["ended_at"]),
        attributes,
        error="" if outcome in SUCCEEDED else error_name(outcome),
    )


def _load_span(load: Load, runs_by_identity: RunsByIdentity, verdicts: Mapping[int, str]) -> Span:
    """Return the span of a load: from its first token until readers saw it, or it was refused."""
    attributes: Attributes = {
        "nightshift.dataset": declared_name(load.dataset),
        "nightshift.load_id": load.load_id,
        "nightshift.outcome": load.verdict or "open",
    }
    if load.n_rows is not None:
        attributes["nightshift.rows"] = load.n_rows
    if load.score_source:
        attributes["nightshift.score_source"] = declared_word(load.score_source)
    if load.load_id in verdicts:
        attributes["nightshift.verdict"] = verdicts[load.load_id]
    if load.peak_memory_bytes is not None:
        attributes["nightshift.peak_memory_bytes"] = load.peak_memory_bytes
    parent = ROOT
    if load.identity:
        # A load begins in one task of its run and may be published by another.
        for run in runs_by_identity.get(load.identity, []):
            if run.started_at <= load.started_at:
                parent = run.key
    return Span(
        f"load {load.dataset} {load.load_id}",
        parent,
        declared_name(f"load/{load.dataset}"),
        load.started_at,
        load.settled_at or load.started_at,
        attributes,
        error=(load.refused_by or "refused") if load.verdict == "refused" else "",
        is_complete=load.settled_at is not None,
    )
