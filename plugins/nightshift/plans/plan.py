"""A plan: its steps, what it rests on, what it is expected to cost, and its token.

Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

TOKEN_BYTES = 6

ONLY_RECORD = "only the record"
"""Reason of the step of a rollback that republishes nothing."""

Facts = Mapping[str, Mapping[str, str]]
"""What a plan rests on: by the name of a fact, the digest or load of each of its keys."""


class UnknownPlanError(NightshiftError):
    """There is no plan of that token."""

    code = "NS-PLAN-001"


class PlanBusyError(NightshiftError):
    """A plan is being applied, or datasets of this one change, at this moment."""

    code = "NS-PLAN-003"
    is_retryable = True


class StalePlanError(NightshiftError):
    """An input, the code or a pointer has changed since the plan was made."""

    code = "NS-PLAN-004"


@dataclass(frozen=True)
class Step:
    """Consecutive partitions of one dataset that one stage does again, or leaves.

    Attributes:
        stage: ``ingest``, ``transform``, ``score``, ``monitor`` or ``rollback``.
        dataset: Name in the ledger, or ``features`` for all views together.
        first: First partition.
        last: Last one, included.
        reason: Why, of the first partition.
        is_reused: Whether the published content stays: its inputs and code are the same.
    """

    stage: str
    dataset: str
    first: dt.date
    last: dt.date
    reason: str
    is_reused: bool = False

    @property
    def partitions(self) -> PartitionRange:
        """Return the days."""
        return PartitionRange(Partition(self.first), Partition(self.last))

    @property
    def name(self) -> str:
        """Return the name of the model or of the raw dataset."""
        return self.dataset.partition("/")[2]


@dataclass(frozen=True)
class Cost:
    """What a plan is expected to cost, by the record of earlier loads.

    Attributes:
        seconds: Of all steps that run.
        low: A tenth of earlier loads were quicker, in proportion.
        high: A tenth were slower.
        n_rows: Rows that are written.
        n_bytes: The same in bytes.
        source: What the seconds were learned from.
    """

    seconds: float
    low: float
    high: float
    n_rows: int
    n_bytes: int
    source: str


@dataclass(frozen=True)
class Plan:
    """What a person was shown.

    Attributes:
        token: Names the plan; it is used once.
        name: ``rerun``, ``backfill``, ``redo`` or ``rollback``.
        arguments: What was asked for.
        steps: In the order of the work.
        facts: Every input, code and pointer that the plan rests on.
        cost: The prediction.
        notes: What readers will notice, and what stays.
        code_version: Of the code that planned.
    """

    token: str
    name: str
    arguments: Mapping[str, Any]
    steps: tuple[Step, ...]
    facts: Facts
    cost: Cost
    notes: tuple[str, ...]
    code_version: str

    @property
    def work(self) -> list[Step]:
        """Return the steps that run."""
        return [step for step in self.steps if not step.is_reused]

    @property
    def run_id(self) -> str:
        """Return the run under which the plan is applied, the same after a kill."""
        return f"plan/{self.token}"


def new_token() -> str:
    """Return a token that nobody guesses and a person can copy."""
    return f"plan-{secrets.token_hex(TOKEN_BYTES)}"


def store_plan(
    conn: Connection,
    plan: Plan,
    actor: str,
) -> None:
    """Keep a plan, so that its token can be applied."""
    steps = [asdict(step) for step in plan.steps]
    document = {"steps": steps, "notes": plan.notes}
    conn.execute(
        """
        insert into ops.plans (
            token, name, arguments, actor, basis, steps, predicted, code_version
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            plan.token,
            plan.name,
            json.dumps(plan.arguments),
            actor,
            json.dumps(plan.facts),
            json.dumps(document, default=str),
            json.dumps(asdict(plan.cost)),
            code_version(),
        ],
    )


def find_plan(conn: Connection, token: str) -> Plan:
    """Return a stored plan.

    Raises:
        UnknownPlanError: There is none.
    """
    query = """
        select name, arguments, basis, steps, predicted, code_version
        from ops.plans where token = %s
    """
    row = conn.execute(query, [token]).fetchone()
    if row is None:
        raise UnknownPlanError(
            f"There is no plan {token}.",
            expected="a token that `nightshift plan` printed for this warehouse",
            todo="Plan again.",
        )
    name, arguments, facts, document, cost, planned_by = row
    steps = tuple(_step(part) for part in document["steps"])
    notes = tuple(document["notes"])
    return Plan(
        token,
        name,
        arguments,
        steps,
        facts,
        Cost(**cost),
        notes,
        planned_by,
    )


def _step(document: dict[str, Any]) -> Step:
    first = dt.date.fromisoformat(document.pop("first"))
    last = dt.date.fromisoformat(document.pop("last"))
    return Step(first=first, last=last, **document)
