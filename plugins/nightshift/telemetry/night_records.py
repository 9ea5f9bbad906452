"""Read from the ledger what a night did: tries with their stages, loads, verdicts, versions."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.telemetry.identifiers import run_digest

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

SUCCEEDED = ("success", "waiting", "skipped")
"""Outcomes of a try or stage that are no error."""


@dataclass(frozen=True)
class Try:
    """A try of a task whose own code began, as ``ops.task_tries`` has it.

    Attributes:
        stages: Documents of ``stage_times.StageRecord``.
    """

    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    attempt: int
    started_at: dt.datetime
    ended_at: dt.datetime | None
    outcome: str | None
    is_final: bool
    peak_memory_bytes: int | None
    stages: list[dict[str, Any]]

    @property
    def task(self) -> tuple[str, int]:
        """Return the task within its run, with its shard."""
        return self.task_id, self.map_index

    @property
    def identity(self) -> tuple[str, str, str]:
        """Return DAG, task with shard, and digest of the run, as ``ops.loads.run_id`` has them."""
        shard = f".{self.map_index}" if self.map_index >= 0 else ""
        return self.dag_id, self.task_id + shard, run_digest(self.dag_run_id)

    @property
    def is_waiting(self) -> bool:
        """Return whether the task goes on by itself: it runs, or waits for upstream."""
        return self.ended_at is None or self.outcome == "waiting"

    @property
    def error(self) -> str:
        """Return the code or class of its error; empty without one."""
        if self.outcome is None or self.outcome in SUCCEEDED:
            return ""
        return self.outcome


@dataclass(frozen=True)
class Load:
    """One partition of a load, as ``ops.loads`` and ``ops.ledger`` have it.

    Attributes:
        settled_at: When it was published, found to be a duplicate, or refused.
        verdict: What the ledger says of it: published, duplicate or refused; None before.
        refused_by: The error code of a refusal, or empty.
        last_day: Last partition of the load, of which this is one.
        next_begun_at: When a newer load of the same partition began.
    """

    dataset: str
    load_id: int
    run_id: str
    attempt: int
    actor: str
    n_rows: int | None
    content_hash: str | None
    started_at: dt.datetime
    settled_at: dt.datetime | None
    verdict: str | None
    refused_by: str
    score_source: str | None
    peak_memory_bytes: int | None
    first_day: dt.date
    last_day: dt.date
    next_begun_at: dt.datetime | None

    @property
    def layer(self) -> str:
        """Return raw, features, predictions, shadow or monitoring."""
        return self.dataset.partition("/")[0]

    @property
    def name(self) -> str:
        """Return the dataset's name without its layer."""
        return self.dataset.partition("/")[2]

    @property
    def identity(self) -> tuple[str, str, str] | None:
        """Return DAG, task and digest of the run that wrote it; None outside of Airflow."""
        if self.actor != "airflow":
            return None
        return task_of(self.run_id)


def task_of(run_id: str) -> tuple[str, str, str]:
    """Return DAG, task with shard, and digest of the run: the parts of ``task_identity``."""
    path, _, digest = run_id.rpartition("@")
    dag_id, _, rest = path.partition("/")
    return dag_id, rest.rpartition("/")[2], digest


@dataclass(frozen=True)
class ModelFact:
    """What a night found out about a model version: that it exists, or what was decided about it.

    Attributes:
        name: ``version`` or ``decision``.
        verdict: Of a decision; empty for a version.
    """

    name: str
    model: str
    version: int
    verdict: str
    at: dt.datetime
    run_id: str


@dataclass(frozen=True)
class NightRecords:
    """What the ledger knows of a partition.

    Attributes:
        verdicts: Of the monitor, in one word, by load.
        facts: About model versions.
    """

    day: dt.date
    tries: list[Try]
    loads: list[Load]
    verdicts: dict[int, str]
    facts: list[ModelFact]


def read_night(conn: Connection, day: dt.date) -> NightRecords:
    """Return the records of a partition, each list in the order of time."""
    # Not before something is read: the DAG file is parsed every few seconds.
    from psycopg.rows import class_row

    parameters = {"day": day}
    with conn.cursor(row_factory=class_row(Try)) as cursor:
        tries = cursor.execute(_TRIES, parameters).fetchall()
    with conn.cursor(row_factory=class_row(Load)) as cursor:
        loads = cursor.execute(_LOADS, parameters).fetchall()
    with conn.cursor(row_factory=class_row(ModelFact)) as cursor:
        facts = cursor.execute(_FACTS, parameters).fetchall()
    verdicts: dict[int, str] = dict(conn.execute(_VERDICTS, parameters).fetchall())
    return NightRecords(day, tries, loads, verdicts, facts)


# As JSON, so that a warehouse that was not migrated yet has tries without stages.
_TRIES = """
select dag_id, dag_run_id, task_id, map_index, attempt, started_at, ended_at, outcome, is_final,
    peak_memory_bytes, coalesce(to_jsonb(t) -> 'stages', '[]') as stages
from ops.task_tries t
where partition_date = %(day)s
order by started_at, dag_id, task_id, map_index
"""
# A refusal begins with the code of its error; what follows may name columns and counts.
_LOADS = r"""
select l.dataset, l.load_id, l.run_id, l.attempt, l.actor, l.n_rows, l.content_hash, l.started_at,
    g.at as settled_at, g.event as verdict,
    coalesce(substring(l.detail ->> 'refused' from '^(NS-[A-Z]+-\d+)'), '') as refused_by,
    l.detail -> 'score_sources' ->> l.partition_date::text as score_source, l.peak_memory_bytes,
    r.first_day, r.last_day,
    (
        select min(n.started_at) from ops.loads n
        where n.dataset = l.dataset and n.partition_date = l.partition_date
            and n.load_id > l.load_id
    ) as next_begun_at
from ops.loads l
left join lateral (
    select g.at, g.event from ops.ledger g
    where g.dataset = l.dataset and g.partition_date = l.partition_date and g.load_id = l.load_id
        and g.event in ('published', 'duplicate', 'refused')
    order by g.ledger_id
    limit 1
) g on true
cross join lateral (
    select min(partition_date) as first_day, max(partition_date) as last_day
    from ops.loads where load_id = l.load_id
) r
where l.partition_date = %(day)s
order by l.started_at, l.load_id, l.dataset
"""
_VERDICTS = """
select load_id,
    case
        when has_triggered then 'retrain'
        when 'breached' in (drift_status, score_drift_status, performance_status) then 'breached'
        when 'unknown' in (drift_status, score_drift_status, performance_status) then 'unknown'
        else 'ok'
    end
from monitoring.verdicts
where partition_date = %(day)s
"""
_FACTS = """
select 'version' as name, model, version, '' as verdict, created_at as at, run_id
from ml.model_versions where partition_date = %(day)s
union all
select 'decision', model, version, verdict, at, run_id
from ml.promotions where partition_date = %(day)s
order by at
"""
