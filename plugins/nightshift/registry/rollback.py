"""Put an earlier champion back: the record of it. ``scoring.repair`` publishes what it means for partitions that are published already.

Source: docs/adr/0018-rollback.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.registry.model_versions import find_version, lock_model
from nightshift.registry.promotion import champion_for
from nightshift.warehouse.connection import lose

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection


class RollbackRefusedError(NightshiftError):
    """A version cannot be put back as asked; nothing moved."""

    code = "NS-ROLLBACK-001"


@dataclass(frozen=True)
class Succession:
    """One entry in the history of champions.

    Attributes:
        promotion_id: Identity in ``ml.promotions``.
        at: When it was decided, UTC.
        version: The version that it is about.
        verdict: ``first``, ``promoted``, ``refused`` or ``rolled_back``.
        champion_version: Who was champion before it; None for the first.
        effective_partition: First partition for which it counts.
        reasons: Why, one sentence each.
        actor: Who or what decided.
        run_id: The run that decided.
        stands: Whether it was neither refused nor revoked by a later rollback.
    """

    promotion_id: int
    at: dt.datetime
    version: int
    verdict: str
    champion_version: int | None
    effective_partition: dt.date
    reasons: tuple[str, ...]
    actor: str
    run_id: str
    stands: bool


def history(conn: Connection, model: str) -> list[Succession]:
    """Return every decision about who is champion, the oldest first."""
    rows = conn.execute(
        """
        select p.promotion_id, p.at, p.version, p.verdict, p.champion_version, p.effective_partition, p.reasons, p.actor,
            p.run_id, s.promotion_id is not null
        from ml.promotions p left join ml.succession s using (promotion_id) where p.model = %s order by p.promotion_id
        """,
        [model],
    )
    return [
        Succession(row[0], row[1], row[2], row[3], row[4], row[5], tuple(row[6]), *row[7:])
        for row in rows
    ]


def decision_after(conn: Connection, model: str, run_id: str) -> Succession | None:
    """Return the last decision that made another one champion after a run's own rollback; None if the run has none, or it is the last."""
    deciding = [entry for entry in history(conn, model) if entry.verdict != "refused"]
    has_decided = any(
        entry.run_id == run_id and entry.verdict == "rolled_back" for entry in deciding
    )
    return deciding[-1] if has_decided and deciding[-1].run_id != run_id else None


def first_partition_since(conn: Connection, model: str, version: int) -> Partition:
    """Return from which partition on other versions took over from this one; for a rollback that stands, its own.

    Raises:
        RollbackRefusedError: The version never was champion, or nothing came after it.
    """
    standing = [entry for entry in history(conn, model) if entry.stands]
    mine = [entry for entry in standing if entry.version == version]
    if not mine:
        raise RollbackRefusedError(
            f"Version {version} of {model} is no former champion.",
            expected=f"one of {sorted({entry.version for entry in standing})}",
            got=str(version),
            todo=f"`nightshift models {model}` shows who was champion when.",
        )
    newest = max(standing, key=lambda entry: (entry.effective_partition, entry.promotion_id))
    if newest.version == version and newest.verdict == "rolled_back":
        return Partition(newest.effective_partition)
    last = max((entry.effective_partition, entry.promotion_id) for entry in mine)
    later = [
        entry.effective_partition
        for entry in standing
        if (entry.effective_partition, entry.promotion_id) > last
    ]
    if not later:
        raise RollbackRefusedError(
            f"Version {version} of {model} is the champion.",
            todo="Nothing: to repair partitions anyway, name the first one with --since.",
        )
    return Partition(min(later))


def record_rollback(
    conn: Connection, model: str, version: int, since: Partition, reason: str, run: RunContext
) -> int:
    """Append the rollback and return its ``promotion_id``; one that stands already is returned and not repeated.

    Raises:
        RollbackRefusedError: The version was trained on what came after the partition.
        RegistryError: There is no such version.
    """
    target = find_version(conn, model, version)
    if Partition(target.partition_date).shift(1).day > since.day:
        raise RollbackRefusedError(
            f"Version {version} of {model} was trained on {target.partition_date}: it would know the future of {since}.",
            expected=f"a first partition from {Partition(target.partition_date).shift(1)} on",
            got=since.key,
            todo="Name a later --since, or an older version.",
        )
    with conn.transaction():
        lock_model(conn, model)
        last = history(conn, model)[-1]
        if (last.verdict, last.version, last.effective_partition) == (
            "rolled_back",
            version,
            since.day,
        ):
            return last.promotion_id
        champion = champion_for(conn, model, since)
        row = conn.execute(
            """
            insert into ml.promotions (model, version, verdict, champion_version, partition_date, effective_partition, reasons, numbers,
                run_id, actor)
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
