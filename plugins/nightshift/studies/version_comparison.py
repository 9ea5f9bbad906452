"""Compare versions of a model: metrics by slice on the same rows, with intervals drawn by day.

Nothing is written. Rows of one day share its weather and traffic, so days are drawn and not rows
(docs/adr/0017-evidence-gate.md); a difference is taken on the same draws.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import with_groups
from nightshift.registry.model_loader import find_version, load_model
from nightshift.studies.compared_numbers import ComparedNumber, measure_versions
from nightshift.studies.known_rows import newest_partition, read_known_rows
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.registry.model_loader import ModelVersion
    from nightshift.settings import Settings

NAME = "nightshift compare"
DEFAULT_DAYS = 28
MINIMUM_DAYS = 2
"""One day has no interval."""


class ComparisonError(NightshiftError):
    """The versions cannot be compared on these days."""

    code = "NS-STUDY-002"


@dataclass(frozen=True)
class ComparedVersion:
    """A version that was compared.

    Attributes:
        version: Its number.
        trained_on: The partition that trained it.
        fit_end: Last feature partition that a fit of it has seen.
        n_seen_days: Compared days that it was fitted on: its numbers there are too good.
    """

    version: int
    trained_on: dt.date
    fit_end: dt.date
    n_seen_days: int


@dataclass(frozen=True)
class VersionComparison:
    """Versions on the same rows.

    Attributes:
        model: Name of the spec.
        window: Feature partitions of the rows.
        as_of: Cut-off of the labels, UTC.
        n_rows: Labelled rows.
        confidence: Of each bound of an interval.
        versions: The first is the one that each other is compared with.
        numbers: By slice, metric and version.
    """

    model: str
    window: PartitionRange
    as_of: dt.datetime
    n_rows: int
    confidence: float
    versions: list[ComparedVersion]
    numbers: list[ComparedNumber]


def compare_versions(
    settings: Settings,
    spec: ModelSpec,
    numbers: Sequence[int],
    window: PartitionRange | None = None,
    n_days: int = DEFAULT_DAYS,
) -> VersionComparison:
    """Measure versions on the same labelled rows.

    Args:
        settings: Warehouse and bucket; MLflow is not needed.
        spec: The model.
        numbers: Versions; each is compared with the first.
        window: Feature partitions. None takes the newest ``n_days`` mature ones that no version has
            seen.
        n_days: At most so many days, without a window.

    Raises:
        ComparisonError: Fewer than two versions, or fewer than two days that none has seen.
        NoKnownRowsError: The days have no mature labels.
        RegistryError: A version does not exist.
        ObjectStoreError: The bucket is away, or a file is missing or was changed.
        SignatureError: The feature view lacks columns of a version.
    """
    # A version that is named twice would be compared with itself.
    if len(set(numbers)) < max(len(numbers), 2):
        raise ComparisonError(
            "Versions are compared with each other.",
            expected="at least two versions, each named once",
            got=", ".join(map(str, numbers)) or "none",
        )
    with connect(settings, NAME) as conn:
        versions = [find_version(conn, spec.name, number) for number in numbers]
        if window is None:
            mature = mature_window(spec, newest_partition(conn, spec))
            window = _unseen_window(versions, mature.last, n_days)
        known = read_known_rows(settings, conn, spec, window, NAME)
    store = ObjectStore.open(settings)
    predictions = {}
    for version in versions:
        predicted = load_model(store, version).predictions(known.rows)
        predictions[version.version] = with_groups(spec, known.rows, predicted)
    days = np.unique(known.rows.column("partition_date").to_numpy())
    return VersionComparison(
        model=spec.name,
        window=known.window,
        as_of=known.as_of,
        n_rows=known.rows.num_rows,
        confidence=spec.promotion.confidence,
        versions=[_facts(version, days.tolist()) for version in versions],
        numbers=list(measure_versions(spec, known.rows, predictions)),
    )


def _unseen_window(
    versions: Sequence[ModelVersion],
    mature: Partition,
    n_days: int,
) -> PartitionRange:
    """Return the newest mature partitions after the last one that any version was fitted on."""
    seen = Partition(max(version.fit_end for version in versions))
    # The label of the last fitted day is a day later; no row of the next day carries it.
    first = max(seen.shift(1), mature.shift(1 - n_days))
    if first.shift(MINIMUM_DAYS - 1) > mature:
        raise ComparisonError(
            "There are too few mature days that none of the versions has seen.",
            expected=f"at least {MINIMUM_DAYS} after {seen}, the last day of a fit",
            got=f"labels are mature until {mature}",
            todo="Wait, or name days with --days <first>..<last>: days that a version was fitted on"
            " are then marked.",
        )
    return PartitionRange(first, mature)


def _facts(version: ModelVersion, days: list[dt.date]) -> ComparedVersion:
    n_seen = sum(day <= version.fit_end for day in days)
    return ComparedVersion(version.version, version.partition_date, version.fit_end, n_seen)
