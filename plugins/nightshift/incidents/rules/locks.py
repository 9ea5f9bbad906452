"""The rule about locks: a session keeps everybody else from a table that the night needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.incidents.context import local_time
from nightshift.incidents.facts import Fact
from nightshift.warehouse.schema_lock import HeldLock, TableLockedError, held_locks_on

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

SCHEMAS = (
    "ops", "raw", "staging", "marts", "features", "predictions", "ml", "monitoring", "quarantine",
    "analytics",
)  # fmt: skip
MAX_SHOWN_RELATIONS = 3


def held_locks(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the sessions that have held a table for themselves for a minute, one fact for each."""
    locks: dict[int, list[HeldLock]] = defaultdict(list)
    for lock in held_locks_on(context.conn, SCHEMAS):
        locks[lock.pid].append(lock)
    for pid, held in locks.items():
        first = held[0]
        names = ", ".join(lock.relation for lock in held[:MAX_SHOWN_RELATIONS])
        since = f" since {local_time(first.since)}" if first.since else ""
        yield Fact(
            code=TableLockedError.code,
            severity="critical",
            health="degraded",
            subject_type="service",
            subject="warehouse",
            what=f"{first.holder} holds {names} for itself{since}.",
            consequence="Stages that need them wait and fail; nobody reads them.",
            command=first.end_command,
            key=f"pid {pid}",
            models=tuple(context.specs),
            size=len(held),
            facts={"pid": pid, "relations": [lock.relation for lock in held]},
        )
