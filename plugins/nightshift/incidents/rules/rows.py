"""Rules about published rows: lost ones, and scores that a lower fallback step has made."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import TableShapeError
from nightshift.incidents.context import describe_days
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.scoring.degraded import HORIZON as DEGRADED_HORIZON
from nightshift.scoring.degraded import degraded_partitions
from nightshift.warehouse.damage import MAX_COUNTED_ROWS as MAX_ROWS_OF_A_WEEK
from nightshift.warehouse.damage import (
    LoadRecord,
    count_damage,
    published_records,
    recent_records,
)
from nightshift.warehouse.write_types import target_of

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext
    from nightshift.scoring.degraded import DegradedPartition
    from nightshift.warehouse.damage import Damage
    from nightshift.warehouse.write_types import Target

# Older publications were counted when they were new; a restore touches new ones too.
COUNTED_WITHIN = dt.timedelta(days=7)
# Rows of one evaluation: less than a second. A larger warehouse is counted in turns.
MAX_COUNTED_ROWS = 2_000_000
MINUTE = dt.timedelta(minutes=1)


def lost_rows(context: EvaluationContext) -> Findings:
    """Yield the datasets whose readers see another number of rows than was published."""
    records = recent_records(context.conn, COUNTED_WITHIN)
    open_days = _open_days(context)
    _add_open(context, records, open_days)
    counted = _datasets_of_this_turn(context, records)
    for dataset, loads in records.items():
        target = target_of(dataset)
        if target is None:
            continue
        if dataset not in counted or not _is_readable(context, target):
            yield Unchecked(dataset)
            continue
        # Of a very large dataset readers' newest partition, and what is open, has to be enough.
        n_rows = sum(load.n_rows or 0 for load in loads)
        affordable = loads
        if n_rows > MAX_ROWS_OF_A_WEEK:
            days = {loads[-1].partition_date, *open_days.get(dataset, ())}
            affordable = [load for load in loads if load.partition_date in days]
        damages = count_damage(context.conn, target, affordable)
        if damages:
            yield _lost_rows(context, dataset, damages)


def missing_tables(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the tables of published rows that somebody has dropped."""
    tables: dict[str, str] = {}
    for dataset in context.known_datasets:
        target = target_of(dataset)
        if target is not None:
            tables[dataset] = f"{target.schema}.{target.table}"
    rows = context.conn.execute(_MISSING_TABLES, [list(tables), list(tables.values())])
    for dataset, table in rows:
        layer, _, name = dataset.partition("/")
        yield Fact(
            code=TableShapeError.code,
            severity="critical",
            health="degraded",
            subject_type="table",
            subject=dataset,
            what=f"The table {table} does not exist, and its rows are published.",
            consequence="Readers and stages fail; once the table is there, its rows are missed.",
            command="nightshift migrate",
            owner=context.owner_of(name) if layer == "predictions" else "",
            tables=(dataset,),
            size=1,
        )


_MISSING_TABLES = """
select t.dataset, t.name
from unnest(%s::text[], %s::text[]) as t (dataset, name)
where to_regclass(t.name) is null
    and exists (select from ops.published p where p.dataset = t.dataset)
order by t.dataset
"""


def _is_readable(context: EvaluationContext, target: Target) -> bool:
    """Return whether a table may be read; a revoked right or a lost table is its own incident."""
    query = "select coalesce(has_table_privilege(to_regclass(%s), 'select'), false)"
    row = context.conn.execute(query, [f"{target.schema}.{target.table}"]).fetchone()
    return row == (True,)


def _open_days(context: EvaluationContext) -> dict[str, list[dt.date]]:
    """Return the days of the open incidents about lost rows, by dataset."""
    rows = context.conn.execute(
        "select fact_key, partitions from ops.incidents where kind = %s and closed_at is null",
        ["lost rows"],
    )
    return dict(rows.fetchall())


def _add_open(
    context: EvaluationContext,
    records: dict[str, list[LoadRecord]],
    open_days: dict[str, list[dt.date]],
) -> None:
    """Add the loads of the open incidents: they end when they are repaired, not with the week."""
    for dataset, days in open_days.items():
        known = {load.key for load in records.get(dataset, ())}
        published = published_records(context.conn, dataset, days)
        added = [load for load in published if load.key not in known and load.n_rows is not None]
        if added:
            loads = [*records.get(dataset, ()), *added]
            records[dataset] = sorted(loads, key=lambda load: load.partition_date)


