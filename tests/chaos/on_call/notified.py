"""Judge a fault by what people are told of it: one notice each, the right one, and its end."""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.on_call.fault import Fault, Seen
from tests.chaos.on_call.history import NIGHT, History
from tests.chaos.on_call.watch import Watch
from tests.chaos.on_call.world import World

logger = logging.getLogger(__name__)

# A repair may show what it left: a manifest that is set aside leaves a load to run again.
MAX_STEPS = 3


@dataclass
class NoticeVerdict:
    """Whether the incidents are right, each is told once, the command repairs, and the end is told.

    Attributes:
        n_silent: Faults of which nobody was told: 0 or 1.
        n_false: Incidents that the fault does not have.
        seconds: From the fault to its notice, after the watch began to look.
    """

    is_right: bool = False
    is_told_once: bool = False
    command_repairs: bool = False
    end_is_told: bool = False
    n_silent: int = 0
    n_false: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return self.is_right and self.is_told_once and self.command_repairs and self.end_is_told


def judge_notice(history: History, fault: Fault, folder: Path) -> NoticeVerdict:
    """Break a copy of the history, look as the watch does, and do what the notices say."""
    verdict = NoticeVerdict()
    with World.copied(history, fault.stage, folder) as world, Watch.over(world) as watch:
        try:
            fault.act(world)
            watch.look()
            # What lasts is not told again.
            watch.look()
            verdict.seconds = watch.seconds
            _judge_seen(verdict, fault, [_plain(world, each) for each in watch.told("opened")])
            fault.cure(world)
            _do_what_notices_say(world, watch, day=fault.values.get("day", NIGHT))
            verdict.command_repairs = fault.is_right(world)
            verdict.end_is_told = not watch.open
            if not (verdict.command_repairs and verdict.end_is_told):
                verdict.problems.append(f"after the repair: {watch.open}\n{world.contents()}")
        except Exception:
            logger.exception("%s is not repaired", fault.name)
            verdict.problems.append(traceback.format_exc())
    return verdict


def _judge_seen(verdict: NoticeVerdict, fault: Fault, told: list[dict[str, Any]]) -> None:
    wanted = {seen.name: seen for seen in fault.seen}
    counts = Counter(Seen.name_of(incident) for incident in told)
    problems = []
    for name, seen in wanted.items():
        incidents = [incident for incident in told if Seen.name_of(incident) == name]
        if not incidents:
            problems.append(f"nobody is told of {name}")
        for incident in incidents:
            problems += seen.differences(incident)
    unwanted = counts.keys() - wanted.keys()
    problems += [f"told of what is not broken: {name}" for name in unwanted]
    verdict.n_silent = int(bool(wanted) and not told)
    verdict.n_false = len(unwanted)
    verdict.is_right = not problems
    verdict.is_told_once = all(count == 1 for count in counts.values())
    if not verdict.is_told_once:
        problems.append(f"told more than once: {counts}")
    verdict.problems += problems


def _plain(world: World, incident: dict[str, Any]) -> dict[str, Any]:
    """Return an incident whose command names no folder, database and commit of this test."""
    command = incident["command"].replace(str(world.settings.dags_dir), "dags")
    command = command.replace(world.settings.warehouse_database, "<database>")
    return incident | {"command": re.sub(r"checkout \w+~1", "checkout <commit>~1", command)}


def _do_what_notices_say(world: World, watch: Watch, day: str) -> None:
    """Run the command of each notice whose incident is still open, the most severe first.

    Args:
        world: The broken world; what is outside of nightshift is repaired.
        watch: What people were told.
        day: The day that a person meant, which only that person knows.
    """
    watch.look()
    for _ in range(MAX_STEPS):
        # The failed task is run again when what it needs is there.
        for incident in sorted(watch.open, key=lambda each: each["severity"] != "critical"):
            world.perform(incident["command"].replace("<day>", day))
        watch.look()
        if not watch.open:
            return
