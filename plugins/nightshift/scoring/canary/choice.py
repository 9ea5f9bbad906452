"""Choose the canary of a partition: the one on record, tried within its time; never an error.

A partition that is published keeps the canary that it was published with, also none: a rerun gives
the same content whatever was decided since. Source: docs/adr/0055-canary.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import cause_of, stack_of
from nightshift.registry.canary.record import Canary, CanaryNight, canary_for, canary_nights
from nightshift.scoring.canary.time_limit import run_within
from nightshift.scoring.level.level_finder import LevelFinder
from nightshift.scoring.model_loading import TriedVersion, try_version
from nightshift.scoring.plan import CanaryChoice, VersionChoice
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.version_choice import VersionChooser
    from nightshift.warehouse.damage import LoadRecord

logger = logging.getLogger(__name__)


def with_canaries(
    chooser: VersionChooser, choices: Sequence[VersionChoice], run: RunContext
) -> list[VersionChoice]:
    """Return the choices with the canary of each; only a champion has one alongside it."""
    spec = chooser.spec
    republished = [choice.day for choice in choices if choice.is_published]
    is_on = spec.promotion.canary.share > 0 and chooser.may_try_canary
    # A rollback, and a person who names a version, want it for every row.
    if not (is_on or republished) or chooser.only is not None or chooser.named is not None:
        return list(choices)

    import psycopg

    try:
        published = _published_canaries(chooser, republished)
        recorded = _recorded_canaries(chooser, choices) if is_on else {}
    # New code on a warehouse that was not migrated yet: there is no canary.
    except psycopg.ProgrammingError as error:
        logger.warning("No canary is looked for: %s", error)
        return list(choices)
    if not published and not recorded:
        return list(choices)

    finder = _CanaryFinder(chooser, run)
    chosen = []
    for choice in choices:
        canary = None
        if choice.is_published and choice.day in published:
            canary = finder.repeat(choice, published[choice.day])
        elif not choice.is_published and choice.day in recorded:
            canary = finder.find(choice, recorded[choice.day])
        chosen.append(replace(choice, canary=canary))
    return chosen


def _published_canaries(
    chooser: VersionChooser, days: Sequence[dt.date]
) -> Mapping[dt.date, CanaryNight]:
    if not days:
        return {}
    return canary_nights(chooser.conn, chooser.spec.name, min(days), max(days))


def _recorded_canaries(
    chooser: VersionChooser, choices: Sequence[VersionChoice]
) -> dict[dt.date, Canary]:
    """Return the canaries that are on record for partitions whose champion they stand alongside."""
    canaries = {}
    for choice in choices:
        if choice.source != "champion":
            continue
        canary = canary_for(chooser.conn, chooser.spec.name, Partition(choice.day))
        # Its evidence is about another champion: it ends with the next decision.
        if canary and canary.champion_version == choice.version:
            canaries[choice.day] = canary
    return canaries


@dataclass
class _CanaryFinder:
    """Tries the canaries of one run; each version is loaded and tried once.

    Attributes:
        chooser: Whose choices they stand alongside.
        run: Names the connections.
    """

    chooser: VersionChooser
    run: RunContext
    _trials: dict[int, TriedVersion | str] = field(default_factory=dict)

    def repeat(self, choice: VersionChoice, published: CanaryNight) -> CanaryChoice:
        """Return the canary of a published partition, which its rerun keeps.

        Over other features than those that were published it may fail, as on a first night.
        """
        # The champion scored every row, and does so again.
        if published.problem is not None:
            return CanaryChoice(published.canary, problem=published.problem)
        chosen = self.find(choice, published.canary)
        return replace(chosen, is_pinned=published.features == choice.features.content_hash)

    def find(self, choice: VersionChoice, canary: Canary) -> CanaryChoice:
        """Return a canary that has scored a sample of the rows, or why it does not score."""
        problem = self.chooser.broken.get(canary.version)
        if problem is None:
            trial = self._trial(canary.version, choice.features)
            if isinstance(trial, TriedVersion):
                level = self._levels.find(trial.version, trial.model, choice.features)
                return CanaryChoice(canary, trial.version.digest, level)
            problem = trial
        logger.warning("The champion scores every row of %s: %s", choice.day, problem)
        return CanaryChoice(canary, problem=problem)

    @cached_property
    def _levels(self) -> LevelFinder:
        chooser, spec = self.chooser, self.chooser.spec
        return LevelFinder(
            chooser.settings,
            chooser.conn,
            spec,
            spec.predictions_dataset,
            self.run.application_name,
        )

    def _trial(self, version: int, features: LoadRecord) -> TriedVersion | str:
        """Return a version that has scored a sample of the rows, or why it cannot."""
        if version in self._trials:
            return self._trials[version]
        spec = self.chooser.spec
        seconds = spec.promotion.canary.maximum_seconds
        trial: TriedVersion | str
        try:
            trial = run_within(
                seconds, f"trying version {version}", lambda: self._try(version, features)
            )
        # Nobody waits for a canary, and whatever fails is its own fault.
        except Exception as error:  # noqa: BLE001
            logger.warning("Version %s cannot be a canary:\n%s", version, stack_of(error))
            trial = f"version {version} cannot score ({cause_of(error)})"
        self._trials[version] = trial
        return trial

    def _try(self, version: int, features: LoadRecord) -> TriedVersion:
        settings, spec = self.chooser.settings, self.chooser.spec
        # Of its own: the caller goes on with its connection when this one is given up.
        with connect(settings, self.run.application_name) as conn:
            return try_version(settings, conn, spec, version, features)
