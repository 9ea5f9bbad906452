"""What a fault of the table is, and how it is judged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.on_call.history import FEATURES, HOLE, LATER, MODEL, NIGHT, History
from tests.chaos.on_call.runbook import Page
from tests.chaos.on_call.watch import codes_seen
from tests.chaos.on_call.world import World

logger = logging.getLogger(__name__)


def clear(dag_id: str, day: str) -> str:
    """Return the command that runs again what failed of a day."""
    return f"nightshift airflow dags clear {dag_id} --partition-key {day} --only-failed --yes"


@dataclass(frozen=True)
class Seen:
    """An incident that a fault opens.

    Attributes:
        code: Its code.
        subject: What it is about.
        days: The operating days that it concerns.
        command: The one safe command.
        consequence: Words of what happens if nobody acts.
        severity: How urgent it is.
    """

    code: str
    subject: str
    days: tuple[str, ...] = ()
    command: str = ""
    consequence: str = ""
    severity: str = "warning"

    @property
    def name(self) -> tuple[str, str]:
        """Return what tells incidents of one fault apart."""
        return self.code, self.subject

    @staticmethod
    def name_of(incident: dict[str, Any]) -> tuple[str, str]:
        """Return the same of an incident of a notice."""
        return incident["code"], incident["subject"]

    def differences(self, incident: dict[str, Any]) -> list[str]:
        """Return what an incident of a notice says otherwise."""
        wanted = {
            "partitions": list(self.days),
            "command": self.command,
            "severity": self.severity,
        }
        different = [
            f"{self.name}: {name} is {incident[name]!r}, not {value!r}"
            for name, value in wanted.items()
            if incident[name] != value
        ]
        if self.consequence not in incident["consequence"]:
            different.append(f"{self.name}: {incident['consequence']!r} lacks {self.consequence!r}")
        return different


def failed(dag_id: str, code: str, day: str, **other: str) -> Seen:
    """Return the incident about tasks of a DAG that have no try left."""
    # What readers have if nobody acts depends on the stage alone.
    consequences = {
        "ingest": "readers get the last scores or the rule",
        "transform": "readers get the last scores or the rule",
        "score": "readers have what the rescue could publish",
        "train": "serves on",
    }
    stage = dag_id.partition("__")[0]
    values = {"command": clear(dag_id, day), "consequence": consequences[stage]} | other
    return Seen(code, dag_id, (day,), **values)


@dataclass(frozen=True)
class Fault:
    """One fault, as breaking the running stack by hand once showed it.

    Attributes:
        name: What breaks.
        act: Breaks it, and returns what on-call sees: logs, or the output of a command. Without
            either, on-call sees what the watch has found.
        code: The code that must name the cause.
        cause: Words of what on-call sees that say more than the code.
        page: Words of the code's page about this cause.
        commands: Beginnings of the page's commands, in the order in which they are run.
        is_right: Whether the wanted state is there.
        seen: The incidents that it opens, and no other; none for what a person's command refused.
        stage: What the warehouse holds before.
        advice: Words of the page about what is done outside of nightshift.
        cure: Does that.
        tells: Words of a notice after which a person does that before they run its command.
        cured_by: Beginning of the command of a notice that does it, or that finds out what to do.
        finding: Words that its output must have, if it only finds that out.
        values: Values of the placeholders of the commands.
        edit: What the page tells to replace in its commands.
        proved_by: The test in which the real scheduler meets the fault.
    """

    name: str
    act: Callable[[World], str | None]
    code: str
    cause: str
    page: str
    commands: tuple[str, ...]
    is_right: Callable[[World], bool]
    seen: tuple[Seen, ...]
    stage: str = FEATURES
    advice: str = ""
    cure: Callable[[World], object] = lambda _: None
    tells: str = ""
    cured_by: str = ""
    finding: str = ""
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
            seen = fault.act(world) or codes_seen(world)
            _judge_code(verdict, fault, seen)
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
