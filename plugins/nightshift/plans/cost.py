"""Predict what a plan costs: seconds, rows and bytes, from the record of earlier loads.

Steps of applied plans are the best record, since they were timed from end to end. Without them the
loads of the write path serve: from their beginning to their end in the ledger. A stage works before
and after its load, and the first step of a plan loads libraries too: what that takes is learnt from
the timed steps, and begins with what benchmarks/plan_costs.py measured.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.models.arrays import Vector
from nightshift.plans.plan import Cost, Step
from nightshift.warehouse.write_types import target_of

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

MAX_SAMPLES = 40
"""Newest loads of a dataset that are looked at."""
MIN_TIMED_STEPS = 3
"""Timed steps of a dataset that are enough to leave the loads aside."""
FIXED_SHARE = 0.5
"""Share of a load's time that does not grow with its partitions, where all had as many."""
FIXED_SHARES = {"ingest": 0.95, "transform": 0.97, "score": 0.85, "monitor": 0.35}
"""The same by stage (benchmarks/plan_costs.py): a dbt that builds five days instead of one takes a
seventh longer, a monitor four times as long.
"""
AROUND_LOAD = {"ingest": 0.6, "transform": 0.5, "score": 0.6, "monitor": 0.7}
"""Seconds of a step before and after its load; used until a step of the dataset was timed."""
STARTUP = {"ingest": 3.0, "transform": 3.0, "score": 3.0, "monitor": 1.2}
"""Seconds that the first step of a plan takes longer, until both kinds were timed."""
BAND = (10, 90)
"""Percentiles of what earlier loads took, over what is predicted of them."""
_SHORTEST = 1e-3
"""Seconds below which no ratio is taken."""


