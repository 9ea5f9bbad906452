"""Roll back to an earlier champion: republish the partitions that its successors scored.

Everything is tried before anything changes. Consecutive partitions flip in one transaction, so that
no reader sees two models in them. Retained loads of that version are published again if their
inputs are still the same; else the version scores once more: the content is equal either way.
Source: docs/adr/0018-rollback.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import (
    LATEST_DAY,
    Partition,
    PartitionRange,
    consecutive_ranges,
)
from nightshift.registry.mlflow_mirror import mirror_aliases
from nightshift.registry.rollback import (
    RollbackRefusedError,
    first_partition_since,
    record_rollback,
)
from nightshift.scoring.pipeline import publish, score_shards
from nightshift.scoring.plan import VersionChoice, inputs_of
from nightshift.scoring.planning import (
    are_reusable,
    begin_plan,
    choose_versions,
    copy_rows,
)
from nightshift.scoring.row_checks import require_version
from nightshift.scoring.version_choice import VersionChooser
from nightshift.warehouse.connection import connect
from nightshift.warehouse.published import newest_published_day, published_loads

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import PublishedLoad


@dataclass(frozen=True)
class PartitionRun:
    """Consecutive partitions that flip together.

    Attributes:
        choices: Features and version of each.
        reusable_loads: The retained load of each with exactly these predictions; empty if one
            partition has none.
    """

    choices: tuple[VersionChoice, ...]
    reusable_loads: tuple[int, ...]

    @property
    def partitions(self) -> PartitionRange:
        """Return the range."""
        (partitions,) = consecutive_ranges(choice.day for choice in self.choices)
        return partitions


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback will do.

    Attributes:
        version: The version that serves again.
        since: First partition that it serves.
        partition_runs: What is republished.
    """

    version: int
    since: Partition
    partition_runs: tuple[PartitionRun, ...]

    @property
    def n_partitions(self) -> int:
        """Return the number of partitions that are republished."""
        return sum(len(partition_run.choices) for partition_run in self.partition_runs)


@dataclass(frozen=True)
class RollbackResult:
    """What readers see after a rollback.

    Attributes:
        promotion_id: The record in ``ml.promotions``.
        published: One entry per partition, as read back; ``is_new`` is False where the content
            stood there before.
    """

    promotion_id: int
    published: tuple[PublishedLoad, ...]


def plan_rollback(
    settings: Settings, spec: ModelSpec, version: int, since: Partition | None, run: RunContext
) -> RollbackPlan:
    """Try the version on every affected partition; return what a rollback would do.

    No prediction and no record is written. Without ``since``, the rollback begins at the first
    partition that a successor of the version served.

    Raises:
        RollbackRefusedError: It never was champion, or cannot be loaded or score.
        RegistryError: There is no such version.
        FeaturesMissingError: The features of an affected partition are not published.
    """
    with connect(settings, run.application_name) as conn:
        since = since or first_partition_since(conn, spec.name, version)
        partitions = PartitionRange(since, Partition(LATEST_DAY))
        affected = published_loads(conn, spec.predictions_dataset, partitions)
        # One for all partitions: the version is loaded and tried once.
        chooser = VersionChooser(settings, spec, conn, only=version)
        partition_runs = []
        for days in consecutive_ranges(affected):
            choices = _choose(chooser, days, run)
            reusable_loads = _find_reusable_loads(conn, spec, choices)
            partition_runs.append(PartitionRun(choices, reusable_loads))
        newest = newest_published_day(conn, spec.features_dataset)
        # Nothing to republish: the version must still prove that it can score.
        if newest and not partition_runs:
            _choose(chooser, PartitionRange.single(Partition(newest)), run)
    return RollbackPlan(version, since, tuple(partition_runs))


def roll_back(
    settings: Settings,
    spec: ModelSpec,
    plan: RollbackPlan,
    reason: str,
    run: RunContext,
    report: Callable[[str], None] = lambda _: None,
) -> RollbackResult:
    """Record the rollback, republish its partitions, and read them back.

    A rerun after a failure continues where it stopped.

    Raises:
        RollbackRefusedError: The version would know the future of the first partition.
        NightshiftError: Partitions could not be republished; they stay as they were, and the record
            stays.
    """
    with connect(settings, run.application_name) as conn:
        # Recorded first: a rerun finds the record, and later partitions have the right champion.
        promotion_id = record_rollback(conn, spec.name, plan.version, plan.since, reason, run)
        mirror_aliases(settings, conn, spec.name)
    published: list[PublishedLoad] = []
    for partition_run in plan.partition_runs:
        published += _republish(settings, spec, partition_run, run)
        how = "from kept loads" if partition_run.reusable_loads else "scored again"
        report(f"{partition_run.partitions}: version {plan.version}, {how}")
    # Read on its own at the end: another run may have published an earlier partition meanwhile.
    with connect(settings, run.application_name) as conn:
        for partition_run in plan.partition_runs:
            require_version(conn, spec, partition_run.partitions, plan.version)
    return RollbackResult(promotion_id, tuple(published))


def _choose(
    chooser: VersionChooser, partitions: PartitionRange, run: RunContext
) -> tuple[VersionChoice, ...]:
    choices = choose_versions(chooser, partitions, run)
    for choice in choices:
        if choice.source != "champion":
            raise RollbackRefusedError(
                f"Version {chooser.only} of {chooser.spec.name} cannot serve: {choice.reason}.",
                expected=f"a version with complete files that scores the features of {choice.day}",
                todo="Nothing was changed. Name another version: `nightshift models`.",
            )
    return tuple(choices)


def _find_reusable_loads(
    conn: Connection, spec: ModelSpec, choices: Sequence[VersionChoice]
) -> tuple[int, ...]:
    """Return, by partition, the newest retained load with the predictions of the same inputs.

    Empty if a partition has none, or if rows of one are damaged: the version then scores again.
    """
    rows = conn.execute(
        """
        select
            load_id,
            array_agg(partition_date order by partition_date),
            array_agg(partition_date) filter (where state = 'published' and collected_at is null),
            (array_agg(inputs))[1]
        from ops.loads where dataset = %s
        group by load_id
        having max(partition_date) >= %s and min(partition_date) <= %s
        order by load_id
        """,
        [spec.predictions_dataset, choices[0].day, choices[-1].day],
    )
    by_day = {choice.day: choice for choice in choices}
    loads: dict[dt.date, int] = {}
    for load_id, days, retained_days, inputs in rows:
        # The digest of the inputs covers all days of a load, so all of them must be affected.
        if not by_day.keys() >= set(days):
            continue
        same_inputs = inputs_of(spec, [by_day[day] for day in days])
        if inputs == same_inputs:
            # Loads come in the order of their numbers: the newest wins.
            loads |= dict.fromkeys(retained_days or [], load_id)
    is_complete = loads.keys() == by_day.keys()
    if not is_complete or not are_reusable(conn, spec, loads):
        return ()
    return tuple(loads[day] for day in by_day)


def _republish(
    settings: Settings, spec: ModelSpec, partition_run: PartitionRun, run: RunContext
) -> list[PublishedLoad]:
    with connect(settings, run.application_name) as conn:
        plan = begin_plan(conn, spec, partition_run.choices, run, {})
        if partition_run.reusable_loads:
            copy_rows(conn, spec, plan, partition_run.reusable_loads, run)
    if not partition_run.reusable_loads:
        score_shards(settings, spec, plan, run)
    return publish(settings, spec, plan, run, may_fall_back=False)
