"""Monitor partitions: measure drift and matured performance, publish verdicts, request retrains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from nightshift.failpoints import Failpoint, hit
from nightshift.monitoring.context import ChampionCache, MonitoringContext
from nightshift.monitoring.performance import ALL_ROWS, metric_loss
from nightshift.monitoring.segments import loss_segment, shift_segment, slice_means
from nightshift.monitoring.trigger import (
    PartitionStatus,
    RetrainHistory,
    Status,
    TriggerDecision,
    apply_trigger_rule,
    condition_status,
)
from nightshift.monitoring.verdict import Verdict, VerdictRows, publish_verdict, read_back
from nightshift.monitoring.verdict_report import with_report
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.control_tables.retrain_requests import open_request, retrain_request_lock

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.monitoring.columns.partition_columns import ColumnResult
    from nightshift.monitoring.performance import CanaryPerformance, Performance
    from nightshift.settings import Settings

# Fields of a verdict that are recorded with a retrain request.
EVIDENCE = (
    "n_drifted",
    "n_features",
    "score_distance",
    "cause",
    "metric",
    "metric_value",
    "metric_expected",
    "n_labels",
    "maturity",
    "label_share",
    "model_version",
)


@dataclass(frozen=True)
class Measurement:
    """What was measured of a partition.

    Attributes:
        columns: Drift and faults of the columns, and estimates.
        performance: Metrics of the predictions that mature now.
        predicted_by: Version that made these predictions.
        canary: Metrics of the rows that a canary made, and its version; None without one.
        watched: The watched metric over all matured rows.
        expected: The same metric of that version on its hold-out.
        loss: By how much the champion's advantage over the rule fell short; None if unknown.
        notes: Slow changes, and what could not be measured, for people.
    """

    columns: ColumnResult
    performance: list[Performance]
    predicted_by: int | None
    canary: CanaryPerformance | None
    watched: Performance | None
    expected: float | None
    loss: float | None
    notes: list[str]


class MaturedLoss(NamedTuple):
    """The champion's loss, or a note that tells why it is unknown."""

    value: float | None
    note: str | None = None


def monitor(
    settings: Settings, spec: ModelSpec, partitions: PartitionRange, run: RunContext
) -> Verdict:
    """Monitor each partition of a range in order; return the last verdict as read back.

    A partition without champion, predictions or mature labels gets a verdict with a note. Safe to
    rerun: the same inputs give the same verdict and never a second retrain request. In a range only
    partitions that trigger, and the last one, get a report.

    Returns:
        The verdict of the last partition; its ``retrain_decision_id`` is the last one that the
            range opened.

    Raises:
        FeaturesNotPublishedError: The feature view of a partition is not published.
        WarehouseError: The warehouse cannot be reached.
        ObjectStoreError: The champion's files or training set cannot be read.
    """
    champions: ChampionCache = {}
    decision_id: int | None = None
    with connect(settings, run.application_name) as conn:
        for partition in partitions:
            context = MonitoringContext(
                settings,
                spec,
                conn,
                partition,
                run,
                champions,
            )
            verdict = monitor_partition(
                context,
                wants_report=partition == partitions.last,
            )
            decision_id = verdict.retrain_decision_id or decision_id
            context.scans.keep_profiles(context.datasets)
    return replace(verdict, retrain_decision_id=decision_id)


