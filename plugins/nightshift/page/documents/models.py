"""The pages of models: all of them in one table, and one with its champions and its quality."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from nightshift.page.documents.requests import MissingPageError

if TYPE_CHECKING:
    from nightshift.page.reader import PageSnapshot, Row

MAX_DECISIONS = 60
"""Of older decisions the timeline still shows the champions."""
CALIBRATION_METRICS = ("calibration_slope", "calibration_error", "bias")
"""Best values 1, 0 and 0. Source: contracts.metrics."""
MAX_VERSIONS, MAX_IMPORTANT = 8, 12
"""Versions and features that the importance over time is drawn of; the table has all features."""
ALL_ROWS = "all"
"""Slice name of all rows in monitoring.performance_published."""

_MODELS = """
select
    f.model, f.description, f.task, f.owner, f.monitoring_metric, g.champion_version,
    g.champion_since, c.trained_at, c.fit_end, g.newest, n.status, n.score_source,
    q.evaluated_partition, q.metric_value, q.metric_baseline, q.n_labels, b.low, b.high,
    q.drift_status, q.performance_status
from ops.model_facts f
join ops.model_progress g using (model)
left join lateral (
    select trained_at, fit_end from ml.champion_periods p
    where p.model = f.model and p.version = g.champion_version
    order by promotion_id desc limit 1
) c on true
left join lateral (
    select
        case when m.is_fallback then 'fallback' when m.is_late then 'late' else 'published' end
            as status,
        m.score_source
    from ops.model_partitions m
    where m.model = f.model and m.partition_date = g.newest
) n on true
left join lateral (
    select evaluated_partition, metric_value, metric_baseline, n_labels, drift_status,
        performance_status
    from monitoring.verdicts_published v
    where v.model = f.model and v.metric_value is not null
        and v.partition_date between g.newest - 30 and g.newest + 30
    order by v.partition_date desc limit 1
) q on true
left join lateral (
    select p.low, p.high from monitoring.performance_published p
    where p.model = f.model and p.slice_name = 'all' and p.metric = f.monitoring_metric
        and p.partition_date = q.evaluated_partition
    order by p.measured_on desc limit 1
) b on true
order by f.model
"""
_FACTS = "select * from ops.model_facts where model = %(model)s"
_PERIODS = """
select version, verdict, actor, first_partition, last_partition, trained_at, fit_end
from ml.champion_periods
where model = %(model)s and (last_partition is null or last_partition >= first_partition)
order by first_partition, promotion_id
"""
_DECISIONS = """
select promotion_id, at, version, verdict, champion_version, partition_date, effective_partition,
    reasons, actor, evidence_page is not null as has_page, trained_at, fit_end, figures,
    case when verdict in ('first', 'promoted', 'refreshed', 'rolled_back') then effective_partition
        end as serves_from
from ml.decisions
where model = %(model)s
order by promotion_id desc limit %(limit)s
"""
_REFUSED = """
select version, partition_date from ml.decisions
where model = %(model)s and verdict = 'refused' order by partition_date
"""
_CANARY = """
select c.version, c.champion_version, c.share, c.first_partition, c.last_partition, c.ended_by,
    c.ended_because
from ml.canaries c
where c.model = %(model)s order by c.promotion_id desc limit 1
"""
_METRICS = """
select distinct metric from monitoring.performance_published
where model = %(model)s and slice_name = 'all' and partition_date > %(newest)s::date - 30
order by metric
"""
_QUALITY = """
select * from monitoring.performance_published
where model = %(model)s and slice_name = 'all' and metric = any(%(metrics)s)
order by metric, partition_date
"""
_ESTIMATES = """
select partition_date, estimate, low, high, n_calibration from monitoring.estimates_published
where model = %(model)s and metric = %(metric)s and span = 'night'
order by partition_date
"""
_LEVELS = """
select partition_date, model_version, shift, estimate, n_nights, n_rows, reason
from ops.published_levels
where model = %(model)s
order by partition_date
"""
_SLICES = """
select * from monitoring.performance_published
where model = %(model)s and metric = %(metric)s and slice_name <> 'all'
    and partition_date = %(day)s
