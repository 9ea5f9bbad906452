"""The recorded answer of a night, and its way into the warehouse: verdict, drift and performance are published together."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.trigger import NightStatus, Status
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.monitoring.drift import Drift
    from nightshift.warehouse.connection import Connection

SCHEMA = "monitoring"


@dataclass(frozen=True)
class Verdict:
    """What one night says about one model.

    Attributes:
        model: Name of the spec.
        partition_date: The night.
        model_version: The champion that was measured; None without one.
        drift_status: Whether enough features drifted, ``unknown`` without a champion; and so on for the other conditions.
        n_features: Features compared; ``n_drifted`` of them drifted.
        score_psi: Population stability index of the scores.
        metric: The watched metric; ``metric_value`` over all matured rows, ``metric_baseline`` of the rule on the same rows,
            ``metric_expected`` of the predicting version's hold-out.
        evaluated_partition: The night that made the predictions that matured.
        breached_days: Per condition, the nights of the window on which it held.
        in_cooldown: Whether an earlier decision is too near.
        has_triggered: Whether a decision stands for this night.
        reasons: Why, for people.
        report_key: Object key of the HTML report; None when it could not be made.
        retrain_decision_id: The decision of this night; None when it did not trigger.
    """

    model: str
    partition_date: dt.date
    model_version: int | None
    drift_status: Status
    score_drift_status: Status
    performance_status: Status
    n_features: int
    n_drifted: int
    score_psi: float | None
    metric: str
    metric_value: float | None
    metric_baseline: float | None
    metric_expected: float | None
    n_labels: int
    evaluated_partition: dt.date
    breached_days: Mapping[str, Sequence[str]]
    in_cooldown: bool
    has_triggered: bool
    reasons: Sequence[str]
    report_key: str | None
    retrain_decision_id: int | None = field(default=None, compare=False)

    def summary(self) -> dict[str, Any]:
        """Return keys and counts that fit into an XCom."""
        names = ("model", "model_version", "n_features", "n_drifted", "n_labels", "report_key", "retrain_decision_id")
        statuses = ("drift_status", "score_drift_status", "performance_status")
        return {"partition": self.partition_date.isoformat()} | {name: getattr(self, name) for name in names + statuses}


def targets(model: str) -> tuple[Target, Target, Target]:
    """Return the datasets that one night publishes together."""
    return (
        Target(f"monitoring/{model}", SCHEMA, "verdicts", ("model",)),
        Target(f"monitoring_drift/{model}", SCHEMA, "drift", ("model", "kind", "feature"), may_be_empty=True),
        Target(
            f"monitoring_performance/{model}",
            SCHEMA,
            "performance",
            ("model", "slice_name", "slice_value", "metric"),
            may_be_empty=True,
        ),
    )


def publish_night(
    conn: Connection, verdict: Verdict, drifts: Sequence[Drift], performance: Sequence[Mapping[str, Any]], manifest: LoadManifest
) -> None:
    """Stage, audit and publish what one night measured.

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
    write = begin(conn, targets(verdict.model), PartitionRange.single(Partition(verdict.partition_date)), manifest)
    place = {"partition_date": verdict.partition_date, "load_id": write.load_id, "model": verdict.model}
    version = {"model_version": verdict.model_version}
    whole = {name: value for name, value in asdict(verdict).items() if name != "retrain_decision_id"}
    document = {name: json.dumps(whole[name]) for name in ("breached_days", "reasons")}
    evaluated = {"evaluated_partition": verdict.evaluated_partition}
    with conn.transaction():
        _insert(conn, "verdicts", [whole | document | place])
        _insert(conn, "drift", [asdict(one) | version | place for one in drifts])
        _insert(conn, "performance", [dict(one) | evaluated | place for one in performance])
    audit(conn, write)
    publish(conn, write)


def _insert(conn: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from psycopg import sql

    if rows:
        names = list(rows[0])
        statement = sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier(SCHEMA, table), sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join(map(sql.Placeholder, names))
        )
        with conn.cursor() as cursor:
            cursor.executemany(statement, rows)


def read_verdict(conn: Connection, model: str, partition: Partition) -> Verdict | None:
    """Return what readers see of a night."""
    names = list(Verdict.__dataclass_fields__)
    query = f"select {', '.join(names).replace('retrain_decision_id', 'decision_id')} from monitoring.verdicts_published"  # noqa: S608
    row = conn.execute(f"{query} where model = %s and partition_date = %s".encode(), [model, partition.day]).fetchone()
    return None if row is None else Verdict(**dict(zip(names, row, strict=True)))


def earlier_nights(conn: Connection, spec: ModelSpec, partition: Partition, model_version: int | None) -> list[NightStatus]:
    """Return what the nights of the window before this one found about the same champion, oldest first."""
    rows = conn.execute(
        """
        select partition_date, drift_status, score_drift_status, performance_status from monitoring.verdicts_published
        where model = %s and partition_date > %s::date - %s and partition_date < %s and model_version is not distinct from %s
        order by partition_date
        """,
        [spec.name, partition.day, spec.monitoring.windows.m, partition.day, model_version],
    )
    return [NightStatus(*row) for row in rows]
