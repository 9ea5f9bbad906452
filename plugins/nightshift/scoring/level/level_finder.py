"""Find the level of a partition for a version; never an error, and never a reason to wait.

Predictions are published on time whatever happens here: a level that cannot be estimated is 0, with
a reason. Source: docs/adr/0051-level-of-each-night.md.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import WarehouseError, cause_of, stack_of
from nightshift.scoring.level.level_records import (
    LevelRecord,
    LevelSubject,
    has_records,
    published_level,
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
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

__all__ = ["LevelFinder", "LevelRecord"]

logger = logging.getLogger(__name__)


@dataclass
class LevelFinder:
    """Finds the levels of one run.

    Attributes:
        settings: The warehouse.
        conn: A connection to it, for the records of published levels.
        spec: The model.
        dataset: Predictions or shadow scores.
        application_name: Shown by the warehouse.
    """

    settings: Settings
    conn: Connection
    spec: ModelSpec
    dataset: str
    application_name: str
    _scorers: dict[int, Scorer] = field(default_factory=dict)
    _gave_up: str = ""

    def find(self, version: ModelVersion, model: TrainedModel, features: LoadRecord) -> LevelRecord:
        """Return the level with which a version scores a feature load.

        A subject that was published keeps its level, so that a rerun gives the same content.

        Args:
            version: The version.
            model: Its model.
            features: The load.

        Raises:
            WarehouseError: The records cannot be read; nothing could be published then either.
        """
        subject = LevelSubject(self.dataset, features, version.digest, self.spec.digest)
        if switched_off(self.spec):
            return LevelRecord(subject, version.version, NO_LEVEL)
        if not has_records(self.conn):
            reason = "ops.score_levels does not exist: run `nightshift migrate`"
            return LevelRecord(subject, version.version, without_level(reason))
        if published := published_level(self.conn, subject):
            return LevelRecord(subject, version.version, published)
        started = time.monotonic()
        level = self._estimate(version, model, features)
        seconds = time.monotonic() - started
        logger.info(
            "Level of %s on %s by version %s: %+.4f from %s night(s), %.1f s%s",
            self.spec.name,
            features.partition_date,
            version.version,
            level.shift,
            level.n_nights,
            seconds,
            f" ({level.reason})" if level.reason else "",
        )
        return LevelRecord(subject, version.version, level, seconds)

    @cached_property
    def _nights(self) -> NightReader:
        return NightReader(self.settings, self.spec, self.application_name)

    def _estimate(
        self, version: ModelVersion, model: TrainedModel, features: LoadRecord
    ) -> NightLevel:
        partition = Partition(features.partition_date)
        window = level_nights(self.spec, partition, version.fit_end)
        if window is None:
            return without_level(f"no night after {version.fit_end}, the end of the fit, is mature")
        if self._gave_up:
            return without_level(self._gave_up)
        try:
            if version.version not in self._scorers:
                self._scorers[version.version] = Scorer(model, 0, self.spec.scoring.engine)
            scorer = self._scorers[version.version]
            mature = self._nights.read(scorer, version.version, window, features)
            return estimate_level(self.spec, model, mature)
        # Whatever fails, the partition is scored by the version as it was trained.
        except Exception as error:  # noqa: BLE001
            logger.warning("The level is left alone:\n%s", stack_of(error))
            reason = f"not estimated ({cause_of(error)})"
            # A range of partitions must not wait for the same trouble once for each of them.
            if isinstance(error, (SlowLevelError, WarehouseError)):
                self._gave_up = reason
            return without_level(reason)
