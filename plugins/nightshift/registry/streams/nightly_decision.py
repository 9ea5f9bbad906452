"""Decide again about the challengers in the shadow once their stream has proved something."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def decide_on_evidence(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> Decision | None:
    """Decide again about the challengers in the shadow, if a stream has proved something tonight.

    Nothing is loaded on a night without a proof and without an old champion.

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
            if _is_due(spec, partition, champion, evidence):
                due.append(version)
    refused: Decision | None = None
    for version in due:
        # The first one that serves ends the decisions: all were compared with its predecessor.
        decision = decide(settings, spec, version, run, partition)
        if decision.is_promoted:
            return decision
        refused = decision if decision.is_final else refused
    return refused


def _is_due(
    spec: ModelSpec, partition: Partition, champion: ModelVersion, evidence: StreamEvidence
) -> bool:
    """Return whether the gate could come to another verdict than ``shadowed``."""
    promotion = spec.promotion
    age = (partition.day - champion.partition_date).days
    is_old = promotion.stale_after_days is not None and age >= promotion.stale_after_days
    return is_old or evidence.result.e_value >= 1 / (1 - promotion.superiority_probability)
