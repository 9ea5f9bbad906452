"""Record a rollback, which makes an earlier champion the champion again.

``scoring.republish`` then publishes its predictions for partitions that are published already.
Source: docs/adr/0018-rollback.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import find_version, lock_model
from nightshift.warehouse.connection import lose

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection


NOT_SERVING = {"refused", "shadowed", "canary", "returned"}
"""Verdicts by which no version becomes champion."""


class RollbackRefusedError(NightshiftError):
    """A version cannot be put back as requested; nothing was changed."""

    code = "NS-ROLLBACK-001"


@dataclass(frozen=True)
class Succession:
    """One entry in the history of champions.

    Attributes:
        promotion_id: Identity in ``ml.promotions``.
        at: When it was decided, UTC.
        version: The version that it is about.
        verdict: Of ``PromotionResult``, or ``rolled_back``.
        champion_version: The champion before it; None for the first.
        effective_partition: First partition for which it counts.
        reasons: Why, one sentence each.
        actor: Who or what decided.
        run_id: The run that decided.
        stands: Whether it made a champion, and no later rollback revoked it.
    """

    promotion_id: int
    at: dt.datetime
    version: int
    verdict: str
    champion_version: int | None
    effective_partition: dt.date
    reasons: Sequence[str]
    actor: str
    run_id: str
    stands: bool

    @property
    def order(self) -> tuple[dt.date, int]:
        """Return the sort key of champions: by effective partition, then by decision."""
        return self.effective_partition, self.promotion_id


def history(conn: Connection, model: str) -> list[Succession]:
    """Return every decision about who is champion, the oldest first."""
    from psycopg.rows import class_row

    query = """
        select p.promotion_id, p.at, p.version, p.verdict, p.champion_version,
            p.effective_partition, p.reasons, p.actor, p.run_id,
            s.promotion_id is not null as stands
        from ml.promotions p left join ml.succession s using (promotion_id)
        where p.model = %s order by p.promotion_id
    """
    with conn.cursor(row_factory=class_row(Succession)) as cursor:
        return cursor.execute(query, [model]).fetchall()


def decision_after(conn: Connection, model: str, run_id: str) -> Succession | None:
    """Return the last decision that another run made after this run's rollback, None without."""
    decisions = [entry for entry in history(conn, model) if entry.verdict not in NOT_SERVING]
    own = [entry for entry in decisions if entry.run_id == run_id]
    if not any(entry.verdict == "rolled_back" for entry in own):
        return None
    return None if decisions[-1].run_id == run_id else decisions[-1]


def first_partition_since(conn: Connection, model: str, version: int) -> Partition:
    """Return the first partition for which other versions replaced a former champion.

    For a rollback that stands it is the rollback's own partition.

    Raises:
        RollbackRefusedError: The version never was champion, or nothing came after it.
    """
    standing = [entry for entry in history(conn, model) if entry.stands]
    own = [entry for entry in standing if entry.version == version]
    if not own:
        raise RollbackRefusedError(
            f"Version {version} of {model} is no former champion.",
            expected=f"one of {sorted({entry.version for entry in standing})}",
            got=str(version),
            todo=f"`nightshift models {model}` lists the champions of each partition.",
        )
    newest = max(standing, key=lambda entry: entry.order)
    # A rerun starts from the partition of the rollback that stands.
    if newest.version == version and newest.verdict == "rolled_back":
        return Partition(newest.effective_partition)
    last_own = max(entry.order for entry in own)
    later = [entry.effective_partition for entry in standing if entry.order > last_own]
    if not later:
        raise RollbackRefusedError(
            f"Version {version} of {model} is the champion.",
            todo="Nothing: to repair partitions anyway, name the first one with --since.",
        )
    return Partition(min(later))


def record_rollback(
    conn: Connection, model: str, version: int, since: Partition, reason: str, run: RunContext
) -> int:
    """Append the rollback and return its ``promotion_id``; one that stands is not repeated.

    Raises:
        RollbackRefusedError: The version was trained on what came after the partition.
        RegistryError: There is no such version.
    """
    target = find_version(conn, model, version)
    first_allowed = target.partition.shift(1)
    # Predictions of a partition must not come from a model that has seen its outcome.
    if first_allowed.day > since.day:
        raise RollbackRefusedError(
            f"Version {version} of {model} was trained on {target.partition_date}: it would know "
            f"the future of {since}.",
            expected=f"a first partition from {first_allowed} on",
            got=since.key,
            todo="Name a later --since, or an older version.",
        )
    with conn.transaction():
        lock_model(conn, model)
        last = [entry for entry in history(conn, model) if entry.verdict not in NOT_SERVING][-1]
        rollback = ("rolled_back", version, since.day)
        # A rerun of the task must not append a second rollback.
        if (last.verdict, last.version, last.effective_partition) == rollback:
            return last.promotion_id
        champion = champion_for(conn, model, since)
        row = conn.execute(
            """
            insert into ml.promotions (model, version, verdict, champion_version, partition_date,
                effective_partition, reasons, numbers, run_id, actor)
            values (%s, %s, 'rolled_back', %s, %s, %s, %s, %s, %s, %s) returning promotion_id
            """,
            [
                model,
                version,
                champion and champion.version,
                since.shift(-1).day,
                since.day,
                [reason],
                json.dumps({}),
                run.run_id,
                run.actor,
            ],
        ).fetchone()
    hit(Failpoint.ROLLBACK_AFTER, lambda: lose(conn))
    assert row is not None  # noqa: S101 - the statement returns its row
    return int(row[0])
