"""A night's monitoring from beginning to end: outcomes, performance, drift, ruling, report, publication, decision."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.content_keys import content_key
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.context import Champion, MonitoringContext
from nightshift.monitoring.drift import Drift
from nightshift.monitoring.outcomes import evaluated_partition, published_features
from nightshift.monitoring.performance import ALL_ROWS, Performance, metric_loss
from nightshift.monitoring.report import Sample, ShownDrift, make_report
from nightshift.monitoring.trigger import (
    PartitionStatus,
    RetrainHistory,
    apply_trigger_rule,
    condition_status,
)
from nightshift.monitoring.verdict import Verdict, publish_verdict, read_verdict
from nightshift.quality.profiles import LoadTable, keep_profile, profile_load
from nightshift.warehouse.arrow_io import read_arrow
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.partition_write import LoadManifest
from nightshift.warehouse.retrain_requests import decide_alone, open_decision

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)


class VerdictLostError(NightshiftError):
    """The verdict that was published is not what readers see."""

    code = "NS-MONITOR-003"
    is_retryable = True


def monitor(
    settings: Settings, spec: ModelSpec, partitions: PartitionRange, run: RunContext
) -> Verdict:
    """Measure each night of a range in order, publish its verdict, and open a decision where the evidence asks for it.

    A night without champion, predictions or mature labels gets a verdict too, which says so. Safe
    to rerun: the same evidence gives the same verdict and never a second decision. In a range only
    nights that trigger, and the last one, get a report.

    Returns:
        The verdict of the last night, as read back; its ``retrain_decision_id`` is the last one
            that the range opened.

    Raises:
        FeaturesNotPublishedError: The feature view of a night is not published.
        WarehouseError: The warehouse cannot be reached.
        ObjectStoreError: The champion's files or training set cannot be read.
    """
    champions: dict[int, Champion] = {}
    decision_id: int | None = None
    with connect(settings, run.application_name) as conn:
        for partition in partitions:
            night = MonitoringContext(settings, spec, conn, partition, run, champions)
            verdict = _measure_night(night, wants_report=partition == partitions.last)
            decision_id = verdict.retrain_decision_id or decision_id
            _keep_profiles(night)
    return replace(verdict, retrain_decision_id=decision_id)


def _keep_profiles(night: MonitoringContext) -> None:
    """Keep the profiles that the night's scans have given, and make those that are missing; a view for people, which stops nothing."""
    for dataset in (night.spec.features_dataset, night.spec.predictions_dataset):
        try:
            load = LoadTable.published(night.conn, dataset, night.partition.day)
            if load in night.profiles:
                keep_profile(night.conn, load, night.profiles[load], night.run)
            else:
                profile_load(night.settings, night.conn, load, night.run)
        except Exception as error:  # noqa: BLE001 - the verdict is published; nothing of a view may make its task fail
            logger.warning("%s of %s has no profile: %s", dataset, night.partition, error)


def _measure_night(night: MonitoringContext, *, wants_report: bool) -> Verdict:
    inputs = night.inputs()
    drifts = night.drifts()
    performance, predicted_by = night.performance()
    hit(Failpoint.MONITOR_MEASURED)
    with decide_alone(night.conn, night.spec.name):
        decided = night.decided()
        verdict = judge(night, drifts, performance, predicted_by, decided)
        if verdict.has_triggered:
            open_decision(
                night.conn,
                night.spec.name,
                night.partition,
                verdict.reasons,
                _evidence(verdict),
                night.run,
            )
    if verdict.has_triggered:
        hit(Failpoint.DECISION_AFTER, lambda: lose(night.conn))
    digest = sha256(
        json.dumps([inputs, asdict(verdict)], sort_keys=True, default=str).encode()
    ).hexdigest()
    verdict = _with_report(
        night, verdict, drifts, digest, wants_report=wants_report or verdict.has_triggered
    )
    beside = {"model_version": predicted_by, "maturity": verdict.maturity}
    manifest = LoadManifest(
        night.run, inputs | {"decided": str(decided.others)}, reads=night.reads()
    )
    publish_verdict(
        night.conn, verdict, drifts, [asdict(one) | beside for one in performance], manifest
    )
    seen = read_verdict(night.conn, night.spec.name, night.partition)
    if seen != verdict or (seen.has_triggered and seen.retrain_decision_id is None):
        raise VerdictLostError(
            f"The verdict of {night.partition} is not what readers see.",
            expected=str(verdict),
            got=str(seen),
        )
    return seen


