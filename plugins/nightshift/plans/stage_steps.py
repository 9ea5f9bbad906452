"""What each stage has to do again for some days, and what is reused.

Content is addressed by inputs and code: a partition whose published load was made from the same
inputs by the same code is reused, since its content would be equal.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange, consecutive_ranges
from nightshift.contracts.run import code_version
from nightshift.ingestion.late_arrivals import find_late_drops
from nightshift.ingestion.load import DropMissingError
from nightshift.lake.object_store import ObjectStore
from nightshift.plans.plan import Step
from nightshift.reprocess.scope import Lineage, Scope
from nightshift.reprocess.stale import (
    find_features,
    find_predictions,
    find_verdicts,
    read_knowledge,
)
from nightshift.warehouse.ledger import lookback_of
from nightshift.warehouse.staleness import StalePartition

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FEATURES = "features/*"
"""All feature views of a partition: dbt builds them together."""
LANDED = "landed, not loaded"
_SAME = "same inputs, same code"
MAX_SHOWN = 6
"""Missing drops that a refusal names."""

Reasons = Mapping[dt.date, str]
"""Why a day is done again."""


@dataclass(frozen=True)
class StageSteps:
    """Finds the steps of each stage.

    Attributes:
        settings: Warehouse, lake and project.
        conn: Any connection; nothing is written.
        specs: The models.
    """

    settings: Settings
    conn: Connection
    specs: Mapping[str, ModelSpec]

    def ingest(self, days: PartitionRange) -> list[Step]:
        """Return the drops to load by dataset; loaded ones are reused.

        Raises:
            DropMissingError: The build of these days needs raw partitions that would be missing.
        """
        steps: list[Step] = []
        missing: list[str] = []
        contracts = load_contracts(self.settings.datasets_dir)
        for contract in contracts.values():
            delivered = _days_of_drops(contract, days)
            # A dataset whose history begins later has no drop for these days.
            if delivered is None:
                continue
            dataset_steps = self._ingest_dataset(contract, delivered)
            steps += dataset_steps
            missing += self._missing(contract, days, dataset_steps)
        if missing:
            raise _missing_error(missing)
        return steps

    def _ingest_dataset(
        self,
        contract: DatasetContract,
        days: PartitionRange,
    ) -> list[Step]:
        store = ObjectStore.open(self.settings)
        late = find_late_drops(self.conn, store, contract.name, days)
        if late:
            reasons = {drop.partition: LANDED for drop in late}
            return steps_of("ingest", contract.dataset, reasons)
        first = days.first.day
        last = days.last.day
        return [Step("ingest", contract.dataset, first, last, _SAME, is_reused=True)]

    def _missing(
        self,
        contract: DatasetContract,
        days: PartitionRange,
        planned: Iterable[Step],
    ) -> list[str]:
        """Return the days of a daily dataset that a build needs, and that would be missing.

        Args:
            contract: The dataset; of reference data no day is owed.
            days: The partitions to build; the look-back of the first one is needed too.
            planned: The steps of the dataset.
        """
        if not contract.is_daily:
            return []
        needed = set(lookback_of(contract, days.first))
        needed |= {day for day in days.days if day >= contract.history_start}
        for step in planned:
            if not step.is_reused:
                needed -= set(step.partitions.days)
        rows = self.conn.execute(_PUBLISHED, [contract.dataset, list(needed)])
        needed -= {day for (day,) in rows}
        return [f"{contract.dataset} {day}" for day in sorted(needed)]

    def transform(
        self,
        days: PartitionRange,
        before: Iterable[Step],
    ) -> list[Step]:
        """Return the days to build: new ones, and those whose inputs or code changed.

        Args:
            days: The partitions.
            before: The planned steps of the stage before: what they load changes every day.
        """
        is_loading = any(not step.is_reused for step in before)
        if is_loading:
            reasons = dict.fromkeys(days.days, "drops are loaded first")
            return steps_of("transform", FEATURES, reasons)

        lineage = Lineage.read(self.settings, Scope())
        knowledge = read_knowledge(self.settings, self.conn)
        stale = find_features(self.conn, knowledge, self.specs.values(), lineage)
        views = {spec.features_dataset for spec in self.specs.values()}
        why: dict[dt.date, str] = {}
        # A view that is not up to date is enough: dbt builds all of them together.
        for view in sorted(views):
            why |= self._reasons(view, days, stale)
        return _with_reused("transform", FEATURES, why, days)

    def of_model(
        self,
        spec: ModelSpec,
        days: PartitionRange,
        stages: Iterable[str],
        before: Iterable[Step],
    ) -> list[Step]:
        """Return the days to score and to monitor.

        Args:
            spec: The model.
            days: The partitions.
            stages: Those that the plan contains.
            before: The planned steps so far, of which the features count.
        """
        rebuilt = _planned_days(before, "transform", spec.features_dataset)
        steps: list[Step] = []
        if "score" in stages:
            stale = find_predictions(self.conn, spec, rebuilt)
            dataset = spec.predictions_dataset
            why = self._reasons(dataset, days, stale)
            steps += _with_reused("score", dataset, why, days)
        if "monitor" in stages:
            scored = _planned_days(steps, "score", spec.predictions_dataset)
            # A verdict reads features, predictions and the verdicts before it.
            stale = self._stale_verdicts(spec, [*rebuilt, *scored])
            dataset = f"monitoring/{spec.name}"
            why = self._reasons(dataset, days, stale)
            steps += _with_reused("monitor", dataset, why, days)
        return steps

    def _stale_verdicts(
        self,
        spec: ModelSpec,
        pending: list[StalePartition],
    ) -> list[StalePartition]:
        lineage = Lineage.read(self.settings, Scope())
        knowledge = read_knowledge(self.settings, self.conn)
        return find_verdicts(self.conn, knowledge, spec, lineage, pending=pending)

    def _reasons(
        self,
        dataset: str,
        days: PartitionRange,
        stale: Iterable[StalePartition],
    ) -> dict[dt.date, str]:
        """Return why days are done again: inputs, code, or nothing published."""
        codes = self._codes(dataset, days)
        by_day = {part.day: part.reason for part in stale}
        now = code_version()
        why = {}
        for day in days.days:
            # Changed inputs first: they are what a person can look at.
            if day in by_day:
                why[day] = by_day[day]
            elif day not in codes:
                why[day] = "not published yet"
            elif codes[day] != now:
                why[day] = f"made by code {codes[day]}, now {now}"
        return why

    def _codes(
        self,
        dataset: str,
        days: PartitionRange,
    ) -> dict[dt.date, str]:
        """Return the code that last made what readers see, by day: a duplicate proves it too."""
        first = days.first.day
        last = days.last.day
        rows = self.conn.execute(_CODES, [dataset, first, last])
        return dict(rows.fetchall())


def _missing_error(missing: list[str]) -> DropMissingError:
    shown = ", ".join(missing[:MAX_SHOWN])
    if len(missing) > MAX_SHOWN:
        shown += ", …"
    return DropMissingError(
        f"The build of these days needs {len(missing)} raw partition(s) that are not loaded, and"
        f" that this plan would not load: {shown}.",
        expected="daily datasets published for the look-back, published or landed for the days",
        got=f"{len(missing)} missing",
        todo="Let upstream deliver them, or begin with the first of them; then plan again.",
    )


def _days_of_drops(
    contract: DatasetContract,
    days: PartitionRange,
) -> PartitionRange | None:
    """Return the days whose drops a range reads; None if the history begins after it."""
    first = max(days.first.day, contract.history_start)
    # The newest delivery of reference data may be older than the range that reads it.
    if not contract.is_daily:
        first = contract.history_start
    last = days.last.day
    if first > last:
        return None
    zone = contract.timezone
    return PartitionRange(Partition(first, zone), Partition(last, zone))


_PUBLISHED = """
select partition_date from ops.published where dataset = %s and partition_date = any(%s)
"""
# The pointer keeps an older load when a rerun came out equal: the newest completed load counts.
_CODES = """
select distinct on (partition_date) partition_date, code_version
from ops.loads l
where dataset = %s and partition_date between %s and %s and state in ('published', 'duplicate')
    and exists (
        select from ops.published p
        where (p.dataset, p.partition_date) = (l.dataset, l.partition_date)
    )
