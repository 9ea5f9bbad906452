"""Retraining policies, and their simulation: which partitions train, and whose model serves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from nightshift.contracts.training_spec import Weekday
from nightshift.registry.promotion_gate import SERVING_VERDICTS

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange

_WEEKDAYS = list(Weekday)


class Schedule(StrEnum):
    """When a policy trains, after the first model that all share."""

    NEVER = "never"
    WEEKLY = "weekly"
    TRIGGERED = "drift-triggered"
    NIGHTLY = "nightly"


@dataclass(frozen=True)
class Policy:
    """A way to decide when to train and what to serve.

    Attributes:
        schedule: When it trains.
        is_gated: Whether a retrained model scores in the shadow until the promotion gate lets it
            serve; else it serves from the next partition on.
    """

    schedule: Schedule
    is_gated: bool = False

    def __str__(self) -> str:
        """Return the name for people."""
        return f"{self.schedule}, gated" if self.is_gated else str(self.schedule)


POLICIES = (
    Policy(Schedule.NEVER),
    Policy(Schedule.WEEKLY),
    Policy(Schedule.WEEKLY, is_gated=True),
    Policy(Schedule.TRIGGERED),
    Policy(Schedule.TRIGGERED, is_gated=True),
    Policy(Schedule.NIGHTLY),
    Policy(Schedule.NIGHTLY, is_gated=True),
)


@dataclass
class PolicyRun:
    """What a policy did. A model is named by the day that trained it, and serves from the next on.

    Attributes:
        policy: The policy.
        served: By partition, the model that served it.
        trained: Partitions that trained, after the first model.
        promoted: Those of them whose model came to serve.
        proved: Partitions on which a stream was proved better: its test begins anew after them.
        triggered: Partitions whose monitor requested a training; only a triggered policy has any.
    """

    policy: Policy
    served: dict[dt.date, dt.date] = field(default_factory=dict)
    trained: list[dt.date] = field(default_factory=list)
    promoted: list[dt.date] = field(default_factory=list)
    proved: list[dt.date] = field(default_factory=list)
    triggered: list[dt.date] = field(default_factory=list)


Trigger = Callable[[dt.date, PolicyRun], bool]
"""Whether the monitor of a partition, given the run so far, requests a training."""
Gate = Callable[[dt.date, dt.date, PolicyRun], str]
"""The verdict of a partition, the first argument, about the model of a day, by the run so far."""


def run_policy(
    policy: Policy, partitions: PartitionRange, weekday: Weekday, trigger: Trigger, gate: Gate
) -> PolicyRun:
    """Simulate a policy over partitions in order, as the product works: score, monitor, train.

    Args:
        policy: The policy.
        partitions: The scored ones; the day before the first trains the first model.
        weekday: When a weekly policy trains.
        trigger: Called for every partition of a triggered policy.
        gate: Called for every partition of a gated policy that has a model newer than the champion.
    """
    run = PolicyRun(policy)
    champion = partitions.first.shift(-1).day
    for day in partitions.days:
        # Scored before anything trains: a model serves from the next partition on.
        run.served[day] = champion
        if _trains(run, day, weekday, trigger):
            run.trained.append(day)
        # The newest model that is later than the champion scores in its shadow.
        newest = run.trained[-1] if run.trained else champion
        if newest <= champion:
            continue
        verdict = gate(day, newest, run) if policy.is_gated else "refreshed"
        # Only a proof restarts the test of the stream.
        if verdict == "promoted":
            run.proved.append(day)
        if verdict in SERVING_VERDICTS:
            run.promoted.append(newest)
            champion = newest
    return run


def _trains(run: PolicyRun, day: dt.date, weekday: Weekday, trigger: Trigger) -> bool:
    match run.policy.schedule:
        case Schedule.NEVER:
            return False
        case Schedule.WEEKLY:
            return _WEEKDAYS[day.weekday()] == weekday
        case Schedule.TRIGGERED:
            if not trigger(day, run):
                return False
            run.triggered.append(day)
            return True
        case Schedule.NIGHTLY:
            return True
