"""The levels of the versions that were chosen for the partitions of a scoring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.scoring.canary.choice import with_canaries
from nightshift.scoring.level.level_finder import LevelFinder
from nightshift.scoring.level.level_records import record_levels

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.level.level_records import LevelRecord
    from nightshift.scoring.plan import VersionChoice
    from nightshift.scoring.version_choice import VersionChooser
    from nightshift.warehouse.connection import Connection


def with_levels_and_canaries(
    chooser: VersionChooser, choices: Iterable[VersionChoice], run: RunContext
) -> list[VersionChoice]:
    """Return the choices with the level of each, and with the canary alongside it."""
    return with_canaries(chooser, with_levels(chooser, choices, run), run)


def with_levels(
    chooser: VersionChooser, choices: Iterable[VersionChoice], run: RunContext
) -> list[VersionChoice]:
    """Return the choices with the level of each; those without a model have none.

    Nothing is raised for a level that cannot be estimated: it is 0, with a reason.
    """
    spec = chooser.spec
    # One for all partitions: they share the nights that a version has scored.
    finder = LevelFinder(
        chooser.settings, chooser.conn, spec, spec.predictions_dataset, run.application_name
    )
    leveled = []
    for choice in choices:
        # Last scores and the rule have no version whose level could be moved.
        if choice.version is None:
            leveled.append(choice)
            continue
        tried = chooser.tried(choice.version)
        level = finder.find(tried.version, tried.model, choice.features)
        leveled.append(replace(choice, level=level))
    return leveled


def keep_levels(
    conn: Connection, load_id: int, choices: Iterable[VersionChoice], run: RunContext
) -> None:
    """Record the levels of a begun load, before its first row is staged."""
    levels: list[LevelRecord] = []
    for choice in choices:
        levels += choice.levels
    record_levels(conn, load_id, levels, run)