def monitor_partition(context: MonitoringContext, *, wants_report: bool) -> Verdict:
    """Measure one partition, publish its verdict, and open a retrain request if it triggers."""
    inputs = context.inputs()
    measurement = measure(context)
    hit(Failpoint.MONITOR_MEASURED)

    # Deciding and opening the request share the model's lock: two partitions that are monitored at
    # the same time must not both find the cooldown free.
    with retrain_request_lock(context.conn, context.spec.name):
        history = context.retrain_history()
        decision = decide_retrain(context, measurement, history)
        verdict = make_verdict(context, measurement, decision)
        if verdict.has_triggered:
            _open_request(context, verdict)
    # A crash from here on loses nothing: the request is committed, and a rerun finds it.
    if verdict.has_triggered:
        hit(Failpoint.DECISION_AFTER, lambda: lose(context.conn))

    wants_report = wants_report or verdict.has_triggered
    verdict = with_report(
        context, verdict, measurement.columns.drifts, inputs, wants_report=wants_report
    )
    rows = VerdictRows(
        measurement.columns.drifts,
        measurement.columns.faults,
        measurement.columns.estimates,
        measurement.performance,
        measurement.predicted_by,
        measurement.canary,
    )
    publish_verdict(
        context.conn,
        verdict,
        rows,
        context.manifest(inputs, history),
    )
    return read_back(context.conn, verdict)


def measure(context: MonitoringContext) -> Measurement:
    """Measure the partition's drift and the performance of the predictions that mature now."""
    columns = context.columns.measure()
    performance, predicted_by, performance_note, canary = context.measure_matured()
    watched = _watched_metric(
        performance,
        context.spec.monitoring.metric,
    )
    expected = context.expected_metric(predicted_by)
    loss, loss_note = matured_loss(
        context,
        watched,
        predicted_by,
        expected,
    )
    notes = [note for note in (columns.note, performance_note, loss_note) if note]
    notes = columns.slow_changes + notes
    return Measurement(
        columns=columns,
        performance=performance,
        predicted_by=predicted_by,
        canary=canary,
        watched=watched,
        expected=expected,
        loss=loss,
        notes=notes,
    )


def _watched_metric(performance: list[Performance], metric: str) -> Performance | None:
    for part in performance:
        if (part.slice_name, part.metric) == (ALL_ROWS, metric):
            return part
    return None


def matured_loss(
    context: MonitoringContext,
    watched: Performance | None,
    predicted_by: int | None,
    expected: float | None,
) -> MaturedLoss:
    """Return by how much the champion is worse than on its hold-out."""
    limits, labels = context.spec.monitoring, context.labels
    if watched is None or watched.value is None:
        return MaturedLoss(None)
    if predicted_by is None or predicted_by != context.champion_version or expected is None:
        return MaturedLoss(
            None,
            "the matured predictions are not the champion's",
        )
    maturity = labels.maturity(context.spec)
    if maturity != "mature":
        note = f"labels of the evaluated night are {maturity}: {labels.share or 0:.0%} are known"
        return MaturedLoss(None, note)
    if watched.n_labels < limits.minimum_labels:
        note = f"only {watched.n_labels} labels, {limits.minimum_labels} are needed"
        return MaturedLoss(None, note)
    expected_rule = context.expected_metric(
        predicted_by,
        "baseline",
    )
    return MaturedLoss(
        lost_advantage(
            limits.metric,
            watched,
            expected,
            expected_rule,
        )
    )


def lost_advantage(
    metric: str, watched: Performance, expected: float, expected_rule: float | None
) -> float:
    """Return by how much less a champion beats the rule than on its hold-out; 0 or more is worse.

    Both have the same rows, so a day on which everything is late is no loss. Without the rule's
    figures the champion alone is compared with its hold-out.
    """
    if watched.value is None:
        raise ValueError("nothing was measured")
    if watched.baseline_value is None or expected_rule is None:
        return metric_loss(metric, watched.value, expected)
    advantage = metric_loss(
        metric,
        watched.value,
        watched.baseline_value,
    )
    return advantage - metric_loss(
        metric,
        expected,
        expected_rule,
    )


