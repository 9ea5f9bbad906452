"""What a fault of the table is, and how it is judged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.on_call.history import FEATURES, HOLE, LATER, MODEL, NIGHT, History
from tests.chaos.on_call.runbook import Page
from tests.chaos.on_call.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """One fault, as breaking the running stack by hand once showed it.

    Attributes:
        name: What breaks.
        act: Breaks it, and returns what on-call sees: logs, or the output of a command.
        code: The code that must name the cause.
        cause: Words of what on-call sees that say more than the code.
        page: Words of the code's page about this cause.
        commands: Beginnings of the page's commands, in the order in which they are run.
        is_right: Whether the wanted state is there.
        stage: What the warehouse holds before.
        advice: Words of the page about what is done outside of nightshift.
        cure: Does that.
        values: Values of the placeholders of the commands.
        edit: What the page tells to replace in its commands.
        proved_by: The test in which the real scheduler meets the fault.
    """

    name: str
    act: Callable[[World], str]
    code: str
    cause: str
    page: str
    commands: tuple[str, ...]
    is_right: Callable[[World], bool]
    stage: str = FEATURES
    advice: str = ""
    cure: Callable[[World], object] = lambda _: None
    values: dict[str, str] = field(default_factory=dict)
    edit: tuple[str, str] = ("", "")
    proved_by: str = ""


@dataclass
class Verdict:
    """Whether the code is right, its page helps, and what the page says repairs the fault."""

    is_code_right: bool = False
    page_helps: bool = False
    repair_works: bool = False
    problems: list[str] = field(default_factory=list)


VALUES = {
    "model": MODEL,
    "dataset": "weather",
    "day": NIGHT,
    "hole": HOLE,
    "first": NIGHT,
    "last": LATER,
    "why": "on call",
}


def judge(history: History, fault: Fault, folder: Path) -> Verdict:
    """Break a copy of the history, and do what the page of the expected code says."""
    verdict = Verdict()
    with World.copied(history, fault.stage, folder) as world:
        try:
            _judge_code(verdict, fault, fault.act(world))
            commands = _judge_page(verdict, world, fault)
            fault.cure(world)
            for command in commands:
                world.perform(command)
            verdict.repair_works = fault.is_right(world)
            if not verdict.repair_works:
                verdict.problems.append(f"not the wanted state: {world.contents()}")
        except Exception:
            logger.exception("%s is not repaired", fault.name)
            verdict.problems.append(traceback.format_exc())
    return verdict


def _judge_code(verdict: Verdict, fault: Fault, seen: str) -> None:
    verdict.is_code_right = f"[{fault.code}]" in seen and fault.cause in seen
    if not verdict.is_code_right:
        wanted = f"[{fault.code}] and {fault.cause!r}"
        verdict.problems.append(f"on-call does not see {wanted}, but:\n{seen}")


def _judge_page(verdict: Verdict, world: World, fault: Fault) -> list[str]:
    """Return the commands of the page.

    Raises:
        FileNotFoundError: There is no page.
        LookupError: It does not give a command.
    """
    page = Page.read(fault.code)
    values = VALUES | {"database": world.settings.warehouse_database} | fault.values
    commands = [page.command(beginning, values) for beginning in fault.commands]
    missing = [words for words in (fault.page, fault.advice) if not page.says(words)]
    verdict.page_helps = not missing
    if missing:
        verdict.problems.append(f"{fault.code} does not say: {missing}")
    return [command.replace(*fault.edit) if fault.edit[0] else command for command in commands]
