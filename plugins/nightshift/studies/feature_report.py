"""The report on a model's features: what each is used for, worth and costs; kept in a table.

Source: docs/adr/0053-causes-and-features.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nightshift.lake.object_store import ObjectStore
from nightshift.registry.champions import champion_for, load_model
from nightshift.studies.benefit import BenefitStudy
from nightshift.studies.columns import night_constant_columns, redundant_columns
from nightshift.studies.findings import Finding
from nightshift.studies.importance import contributions_by_week, gains, weekly_versions
from nightshift.studies.known_rows import newest_partition, read_known_rows
from nightshift.studies.report_store import (
    FeatureReport,
    ReportNotKeptError,
    keep_report,
    read_report,
)
from nightshift.studies.view_costs import view_costs
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings

NAME = "nightshift features report"
BUDGET_SECONDS = 1_800.0
"""No fit is begun after so many seconds."""


def report_features(
    settings: Settings,
    spec: ModelSpec,
    run: RunContext,
    budget_seconds: float = BUDGET_SECONDS,
) -> FeatureReport:
    """Study the features of a model, keep the report, and return it as read back.

    Safe to repeat: a report of the same partition replaces the earlier one in one transaction.

    Raises:
        NoKnownRowsError: There are no mature, labelled rows.
        WindowError: The rows cannot be split into days that fit and days that judge.
        ObjectStoreError: The files of a version are away.
        ReportNotKeptError: What was read back differs.
    """
    started = time.monotonic()
    with connect(settings, NAME) as conn:
        partition = newest_partition(conn, spec)
        known = read_known_rows(settings, conn, spec, mature_window(spec, partition), NAME)
        champion = champion_for(conn, spec.name, partition.shift(1))
        versions = weekly_versions(conn, spec.name, partition.day)
        findings = list(view_costs(conn))

    # A study takes minutes: no connection waits for it.
    store = ObjectStore.open(settings)
    findings += gains(store, versions)
    version = None
    # Before the first promotion nothing serves, and the rest of the report stands alone.
    if champion is not None:
        version = champion.version
        model = load_model(store, champion)
        findings += contributions_by_week(
            spec,
            model,
            known.rows,
            known.window,
        )
    # What columns are like needs no model.
    findings += redundant_columns(spec, known.rows)
    findings += night_constant_columns(spec, known.rows)
    # The fits come last: what is known without them is never lost to the budget.
    study = BenefitStudy(
        spec,
        known.rows,
        known.window,
        budget_seconds,
    )
    importance = _mean_importance(findings)
    findings += study.findings(importance)
    report = FeatureReport(
        model=spec.name,
        partition_date=partition.day,
        version=version,
        window=known.window,
        n_rows=known.rows.num_rows,
        loss=study.loss,
        left_out=study.left_out,
        seconds=round(time.monotonic() - started, 1),
        findings=sorted(findings, key=_place),
    )
    with connect(settings, NAME) as conn:
        keep_report(conn, spec, report, run)
        kept = read_report(conn, spec.name, partition)
    if kept != report:
        raise ReportNotKeptError(
            f"The report on {spec.name} of {partition} was read back with other numbers.",
            todo="Another run may have replaced it at the same time. Run it again.",
        )
    return report


def _place(number: Finding) -> tuple[str, str, str]:
    # The order in which the store reads them back.
    return number.finding, number.name, number.period


def _mean_importance(findings: list[Finding]) -> dict[str, float]:
    """Return the mean absolute contribution of each feature over the weeks."""
    values: dict[str, list[float]] = {}
    for number in findings:
        if number.finding == "shapley":
            values.setdefault(number.name, []).append(number.value)
    means = {}
    for name, weekly in values.items():
        means[name] = sum(weekly) / len(weekly)
    return means