def _datasets_of_this_turn(
    context: EvaluationContext, records: dict[str, list[LoadRecord]]
) -> set[str]:
    """Return the datasets that this evaluation can afford to count; another minute has others."""
    sizes = {dataset: sum(load.n_rows or 0 for load in loads) for dataset, loads in records.items()}
    turn = int(context.at.timestamp() // MINUTE.total_seconds())
    names = sorted(sizes)
    start = turn % max(len(names), 1)
    chosen: set[str] = set()
    n_rows = 0
    for dataset in names[start:] + names[:start]:
        n_rows += sizes[dataset]
        # The first one is counted whatever its size: every dataset has its turn.
        if chosen and n_rows > MAX_COUNTED_ROWS:
            break
        chosen.add(dataset)
    return chosen


def _lost_rows(context: EvaluationContext, dataset: str, damages: list[Damage]) -> Fact:
    """Return the fact about a dataset whose published rows vanished or were copied.

    Args:
        context: The evaluation.
        dataset: Name in the ledger.
        damages: Its partitions with another number of rows; at least one.
    """
    # The commands of the page: the same inputs give the same rows, so readers lose nothing.
    days = tuple(damage.partition_date for damage in damages)
    layer, _, name = dataset.partition("/")
    command = f"nightshift backfill {days[0]} {days[-1]}"
    if layer == "predictions":
        command = f"nightshift score {name} {days[-1]}"
    return Fact(
        code="NS-WRITE-007",
        severity="critical",
        health="degraded",
        subject_type="table",
        subject=dataset,
        what=f"Readers of {dataset} do not see what was published of {describe_days(days)}:"
        f" {damages[-1].what}.",
        consequence="Readers see wrong totals now; stages that read it fail with NS-WRITE-007.",
        command=command,
        partitions=days,
        owner=context.owner_of(name) if layer == "predictions" else "",
        tables=(dataset,),
        # More lost rows of the same days are worse too: a snooze must not hide them.
        size=sum(max(damage.n_rows, 1) for damage in damages),
        facts={"loads": [damage.load_id for damage in damages]},
    )


def fallback_in_use(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models of which partitions are published that no champion has scored."""
    for spec in context.specs.values():
        degraded = degraded_partitions(context.conn, spec)
        if degraded:
            yield _fallback(context, degraded)


def _fallback(context: EvaluationContext, degraded: list[DegradedPartition]) -> Fact:
    """Return the fact about a model that a lower step than the champion has scored.

    Args:
        context: The evaluation.
        degraded: Its partitions, the oldest first; at least one.
    """
    # People look at the newest one; a repaired older one closes nothing.
    newest = degraded[-1]
    spec = context.specs[newest.model]
    days = tuple(partition.partition.day for partition in degraded)
    error = newest.describe()
    is_watched = newest.is_looked_after(spec, context.at)
    deadline = spec.deadline_of(newest.partition)
    consequence = "Nothing scores it again by itself: readers keep these scores."
    if is_watched:
        consequence = "catch_up tries the champion again until the deadline, then readers keep it."
    return Fact(
        code=error.code,
        severity="warning",
        health="degraded",
        subject_type="model",
        subject=spec.name,
        what=f"{spec.name} of {describe_days(days)} is published by {newest.source}:"
        f" {newest.reason or 'no reason was recorded'}",
        consequence=consequence,
        command=f"nightshift score {spec.name} {newest.partition}",
        partitions=days,
        owner=spec.owner,
        deadline_at=deadline if deadline > context.at else None,
        tables=(spec.predictions_dataset,),
        models=(spec.name,),
        seen_until=max(entry.published_at for entry in degraded) + DEGRADED_HORIZON,
        facts={"sources": {str(entry.partition): entry.source for entry in degraded}},
    )


def rescued_without_gate(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the models of which readers see a partition that no gate has judged."""
    rows = context.conn.execute(
        """
        select r.model, r.partition_date, max(r.at)
        from ops.rescues r
        join ops.published p on p.dataset = 'predictions/' || r.model
            and (p.partition_date, p.load_id) = (r.partition_date, r.load_id)
        where r.gate = 'no verdict' and r.at > clock_timestamp() - %s::interval
        group by 1, 2 order by 1, 2
        """,
        [COUNTED_WITHIN],
    )
    days_of: dict[str, list[dt.date]] = defaultdict(list)
    newest: dict[str, dt.datetime] = {}
    for model, day, at in rows:
        days_of[model].append(day)
        newest[model] = max(at, newest.get(model, at))
    for model, days in days_of.items():
        yield Fact(
            code="NS-GATE-003",
            severity="warning",
            health="degraded",
            subject_type="model",
            subject=model,
            what=f"{model} of {describe_days(tuple(days))} was published by the rescue without a"
            " verdict of its gate.",
            consequence="Readers keep rows that only the checks in SQL have seen.",
            command=f"nightshift score {model} {days[-1]}",
            partitions=tuple(days),
            owner=context.owner_of(model),
            tables=(f"predictions/{model}",),
            models=(model,),
            seen_until=newest[model] + COUNTED_WITHIN,
        )
