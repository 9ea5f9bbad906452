"""Named places where a test breaks a run: every step that changes state outside of one transaction has one before and one behind it.

``NIGHTSHIFT_FAULT=<point>:<n>:<kind>`` breaks the n-th passage of a point in this process; unset, a
passage costs one comparison. Kinds: ``crash`` (SIGKILL, no clean-up runs), ``exception``, and at
points ``*.after`` also ``lost_answer``: the server has done it, and the connection is gone before
anybody here knows. Source: docs/adr/0011-faults-and-storms.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from nightshift.errors import NightshiftError

VARIABLE = "NIGHTSHIFT_FAULT"


class Failpoint(StrEnum):
    """Every fault point; tests enumerate them, and each is passed in exactly one place of the code."""

    BEGIN_BEFORE = "write.begin.before"
    BEGIN_AFTER = "write.begin.after"
    COPY_AFTER = "write.copy.after"
    APPEND_AFTER = "write.append.after"
    AUDIT_BEFORE = "write.audit.before"
    AUDIT_AFTER = "write.audit.after"
    REFUSE_AFTER = "write.refuse.after"
    PUBLISH_BEFORE = "write.publish.before"
    PUBLISH_FLIPPED = "write.publish.flipped"
    PUBLISH_AFTER = "write.publish.after"
    COLLECT_BEFORE = "write.collect.before"
    COLLECT_DELETED = "write.collect.deleted"
    PUT_BEFORE = "object_store.put.before"
    PUT_AFTER = "object_store.put.after"
    GET_BEFORE = "object_store.get.before"
    INGEST_CHECKED = "ingest.checked"
    INGEST_STAGE_AFTER = "ingest.stage.after"
    KEEP_DROP_AFTER = "quarantine.keep_drop.after"
    SETTLE_ROWS_AFTER = "quarantine.settle_rows.after"
    CORRECT_ROW_AFTER = "quarantine.correct_row.after"
    RELATIONS_BEFORE = "dbt.relations.before"
    DBT_BEFORE = "dbt.run.before"
    DBT_AFTER = "dbt.run.done"
    GATE_BEFORE = "gate.run.before"
    GATE_AFTER = "gate.run.done"
    SCORE_BEGIN_AFTER = "score.begin.done"
    SCORE_SHARD_BEFORE = "score.shard.before"
    SCORE_SHARD_AFTER = "score.shard.after"
    TRAINING_SET_AFTER = "train.training_set.after"
    CHECKPOINT_AFTER = "train.checkpoint.saved"
    TRAIN_STORED = "train.stored"
    REGISTER_AFTER = "train.register.after"
    PROMOTION_JUDGED = "promotion.judged"
    PROMOTION_AFTER = "promotion.decide.after"
    ROLLBACK_AFTER = "rollback.record.after"
    MONITOR_MEASURED = "monitor.measured"
    DECISION_AFTER = "monitor.decision.after"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return what can happen here."""
        return (
            ("crash", "exception", "lost_answer")
            if self.endswith(".after")
            else ("crash", "exception")
        )


class InjectedFaultError(NightshiftError):
    """A test asked for this failure."""

    code = "NS-CORE-001"


@dataclass
class _Fault:
    point: Failpoint
    n_passages: int
    kind: str


def _parse(text: str) -> _Fault | None:
    if not text:
        return None
    point, n_passages, kind = text.split(":")
    fault = _Fault(Failpoint(point), int(n_passages), kind)
    if kind not in fault.point.kinds or fault.n_passages < 1:
        raise ValueError(
            f"{VARIABLE}={text}: {point} knows {', '.join(fault.point.kinds)}; passages count from 1"
        )
    return fault


_armed = _parse(os.environ.get(VARIABLE, ""))


def enable(text: str) -> None:
    """Replace what the environment asked for; the empty text asks for nothing.

    Raises:
        ValueError: It is not ``<point>:<n>:<kind>``.
    """
    global _armed  # noqa: PLW0603  (one process has one fault)
    _armed = _parse(text)


def hit(point: Failpoint, lose_answer: Callable[[], object] | None = None) -> None:
    """Pass a point; break here if that was asked for.

    Args:
        point: Which one.
        lose_answer: Loses the answer as the real loss would, and raises what it would raise.
    """
    if _armed is not None and _armed.point is point:
        _armed.n_passages -= 1
        if _armed.n_passages == 0:
            _break(point, _armed.kind, lose_answer)


def _break(point: Failpoint, kind: str, lose_answer: Callable[[], object] | None) -> NoReturn:
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "lost_answer" and lose_answer is not None:
        lose_answer()
    raise InjectedFaultError(
        f"The fault {kind} was injected at {point}.", todo=f"Nothing: unset {VARIABLE}."
    )
