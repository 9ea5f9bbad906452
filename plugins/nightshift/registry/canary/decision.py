"""Decide each night whether a challenger gets its share, and whether a canary loses it.

Both are decisions in ``ml.promotions``, for the partitions after the one that decides. Doubt ends a
canary: it costs a challenger a few weeks, and readers nothing. Source: docs/adr/0055-canary.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry.canary.evidence import broken_nights, e_value_worse, read_canary_evidence
from nightshift.registry.canary.record import (
    CANARY,
    RETURNED,
    Canary,
    CanaryDecision,
    append_decision,
    canary_for,
    canary_nights,
)
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import lock_model
from nightshift.registry.promotion_gate import SHADOWED
from nightshift.registry.streams.members import evidence_start, shadow_members
from nightshift.registry.streams.nights import stream_gains
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.registry.canary.evidence import CanaryEvidence
    from nightshift.registry.promotion import Decision
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


DID_NOT_SCORE, IS_WORSE, HAS_LOST = "It did not score", "It is proved worse", "On its own rows"
AGAINST_CANARY = (DID_NOT_SCORE, IS_WORSE, HAS_LOST)
"""How reasons begin that speak against the version itself."""


def return_canary(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> Decision | None:
    """Return the canary of the next partition if anything speaks against it; None otherwise.

    Idempotent: a version is returned once.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        # Cheap first: on most nights of most models there is none.
        if canary_for(conn, spec.name, partition.shift(1)) is None:
            return None
        with conn.transaction():
            # Under the lock nobody else decides about the model.
            lock_model(conn, spec.name)
            canary = canary_for(conn, spec.name, partition.shift(1))
            if canary is None or _has_decision(conn, spec.name, canary.version, RETURNED):
                return None
            evidence = read_canary_evidence(conn, spec, canary, partition)
            reasons = _reasons_to_return(conn, spec, canary, evidence, partition)
            if not reasons:
                return None
            decided = CanaryDecision(spec.name, RETURNED, reasons, evidence.numbers)
            return append_decision(conn, canary, decided, partition, run)


