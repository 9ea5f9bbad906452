"""From evidence to a decision: a condition must hold on N of the last M nights of one champion, and not soon after another decision."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

Status = Literal["ok", "breached", "unknown"]
CONDITIONS = ("drift", "score_drift", "performance")


@dataclass(frozen=True)
class NightStatus:
    """What one night found about one champion; ``unknown`` counts as not breached."""

    partition_date: dt.date
    drift: Status
    score_drift: Status
    performance: Status


@dataclass(frozen=True)
class Ruling:
    """Whether the evidence asks for a retraining.

    Attributes:
        breached_days: Per condition, the nights of the window on which it held.
        in_cooldown: Whether an earlier decision is too near.
        has_triggered: Whether a decision must stand for this partition.
        reasons: Why or why not, for people.
    """

    breached_days: dict[str, list[dt.date]]
    in_cooldown: bool
    has_triggered: bool
    reasons: list[str]


def rule(spec: ModelSpec, today: NightStatus, earlier: Sequence[NightStatus], decided: Sequence[dt.date]) -> Ruling:
    """Apply windows and cooldown.

    Args:
        spec: Windows, cooldown and the conditions that may trigger.
        today: The night that is judged.
        earlier: Nights before it that measured the same champion; those outside of the window are left out.
        decided: Partitions of all decisions of the model. One of this very partition does not count, so that a rerun rules the same;
            one of a later partition does, so that an old night that is rerun opens no second decision.
    """
    window, night = spec.monitoring.windows, today.partition_date
    nights = [one for one in earlier if 0 < (night - one.partition_date).days < window.m] + [today]
    breached = {name: sorted(one.partition_date for one in nights if getattr(one, name) == "breached") for name in CONDITIONS}
    near = [day for day in decided if 0 < abs((night - day).days) <= spec.monitoring.cooldown_days]
    in_cooldown = any(day < night for day in near)
    fulfilled = [name for name in spec.monitoring.triggers if len(breached[name]) >= window.n and night in breached[name]]
    reasons = [
        f"{name} held on {len(breached[name])} of the last {window.m} nights: {', '.join(map(str, breached[name]))}" for name in fulfilled
    ]
    if fulfilled and near:
        reasons.append(f"in cooldown: {spec.monitoring.cooldown_days} days around the decision of {max(near)}")
    return Ruling(breached, in_cooldown=in_cooldown, has_triggered=bool(fulfilled) and not near, reasons=reasons)


def status(is_breached: bool | None) -> Status:
    """Return ``unknown`` for None."""
    return "unknown" if is_breached is None else "breached" if is_breached else "ok"
