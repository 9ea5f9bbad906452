"""Feature reports in the warehouse: one per model and partition, replaced as a whole."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.registry.champions import champion_for
from nightshift.studies.findings import Finding
from nightshift.warehouse.published import newest_published_day

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection


class ReportNotKeptError(NightshiftError):
    """The stored report is not the one that was made."""

    code = "NS-STUDY-004"


@dataclass(frozen=True)
class FeatureReport:
    """What the features of a model were number to be worth.

    Attributes:
        model: Name of the spec.
        partition_date: Newest partition with features: what it does not know does not count.
        version: Champion whose contributions are measured; None without one.
        window: Feature partitions of the rows.
        n_rows: Labelled rows.
        loss: Metric of benefits and learning curves.
        left_out: Fits that the budget did not allow.
        seconds: How long it took.
        findings: All numbers.
    """

    model: str
    partition_date: dt.date
    version: int | None
    window: PartitionRange
    n_rows: int
    loss: str
    left_out: list[str]
    seconds: float
    findings: list[Finding]

    def of(self, finding: str) -> list[Finding]:
        """Return the findings of one kind, in order."""
        # A report has some thousands of numbers: no index is needed.
        return [number for number in self.findings if number.finding == finding]


def keep_report(conn: Connection, spec: ModelSpec, report: FeatureReport, run: RunContext) -> None:
    """Replace the report of a model and partition, as a whole."""
    values = {
        "model": report.model,
        "day": report.partition_date,
        "version": report.version,
        "first_day": report.window.first.day,
        "last_day": report.window.last.day,
        "n_rows": report.n_rows,
        "loss": report.loss,
        "spec_digest": spec.digest,
        "left_out": json.dumps(report.left_out),
        "seconds": report.seconds,
        "run_id": run.run_id,
    }
    rows = []
    for number in report.findings:
        # The order of the fields is that of the columns.
        columns = astuple(number)
        rows.append((report.model, report.partition_date, *columns))
    # Readers see the earlier report or this one, never a part.
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(
            "delete from ml.feature_reports where model = %(model)s and partition_date = %(day)s",
            values,
        )
        cursor.execute(_KEEP, values)
        cursor.executemany(_KEEP_FINDING, rows)


def is_due(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether a champion serves and no report of the newest partition's month is kept."""
    newest = newest_published_day(conn, spec.features_dataset)
    # Before the first champion there may be too few days to fit and to judge.
    if newest is None or champion_for(conn, spec.name, Partition(newest).shift(1)) is None:
        return False
    first_of_month = newest.replace(day=1)
    query = "select 1 from ml.feature_reports where model = %s and partition_date >= %s limit 1"
    return conn.execute(query, [spec.name, first_of_month]).fetchone() is None


def read_report(
    conn: Connection,
    model: str,
    partition: Partition | None = None,
) -> FeatureReport | None:
    """Return a kept report; None without one.

    Args:
        conn: Warehouse connection.
        model: Name of the spec.
        partition: Of the report; None takes the newest.
    """
    # The primary key serves both: the newest report, or that of one partition.
    day = None if partition is None else partition.day
    row = conn.execute(
        """
        select partition_date, version, first_day, last_day, n_rows, loss, left_out, seconds
        from ml.feature_reports
        where model = %s and partition_date = coalesce(%s, partition_date)
        order by partition_date desc limit 1
        """,
        [model, day],
    ).fetchone()
    if row is None:
        return None
    day, version, first_day, last_day, n_rows, loss, left_out, seconds = row
    # Sorted as Python sorts, whatever the database's language.
    rows = conn.execute(
        """
        select finding, name, value, period, low, high, note from ml.feature_findings
        where model = %s and partition_date = %s
        order by finding collate "C", name collate "C", period collate "C"
        """,
        [model, day],
    ).fetchall()
    findings = [Finding(*columns) for columns in rows]
    window = PartitionRange(Partition(first_day), Partition(last_day))
    return FeatureReport(
        model=model,
        partition_date=day,
        version=version,
        window=window,
        n_rows=n_rows,
        loss=loss,
        left_out=left_out,
        seconds=seconds,
        findings=findings,
    )


_KEEP = """
insert into ml.feature_reports (model, partition_date, version, first_day, last_day, n_rows, loss,
    spec_digest, left_out, seconds, run_id)
values (%(model)s, %(day)s, %(version)s, %(first_day)s, %(last_day)s, %(n_rows)s, %(loss)s,
    %(spec_digest)s, %(left_out)s, %(seconds)s, %(run_id)s)
"""
_KEEP_FINDING = """
insert into ml.feature_findings (model, partition_date, finding, name, value, period, low, high,
    note)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
