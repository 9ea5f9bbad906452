"""The recorded answer of a night, and its way into the warehouse: verdict, drift and performance are published together."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.trigger import PartitionStatus, Status, loss_lag_days
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.monitoring.drift import Drift
    from nightshift.monitoring.maturity import Maturity
    from nightshift.warehouse.connection import Connection

SCHEMA = "monitoring"
FOLLOW_UP_FIELDS = frozenset({"retrain_decision_id", "report_key", "report_problem"})
"""Fields that stand in tables of their own: they say what followed from a verdict, not what it
found.
"""


@dataclass(frozen=True)
class Verdict:
    """What one night says about one model.

    Attributes:
        model: Name of the spec.
        partition_date: The night.
        model_version: The champion that was measured; None without one.
        drift_status: Whether enough features drifted, ``unknown`` without a champion; and so on for
            the other conditions.
        n_features: Features compared; ``n_drifted`` of them drifted.
        severe_loss_status: Whether the matured loss is above ``severe_loss_factor`` times the
            limit.
        score_psi: Population stability index of the scores.
        metric: The watched metric; ``metric_value`` over all matured rows, ``metric_baseline`` of
            the rule on the same rows, ``metric_expected`` of the predicting version's hold-out.
        n_labels: Matured labels that the metrics stand on, of ``n_predictions``;
            ``n_never_labelled`` of these never get one.
        label_share: Known labels among the predictions that can get one, 1 is best.
        maturity: Of the evaluated night; only ``mature`` metrics trigger.
        evaluated_partition: The night that made the predictions that matured.
        breached_days: Per condition, the nights of the window on which it held.
        in_cooldown: Whether an earlier decision is too near.
        is_over_budget: Whether earlier decisions have used up the budget.
        red_reasons: Why the data cannot be trusted; blocks a decision.
        has_triggered: Whether a decision stands for this night.
        reasons: Why, for people.
        report_key: Object key of the HTML report; None when it could not be made,
            ``report_problem`` then says why. Neither is content.
        retrain_decision_id: The decision of this night; None when it did not trigger.
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
    score_psi: float | None
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

    def summary(self) -> dict[str, Any]:
        """Return keys and counts that fit into an XCom."""
        names = (
            "model",
            "model_version",
            "n_features",
            "n_drifted",
            "n_labels",
            "maturity",
            "report_key",
            "retrain_decision_id",
        )
        statuses = ("drift_status", "score_drift_status", "performance_status")
        return {"partition": self.partition_date.isoformat()} | {
            name: getattr(self, name) for name in names + statuses
        }


def targets(model: str) -> tuple[Target, Target, Target]:
    """Return the datasets that one night publishes together."""
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
    )


def publish_verdict(
    conn: Connection,
    verdict: Verdict,
    drifts: Sequence[Drift],
    performance: Sequence[Mapping[str, Any]],
    manifest: LoadManifest,
) -> None:
    """Stage, audit and publish what one night measured, then link its report.

    Args:
        conn: A connection outside of a transaction.
        verdict: One row of ``monitoring.verdicts``.
        drifts: Rows of ``monitoring.drift``.
        performance: Rows of ``monitoring.performance``, with the version that made the predictions.
        manifest: What all of it depends on.

    Raises:
        StaleTokenError: A newer attempt owns the night.
        AuditError: Keys are not unique.
    """
    write = begin(
        conn,
        targets(verdict.model),
        PartitionRange.single(Partition(verdict.partition_date)),
        manifest,
    )
    place = {
        "partition_date": verdict.partition_date,
        "load_id": write.load_id,
        "model": verdict.model,
    }
    version = {"model_version": verdict.model_version}
    whole = {name: value for name, value in asdict(verdict).items() if name not in FOLLOW_UP_FIELDS}
    document = {
        name: json.dumps(whole[name]) for name in ("breached_days", "red_reasons", "reasons")
    }
    evaluated = {"evaluated_partition": verdict.evaluated_partition}
    with conn.transaction():
        _insert(conn, "verdicts", [whole | document | place])
        _insert(conn, "drift", [asdict(one) | version | place for one in drifts])
        _insert(conn, "performance", [dict(one) | evaluated | place for one in performance])
    audit(conn, write)
    publish(conn, write)
    if verdict.report_key or verdict.report_problem:
        _link_report(conn, verdict)


def _link_report(conn: Connection, verdict: Verdict) -> None:
    """Put the report beside the load that readers see, which is an older one when the content is the same."""
    conn.execute(
        """
        insert into monitoring.reports (model, partition_date, load_id, report_key, problem)
        select %(model)s, partition_date, load_id, %(key)s, %(problem)s from ops.published
        where dataset = %(dataset)s and partition_date = %(day)s
        on conflict (model, partition_date, load_id) do update set report_key = excluded.report_key, problem = excluded.problem
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

    if rows:
        names = list(rows[0])
        statement = sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier(SCHEMA, table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(map(sql.Placeholder, names)),
        )
        with conn.cursor() as cursor:
            cursor.executemany(statement, rows)


def read_verdict(conn: Connection, model: str, partition: Partition) -> Verdict | None:
    """Return what readers see of a night."""
    names = list(Verdict.__dataclass_fields__)
    query = f"select {', '.join(names).replace('retrain_decision_id', 'decision_id')} from monitoring.verdicts_published"  # noqa: S608
    row = conn.execute(
        f"{query} where model = %s and partition_date = %s".encode(), [model, partition.day]
    ).fetchone()
    return None if row is None else Verdict(**dict(zip(names, row, strict=True)))


def earlier_statuses(
    conn: Connection, spec: ModelSpec, partition: Partition, model_version: int | None
) -> list[PartitionStatus]:
    """Return what the nights before this one found about the same champion, as far as its drift window goes, oldest first."""
    rows = conn.execute(
        """
        select partition_date, drift_status, score_drift_status, performance_status, severe_loss_status from monitoring.verdicts_published
        where model = %s and partition_date > %s::date - %s and partition_date < %s and model_version is not distinct from %s
        order by partition_date
        """,
        [
            spec.name,
            partition.day,
            spec.monitoring.windows.m + loss_lag_days(spec),
            partition.day,
            model_version,
        ],
    )
    return [PartitionStatus(*row) for row in rows]
