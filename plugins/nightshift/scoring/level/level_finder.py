"""Find level and interval of a partition for a version; never an error, never a reason to wait.

Predictions are published on time whatever happens here: a level that cannot be estimated is 0, an
interval that cannot is none, each with a reason. Sources: docs/adr/0051-level-of-each-night.md,
docs/adr/0054-intervals.md.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import WarehouseError, cause_of, stack_of
from nightshift.scoring.interval.estimate import NO_INTERVAL, IntervalEstimate, without_interval
from nightshift.scoring.interval.evidence import find_interval, interval_nights, wants_interval
from nightshift.scoring.level.level_records import (
    LevelRecord,
    LevelSubject,
    has_interval_records,
    has_records,
    published_answers,
)
from nightshift.scoring.level.mature_nights import NightReader, SlowLevelError
from nightshift.scoring.level.night_level import (
    NO_LEVEL,
    NightLevel,
    estimate_level,
    level_nights,
    switched_off,
    without_level,
)
from nightshift.scoring.scorer import Scorer

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.scoring.level.night_level import MatureNight
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

__all__ = ["LevelFinder", "LevelRecord"]

logger = logging.getLogger(__name__)


@dataclass
class LevelFinder:
    """Finds the levels and intervals of one run.

    Attributes:
        settings: The warehouse.
        conn: A connection to it, for the records of published levels.
        spec: The model.
        dataset: Predictions or shadow scores.
        application_name: Shown by the warehouse.
        with_intervals: Whether somebody reads how sure the scores are; of a challenger nobody does.
        scorers: By version.
        gave_up: Why nothing more is read in this run; empty while nothing has failed.
    """

    settings: Settings
    conn: Connection
    spec: ModelSpec
    dataset: str
    application_name: str
    with_intervals: bool = True
    scorers: dict[int, Scorer] = field(default_factory=dict)
    gave_up: str = ""

    def find(self, version: ModelVersion, model: TrainedModel, features: LoadRecord) -> LevelRecord:
        """Return the level and the interval with which a version scores a feature load.

        A subject that was published keeps both, so that a rerun gives the same content.

        Args:
            version: The version.
            model: Its model.
            features: The load.

        Raises:
            WarehouseError: The records cannot be read; nothing could be published then either.
        """
        subject = LevelSubject(self.dataset, features, version.digest, self.spec.digest)
        number = version.version
        if switched_off(self.spec) and not self.wants_interval:
            return LevelRecord(subject, number, NO_LEVEL)
        if not has_records(self.conn):
            reason = "ops.score_levels does not exist: run `nightshift migrate`"
            return LevelRecord(subject, number, without_level(reason))
        if published := published_answers(self.conn, subject):
            return LevelRecord(subject, number, *published)
        started = time.monotonic()
        partition = Partition(features.partition_date)
        search = _NightSearch(self, version, model, features, partition)
        level, mature = search.level()
        interval = search.interval(mature)
        seconds = time.monotonic() - started
        logger.info(
            "Level of %s on %s by version %s: %+.4f from %s night(s), %.1f s%s",
            self.spec.name,
            features.partition_date,
            number,
            level.shift,
            level.n_nights,
            seconds,
            f" ({level.reason})" if level.reason else "",
        )
        if interval.reason:
            logger.info("No interval on %s: %s", features.partition_date, interval.reason)
        return LevelRecord(subject, number, level, interval, seconds)

    @property
    def wants_interval(self) -> bool:
        """Return whether intervals are searched at all."""
        return self.with_intervals and wants_interval(self.spec)

    @cached_property
    def reader(self) -> NightReader:
        """Return the reader that the partitions of a run share."""
        return NightReader(self.settings, self.spec, self.application_name)


@dataclass(frozen=True)
class _NightSearch:
    """The search for level and interval of one partition.

    ``level`` comes first: ``interval`` goes on with what it has read.

    Attributes:
        finder: What the partitions of a run share.
        version: The version.
        model: Its model.
        features: The load that is scored.
        partition: Its partition.
    """

    finder: LevelFinder
    version: ModelVersion
    model: TrainedModel
    features: LoadRecord
    partition: Partition

    def level(self) -> tuple[NightLevel, list[MatureNight]]:
        """Return the level, and the nights that were read for it.

        The interval reads the nights before them, so no outcome is read twice.
        """
        finder, spec = self.finder, self.finder.spec
        if switched_off(spec):
            return NO_LEVEL, []
        window = level_nights(spec, self.partition, self.version.fit_end)
        if window is None:
            fit_end = self.version.fit_end
            reason = f"no night after {fit_end}, the end of the fit, is mature"
            return without_level(reason), []
        if finder.gave_up:
            return without_level(finder.gave_up), []
        mature: list[MatureNight] = []
        try:
            mature = self._read(window)
            return estimate_level(spec, self.model, mature), mature
        # Whatever fails, the partition is scored by the version as it was trained.
        except Exception as error:  # noqa: BLE001
            return without_level(self._failure(error, "level")), mature

    def interval(self, mature: list[MatureNight]) -> IntervalEstimate:
        """Return the interval, from the nights of the level and those before them.

        Args:
            mature: What ``level`` has read.
        """
        finder, spec = self.finder, self.finder.spec
        if not finder.wants_interval:
            return NO_INTERVAL
        if not has_interval_records(finder.conn, spec):
            return without_interval("the warehouse has no intervals: run `nightshift migrate`")
        if finder.gave_up:
            return without_interval(finder.gave_up)
        fit_end = self.version.fit_end
        window = interval_nights(spec, self.partition, fit_end)
        try:
            # Outcomes of the nights of the level are known already.
            if window is not None and mature:
                end = Partition(mature[0].day).shift(-1)
                window = PartitionRange(window.first, end) if window.first <= end else None
            earlier = self._read(window) if window is not None else []
            return find_interval(spec, self.model, fit_end, [*earlier, *mature])
        except Exception as error:  # noqa: BLE001
            return without_interval(self._failure(error, "interval"))

    def _read(self, window: PartitionRange) -> list[MatureNight]:
        """Return the mature nights of a window, as the version would have scored them.

        Raises:
            SlowLevelError: The time for it is over.
            WarehouseError: The warehouse cannot be reached.
        """
        finder, number = self.finder, self.version.version
        if number not in finder.scorers:
            finder.scorers[number] = Scorer(self.model, 0, finder.spec.scoring.engine)
        # A later partition of a range reads the nights of the interval again.
        oldest = interval_nights(finder.spec, self.partition, self.version.fit_end) or window
        kept_from = min(oldest.first.day, window.first.day)
        return finder.reader.read(finder.scorers[number], number, window, self.features, kept_from)

    def _failure(self, error: Exception, what: str) -> str:
        """Log what went wrong, and return the reason that is recorded.

        Args:
            error: What was raised.
            what: ``level`` or ``interval``.
        """
        logger.warning("The %s is left alone:\n%s", what, stack_of(error))
        reason = f"not estimated ({cause_of(error)})"
        # A range of partitions must not wait for the same trouble once for each of them.
        if isinstance(error, (SlowLevelError, WarehouseError)):
            self.finder.gave_up = reason
        return reason
