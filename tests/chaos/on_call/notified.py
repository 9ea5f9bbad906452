"""Judge a fault by what people are told of it: one notice each, the right one, and its end.

The person has only the texts of the notices. What is to be done outside of nightshift is done only
if a text says it, or if its command does it or finds it out.
"""

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
from tests.chaos.on_call.reader import ReadNotice, opened_texts, read
from tests.chaos.on_call.watch import Watch
from tests.chaos.on_call.world import World

logger = logging.getLogger(__name__)

# A repair may show what it left: a manifest that is set aside leaves a load to run again. Then the
# person looks at the list of incidents.
MAX_STEPS = 3


@dataclass
class NoticeVerdict:
    """Whether the incidents are right, each is told once, the command repairs, and the end is told.

    Attributes:
        is_clear: Whether each text has one complete command that is found within a minute.
        text_repairs: Whether the commands of the texts alone bring the wanted state, without a look
            at anything else.
        read_seconds: Reading the longest of them, and copying its command.
        n_silent: Faults of which nobody was told: 0 or 1.
        n_false: Incidents that the fault does not have.
        seconds: From the fault to its notice, after the watch began to look.
    """

    is_right: bool = False
    is_told_once: bool = False
    command_repairs: bool = False
    end_is_told: bool = False
    is_clear: bool = False
    text_repairs: bool = False
    read_seconds: float = 0.0
    n_silent: int = 0
    n_false: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        is_told = self.is_right and self.is_told_once and self.end_is_told
        return is_told and self.is_clear and self.command_repairs


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
            day = fault.values.get("day", NIGHT)
            _judge_texts(verdict, [read(text, day) for text in opened_texts(watch.hook.documents)])
            _do_what_texts_say(world, watch, fault, day)
            verdict.text_repairs = verdict.is_clear and fault.is_right(world)
            if not verdict.text_repairs:
                _do_what_incidents_say(world, watch, fault, day)
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
    command = command.replace(str(world.settings.expectations_dir), "expectations")
    command = command.replace(str(world.settings.dbt_project_dir), "dbt_project")
    command = re.sub(r"backend\(\d+\)", "backend(<pid>)", command)
    command = command.replace(world.settings.warehouse_database, "<database>")
    # A shell's reader quotes `<commit>~1`.
    any_commit = re.sub(r"checkout '?\w+(~1)?'?", r"checkout <commit>\1", command)
    return incident | {"command": any_commit}


def _judge_texts(verdict: NoticeVerdict, notices: list[ReadNotice]) -> None:
    unclear = [notice.text for notice in notices if not notice.is_clear]
    verdict.is_clear = not unclear
    verdict.read_seconds = max((notice.seconds for notice in notices), default=0.0)
    verdict.problems += [f"no clear command within a minute:\n{text}" for text in unclear]


def _do_what_texts_say(world: World, watch: Watch, fault: Fault, day: str) -> None:
    """Run the command of each notice, the most urgent and the oldest first; so with new ones."""
    n_read = 0
    for _ in range(MAX_STEPS):
        notices = [read(text, day) for text in opened_texts(watch.hook.documents)[n_read:]]
        n_read += len(notices)
        if n_read == len(notices) and _tell(fault, notices):
            fault.cure(world)
        # A stable order: of the same urgency the one that came first.
        for notice in sorted(notices, key=lambda notice: notice.rank):
            _run(world, fault, notice.command)
        watch.look()


def _tell(fault: Fault, notices: list[ReadNotice]) -> bool:
    """Return whether a text says what is to be done outside of nightshift."""
    return bool(fault.tells) and any(fault.tells in notice.text for notice in notices)


def _run(world: World, fault: Fault, command: str) -> None:
    """Run a command as a person does: one that fails does not keep them from the next one."""
    try:
        world.perform(command)
    except AssertionError as error:
        logger.warning("%s: %s", command, error)
    if fault.cured_by and command.startswith(fault.cured_by):
        # It starts what was away, or its output says what is wrong outside.
        assert fault.finding in world.findings
        fault.cure(world)


def _do_what_incidents_say(world: World, watch: Watch, fault: Fault, day: str) -> None:
    """Run the command of each incident that is still open, as the list shows it now."""
    for _ in range(MAX_STEPS):
        # The failed task is run again when what it needs is there.
        for incident in sorted(watch.open, key=lambda each: each["severity"] != "critical"):
            _run(world, fault, incident["command"].replace("<day>", day))
        watch.look()
        if not watch.open:
            return