order by slice_name, slice_value
"""
_IMPORTANCES = """
select version, trained_at, fit_end, feature, share from ml.importances
where model = %(model)s
    and version > (select max(version) - %(limit)s from ml.importances where model = %(model)s)
order by version, share desc, feature
"""
_NEWEST = """
select max(evaluated_partition) as day from monitoring.verdicts_published
where model = %(model)s and metric_value is not null
"""


def models_document(snapshot: PageSnapshot) -> dict[str, Any]:
    """Return one row per model: champion, newest partition, last matured quality."""
    return {"models": snapshot.rows(_MODELS)}


def model_document(snapshot: PageSnapshot, model: str, metric: str | None) -> dict[str, Any]:
    """Return a model's champions, decisions, quality, slices and calibration.

    Args:
        snapshot: The warehouse.
        model: Its name.
        metric: The metric of the chart; None takes the one that the monitor watches.

    Raises:
        MissingPageError: There is no such model.
    """
    facts = model_facts(snapshot, model)
    # The newest partition with a matured metric: slices of younger ones would be empty.
    newest = snapshot.rows(_NEWEST, {"model": model})[0]["day"]
    chosen = metric or facts["monitoring_metric"]
    metrics: list[str] = []
    quality: list[Row] = []
    slices: list[Row] = []
    estimates: list[Row] = []
    if newest is not None:
        rows = snapshot.rows(_METRICS, {"model": model, "newest": newest})
        metrics = [row["metric"] for row in rows]
        # One query for the chosen metric and for calibration: both scan the same index.
        shown = [chosen, *CALIBRATION_METRICS]
        quality = snapshot.rows(_QUALITY, {"model": model, "metrics": shown})
        values = {"model": model, "metric": chosen, "day": newest}
        slices = snapshot.rows(_SLICES, values)
        estimates = snapshot.rows(_ESTIMATES, {"model": model, "metric": chosen})
    # An older warehouse has no such view.
    has_levels = snapshot.has("ops.published_levels")
    importances: list[Row] = []
    if snapshot.has("ml.importances"):
        values = {"model": model, "limit": MAX_VERSIONS}
        importances = snapshot.rows(_IMPORTANCES, values)
    return {
        "facts": facts,
        "importances": importances,
        "important": _most_important(importances),
        "levels": snapshot.rows(_LEVELS, {"model": model}) if has_levels else [],
        "metric": chosen,
        "metrics": metrics,
        "periods": snapshot.rows(_PERIODS, {"model": model}),
        "canary": next(iter(snapshot.rows(_CANARY, {"model": model})), None),
        "refused": snapshot.rows(_REFUSED, {"model": model}),
        "decisions": snapshot.rows(_DECISIONS, {"model": model, "limit": MAX_DECISIONS}),
        "quality": [row for row in quality if row["metric"] == chosen],
        "calibration": [row for row in quality if row["metric"] in CALIBRATION_METRICS],
        "estimates": estimates,
        "slices": slices,
        "newest_evaluated": newest,
    }


def _most_important(importances: list[Row]) -> list[str]:
    """Return the features that any shown version leans on most, the largest share first."""
    largest: dict[str, float] = {}
    for row in importances:
        feature = row["feature"]
        largest[feature] = max(row["share"], largest.get(feature, 0.0))
    ranked = sorted(largest, key=lambda name: (-largest[name], name))
    return ranked[:MAX_IMPORTANT]


def model_facts(snapshot: PageSnapshot, model: str) -> Row:
    """Return what a model's spec says.

    Raises:
        MissingPageError: There is no such model.
    """
    rows = snapshot.rows(_FACTS, {"model": model})
    if not rows:
        raise MissingPageError(f"There is no model {model!r}.", todo="Open the page Models.")
    return rows[0]


def model_names(snapshot: PageSnapshot) -> list[str]:
    """Return the names of all models, sorted."""
    rows = snapshot.rows("select model from ops.model_facts order by model")
    return [row["model"] for row in rows]


def newest_partition(snapshot: PageSnapshot, model: str) -> dt.date | None:
    """Return the newest partition that the monitor has looked at; None if there is none."""
    query = """
        select max(partition_date) as day from monitoring.verdicts_published
        where model = %(model)s
    """
    day: dt.date | None = snapshot.rows(query, {"model": model})[0]["day"]
    return day
