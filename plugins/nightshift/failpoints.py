"""Named points in the code where a test makes a run fail.

Every step that changes state outside of one transaction has a point before and one after it.

``NIGHTSHIFT_FAULT=<point>:<n>:<type>`` breaks the n-th passage of a point in this process; unset, a
passage costs one comparison. Types: ``crash`` (SIGKILL, no clean-up runs), ``exception``, and at
points ``*.after`` also ``lost_answer``: the server has done it, and the connection breaks before
the answer arrives. Source: docs/adr/0011-faults-and-storms.md.
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
    """Every failpoint; tests enumerate them, and each stands in exactly one place of the code."""

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
    def fault_types(self) -> tuple[str, ...]:
        """Return the types of fault that can be injected at this point."""
        types = ("crash", "exception")
        return (*types, "lost_answer") if self.endswith(".after") else types


class InjectedFaultError(NightshiftError):
    """A test injected this failure."""

    code = "NS-CORE-001"


@dataclass
class _Fault:
    point: Failpoint
    n_passages: int
    fault_type: str


def _parse(text: str) -> _Fault | None:
    if not text:
        return None
    point, n_passages, fault_type = text.split(":")
    # A misspelled point is refused here: a test whose fault never comes would pass.
    fault = _Fault(Failpoint(point), int(n_passages), fault_type)
    types = fault.point.fault_types
    if fault_type not in types or fault.n_passages < 1:
        raise ValueError(f"{VARIABLE}={text}: {point} knows {', '.join(types)}; n counts from 1")
    return fault


_enabled = _parse(os.environ.get(VARIABLE, ""))


def enable(text: str) -> None:
    """Replace the fault of the environment; an empty text disables all failpoints.

    Raises:
        ValueError: It is not ``<point>:<n>:<type>``.
    """
    global _enabled  # noqa: PLW0603  (one process has one fault)
    _enabled = _parse(text)


def has_struck() -> bool:
    """Return whether the enabled fault has failed its failpoint."""
    return _enabled is not None and _enabled.n_passages <= 0


def hit(point: Failpoint, lose_answer: Callable[[], object] | None = None) -> None:
    """Pass a failpoint; fail here if it is enabled and this is the n-th passage.

    Args:
        point: The failpoint.
        lose_answer: Breaks the connection as a real loss would, and raises what that raises.
    """
    if _enabled is None or _enabled.point is not point:
        return
    _enabled.n_passages -= 1
    # Only the n-th passage fails: a rerun in the same process passes.
    if _enabled.n_passages == 0:
        _fail(point, _enabled.fault_type, lose_answer)


def _fail(point: Failpoint, fault_type: str, lose_answer: Callable[[], object] | None) -> NoReturn:
    if fault_type == "crash":
        # No `finally` and no exit handler runs, as when the machine is lost.
        os.kill(os.getpid(), signal.SIGKILL)
    if fault_type == "lost_answer" and lose_answer is not None:
        lose_answer()
    raise InjectedFaultError(
        f"The fault {fault_type} was injected at {point}.", todo=f"Nothing: unset {VARIABLE}."
    )