def open_canary(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> Decision | None:
    """Give a sound challenger its share of the next partition, if its stream has earned it.

    Idempotent: a version gets a share once, and a night before the newest decision about a canary
    or a champion decides nothing.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    if spec.promotion.canary.share == 0:
        return None
    with connect(settings, run.application_name) as conn, conn.transaction():
        lock_model(conn, spec.name)
        champion = champion_for(conn, spec.name, partition.shift(1))
        if champion is None or _has_later_decision(conn, spec.name, partition):
            return None
        if canary_for(conn, spec.name, partition.shift(1)) is not None:
            return None
        # Tonight's own verdict is not among them yet: a broken input tonight returns it tomorrow.
        if broken_nights(conn, spec.name, partition.shift(-1).day, partition.day):
            return None
        # The newest challenger comes first, then the versions that the spec names.
        for stream, version in shadow_members(conn, spec, partition.shift(1)).items():
            reason = _reason_to_open(conn, spec, stream, champion.version, partition)
            if reason is None or not _is_new_and_sound(conn, spec.name, version):
                continue
            share = spec.promotion.canary.share
            canary = Canary(version, champion.version, share, partition.shift(1).day)
            decided = CanaryDecision(spec.name, CANARY, [reason], {"share": share})
            return append_decision(conn, canary, decided, partition, run)
    return None


def _reasons_to_return(
    conn: Connection,
    spec: ModelSpec,
    canary: Canary,
    evidence: CanaryEvidence,
    partition: Partition,
) -> list[str]:
    """Return what speaks against a canary, one sentence each."""
    limits = spec.promotion.canary
    reasons = []
    if limits.share == 0:
        reasons.append("The spec has switched canaries off.")
    # A promotion of another version, a refresh or a rollback.
    champion = champion_for(conn, spec.name, partition.shift(1))
    serving = champion.version if champion else None
    if serving != canary.champion_version:
        reasons.append(
            f"The champion is version {serving}, not version {canary.champion_version} any more:"
            " the evidence is about that one."
        )
    reasons += _broken_ones(conn, spec, canary, partition)
    reasons += loss_reasons(spec, evidence)
    # Nights of the calendar: a canary that scores none must not stay for ever.
    n_nights = (partition.shift(1).day - canary.since).days
    if n_nights >= limits.maximum_nights:
        reasons.append(f"{n_nights} nights have decided nothing.")
    return reasons


def _broken_ones(
    conn: Connection, spec: ModelSpec, canary: Canary, partition: Partition
) -> list[str]:
    """Return the nights on which the canary or its input failed, one sentence each."""
    reasons = []
    published = canary_nights(conn, spec.name, canary.since, partition.day)
    for day, planned in published.items():
        if planned.problem is not None and planned.canary.version == canary.version:
            reasons.append(f"{DID_NOT_SCORE} on {day}: {planned.problem}.")
    for day, n_faults in broken_nights(conn, spec.name, canary.since, partition.day):
        reasons.append(f"{n_faults} column(s) of the input of {day} are broken.")
    return reasons


def loss_reasons(spec: ModelSpec, evidence: CanaryEvidence) -> list[str]:
    """Return how it was proved worse, or what its own rows lost, one sentence each."""
    reasons = []
    needed = 1 / (1 - spec.promotion.superiority_probability)
    compared = {"all entities": evidence.gains, "its own rows": evidence.own_gains}
    for rows, gains in compared.items():
        e_value = e_value_worse(gains)
        if e_value >= needed:
            reasons.append(
                f"{IS_WORSE} on {rows}: {gains.size} nights, mean gain {gains.mean():+.4g}"
                f" {evidence.loss}, e-value {e_value:.3g} (needed {needed:.3g})."
            )
    limit = evidence.limit(spec)
    if evidence.own_gains.size and evidence.excess > limit:
        reasons.append(
            f"{HAS_LOST} of {evidence.own_gains.size} night(s) it lost {evidence.excess:.4g}"
            f" {evidence.loss} a night against the champion; allowed are {limit:.4g}."
        )
    return reasons


def _reason_to_open(
    conn: Connection, spec: ModelSpec, stream: str, champion: int, partition: Partition
) -> str | None:
    """Return why a stream has earned a share; None where it has not."""
    since = evidence_start(conn, spec.name, partition.shift(1))
    if since is None:
        return None
    # What was returned spoke for its stream: the next version needs nights of its own.
    since = max(since, _last_return(conn, spec.name, partition) or since)
    last = mature_window(spec, partition).last.day
    _, champions, gains = stream_gains(conn, spec.name, stream, since, last)
    # The nights of a champion before this one say nothing about who stands alongside it.
    own = [gain for gain, served in zip(gains, champions, strict=True) if served == champion]
    needed = spec.promotion.canary.after_nights
    if len(own) < needed:
        return None
    # Not a proof: what is proved is promoted. It must only not look worse.
    mean = sum(own) / len(own)
    if mean < 0:
        return None
    return (
        f"Stream {stream} has {len(own)} matured night(s) against version {champion}"
        f" (needed {needed}), mean gain {mean:+.4g}."
    )


def _is_new_and_sound(conn: Connection, model: str, version: int) -> bool:
    """Return whether a version passed the gate, waits for its proof, and never was a canary."""
    row = conn.execute(
        """
        select array_agg(verdict) from ml.promotions where model = %s and version = %s
        """,
        [model, version],
    ).fetchone()
    return row is not None and row[0] == [SHADOWED]


def _has_decision(conn: Connection, model: str, version: int, verdict: str) -> bool:
    query = """
        select exists (
            select from ml.promotions where model = %s and version = %s and verdict = %s)
    """
    return conn.execute(query, [model, version, verdict]).fetchone() == (True,)


def _has_later_decision(conn: Connection, model: str, partition: Partition) -> bool:
    """Return whether a champion or a canary of later partitions is decided already."""
    query = """
        select exists (
            select from ml.promotions
            where model = %s and verdict not in ('refused', 'shadowed')
                and effective_partition > %s)
            or exists (
            select from ml.promotions
            where model = %s and verdict in ('canary', 'returned') and effective_partition = %s)
    """
    next_day = partition.shift(1).day
    return conn.execute(query, [model, next_day, model, next_day]).fetchone() == (True,)


def _last_return(conn: Connection, model: str, partition: Partition) -> dt.date | None:
    query = """
        select max(effective_partition) from ml.promotions
        where model = %s and verdict = 'returned' and effective_partition <= %s
    """
    row = conn.execute(query, [model, partition.shift(1).day]).fetchone()
    return row[0] if row else None