@dataclass(frozen=True)
class Samples:
    """Earlier loads of a dataset.

    Attributes:
        n_partitions: Of each, shape (n,).
        seconds: Of each, shape (n,).
        source: ``plans``, ``loads``, or ``loads and plans``.
        fixed_share: Share that does not grow with the partitions, where all had as many.
        startup: Seconds that the first step of a plan takes longer.
    """

    n_partitions: Vector
    seconds: Vector
    source: str
    fixed_share: float = FIXED_SHARE
    startup: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was recorded."""
        return self.seconds.size == 0

    def seconds_of(self, n_partitions: int) -> float:
        """Return the expected seconds of a step."""
        fixed, each = self._line()
        return fixed + each * n_partitions

    def ratios(self) -> list[float]:
        """Return what each sample took, over what is expected of it."""
        fixed, each = self._line()
        expected = fixed + each * self.n_partitions
        ratios = self.seconds / np.maximum(expected, _SHORTEST)
        return [float(ratio) for ratio in ratios]

    def _line(self) -> tuple[float, float]:
        """Return fixed seconds, and seconds a partition."""
        lengths = sorted(set(self.n_partitions))
        # Medians: one load that waited for a lock must not be the rule.
        medians = [self._median(length) for length in lengths]
        if len(lengths) == 1:
            fixed = self.fixed_share * medians[0]
            each = (medians[0] - fixed) / lengths[0]
            return fixed, each
        slope, level = np.polyfit(lengths, medians, 1)
        # Noise may let the line fall, or begin below zero.
        each = max(0.0, float(slope))
        fixed = max(0.0, float(level))
        return fixed, each

    def _median(self, length: float) -> float:
        is_as_long = self.n_partitions == length
        return float(np.median(self.seconds[is_as_long]))


def predict(conn: Connection, work: Iterable[Step]) -> Cost:
    """Return the expected cost of the steps that run."""
    seconds = 0.0
    n_rows = 0
    n_bytes = 0.0
    ratios: list[float] = []
    sources: set[str] = set()
    for number, step in enumerate(work):
        samples = read_samples(conn, step)
        # A stage that never ran has no record: the source says so.
        if samples.is_empty:
            sources.add(f"nothing for {step.stage} of {step.dataset}")
        else:
            seconds += samples.seconds_of(len(step.partitions))
            if number == 0:
                seconds += samples.startup
            ratios += samples.ratios()
            sources.add(samples.source)
        rows = expected_rows(conn, step)
        n_rows += rows
        n_bytes += rows * row_bytes(conn, step)

    low = high = 1.0
    if ratios:
        below, above = np.percentile(ratios, BAND)
        # A line through medians may miss most of a few loads: the band holds the prediction, too.
        low = min(low, float(below))
        high = max(high, float(above))
    return Cost(
        round(seconds, 2),
        round(seconds * low, 2),
        round(seconds * high, 2),
        n_rows,
        round(n_bytes),
        ", ".join(sorted(sources)),
    )


def read_samples(conn: Connection, step: Step) -> Samples:
    """Return timed steps of earlier plans; without enough of them, the loads of the ledger.

    The seconds leave out what the first step of a plan takes longer.
    """
    values = {
        "stage": step.stage,
        "dataset": step.dataset,
        "pattern": _pattern(step),
        "limit": MAX_SAMPLES,
    }
    rows = conn.execute(_TIMED_STEPS, values).fetchall()
    timed = timed_samples(step.stage, rows)
    # Two could be two unusual ones.
    if len(rows) >= MIN_TIMED_STEPS:
        return timed
    loads = ledger_samples(step.stage, conn.execute(_LOADS, values).fetchall())
    if timed.is_empty or loads.is_empty:
        return timed if loads.is_empty else loads
    return corrected(loads, timed)


def timed_samples(stage: str, rows: Sequence[tuple[Any, ...]]) -> Samples:
    """Return timed steps, and what a first step takes longer.

    Args:
        stage: Of all of them.
        rows: Partitions, seconds, and whether it was the first step of its plan.
    """
    later = _samples(stage, [row[:2] for row in rows if not row[2]], "plans")
    first = _samples(stage, [row[:2] for row in rows if row[2]], "plans")
    startup = STARTUP.get(stage, 0.0)
    if later.seconds.size >= MIN_TIMED_STEPS and not first.is_empty:
        expected = np.array([later.seconds_of(int(n)) for n in first.n_partitions])
        startup = max(0.0, float(np.median(first.seconds - expected)))
    n_partitions = np.concatenate([later.n_partitions, first.n_partitions])
    without_startup = np.maximum(first.seconds - startup, _SHORTEST)
    seconds = np.concatenate([later.seconds, without_startup])
    return replace(later, n_partitions=n_partitions, seconds=seconds, startup=startup)


def ledger_samples(stage: str, rows: Sequence[tuple[Any, ...]]) -> Samples:
    """Return steps that were never timed: their loads, and what is usual around a load.

    Args:
        stage: Of all of them.
        rows: Partitions and seconds of the loads.
    """
    loads = _samples(stage, rows, "loads")
    around = AROUND_LOAD.get(stage, 0.0)
    return replace(loads, seconds=loads.seconds + around, startup=STARTUP.get(stage, 0.0))


def corrected(loads: Samples, timed: Samples) -> Samples:
    """Return the loads as much longer, or shorter, as the few timed steps say that steps are.

    Args:
        loads: From the ledger; at least one.
        timed: Steps of plans; at least one.
    """
    expected = np.array([loads.seconds_of(int(n)) for n in timed.n_partitions])
    longer = float(np.median(timed.seconds - expected))
    if longer >= 0:
        seconds = loads.seconds + longer
    else:
        # No load may end before it began.
        ratios = timed.seconds / np.maximum(expected, _SHORTEST)
        seconds = loads.seconds * float(np.median(ratios))
    return replace(loads, seconds=seconds, source="loads and plans", startup=timed.startup)


def _samples(stage: str, rows: Sequence[tuple[Any, ...]], source: str) -> Samples:
    # Two columns also without a row.
    table = np.array(rows, dtype=float).reshape(-1, 2)
    share = FIXED_SHARES.get(stage, FIXED_SHARE)
    return Samples(table[:, 0], table[:, 1], source, share)


def _pattern(step: Step) -> str:
    """Return the pattern of the step's datasets: a transform builds all views at once."""
    return step.dataset.replace("*", "%")


