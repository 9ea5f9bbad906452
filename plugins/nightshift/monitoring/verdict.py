"""The verdict of a partition, published together with its drift and performance rows."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.monitoring.trigger import PartitionStatus, status_days
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.monitoring.columns.faults import PublishedFault
    from nightshift.monitoring.estimation import Estimate
    from nightshift.monitoring.outcomes import Maturity
    from nightshift.monitoring.performance import CanaryPerformance, Performance
    from nightshift.monitoring.trigger import Cause, Status
    from nightshift.warehouse.connection import Connection

SCHEMA = "monitoring"
# Fields with tables of their own: what followed from a verdict, not what it measured.
FOLLOW_UP_FIELDS = frozenset({"retrain_decision_id", "report_key", "report_problem"})
SUMMARY = (
    "model",
    "model_version",
    "n_features",
    "n_drifted",
    "n_labels",
    "maturity",
    "report_key",
    "retrain_decision_id",
    "drift_status",
    "score_drift_status",
    "performance_status",
    "n_faults",
    "cause",
)


class VerdictLostError(NightshiftError):
    """The published verdict is not what readers see."""

    code = "NS-MONITOR-003"
    is_retryable = True


@dataclass(frozen=True)
class Verdict:
    """The result of monitoring one partition of one model.

    Attributes:
        model: Name of the spec.
        partition_date: The partition.
        model_version: The champion that was measured; None without one.
        drift_status: Whether enough features drifted, ``unknown`` without a champion; so for the
            other conditions.
        n_features: Features compared, of which ``n_drifted`` drifted.
        severe_loss_status: Whether the matured loss exceeds ``severe_loss_factor`` times the limit.
        score_distance: Distance of the scores, in usual variations from night to night.
        n_faults: Columns that a broken feed explains.
        cause: What the evidence points at, and so what follows.
        segment: The part of the rows that explains most of a loss or shift; None without either.
        loss: By how much the champion is worse than expected; None if unknown.
        metric: The watched metric; ``metric_value`` over all matured rows, ``metric_baseline`` of
            the rule on the same rows, ``metric_expected`` of the predicting version's hold-out.
        n_labels: Matured labels behind the metrics, of ``n_predictions``; ``n_never_labelled`` of
            these never get one.
        label_share: Known labels among the predictions that can get one, 1 is best.
        maturity: Of the evaluated partition; only ``mature`` metrics trigger.
        evaluated_partition: The partition whose predictions matured.
        breached_days: Per condition, the days of the window on which it was breached.
        in_cooldown: Whether an earlier request is too near.
        is_over_budget: Whether earlier requests have used up the budget.
        red_reasons: Data quality problems; they block a request.
        has_triggered: Whether a retrain request exists for this partition.
        reasons: Why, for people.
        report_key: Object key of the HTML report; None without one, ``report_problem`` then tells
            why. Neither is part of the content.
        retrain_decision_id: The request of this partition; None if it did not trigger.
    """

    model: str
    partition_date: dt.date
    model_version: int | None
    drift_status: Status
    score_drift_status: Status
    performance_status: Status
    severe_loss_status: Status
    n_features: int
    n_drifted: int
    score_distance: float | None
    n_faults: int
    cause: Cause
    segment: str | None
    loss: float | None
    metric: str
    metric_value: float | None
    metric_baseline: float | None
    metric_expected: float | None
    n_labels: int
    n_predictions: int
    n_never_labelled: int
    label_share: float | None
    maturity: Maturity
    evaluated_partition: dt.date
    breached_days: Mapping[str, Sequence[str]]
    in_cooldown: bool
    is_over_budget: bool
    red_reasons: Sequence[str]
    has_triggered: bool
    reasons: Sequence[str]
    report_key: str | None = None
    report_problem: str | None = None
    retrain_decision_id: int | None = field(default=None, compare=False)

    @property
    def status(self) -> PartitionStatus:
        """Return the conditions, as later partitions read them."""
        return PartitionStatus(
            self.partition_date,
            self.drift_status,
            self.score_drift_status,
            self.performance_status,
            self.severe_loss_status,
            "breached" if self.n_faults else "ok",
        )

    def summary(self) -> dict[str, Any]:
        """Return keys and counts that fit into an XCom."""
        fields = {name: getattr(self, name) for name in SUMMARY}
        return {"partition": self.partition_date.isoformat(), **fields}


def targets(model: str) -> tuple[Target, ...]:
    """Return the datasets that one partition publishes together."""
    return (
        Target(f"monitoring/{model}", SCHEMA, "verdicts", ("model",)),
        Target(
            f"monitoring_drift/{model}",
            SCHEMA,
            "drift",
            ("model", "kind", "feature"),
            may_be_empty=True,
        ),
        Target(
            f"monitoring_performance/{model}",
            SCHEMA,
            "performance",
            ("model", "slice_name", "slice_value", "metric"),
            may_be_empty=True,
        ),
        Target(
            f"monitoring_faults/{model}",
            SCHEMA,
            "column_faults",
            ("model", "feature"),
            may_be_empty=True,
        ),
        Target(
            f"monitoring_estimates/{model}",
            SCHEMA,
            "estimates",
            ("model", "span", "metric"),
            may_be_empty=True,
        ),
    )


class VerdictRows(NamedTuple):
    """The measurements that are published with a verdict.

    Attributes:
        drifts: Rows of ``monitoring.drift``.
        faults: Rows of ``monitoring.column_faults``.
        estimates: Rows of ``monitoring.estimates``.
        performance: Rows of ``monitoring.performance``.
        predicted_by: Version that made the matured predictions.
        canary: Rows of ``monitoring.performance`` of a canary, and its version; None without one.
    """

    drifts: Sequence[Drift]
    faults: Sequence[PublishedFault]
    estimates: Sequence[Estimate]
    performance: Sequence[Performance]
    predicted_by: int | None
    canary: CanaryPerformance | None = None


def publish_verdict(
    conn: Connection, verdict: Verdict, rows: VerdictRows, manifest: LoadManifest
) -> None:
    """Stage, audit and publish the verdict with its measurements, then link its report.

    Args:
        conn: A connection outside of a transaction.
        verdict: One row of ``monitoring.verdicts``.
        rows: Its measurements.
        manifest: Everything that the verdict depends on.

    Raises:
        StaleTokenError: A newer attempt owns the partition.
        AuditError: Keys are not unique.
    """
    partitions = PartitionRange.single(Partition(verdict.partition_date))
    write = begin(conn, targets(verdict.model), partitions, manifest)
    key = {
        "partition_date": verdict.partition_date,
        "load_id": write.load_id,
        "model": verdict.model,
    }
    drift_key = {**key, "model_version": verdict.model_version}
    performance_key = {
        **key,
        "model_version": rows.predicted_by,
        "maturity": verdict.maturity,
        "evaluated_partition": verdict.evaluated_partition,
    }
    # All tables in one transaction: an attempt that dies leaves no rows behind.
    with conn.transaction():
        _insert(conn, "verdicts", [_content(verdict) | key])
        _insert(conn, "drift", [asdict(drift) | drift_key for drift in rows.drifts])
        _insert(conn, "column_faults", [asdict(fault) | drift_key for fault in rows.faults])
        _insert(conn, "estimates", [asdict(estimate) | drift_key for estimate in rows.estimates])
        measured = [asdict(part) | performance_key for part in rows.performance]
        if rows.canary:
            canary_key = performance_key | {"model_version": rows.canary.version}
            measured += [asdict(part) | canary_key for part in rows.canary.performance]
        _insert(conn, "performance", measured)
    audit(conn, write)
    publish(conn, write)
    if verdict.report_key or verdict.report_problem:
        _link_report(conn, verdict)


def _content(verdict: Verdict) -> dict[str, Any]:
    """Return the columns of ``monitoring.verdicts``; nested values as JSON."""
    content = {
        name: value for name, value in asdict(verdict).items() if name not in FOLLOW_UP_FIELDS
    }
    for name in ("breached_days", "red_reasons", "reasons"):
        content[name] = json.dumps(content[name])
    return content


def _link_report(conn: Connection, verdict: Verdict) -> None:
    """Link the report to the load that readers see."""
    # With equal content that load is an earlier one than the load just written.
    conn.execute(
        """
        insert into monitoring.reports (model, partition_date, load_id, report_key, problem)
        select %(model)s, partition_date, load_id, %(key)s, %(problem)s from ops.published
        where dataset = %(dataset)s and partition_date = %(day)s
        on conflict (model, partition_date, load_id)
        do update set report_key = excluded.report_key, problem = excluded.problem
        """,
        {
            "model": verdict.model,
            "key": verdict.report_key,
            "problem": verdict.report_problem,
            "dataset": f"monitoring/{verdict.model}",
            "day": verdict.partition_date,
        },
    )


def _insert(conn: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from psycopg import sql

    if not rows:
        return
    names = list(rows[0])
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier(SCHEMA, table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Placeholder, names)),
    )
    with conn.cursor() as cursor:
        cursor.executemany(statement, rows)


def read_verdict(conn: Connection, model: str, partition: Partition) -> Verdict | None:
    """Return the verdict that readers see; None if there is none."""
    names = list(Verdict.__dataclass_fields__)
    columns = ", ".join(names).replace("retrain_decision_id", "decision_id")
    query = (
        f"select {columns} from monitoring.verdicts_published"  # noqa: S608 - our own names
        " where model = %s and partition_date = %s"
    )
    row = conn.execute(query.encode(), [model, partition.day]).fetchone()
    return None if row is None else Verdict(**dict(zip(names, row, strict=True)))


def earlier_statuses(
    conn: Connection, spec: ModelSpec, partition: Partition, model_version: int | None
) -> list[PartitionStatus]:
    """Return the statuses of the same champion within the drift window, oldest first."""
    rows = conn.execute(
        """
        select partition_date, drift_status, score_drift_status, performance_status,
            severe_loss_status, case when n_faults > 0 then 'breached' else 'ok' end
        from monitoring.verdicts_published
        where model = %(model)s
            and partition_date > %(day)s::date - %(reach)s and partition_date < %(day)s
            and model_version is not distinct from %(version)s
        order by partition_date
        """,
        {
            "model": spec.name,
            "day": partition.day,
            # A loss is about predictions of some days ago, and their drift explains it.
            "reach": status_days(spec),
            "version": model_version,
        },
    )
    return [PartitionStatus(*row) for row in rows]


def read_back(conn: Connection, verdict: Verdict) -> Verdict:
    """Return what readers see after a verdict was published.

    Raises:
        VerdictLostError: It is another verdict, or one whose request is missing.
    """
    partition = Partition(verdict.partition_date)
    # Read on its own: the write path may have kept an earlier load with equal content.
    seen = read_verdict(conn, verdict.model, partition)
    if seen != verdict or (seen.has_triggered and seen.retrain_decision_id is None):
        raise VerdictLostError(
            f"The verdict of {partition} is not what readers see.",
            expected=str(verdict),
            got=str(seen),
        )
    return seen
