"""Everything at a glance: models, incidents, what runs, and why nothing runs."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.errors import ServiceError
from nightshift.incidents.context import EvaluationContext
from nightshift.incidents.records import (
    Incident,
    SubjectHealth,
    as_json,
    open_incidents,
    read_health,
)
from nightshift.incidents.running_and_waiting import what_runs
from nightshift.registry.canary.record import canary_for
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.incidents.running_and_waiting import AirflowRuns
    from nightshift.settings import Settings

LATE = "NS-FRESH-001"
"""Code of the incident about a model that is late; it is critical once the deadline is over."""


@dataclass(frozen=True)
class ModelOverview:
    """One model.

    Attributes:
        model: Its name.
        owner: Team that answers for it.
        health: In one word; ``unknown`` before the first evaluation.
        published: Newest day that readers have; None if none.
        published_at: Since when, UTC.
        source: Step of the fallback chain that made most of its rows.
        champion: Version that serves that day; None without one.
        champion_age_days: Days from the last day that it has learned from to the newest one.
        metric: Name of the quality metric.
        quality: Its newest matured value; None without one.
        expected_quality: The same on the hold-out.
        n_labels: Labels that the value stands on.
        canary: Who gets a share of the entities from the next day on, in words; None if nobody.
        quality_low: Lower bound of its 95 % interval; None without one.
        quality_high: Upper bound.
        n_rows: Rows of the newest day that readers see.
        n_recorded: Rows that were published of it.
        late: Days whose deadline is over and that readers do not have.
    """

    model: str
    owner: str
    health: str
    published: dt.date | None
    published_at: dt.datetime | None
    source: str | None
    champion: int | None
    champion_age_days: int | None
    metric: str | None
    quality: float | None
    expected_quality: float | None
    n_labels: int | None
    canary: str | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    n_rows: int | None = None
    n_recorded: int | None = None
    late: tuple[dt.date, ...] = ()


@dataclass(frozen=True)
class Overview:
    """The state of everything.

    Attributes:
        at: When it was read, UTC.
        models: One entry for each model.
        incidents: What is broken now, the most severe first.
        health: Tables and models in one word.
        running: What runs now, a sentence each.
        waiting: Why nothing runs, a sentence each.
    """

    at: dt.datetime
    models: tuple[ModelOverview, ...]
    incidents: tuple[Incident, ...]
    health: tuple[SubjectHealth, ...]
    running: tuple[str, ...]
    waiting: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        document: dict[str, Any] = as_json(asdict(self))
        return document


def current_overview(
    settings: Settings, at: dt.datetime, runs: AirflowRuns | None
) -> tuple[Overview, str]:
    """Read the state of everything; what Airflow does not answer is left out.

    Args:
        settings: Warehouse and folders.
        at: The instant that deadlines are compared with, UTC.
        runs: Airflow's API; None where it cannot be reached.

    Returns:
        The state, and why Airflow's part is missing.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, "nightshift status") as conn:
        context = EvaluationContext(settings, conn, at)
        try:
            return read_overview(context, runs), ""
        except ServiceError as error:
            return read_overview(context, None), str(error)


def read_overview(context: EvaluationContext, runs: AirflowRuns | None) -> Overview:
    """Read the state of everything; only Airflow's part may be missing.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    health = read_health(context.conn)
    words = {(entry.subject_type, entry.subject): entry.health for entry in health}
    incidents = open_incidents(context.conn)
    late = {
        incident.subject: incident.partitions
        for incident in incidents
        if incident.code == LATE and incident.severity == "critical"
    }
    models = []
    for spec in context.specs.values():
        model = _read_model(context, spec, words.get(("model", spec.name), "unknown"))
        models.append(replace(model, late=tuple(late.get(spec.name, ()))))
    running, waiting = what_runs(context, runs)
    return Overview(
        context.now,
        models=tuple(models),
        incidents=tuple(incidents),
        health=tuple(health),
        running=tuple(running),
        waiting=tuple(waiting),
    )


def _read_model(context: EvaluationContext, spec: ModelSpec, health: str) -> ModelOverview:
    """Return what readers have of a model, who made it, and how good it was.

    Args:
        context: The warehouse.
        spec: The model.
        health: Its word of ``ops.health``.
    """
    # Three short queries: each finds its newest row by an index.
    row = context.conn.execute(_PUBLISHED, [spec.predictions_dataset]).fetchone()
    day, published_at, load_id, n_recorded = row or (None, None, None, None)
    row = context.conn.execute(_CHAMPION, [spec.name, day, day]).fetchone()
    champion, fit_end = row or (None, None)
    row = context.conn.execute(_QUALITY, [spec.name]).fetchone()
    metric, quality, expected, n_labels, low, high = row or (None,) * 6
    source, n_rows = _source(context, spec, day, load_id) if day else (None, None)
    return ModelOverview(
        spec.name,
        spec.owner,
        health,
        day,
        published_at,
        source,
        champion,
        (day - fit_end).days if day and fit_end else None,
        metric,
        quality,
        expected,
        n_labels,
        _canary(context, spec, day, champion) if day else None,
        low,
        high,
        n_rows,
        n_recorded,
    )


def _canary(
    context: EvaluationContext, spec: ModelSpec, day: dt.date, champion: int | None
) -> str | None:
    """Return who gets a share of the entities after the newest day, in a sentence."""
    if spec.promotion.canary.share == 0:
        return None
    canary = canary_for(context.conn, spec.name, Partition(day).shift(1))
    if canary is None or canary.champion_version != champion:
        return None
    return canary.reason


_PUBLISHED = """
select p.partition_date, p.published_at, p.load_id, l.n_rows
from ops.published p left join ops.loads l using (dataset, partition_date, load_id)
where p.dataset = %s order by p.partition_date desc limit 1
"""
_CHAMPION = """
select s.version, v.fit_end
from ml.succession s join ml.model_versions v using (model, version)
where s.model = %s and (%s::date is null or s.effective_partition <= %s)
order by s.effective_partition desc, s.promotion_id desc limit 1
"""
_QUALITY = """
select v.metric, v.metric_value, v.metric_expected, v.n_labels, p.low, p.high
from monitoring.verdicts_published v
left join monitoring.performance_published p
    on (p.model, p.metric, p.measured_on, p.partition_date)
        = (v.model, v.metric, v.partition_date, v.evaluated_partition) and p.slice_name = 'all'
where v.model = %s and v.metric_value is not null order by v.partition_date desc limit 1
"""


def _source(
    context: EvaluationContext, spec: ModelSpec, day: dt.date, load_id: int
) -> tuple[str | None, int]:
    """Return the step that made most rows of a load, and the number of all its rows."""
    query = model_query(
        spec,
        """
        select score_source, count(*) from {predictions}
        where partition_date = %s and load_id = %s group by 1 order by 2 desc
        """,
    )
    rows = context.conn.execute(query, [day, load_id]).fetchall()
    source = str(rows[0][0]) if rows else None
    return source, sum(n_rows for _, n_rows in rows)
