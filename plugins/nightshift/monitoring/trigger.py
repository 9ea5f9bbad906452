"""The trigger rule: which evidence requests a retrain, and what blocks it. Causes have routes.

A loss that lasts requests a retrain. A loss of a few nights is a shock, from which alone nothing is
learnt. Drift without a loss is looked at, and acts only where the spec says so. A broken input
blocks: a model that learns from broken data is no repair. A condition holds if it was breached on N
of the last M partitions of one champion.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.warehouse.control_tables.retrain_requests import requested_days

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.warehouse.connection import Connection

Status = Literal["ok", "breached", "unknown"]
Cause = Literal["none", "broken input", "loss", "covariate shift", "shock"]
CONDITIONS = ("drift", "score_drift", "performance", "severe_loss")


@dataclass(frozen=True)
class PartitionStatus:
    """The conditions of one partition and champion; ``unknown`` counts as not breached."""

    partition_date: dt.date
    drift: Status
    score_drift: Status
    performance: Status
    severe_loss: Status
    broken_input: Status = "ok"

    @property
    def has_loss(self) -> bool:
        """Return whether the matured loss exceeds the limit."""
        return "breached" in (self.performance, self.severe_loss)


@dataclass(frozen=True)
class RetrainHistory:
    """The model's retrain requests near a partition.

    Attributes:
        is_requested: Whether the partition has a request; it stands, so a rerun decides the same.
        other_days: Other partitions with a request, in order.
    """

    is_requested: bool = False
    other_days: Sequence[dt.date] = ()


@dataclass(frozen=True)
class TriggerDecision:
    """Whether a retrain request must exist for a partition.

    Attributes:
        status: The conditions of the partition.
        breached_days: Per condition, the days on which it was breached: in the window, for drift
            also in the days that the window's loss is about.
        in_cooldown: Whether an earlier request is too near.
        is_over_budget: Whether the earlier requests have used up the budget.
        has_triggered: Whether a request must exist.
        cause: What the evidence points at.
        reasons: Why or why not, for people.
    """

    status: PartitionStatus
    breached_days: dict[str, list[dt.date]]
    in_cooldown: bool
    is_over_budget: bool
    has_triggered: bool
    cause: Cause
    reasons: list[str]


def apply_trigger_rule(
    spec: ModelSpec,
    today: PartitionStatus,
    earlier: Sequence[PartitionStatus],
    history: RetrainHistory,
    problems: Sequence[str],
) -> TriggerDecision:
    """Decide whether the evidence triggers a retrain request.

    Args:
        spec: Windows, cooldown, budget and the conditions that must hold together.
        today: Status of the partition.
        earlier: Earlier statuses of the same champion; those outside of the window are ignored.
        history: The model's retrain requests.
        problems: Data quality problems and broken inputs, which block.
    """
    limits = spec.monitoring
    breached = _breached_days(spec, today, earlier)
    evidence = _evidence(spec, today, earlier, breached)

    budget = limits.retrain_budget
    # Days since each request; negative for a request of a later partition.
    ages = {past: (today.partition_date - past).days for past in history.other_days}
    in_cooldown = [past for past, age in ages.items() if 0 < age <= limits.cooldown_days]
    spent = [past for past, age in ages.items() if 0 < age < budget.days]
    is_over_budget = len(spent) >= budget.retrainings

    cooldown = f"in cooldown: {limits.cooldown_days} days around the decision of"
    blocks = [f"blocked, data quality is red: {problem}" for problem in problems]
    if in_cooldown:
        blocks.append(f"{cooldown} {max(in_cooldown)}")
    if is_over_budget:
        blocks.append(
            f"over budget: {len(spent)} decisions within {budget.days} days, {_listed(spent)}"
        )
    # Later requests count only if nothing else blocks: an old partition that is rerun then opens
    # no second request, and its reasons stay the same.
    later = [day for day, age in ages.items() if -limits.cooldown_days <= age < 0]
    if later and not blocks:
        blocks.append(f"{cooldown} {min(later)}")

    has_triggered = bool(evidence) and (history.is_requested or not blocks)
    reasons = evidence + blocks if evidence and not has_triggered else evidence
    return TriggerDecision(
        today,
        breached,
        bool(in_cooldown),
        is_over_budget,
        has_triggered,
        find_cause(spec, today, earlier),
        reasons,
    )


def find_cause(
    spec: ModelSpec, today: PartitionStatus, earlier: Sequence[PartitionStatus]
) -> Cause:
    """Return what the evidence of a partition points at."""
    if today.broken_input == "breached":
        return "broken input"
    if today.has_loss:
        return "shock" if is_shock(spec, today, earlier) else "loss"
    if "breached" in (today.drift, today.score_drift):
        return "covariate shift"
    return "none"


def is_shock(spec: ModelSpec, today: PartitionStatus, earlier: Sequence[PartitionStatus]) -> bool:
    """Return whether a loss has held on too few nights to learn from it."""
    # A loss is counted by the night that measured it, as the other conditions are.
    n_nights = spec.monitoring.triggers.shock_nights
    first = today.partition_date - dt.timedelta(days=loss_days(spec))
    lossy = {status.partition_date for status in (*earlier, today) if status.has_loss}
    return sum(day > first for day in lossy) <= n_nights


def loss_days(spec: ModelSpec) -> int:
    """Return in how many of the last days a loss must have lasted longer than a shock."""
    # A shock's nights and as many quiet ones: two shocks of a season do not add up.
    return max(spec.monitoring.windows.m, 2 * spec.monitoring.triggers.shock_nights + 1)


def status_days(spec: ModelSpec) -> int:
    """Return of how many days before a partition the statuses count."""
    # A loss is about predictions of some days ago, and their drift explains it.
    return max(spec.monitoring.windows.m + loss_lag_days(spec), loss_days(spec))


def read_retrain_history(conn: Connection, spec: ModelSpec, partition: Partition) -> RetrainHistory:
    """Return the model's retrain requests near a partition; read under the model's lock."""
    limits = spec.monitoring
    n_days = max(limits.cooldown_days, limits.retrain_budget.days)
    days = requested_days(conn, spec.name, partition, n_days)
    # The own request is no obstacle: a rerun must decide as the first run did.
    own = partition.day
    return RetrainHistory(own in days, [day for day in days if day != own])


def loss_lag_days(spec: ModelSpec) -> int:
    """Return the number of days from a prediction until its loss is measured."""
    return 1 + spec.label.maturity_days


def _breached_days(
    spec: ModelSpec, today: PartitionStatus, earlier: Sequence[PartitionStatus]
) -> dict[str, list[dt.date]]:
    # The loss of today is about predictions of some days ago: drift of those days explains it.
    window, lag = spec.monitoring.windows.m, loss_lag_days(spec)
    breached: dict[str, list[dt.date]] = {}
    for name in CONDITIONS:
        n_days = window + lag if name in ("drift", "score_drift") else window
        begin = today.partition_date - dt.timedelta(days=n_days)
        breached[name] = []
        for status in (*earlier, today):
            is_recent = begin < status.partition_date <= today.partition_date
            if is_recent and getattr(status, name) == "breached":
                breached[name].append(status.partition_date)
        breached[name].sort()
    return breached


def _evidence(
    spec: ModelSpec,
    today: PartitionStatus,
    earlier: Sequence[PartitionStatus],
    breached: dict[str, list[dt.date]],
) -> list[str]:
    """Return the reasons to retrain, for people; empty if there are none."""
    limits, day = spec.monitoring, today.partition_date
    window, triggers = limits.windows, limits.triggers
    # The reason of each condition that holds.
    holding: dict[str, str] = {}
    for name, days in breached.items():
        recent = [past for past in days if (day - past).days < window.m]
        if len(recent) >= window.n and day in recent:
            n_days = f"{len(recent)} of the last {window.m} nights"
            holding[name] = f"{name} held on {n_days}: {_listed(recent)}"

    # Drift is told with a loss, because it may explain it; the loss alone decides.
    losses = [holding[name] for name in ("performance", "severe_loss") if name in holding]
    if losses and not is_shock(spec, today, earlier):
        drift_reasons = [
            f"{name} held on {len(breached[name])} nights: {_listed(breached[name])}"
            for name in triggers.drift
            if breached[name]
        ]
        return [*losses, *drift_reasons]
    drifted = [holding[name] for name in triggers.drift if name in holding]
    if drifted and triggers.may_act_on_drift_alone and today.performance == "unknown":
        alone = "acts on drift alone: no matured loss confirms or contradicts it tonight"
        return [*drifted, alone]
    return []


def _listed(days: Sequence[dt.date]) -> str:
    return ", ".join(map(str, days))


def condition_status(is_breached: bool | None) -> Status:
    """Return the status of a condition; ``unknown`` for None."""
    if is_breached is None:
        return "unknown"
    return "breached" if is_breached else "ok"
