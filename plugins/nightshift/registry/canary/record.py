"""The record of canaries: decisions in ``ml.promotions``, and what each published night had."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.registry.promotion import Decision
    from nightshift.warehouse.connection import Connection

CANARY = "canary"
"""Verdict that gives a version its share; also the ``score_source`` of its rows."""
RETURNED = "returned"
"""Verdict that takes the share back."""


@dataclass(frozen=True)
class Canary:
    """A version that gets a share of the entities.

    Attributes:
        version: The version.
        champion_version: Whom it stands alongside; where another version serves, it gets nothing.
        share: Its share of the entities.
        since: First partition that it gets a share of.
    """

    version: int
    champion_version: int
    share: float
    since: dt.date

    @property
    def reason(self) -> str:
        """Return what its rows say, and the state of everything."""
        share = f"{100 * self.share:.6g} %"
        return f"version {self.version} scores {share} of the entities since {self.since}"


@dataclass(frozen=True)
class CanaryNight:
    """A published partition that was planned with a canary.

    Attributes:
        day: The partition.
        load_id: The load of the predictions.
        canary: The canary.
        features: Content hash of the features that it scored.
        problem: Why the champion scored every row; None where the canary scored its share.
    """

    day: dt.date
    load_id: int
    canary: Canary
    features: str
    problem: str | None


@dataclass(frozen=True)
class CanaryDecision:
    """A decision about a canary that is not recorded yet.

    Attributes:
        model: Name of the spec.
        verdict: ``canary`` or ``returned``.
        reasons: Why, one sentence each.
        numbers: What was compared.
    """

    model: str
    verdict: str
    reasons: list[str]
    numbers: dict[str, Any]


def canary_for(conn: Connection, model: str, partition: Partition) -> Canary | None:
    """Return the canary that is on record for a partition; None without one.

    It ends with its return, and with the decision of the gate about its version.
    """
    # A partition of before the return keeps the canary that it had.
    row = conn.execute(
        """
        select version, champion_version, share, first_partition from ml.canaries
        where model = %(model)s and first_partition <= %(day)s
            and (last_partition is null or last_partition >= %(day)s)
        order by first_partition desc, promotion_id desc limit 1
        """,
        {"model": model, "day": partition.day},
    ).fetchone()
    return Canary(*row) if row else None


def canary_nights(
    conn: Connection, model: str, first: dt.date, last: dt.date
) -> dict[dt.date, CanaryNight]:
    """Return the published partitions of a range that were planned with a canary, by day."""
    rows = conn.execute(
        """
        select partition_date, load_id, version, champion_version, share, first_partition,
            features_hash, problem
        from ops.canary_nights
        where model = %s and partition_date between %s and %s
        order by partition_date
        """,
        [model, first, last],
    )
    # What was planned and published, whatever the record says since.
    by_day = {}
    for day, load_id, version, champion, share, since, features, problem in rows:
        canary = Canary(version, champion, share, since)
        by_day[day] = CanaryNight(day, load_id, canary, features, problem)
    return by_day


def append_decision(
    conn: Connection,
    canary: Canary,
    decided: CanaryDecision,
    partition: Partition,
    run: RunContext,
) -> Decision:
    """Append a decision about a canary to the record, for the partitions after this one."""
    # Scoring reads the record too, and must not load what decides.
    from nightshift.registry.promotion import Decision

    # The partition that decides is scored already.
    effective = partition.shift(1).day
    row = conn.execute(
        """
        insert into ml.promotions (model, version, verdict, champion_version, partition_date,
            effective_partition, reasons, numbers, run_id, actor)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning promotion_id
        """,
        [
            decided.model,
            canary.version,
            decided.verdict,
            canary.champion_version,
            partition.day,
            effective,
            decided.reasons,
            json.dumps(decided.numbers),
            run.run_id,
            run.actor,
        ],
    ).fetchone()
    assert row is not None  # noqa: S101 - the statement returns its row
    return Decision(
        promotion_id=row[0],
        version=canary.version,
        champion_version=canary.champion_version,
        effective_partition=effective,
        **vars(decided),
    )
