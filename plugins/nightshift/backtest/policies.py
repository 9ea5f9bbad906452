"""Retraining policies, and the course of a year under each: which night trains, and whose model serves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import Weekday

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
        rhythm: When it trains.
        is_gated: Whether a retrained model must pass the evidence gate; else it serves from the
            next night on.
    """

    rhythm: Schedule
    is_gated: bool = False

    def __str__(self) -> str:
        """Return the name for people."""
        return f"{self.rhythm}, gated" if self.is_gated else str(self.rhythm)


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
    """What a policy did. A model is named by the day of the night that trained it; it can serve from the next night on.

    Attributes:
        policy: The policy.
        served: By night, the model that served it.
        trained: Nights that trained, after the first model.
        promoted: Of these, the nights whose model came to serve.
        decided: Nights on which the monitor asked for a training; only a triggered policy listens.
    """

    policy: Policy
    served: dict[dt.date, dt.date] = field(default_factory=dict)
    trained: list[dt.date] = field(default_factory=list)
    promoted: list[dt.date] = field(default_factory=list)
    decided: list[dt.date] = field(default_factory=list)


Trigger = Callable[[dt.date, PolicyRun], bool]
"""Whether the monitor of a night, shown what happened so far, opens an order to retrain."""
Gate = Callable[[dt.date, dt.date], bool]
"""Whether the model of a night, the first, may replace another one."""


def run_policy(
    policy: Policy, nights: PartitionRange, weekday: Weekday, trigger: Trigger, gate: Gate
) -> PolicyRun:
    """Live through the nights in order, as the product does: score, then monitor, then train.

    Args:
        policy: What decides.
        nights: Scored nights; the evening before the first trains the first model.
        weekday: When a weekly policy trains.
        trigger: Asked every night of a triggered policy.
        gate: Asked after every training of a gated policy.
    """
    course = PolicyRun(policy)
    champion = nights.first.shift(-1).day
    for night in nights.days:
        course.served[night] = champion
        if _trains(course, night, weekday, trigger):
            course.trained.append(night)
            if not policy.is_gated or gate(night, champion):
                course.promoted.append(night)
                champion = night
    return course


def _trains(course: PolicyRun, night: dt.date, weekday: Weekday, trigger: Trigger) -> bool:
    rhythm = course.policy.rhythm
    if rhythm is Schedule.TRIGGERED and trigger(night, course):
        course.decided.append(night)
        return True
    return rhythm is Schedule.NIGHTLY or (
        rhythm is Schedule.WEEKLY and _WEEKDAYS[night.weekday()] == weekday
    )
