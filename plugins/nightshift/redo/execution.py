"""Do again what late data touched, stage by stage in the order of a night; each stage looks anew at what is stale."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import sweep
from nightshift.monitoring.monitor import monitor
from nightshift.redo.plan import (
    Lineage,
    Scope,
    find_features,
    find_predictions,
    find_verdicts,
    read_knowledge,
)
from nightshift.scoring.publication import score
from nightshift.transformation.build import build
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt_compiled import raw_lineage

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.staleness import StalePartition

Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One partition whose published content is another one now.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        before: Content hash that readers saw, None if there was nothing.
        after: Content hash that they see now.
    """

    dataset: str
    day: dt.date
    before: str | None
    after: str


@dataclass(frozen=True)
class RedoResult:
    """What a redo did.

    Attributes:
        changes: Partitions that readers see changed, by dataset and day.
        n_done: Partitions that were done again, equal ones included.
        left: What could not be done, and why.
    """

    changes: tuple[Change, ...]
    n_done: int
    left: tuple[str, ...]


def redo(settings: Settings, scope: Scope, run: RunContext, say: Say) -> RedoResult:
    """Ingest late drops and do all again that they touch: features, predictions, verdicts. Again, it finds nothing to do.

    Nothing is retrained: that is decided by the schedule and the evidence of the nights.

    Args:
        settings: Everything.
        scope: Which late drops; what they touch is done in full.
        run: Who does it.
        say: Takes one line of progress.

    Raises:
        NightshiftError: The features could not be built; nothing behind them was tried.
    """
    specs = list(load_specs(settings.models_dir).values())
    with connect(settings, run.application_name) as conn:
        before = _published(conn)
        left = _ingest(settings, scope, run, say)
        lineage = Lineage(raw_lineage(settings), scope)
        stale = find_features(conn, read_knowledge(settings, conn), specs, lineage)
        only = {one.day for one in stale} if scope.is_narrow else None
        n_done = len(stale)
        for days in _ranges(one.day for one in stale):
            say(f"transform {days}: {_reason(stale, days)}")
            build(settings, days, run).require_all()
        for spec in specs:
            try:
                scored = find_predictions(conn, [spec], only=only)
                _score(settings, spec, scored, run, say)
                n_done += len(scored)
                knowledge, remade = read_knowledge(settings, conn), [*stale, *scored]
                find = partial(find_verdicts, conn, knowledge, [spec], lineage, remade=remade)
                n_done += _measure(settings, spec, run, say, find)
            except NightshiftError as error:
                left.append(f"{spec.name}: {error}")
        after = _published(conn)
    changes = [
        Change(dataset, day, before.get((dataset, day)), now)
        for (dataset, day), now in sorted(after.items())
    ]
    return RedoResult(
        tuple(change for change in changes if change.before != change.after), n_done, tuple(left)
    )


def _ingest(settings: Settings, scope: Scope, run: RunContext, say: Say) -> list[str]:
    left: list[str] = []
    for name, contract in load_contracts(settings.datasets_dir).items():
        if (days := scope.range_of(contract)) is None:
            continue
        swept = sweep(settings, name, days, run, reread=scope.reread)
        for drop in swept.loaded:
            is_new = drop.partition in swept.published
            say(
                f"ingest    {name} {drop.partition}: {drop.data_key}, {'a new version' if is_new else 'says nothing new'}"
            )
        left += [
            f"{drop.data_key} was refused with {code}; read docs/runbooks/{code}.md"
            for drop, code in swept.left
        ]
        left += [f"{name}: somebody is loading it now; run this again"] if swept.is_busy else []
    return left


def _score(
    settings: Settings, spec: ModelSpec, stale: list[StalePartition], run: RunContext, say: Say
) -> None:
    for days in _ranges(one.day for one in stale):
        say(f"score     {spec.name} {days}: {_reason(stale, days)}")
        score(settings, spec, days, run)


def _measure(
    settings: Settings,
    spec: ModelSpec,
    run: RunContext,
    say: Say,
    find_stale: Callable[[], list[StalePartition]],
) -> int:
    """Measure night by night in order: a verdict looks at those before it, and may be stale only because one of them changed."""
    done = set[dt.date]()
    while stale := [one for one in find_stale() if one.day not in done]:
        say(f"monitor   {spec.name} {stale[0].day}: {stale[0].reason}")
        monitor(settings, spec, PartitionRange.single(Partition(stale[0].day)), run)
        done.add(stale[0].day)
    return len(done)


def _reason(stale: Iterable[StalePartition], days: PartitionRange) -> str:
    return next(one.reason for one in stale if one.day == days.first.day)


def _ranges(days: Iterable[dt.date]) -> Iterator[PartitionRange]:
    """Yield runs of consecutive days, in order."""
    run: list[dt.date] = []
    for day in sorted(days):
        if run and day != run[-1] + dt.timedelta(days=1):
            yield PartitionRange(Partition(run[0]), Partition(run[-1]))
            run = []
        run.append(day)
    if run:
        yield PartitionRange(Partition(run[0]), Partition(run[-1]))


def _published(conn: Connection) -> dict[tuple[str, dt.date], str]:
    rows = conn.execute(
        "select p.dataset, p.partition_date, l.content_hash from ops.published p join ops.loads l using (dataset, partition_date, load_id)"
    )
    return {(dataset, day): content_hash for dataset, day, content_hash in rows}