order by partition_date, load_id desc
"""


def _planned_days(
    steps: Iterable[Step],
    stage: str,
    dataset: str,
) -> list[StalePartition]:
    """Return the days that a stage of the plan does again, as partitions of one dataset."""
    planned: list[StalePartition] = []
    for step in steps:
        if step.stage != stage or step.is_reused:
            continue
        for day in step.partitions.days:
            part = StalePartition(dataset, day, step.reason)
            planned.append(part)
    return planned


def steps_of(
    stage: str,
    dataset: str,
    reasons: Reasons,
    *,
    is_reused: bool = False,
) -> list[Step]:
    """Return one step per range of consecutive days, each with the reason of its first.

    Args:
        stage: Of the steps.
        dataset: Their name in the ledger.
        reasons: By day.
        is_reused: Whether what is published stays.
    """
    steps = []
    for days in consecutive_ranges(reasons):
        first = days.first.day
        last = days.last.day
        reason = reasons[first]
        step = Step(stage, dataset, first, last, reason, is_reused)
        steps.append(step)
    return steps


def stale_steps(stage: str, stale: Iterable[StalePartition]) -> list[Step]:
    """Return the steps of stale partitions of several datasets."""
    by_dataset: defaultdict[str, dict[dt.date, str]] = defaultdict(dict)
    for part in stale:
        reasons = by_dataset[part.dataset]
        reasons[part.day] = part.reason
    steps: list[Step] = []
    for dataset, reasons in by_dataset.items():
        steps += steps_of(stage, dataset, reasons)
    return steps


def _with_reused(
    stage: str,
    dataset: str,
    reasons: Reasons,
    days: PartitionRange,
) -> list[Step]:
    """Return the steps that run and those that are reused.

    Args:
        stage: Of the steps.
        dataset: Their name in the ledger.
        reasons: By day why it is done again; the other days are reused.
        days: All days of the plan.
    """
    reused = {day: _SAME for day in days.days if day not in reasons}
    steps = steps_of(stage, dataset, reasons)
    return steps + steps_of(stage, dataset, reused, is_reused=True)
