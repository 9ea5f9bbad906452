"""Apply a plan: exactly what was shown, by the same stages; refused once anything has changed.

A plan is applied once. One plan is applied at a time, so a second one finds what the first has
changed. A killed application can be applied again: what it wrote itself does not count as a change.
Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError, cause_of
from nightshift.plans.cost import published_rows
from nightshift.plans.facts import changes, read_facts
from nightshift.plans.plan import Plan, PlanBusyError, StalePlanError, Step, find_plan
from nightshift.plans.stage_runner import Report, StageRunner
from nightshift.reprocess.changes import Change, find_changes, published_hashes
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

PLAN_LOCK = 0x706C616E  # "plan"
_MAX_SHOWN = 5


class PlanUsedError(NightshiftError):
    """The plan was applied already."""

    code = "NS-PLAN-002"


@dataclass(frozen=True)
class Applied:
    """What an application did.

    Attributes:
        changes: Partitions that changed for readers.
        n_steps: Steps that ran.
        seconds: Duration.
    """

    changes: tuple[Change, ...]
    n_steps: int
    seconds: float


def apply_plan(
    settings: Settings,
    token: str,
    reason: str,
    actor: str,
    report: Report,
) -> Applied:
    """Do what a plan shows, and nothing if anything that it rests on has changed.

    Args:
        settings: Warehouse, lake and project.
        token: Of the plan.
        reason: Why; a rollback keeps it in its record.
        actor: Who applies.
        report: Takes one line of progress.

    Raises:
        UnknownPlanError: There is no such plan.
        PlanUsedError: It was applied.
        PlanBusyError: A plan is being applied, or a dataset of this one is being loaded.
        StalePlanError: Something changed; the message names it.
        NightshiftError: A step failed; the plan can be applied again.
    """
    started = time.monotonic()
    with connect(settings, f"nightshift apply {token}") as conn:
        plan = find_plan(conn, token)
        with _alone(conn):
            _refuse_used(conn, plan)
            run = RunContext(plan.run_id, actor=actor)
            stages = StageRunner(settings, plan, reason, run)
            job = _Application(settings, conn, plan, stages, started)
            job.refuse_stale()
            before = published_hashes(conn)
            # A plan with a beginning and no end was killed: it may be applied again.
            _note(conn, plan, "begun", {"actor": actor})
            try:
                job.run_steps(report)
            except BaseException as error:
                note_failure(conn, plan, error)
                raise
            _note(conn, plan, "applied", {})
            after = published_hashes(conn)
    seconds = time.monotonic() - started
    return Applied(find_changes(before, after), len(plan.work), seconds)


@contextmanager
def _alone(conn: Connection) -> Iterator[None]:
    """Hold the lock of all plans; it ends with the session, also when the process is killed."""
    [(is_free,)] = conn.execute("select pg_try_advisory_lock(%s)", [PLAN_LOCK]).fetchall()
    if not is_free:
        raise PlanBusyError(
            "A plan is being applied at this moment.",
            todo="Wait until it has ended: `nightshift acts --name apply`. Then apply again.",
        )
    yield


def _refuse_used(conn: Connection, plan: Plan) -> None:
    query = "select at from ops.plan_events where token = %s and event = 'applied'"
    row = conn.execute(query, [plan.token]).fetchone()
    if row is not None:
        raise PlanUsedError(
            f"Plan {plan.token} was applied at {row[0]:%Y-%m-%d %H:%M} UTC.",
            expected="a token that was never applied",
            todo="Nothing. To do it once more, plan again.",
        )


def _note(
    conn: Connection,
    plan: Plan,
    event: str,
    detail: dict[str, Any],
) -> None:
    conn.execute(
        "insert into ops.plan_events (token, event, detail) values (%s, %s, %s)",
        [plan.token, event, json.dumps(detail)],
    )


def note_failure(
    conn: Connection,
    plan: Plan,
    error: BaseException,
) -> None:
    """Record the error of a step; a lost connection must not replace it by its own."""
    import psycopg

    with suppress(psycopg.Error):
        _note(conn, plan, "failed", {"error": cause_of(error)})


@dataclass(frozen=True)
class _Application:
    """One application of one plan; ``started`` is the monotonic clock at its beginning."""

    settings: Settings
    conn: Connection
    plan: Plan
    stages: StageRunner
    started: float

    def refuse_stale(self) -> None:
        """Refuse the plan if anything differs from what it rests on.

        Raises:
            StalePlanError: Something does.
        """
        now = read_facts(self.settings, self.conn, self.plan.work)
        lines = changes(self.conn, self.plan.facts, now, self.plan.run_id)
        if not lines:
            return
        _note(self.conn, self.plan, "refused", {"changes": lines[:_MAX_SHOWN]})
        shown = "; ".join(lines[:_MAX_SHOWN])
        raise StalePlanError(
            f"Plan {self.plan.token} is stale: {len(lines)} thing(s) changed since it was made.",
            expected="the inputs, code and pointers that the plan was made from",
            got=shown,
            todo="Plan again, and look at the difference. Steps that ran before stay published.",
        )

    def run_steps(self, report: Report) -> None:
        """Run the steps in order; before each, refuse what changed meanwhile."""
        # What lies before a step is its time, too: the steps add up to what the user waits.
        started = self.started
        for number, step in enumerate(self.plan.work, 1):
            # A rollback flips all of its ranges at its first step.
            if step.stage == "rollback" and number > 1:
                continue
            if number > 1:
                self.refuse_stale()
            report(f"{step.stage:<9} {step.dataset} {step.partitions}: {step.reason}")
            self.stages.run_step(step, report)
            n_rows = published_rows(self.conn, step)
            ended = time.monotonic()
            detail = {
                "stage": step.stage,
                "dataset": step.dataset,
                "n_partitions": self._n_partitions(step),
                "n_rows": n_rows,
                "seconds": round(ended - started, 3),
                # It loads the libraries.
                "is_first": number == 1,
            }
            started = ended
            _note(self.conn, self.plan, "step", detail)

    def _n_partitions(self, step: Step) -> int:
        """Return the partitions of a step; a rollback's first step does those of all."""
        if step.stage == "rollback":
            return sum(len(part.partitions) for part in self.plan.work)
        return len(step.partitions)