def judge(
    night: MonitoringContext,
    drifts: list[Drift],
    performance: list[Performance],
    predicted_by: int | None,
    decided: RetrainHistory,
) -> Verdict:
    """Return the verdict that a night's drift and matured performance, beside earlier verdicts and orders, give; nothing is written."""
    limits, version = (
        night.spec.monitoring,
        night.champion.version.version if night.champion else None,
    )
    features = [one.is_drifted for one in drifts if one.kind != "score"]
    score = next((one for one in drifts if one.kind == "score"), None)
    watched = next(
        (one for one in performance if (one.slice_name, one.metric) == (ALL_ROWS, limits.metric)),
        None,
    )
    expected = night.expected_metric(predicted_by)
    loss = _matured_loss(
        night, watched, expected, is_champion=predicted_by is not None and predicted_by == version
    )
    today = PartitionStatus(
        night.partition.day,
        drift=condition_status(
            sum(features) / len(features) >= limits.drifted_features_ratio if features else None
        ),
        score_drift=condition_status(score.is_drifted if score else None),
        performance=condition_status(None if loss is None else loss > limits.maximum_metric_loss),
        severe_loss=condition_status(
            None
            if loss is None or limits.triggers.severe_loss_factor is None
            else loss > limits.triggers.severe_loss_factor * limits.maximum_metric_loss
        ),
    )
    ruling = apply_trigger_rule(night.spec, today, night.earlier, decided, night.red)
    return Verdict(
        model=night.spec.name,
        partition_date=night.partition.day,
        model_version=version,
        drift_status=today.drift,
        score_drift_status=today.score_drift,
        performance_status=today.performance,
        severe_loss_status=today.severe_loss,
        n_features=len(features),
        n_drifted=sum(features),
        score_psi=score.psi if score else None,
        metric=limits.metric,
        metric_value=watched.value if watched else None,
        metric_baseline=watched.baseline_value if watched else None,
        metric_expected=expected,
        n_labels=night.labels.n_labels,
        n_predictions=night.labels.n_predictions,
        n_never_labelled=night.labels.n_never,
        label_share=night.labels.share,
        maturity=night.labels.maturity(night.spec),
        evaluated_partition=evaluated_partition(night.spec, night.partition).day,
        breached_days={
            name: [day.isoformat() for day in days] for name, days in ruling.breached_days.items()
        },
        in_cooldown=ruling.in_cooldown,
        is_over_budget=ruling.is_over_budget,
        red_reasons=night.red,
        has_triggered=ruling.has_triggered,
        reasons=[*ruling.reasons, *night.remarks],
    )


def _matured_loss(
    night: MonitoringContext,
    watched: Performance | None,
    expected: float | None,
    *,
    is_champion: bool,
) -> float | None:
    """Return by how much the champion is worse than its hold-out promised, 0 if better than the rule; None if that cannot be said.

    In a storm every prediction is bad: a model that still beats the rule on the same rows gains
    nothing by another training.
    """
    limits = night.spec.monitoring
    if watched is None or watched.value is None:
        return None
    if not is_champion or expected is None:
        night.remarks.append("the matured predictions are not the champion's")
        return None
    maturity = night.labels.maturity(night.spec)
    if maturity != "mature":
        night.remarks.append(
            f"labels of the evaluated night are {maturity}: {night.labels.share or 0:.0%} are known"
        )
        return None
    if watched.n_labels < limits.minimum_labels:
        night.remarks.append(f"only {watched.n_labels} labels, {limits.minimum_labels} are needed")
        return None
    beats_rule = (
        watched.baseline_value is not None
        and metric_loss(limits.metric, watched.value, watched.baseline_value) < 0
    )
    return 0.0 if beats_rule else metric_loss(limits.metric, watched.value, expected)


def _with_report(
    night: MonitoringContext,
    verdict: Verdict,
    drifts: list[Drift],
    digest: str,
    *,
    wants_report: bool,
) -> Verdict:
    """Link the report of this verdict, made before or now; whatever goes wrong with it is its problem, nothing more."""
    if night.champion is None or not drifts:
        return verdict
    folder = f"reports/{night.spec.name}/{night.partition}/{digest[:16]}"
    try:
        store = ObjectStore.open(night.settings)
        key = next((key for key in store.list(f"{folder}/") if key.endswith(".html")), None)
        if key is None and not wants_report:
            return verdict
        if key is None:
            report = make_report(
                *_samples(night, night.champion), _shown(night, night.champion, drifts)
            )
            key = content_key(folder, report.html, ".html")
            store.put(content_key(folder, report.json, ".json"), report.json, "application/json")
            store.put(key, report.html, "text/html; charset=utf-8")
    except Exception as error:  # noqa: BLE001  (see the docstring)
        problem = error.what if isinstance(error, NightshiftError) else type(error).__name__
        logger.warning("%s %s: %s", night.spec.name, night.partition, error)
        return replace(verdict, report_problem=f"no report: {problem}")
    return replace(verdict, report_key=key)


def _samples(night: MonitoringContext, champion: Champion) -> tuple[Sample, Sample]:
    """Return the reference (training rows, scores of unseen rows) and the current sample (the night's rows and scores)."""
    from psycopg import sql

    size, seed = night.spec.monitoring.report_rows, night.spec.training.seed
    signature, rows = champion.trained.signature, champion.rows
    unseen = champion.trained.predictions(rows.slice(rows.num_rows - champion.n_unseen)).score
    reference = Sample.draw(
        rows.slice(0, rows.num_rows - champion.n_unseen), unseen, signature, size, seed
    )
    order = sql.SQL("select t.* from {} order by t.{} collate {}").format(
        published_features(night.spec, night.partition, night.partition),
        sql.Identifier(night.spec.entity.key),
        sql.Identifier("C"),
    )
    current = read_arrow(night.settings, order, night.run.application_name)
    return reference, Sample.draw(
        current, champion.trained.predictions(current).score, signature, size, seed
    )


def _shown(night: MonitoringContext, champion: Champion, drifts: list[Drift]) -> ShownDrift:
    return ShownDrift(
        psi={one.feature: one.psi for one in drifts},
        drifted=[one.feature for one in drifts if one.is_drifted],
        drifted_ratio=night.spec.monitoring.drifted_features_ratio,
        categorical=[name for name, _ in champion.trained.signature.categorical],
    )


def _evidence(verdict: Verdict) -> dict[str, Any]:
    names = (
        "n_drifted",
        "n_features",
        "score_psi",
        "metric",
        "metric_value",
        "metric_expected",
        "n_labels",
        "maturity",
        "label_share",
        "model_version",
    )
    return {name: getattr(verdict, name) for name in names}
