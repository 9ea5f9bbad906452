"""The segment that explains most of a loss, and the column and slice of most of a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.metrics import METRICS
from nightshift.monitoring.columns.night_series import QUANTILE_NAMES
from nightshift.monitoring.performance import ALL_ROWS, metric_loss
from nightshift.quality.profiles import LoadTable
from nightshift.training.evaluation import OUTCOME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import sql

    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.monitoring.context import MonitoringContext
    from nightshift.monitoring.performance import Performance

MIN_SHARE = 0.2
"""Share of a loss or shift below which no segment explains it: it is everywhere."""
MIN_CONCENTRATION = 1.5
"""Share of the loss or shift over share of the rows from which a segment explains it: one of three
shops has a third of whatever is lost everywhere.
"""

SLICED_DAYS = 28
"""Newest training partitions that tell what is usual of a slice: each weekday four times."""


class SliceMean(NamedTuple):
    """The mean over a slice of what a statistic counts in each row: it adds up from slices.

    Attributes:
        name: Column of the slice; ``all`` for all rows.
        level: Its value; empty for all rows.
        n_rows: Rows of the partition that count, those without a value left out.
        mean: Of the partition; None without such rows.
        reference: Of training partitions; None for a level that they did not have.
    """

    name: str
    level: str
    n_rows: int
    mean: float | None
    reference: float | None


def loss_segment(performance: Sequence[Performance], metric: str, expected: float) -> str | None:
    """Return the slice that explains most of a loss, for people; None if none does.

    It is the one with most of the loss beyond its share of the rows. Only a mean over rows adds up
    from its slices, so the metric must be one that is better lower.

    Args:
        performance: All metrics, of all rows and of the slices.
        metric: The watched metric.
        expected: What the champion's advantage over the rule was on its hold-out; negative is
            better than the rule.
    """
    if METRICS[metric].better != "lower":
        return None
    excess, n_rows = {}, {}
    for part in performance:
        if part.metric == metric and part.value is not None and part.baseline_value is not None:
            # What the champion lost on these rows, in the metric's unit times rows.
            lost = metric_loss(metric, part.value, part.baseline_value) - expected
            excess[part.slice_name, part.slice_value] = lost * part.n_labels
            n_rows[part.slice_name, part.slice_value] = part.n_labels
    everything = (ALL_ROWS, "")
    if excess.get(everything, 0.0) <= 0:
        return None
    return _concentrated_in(excess, n_rows, "loss")


def _concentrated_in(
    excess: Mapping[tuple[str, str], float], n_rows: Mapping[tuple[str, str], int], summed: str
) -> str | None:
    """Return the slice with most of a sum beyond its share of the rows; None for no such slice.

    Args:
        excess: By slice and level, what is added up over its rows; not 0 for all rows.
        n_rows: Its rows.
        summed: What is added up, for people.
    """
    everything = (ALL_ROWS, "")
    concentrated = {}
    for key, part in excess.items():
        share, share_of_rows = part / excess[everything], n_rows[key] / n_rows[everything]
        # A class that came true is no segment: nobody knew it before.
        if key[0] not in (ALL_ROWS, OUTCOME) and share >= max(
            MIN_SHARE, MIN_CONCENTRATION * share_of_rows
        ):
            concentrated[key] = (share - share_of_rows, share, share_of_rows)
    if not concentrated:
        return None
    name, value = max(concentrated, key=concentrated.__getitem__)
    _, share, share_of_rows = concentrated[name, value]
    return f"{name}={value}: {share:.0%} of the {summed}, {share_of_rows:.0%} of the rows"


def shift_segment(
    drifts: Sequence[Drift], read_slices: Callable[[Drift], Sequence[SliceMean]]
) -> str | None:
    """Return the column that is furthest from usual, for people; None if none has drifted.

    A slice that carries more than its share of the column's shift is named first.

    Args:
        drifts: All columns.
        read_slices: Reads what the shift of a column is made of.
    """
    drifted = [drift for drift in drifts if drift.is_drifted]
    slow = [drift for drift in drifts if drift.is_slow]
    if slow and not drifted:
        return max(slow, key=lambda drift: drift.slow_evidence or 0.0).slow_change
    if not drifted:
        return None
    # Only this column's rows are read again, since only this one is named.
    furthest = max(drifted, key=lambda drift: drift.distance)
    column = f"{furthest.feature}: {furthest.statistic} at {furthest.distance:.1f} usual variations"
    segment = shifted_slice(read_slices(furthest))
    return f"{segment}; {column}" if segment else column


def shifted_slice(slices: Sequence[SliceMean]) -> str | None:
    """Return the slice that carries more than its share of a shift, for people; None for none.

    Args:
        slices: All rows, and each level of each declared slice; empty if nothing was read.
    """
    overall = None
    for part in slices:
        if part.name == ALL_ROWS:
            overall = part.reference
    excess, n_rows = {}, {}
    for part in slices:
        # A level that never was is compared with what all rows usually have.
        usual = part.reference if part.reference is not None else overall
        if part.mean is not None and usual is not None:
            excess[part.name, part.level] = (part.mean - usual) * part.n_rows
            n_rows[part.name, part.level] = part.n_rows
    # Without a shift of all rows there is nothing of which a slice could have a share.
    return _concentrated_in(excess, n_rows, "shift") if excess.get((ALL_ROWS, "")) else None


def slice_means(context: MonitoringContext, drift: Drift) -> list[SliceMean]:
    """Return what a column's shift is made of, by level of each declared slice; one scan.

    Args:
        context: A published partition.
        drift: Of a column; nothing is read if its statistic does not add up from slices.
    """
    from psycopg import sql

    spec, day = context.spec, context.partition.day
    training, counted = context.columns.slice_loads, _counted(drift)
    # The score is no column of the view.
    if not training or counted is None or drift.feature not in spec.features.names:
        return []
    loads = {key: training[key] for key in sorted(training)[-SLICED_DAYS:] if key < day}
    load = LoadTable.published(context.conn, spec.features_dataset, day)
    loads[day] = load.load_id
    parts: list[sql.Composable] = [sql.SQL("('all', '')")]
    for name in dict.fromkeys(part.column for part in spec.promotion.slices):
        part = sql.SQL("({}, coalesce(f.{}::text, '(missing)'))")
        parts.append(part.format(sql.Literal(name), sql.Identifier(name)))
    query = sql.SQL(
        """
        select part.name, part.level,
            count(counted.number) filter (where f.partition_date = {day}),
            avg(counted.number) filter (where f.partition_date = {day}),
            avg(counted.number) filter (where f.partition_date < {day})
        from {table} f
            join unnest({days}::date[], {load_ids}::bigint[]) requested (day, load_id)
            on f.partition_date = requested.day and f.load_id = requested.load_id
            cross join lateral (select {counted}) counted (number)
            cross join lateral (values {parts}) part (name, level)
        group by 1, 2 order by 1, 2
        """
    ).format(
        day=sql.Literal(day),
        table=sql.Identifier(load.schema, load.table),
        days=sql.Literal(list(loads)),
        load_ids=sql.Literal(list(loads.values())),
        counted=counted,
        parts=sql.SQL(", ").join(parts),
    )
    return [SliceMean(*row) for row in context.conn.execute(query)]


def _counted(drift: Drift) -> sql.Composed | None:
    """Return what a statistic counts in each row; None if it does not add up from slices."""
    from psycopg import sql

    column, usual = sql.Identifier("f", drift.feature), drift.usual
    # A boolean is a number here, and has no cast to a double.
    text = "case {}::text when 'true' then 1 when 'false' then 0 else {}::text::float8 end"
    number = sql.SQL(text).format(column, column)
    if drift.statistic == "missing_share":
        return sql.SQL("({} is null)::integer::float8").format(column)
    if drift.statistic == "mean":
        return number
    if drift.statistic == "std" and drift.reference_mean is not None:
        mean = sql.Literal(drift.reference_mean)
        return sql.SQL("power({} - {}, 2)").format(number, mean)
    if drift.statistic in QUANTILE_NAMES and usual is not None:
        # A quantile moves because other rows are above what it usually is.
        return sql.SQL("({} > {})::integer::float8").format(number, sql.Literal(usual))
    return None
