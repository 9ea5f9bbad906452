"""Make and store the report of a verdict; a report that fails never fails the verdict."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.lake.content_keys import content_key
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.outcomes import read_features
from nightshift.monitoring.report import ShownDrift, draw_sample, make_report
from nightshift.stage_times import stage

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.monitoring.champion import Champion
    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.monitoring.context import MonitoringContext
    from nightshift.monitoring.verdict import Verdict

logger = logging.getLogger(__name__)


def with_report(
    context: MonitoringContext,
    verdict: Verdict,
    drifts: list[Drift],
    inputs: dict[str, str],
    *,
    wants_report: bool,
) -> Verdict:
    """Return the verdict with the key of its report, which is made if it is wanted and missing.

    Any failure is recorded as the verdict's ``report_problem``.
    """
    champion = context.champion
    if champion is None or not drifts:
        return verdict
    # The folder is named by the verdict and its inputs: a rerun finds the report made before.
    document = json.dumps([inputs, asdict(verdict)], sort_keys=True, default=str)
    digest = sha256(document.encode()).hexdigest()
    folder = f"reports/{context.spec.name}/{context.partition}/{digest[:16]}"
    try:
        store = ObjectStore.open(context.settings)
        stored = [key for key in store.list(f"{folder}/") if key.endswith(".html")]
        if stored:
            return replace(verdict, report_key=stored[0])
        if not wants_report:
            return verdict
        with stage("report", model=context.spec.name):
            key = _store_report(context, champion, drifts, store, folder)
    except Exception as error:  # noqa: BLE001 - recorded; a report must not fail the verdict
        problem = error.what if isinstance(error, NightshiftError) else type(error).__name__
        logger.warning("%s %s: %s", context.spec.name, context.partition, error)
        return replace(verdict, report_problem=f"no report: {problem}")
    return replace(verdict, report_key=key)


def _store_report(
    context: MonitoringContext,
    champion: Champion,
    drifts: list[Drift],
    store: ObjectStore,
    folder: str,
) -> str:
    shown = ShownDrift(
        distances={drift.feature: drift.distance for drift in drifts},
        drifted=[drift.feature for drift in drifts if drift.is_drifted],
        drifted_ratio=context.spec.monitoring.drifted_features_ratio,
        categorical=[name for name, _ in champion.trained.signature.categorical],
    )
    reference, current = _samples(context, champion)
    report = make_report(reference, current, shown)
    json_key = content_key(folder, report.json, ".json")
    store.put(json_key, report.json, "application/json")
    # The HTML page is stored last: its presence tells that the report is complete.
    html_key = content_key(folder, report.html, ".html")
    store.put(html_key, report.html, "text/html; charset=utf-8")
    return html_key


def _samples(context: MonitoringContext, champion: Champion) -> tuple[pa.Table, pa.Table]:
    """Return the reference (training rows, scores of unseen rows) and the partition's sample."""
    size = context.spec.monitoring.report_rows
    seed = context.spec.training.seed
    trained, rows = champion.trained, champion.rows
    n_seen = rows.num_rows - champion.n_unseen
    unseen_scores = trained.predictions(rows.slice(n_seen)).score
    reference = draw_sample(rows.slice(0, n_seen), unseen_scores, trained.signature, size, seed)

    current = read_features(
        context.settings, context.spec, context.partition, context.run.application_name
    )
    scores = trained.predictions(current).score
    return reference, draw_sample(current, scores, trained.signature, size, seed)
