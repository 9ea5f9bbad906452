"""When the stages of a task began and ended: kept in memory while it runs, stored with its try.

A trace of a night is drawn from these records. Outside of ``recording`` nothing is kept.
Source: docs/adr/0056-traces-from-the-ledger.md.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

# Of one name: a task that reads hundreds of small files must not hide its other stages.
MAX_OF_NAME = 20


class StageAttributes(TypedDict, total=False):
    """What may be said of a stage: names and numbers that we declare, no value of a row."""

    dataset: str
    load_id: int
    rows: int
    bytes: int
    model: str
    version: int
    verdict: str


@dataclass
class StageRecord:
    """One stage of a task.

    Attributes:
        parent: Index of the stage around it; None for the outermost.
        outcome: Code or class of its error, ``success``, or empty while it runs.
    """

    name: str
    parent: int | None
    started_at: dt.datetime
    attributes: StageAttributes
    ended_at: dt.datetime | None = None
    outcome: str = ""

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON stores it, times as ISO 8601 in UTC."""
        ended_at = self.ended_at.isoformat() if self.ended_at else None
        return {
            "name": self.name,
            "parent": self.parent,
            "started_at": self.started_at.isoformat(),
            "ended_at": ended_at,
            "outcome": self.outcome,
            "attributes": dict(self.attributes),
        }


@dataclass
class StageLog:
    """The stages of one task so far."""

    records: list[StageRecord] = field(default_factory=list)
    n_by_name: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str, attributes: StageAttributes) -> int | None:
        """Add a stage and return its index; None when there are too many."""
        record = StageRecord(name, _current.get(), dt.datetime.now(dt.UTC), attributes)
        with self.lock:
            if self.n_by_name[name] >= MAX_OF_NAME:
                return None
            self.n_by_name[name] += 1
            self.records.append(record)
            return len(self.records) - 1

    def as_documents(self) -> list[dict[str, Any]]:
        """Return all stages in the order in which they began."""
        with self.lock:
            return [record.as_document() for record in self.records]


# One task runs in a process, but its stages may run in several threads.
_log: StageLog | None = None
_current: ContextVar[int | None] = ContextVar("stage", default=None)


@contextmanager
def recording() -> Iterator[StageLog]:
    """Keep the stages of the block; a block within another one has a log of its own."""
    global _log  # noqa: PLW0603 - threads of libraries do not inherit context variables
    before, log = _log, StageLog()
    token = _current.set(None)
    _log = log
    try:
        yield log
    finally:
        _log = before
        _current.reset(token)


@contextmanager
def stage(name: str, **attributes: Unpack[StageAttributes]) -> Iterator[StageAttributes]:
    """Time a block; what becomes known in it is added to the attributes that it yields."""
    log = _log
    index = log.begin(name, attributes) if log else None
    if log is None or index is None:
        yield attributes
        return
    record = log.records[index]
    token = _current.set(index)
    outcome = "success"
    try:
        yield attributes
    except BaseException as error:
        # Only the code or the class: a message may quote what it is about.
        outcome = str(getattr(error, "code", "")) or type(error).__name__
        raise
    finally:
        _current.reset(token)
        record.ended_at, record.outcome = dt.datetime.now(dt.UTC), outcome