def decide_retrain(
    context: MonitoringContext, measurement: Measurement, history: RetrainHistory
) -> TriggerDecision:
    """Decide whether the evidence triggers a retrain request; nothing is written."""
    limits = context.spec.monitoring
    loss, columns = measurement.loss, measurement.columns
    score = columns.score
    has_drifted: bool | None = None
    if columns.features:
        drifted_ratio = columns.n_drifted / len(columns.features)
        has_drifted = drifted_ratio >= limits.drifted_features_ratio
    severe_loss: float | None = None
    if limits.triggers.severe_loss_factor is not None:
        severe_loss = limits.triggers.severe_loss_factor * limits.maximum_metric_loss
    today = PartitionStatus(
        context.partition.day,
        drift=condition_status(has_drifted),
        score_drift=condition_status(score.is_drifted if score else None),
        performance=_loss_status(
            loss,
            limits.maximum_metric_loss,
        ),
        severe_loss=_loss_status(loss, severe_loss),
        broken_input=condition_status(bool(measurement.columns.faults)),
    )
    problems = context.data_quality_problems + [str(fault) for fault in columns.faults]
    return apply_trigger_rule(
        context.spec,
        today,
        context.earlier,
        history,
        problems,
    )


def _loss_status(loss: float | None, limit: float | None) -> Status:
    """Return whether a loss exceeds a limit; unknown without either."""
    if loss is None or limit is None:
        return "unknown"
    return condition_status(loss > limit)


def make_verdict(
    context: MonitoringContext, measurement: Measurement, decision: TriggerDecision
) -> Verdict:
    """Return the verdict, without report and request."""
    watched, score = measurement.watched, measurement.columns.score
    labels, status = context.labels, decision.status
    return Verdict(
        model=context.spec.name,
        partition_date=context.partition.day,
        model_version=context.champion_version,
        drift_status=status.drift,
        score_drift_status=status.score_drift,
        performance_status=status.performance,
        severe_loss_status=status.severe_loss,
        n_features=len(measurement.columns.features),
        n_drifted=measurement.columns.n_drifted,
        score_distance=score.distance if score else None,
        n_faults=len(measurement.columns.faults),
        cause=decision.cause,
        segment=explain(context, measurement, decision),
        loss=measurement.loss,
        metric=context.spec.monitoring.metric,
        metric_value=watched.value if watched else None,
        metric_baseline=watched.baseline_value if watched else None,
        metric_expected=measurement.expected,
        n_labels=labels.n_labels,
        n_predictions=labels.n_predictions,
        n_never_labelled=labels.n_never,
        label_share=labels.share,
        maturity=labels.maturity(context.spec),
        evaluated_partition=context.evaluated.day,
        breached_days={
            name: [day.isoformat() for day in days] for name, days in decision.breached_days.items()
        },
        in_cooldown=decision.in_cooldown,
        is_over_budget=decision.is_over_budget,
        red_reasons=context.data_quality_problems,
        has_triggered=decision.has_triggered,
        reasons=[
            *decision.reasons,
            *fault_reasons(measurement, decision),
            *measurement.notes,
        ],
    )


def explain(
    context: MonitoringContext, measurement: Measurement, decision: TriggerDecision
) -> str | None:
    """Return the segment of most of a loss, or the slice and column of most of a shift."""
    if decision.status.has_loss and measurement.expected is not None:
        metric = context.spec.monitoring.metric
        rule = context.expected_metric(measurement.predicted_by, "baseline")
        if rule is not None:
            usual = metric_loss(metric, measurement.expected, rule)
            return loss_segment(measurement.performance, metric, usual)
    if decision.cause == "covariate shift":
        drifts = measurement.columns.drifts
        return shift_segment(drifts, lambda drift: slice_means(context, drift))
    return None


def fault_reasons(measurement: Measurement, decision: TriggerDecision) -> list[str]:
    """Return the broken columns, for people, unless they are told as what blocks a request."""
    lines = [f"broken input: {fault}" for fault in measurement.columns.faults]
    blocked = " ".join(decision.reasons)
    return [line for line in lines if line.removeprefix("broken input: ") not in blocked]


def _open_request(context: MonitoringContext, verdict: Verdict) -> None:
    evidence = {name: getattr(verdict, name) for name in EVIDENCE}
    open_request(
        context.conn,
        context.spec.name,
        context.partition,
        verdict.reasons,
        evidence,
        context.run,
    )