_TIMED_STEPS = """
select
    (detail ->> 'n_partitions')::int,
    (detail ->> 'seconds')::float8,
    coalesce((detail ->> 'is_first')::boolean, false)
from ops.plan_events
where event = 'step' and detail ->> 'stage' = %(stage)s and detail ->> 'dataset' = %(dataset)s
order by event_id desc limit %(limit)s
"""
# A load of several views, or of a range, is one attempt: it is counted once.
_LOADS = """
select
    count(distinct l.partition_date)::int,
    extract(epoch from max(g.at) - min(l.started_at))::float8
from ops.loads l
join ops.ledger g using (dataset, partition_date, load_id)
where l.dataset like %(pattern)s and g.event in ('published', 'duplicate')
group by l.load_id
order by l.load_id desc limit %(limit)s
"""


def expected_rows(conn: Connection, step: Step) -> int:
    """Return the rows that a step will write: those published, else the usual ones."""
    by_day = _rows_by_day(conn, step)
    # What was never published has no usual number.
    if not by_day:
        return 0
    total = 0
    for day in step.partitions.days:
        if day in by_day:
            total += by_day[day]
        else:
            total += _usual_rows(by_day, day)
    return total


def published_rows(conn: Connection, step: Step) -> int:
    """Return the rows that readers see of a step, read back after it."""
    values = [_pattern(step), step.first, step.last]
    [(n_rows,)] = conn.execute(_STEP_ROWS, values).fetchall()
    return int(n_rows)


def _rows_by_day(
    conn: Connection,
    step: Step,
) -> dict[dt.date, int]:
    rows = conn.execute(_PUBLISHED_ROWS, [_pattern(step)]).fetchall()
    return {day: int(n_rows) for day, n_rows in rows}


def _usual_rows(
    by_day: Mapping[dt.date, int],
    day: dt.date,
) -> int:
    """Return the median of the same weekday, or of all days where that was never published."""
    alike = [n for other, n in by_day.items() if other.weekday() == day.weekday()]
    numbers = alike or list(by_day.values())
    return int(np.median(numbers))


_STEP_ROWS = """
select coalesce(sum(l.n_rows), 0)
from ops.published p join ops.loads l using (dataset, partition_date, load_id)
where p.dataset like %s and p.partition_date between %s and %s
"""
_PUBLISHED_ROWS = """
select p.partition_date, sum(l.n_rows)
from ops.published p join ops.loads l using (dataset, partition_date, load_id)
where p.dataset like %s group by 1
"""


def row_bytes(conn: Connection, step: Step) -> float:
    """Return the bytes of a row in the step's tables, with indexes; 0 for unknown tables."""
    # A step of all views reads the tables of each.
    query = "select distinct dataset from ops.published where dataset like %s"
    n_bytes = 0.0
    n_rows = 0.0
    for (dataset,) in conn.execute(query, [_pattern(step)]).fetchall():
        target = target_of(dataset)
        # Verdicts lie in tables of several models.
        if target is None:
            continue
        # As the last analyze left it: exact enough, and no scan.
        row = conn.execute(_TABLE_SIZE, [target.schema, target.table]).fetchone()
        if row is None or row[1] <= 0:
            continue
        n_bytes += float(row[0])
        n_rows += float(row[1])
    return n_bytes / n_rows if n_rows else 0.0


_TABLE_SIZE = """
select pg_total_relation_size(c.oid), c.reltuples
from pg_class c
where c.oid = to_regclass(format('%%I.%%I', %s::text, %s::text))
"""
