"""From evidence to a decision: which conditions must hold together, on N of the last M nights of one champion, and what blocks an order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

Status = Literal["ok", "breached", "unknown"]
CONDITIONS = ("drift", "score_drift", "performance", "severe_loss")


@dataclass(frozen=True)
class PartitionStatus:
    """What one night found about one champion; ``unknown`` counts as not breached."""

    partition_date: dt.date
    drift: Status
    score_drift: Status
    performance: Status
    severe_loss: Status


@dataclass(frozen=True)
class RetrainHistory:
    """The model's orders near a night.

    Attributes:
        own: Whether the night itself has one; it stands, so that a rerun rules the same.
        others: Partitions of the others, in order.
    """

    own: bool = False
    others: Sequence[dt.date] = ()


@dataclass(frozen=True)
class TriggerDecision:
    """Whether the evidence asks for a retraining.

    Attributes:
        breached_days: Per condition, the nights on which it held: of the window, for drift also
            those that the window's loss is about.
        in_cooldown: Whether an earlier decision is too near.
        is_over_budget: Whether the earlier decisions have used up the budget.
        has_triggered: Whether a decision must stand for this partition.
        reasons: Why or why not, for people.
    """

    breached_days: dict[str, list[dt.date]]
    in_cooldown: bool
    is_over_budget: bool
    has_triggered: bool
    reasons: list[str]


def loss_lag_days(spec: ModelSpec) -> int:
    """Return how many nights after a prediction its loss is measured."""
    return 1 + spec.label.maturity_days


def apply_trigger_rule(
    spec: ModelSpec,
    today: PartitionStatus,
    earlier: Sequence[PartitionStatus],
    decided: RetrainHistory,
    red: Sequence[str],
) -> TriggerDecision:
    """Apply conditions, windows, and what blocks an order.

    Args:
        spec: Windows, cooldown, budget and the conditions that must hold together.
        today: The night that is judged.
        earlier: Nights before it that measured the same champion; those outside of the window are
            left out.
        decided: The model's orders. Those after the night matter only when nothing else blocks, so
            that an old night that is rerun opens no second order and gives no other reasons.
        red: Why the data of the night cannot be trusted; empty if it can.
    """
    limits, night = spec.monitoring, today.partition_date
    breached = _breached_days(spec, today, earlier)
    evidence = _evidence(spec, today, breached)
    before = [day for day in decided.others if day < night]
    cooldown = [day for day in before if (night - day).days <= limits.cooldown_days]
    spent = [day for day in before if (night - day).days < limits.retrain_budget.days]
    is_over_budget = len(spent) >= limits.retrain_budget.retrainings
    blocks = [f"blocked, data quality is red: {why}" for why in red]
    if cooldown:
        blocks.append(
            f"in cooldown: {limits.cooldown_days} days around the decision of {max(cooldown)}"
        )
    if is_over_budget:
        blocks.append(
            f"over budget: {len(spent)} decisions within {limits.retrain_budget.days} days, {', '.join(map(str, spent))}"
        )
    after = [day for day in decided.others if 0 < (day - night).days <= limits.cooldown_days]
    if not blocks and after:
        blocks.append(
            f"in cooldown: {limits.cooldown_days} days around the decision of {min(after)}"
        )
    has_triggered = bool(evidence) and (decided.own or not blocks)
    reasons = evidence + ([] if has_triggered or not evidence else blocks)
    return TriggerDecision(breached, bool(cooldown), is_over_budget, has_triggered, reasons)


def _breached_days(
    spec: ModelSpec, today: PartitionStatus, earlier: Sequence[PartitionStatus]
) -> dict[str, list[dt.date]]:
    nights, lag = [*earlier, today], loss_lag_days(spec)
    reach = {
        name: spec.monitoring.windows.m + (lag if name in ("drift", "score_drift") else 0)
        for name in CONDITIONS
    }
    return {
        name: sorted(
            one.partition_date
            for one in nights
            if 0 <= (today.partition_date - one.partition_date).days < reach[name]
            and getattr(one, name) == "breached"
        )
        for name in CONDITIONS
    }


def _evidence(
    spec: ModelSpec, today: PartitionStatus, breached: dict[str, list[dt.date]]
) -> list[str]:
    """Return what asks for a retraining, in words; empty if nothing does."""
    window, triggers, night = (
        spec.monitoring.windows,
        spec.monitoring.triggers,
        today.partition_date,
    )
    recent = {
        name: [day for day in days if (night - day).days < window.m]
        for name, days in breached.items()
    }
    held = {name: len(days) >= window.n and night in days for name, days in recent.items()}
    words = {
        name: f"{name} held on {len(days)} of the last {window.m} nights: {', '.join(map(str, days))}"
        for name, days in recent.items()
    }
    lagged = [name for name in triggers.drift if len(breached[name]) >= window.n]
    if held["performance"] and lagged:
        return [
            f"{name} held on {len(breached[name])} nights: {', '.join(map(str, breached[name]))}"
            for name in lagged
        ] + [words["performance"]]
    if held["severe_loss"]:
        return [words["severe_loss"], "acts on matured loss alone: it is severe"]
    drifted = [name for name in triggers.drift if held[name]]
    if drifted and triggers.may_act_on_drift_alone and today.performance == "unknown":
        return [words[name] for name in drifted] + [
            "acts on drift alone: no matured loss confirms or contradicts it tonight"
        ]
    return []


def condition_status(is_breached: bool | None) -> Status:
    """Return ``unknown`` for None."""
    return "unknown" if is_breached is None else "breached" if is_breached else "ok"
