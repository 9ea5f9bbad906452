"""Decide again about the challengers in the shadow once their stream has proved something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry.canary.decision import open_canary, return_canary
from nightshift.registry.champions import champion_for
from nightshift.registry.promotion import Decision, decide, find_decision
from nightshift.registry.streams.members import shadow_members
from nightshift.registry.streams.nights import StreamEvidence, read_evidence
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings


def decide_night(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> list[Decision]:
    """Make the decisions of a night: return a canary, decide about challengers, open a canary.

    In this order: what speaks against a canary does not wait for a gate that may fail, and nobody
    gets a share alongside a champion that is replaced tonight.

    Returns:
        What was decided, in that order; empty on most nights.

    Raises:
        NightshiftError: As ``decide``.
    """
    returned = return_canary(settings, spec, partition, run)
    decided = decide_on_evidence(settings, spec, partition, run)
    opened = None
    if decided is None or not decided.is_promoted:
        opened = open_canary(settings, spec, partition, run)
    return [decision for decision in (returned, decided, opened) if decision]


def decide_on_evidence(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> Decision | None:
    """Decide again about the challengers in the shadow, if a stream has proved something tonight.

    Nothing is loaded on a night that can prove nothing new.

    Returns:
        The decision that promoted, refreshed or refused; None where all stays as it is.

    Raises:
        NightshiftError: As ``decide``.
    """
    with connect(settings, run.application_name) as conn:
        champion = champion_for(conn, spec.name, partition.shift(1))
        if champion is None:
            return None
        due = []
        # Cheap first: the gate loads two models and reads a training set.
        for stream, version in shadow_members(conn, spec, partition.shift(1)).items():
            decision = find_decision(conn, spec.name, version)
            if decision is None or decision.is_final:
                continue
            evidence = read_evidence(conn, spec, stream, partition, champion.version)
            if is_due(spec, partition, champion, evidence):
                due.append(version)
    refused: Decision | None = None
    for version in due:
        # The first one that serves ends the decisions: all were compared with its predecessor.
        decision = decide(settings, spec, version, run, partition)
        if decision.is_promoted:
            return decision
        refused = decision if decision.is_final else refused
    return refused


def is_due(
    spec: ModelSpec, partition: Partition, champion: ModelVersion, evidence: StreamEvidence
) -> bool:
    """Return whether the gate could come to another verdict than on an earlier night."""
    promotion = spec.promotion
    needed = 1 / (1 - promotion.superiority_probability)
    # Of a stream that has missed nights nothing is proved, whatever other streams say.
    if not evidence.is_complete:
        return False
    if evidence.result.e_value >= needed and evidence.has_own_nights:
        return True
    if promotion.stale_after_days is None:
        return False
    days_old = (partition.day - champion.partition_date).days - promotion.stale_after_days
    # A hold-out stays what it is: an old champion is compared with it once in its interval, the
    # first time when it turns old. A stream that gains may pass on any night that has matured.
    has_gain = evidence.champion_nights >= promotion.minimum_stream_days
    has_gain = has_gain and evidence.champion_gain > 0
    return days_old >= 0 and (has_gain or days_old % promotion.stale_after_days == 0)
