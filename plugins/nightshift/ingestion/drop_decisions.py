"""What a person decided about objects of the landing prefix: a record, nothing is deleted or changed there.

A withdrawn drop is not taken any more. What it said while we believed it stays what we knew then;
from the decision on we know what the next best drop says, so that one counts as delivered again at
that time. Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.landing import Landing
    from nightshift.warehouse.connection import Connection


class DropAction(StrEnum):
    """What can be decided."""

    WITHDRAWN = "withdrawn"
    SET_ASIDE = "set_aside"


class DropUnknownError(NightshiftError):
    """There is no such drop or manifest, or something was decided about it already."""

    code = "NS-LAKE-011"


@dataclass(frozen=True)
class DropDecision:
    """One decision: columns of ``ops.drop_decisions``.

    Attributes:
        at: When it was made, UTC.
        partition: The operating day.
        action: What was decided.
        key: The data file of a withdrawn drop, or the manifest that is set aside.
        sha256: Digest of the file that was withdrawn; empty for a manifest.
        actor: Who decided.
        reason: Why.
    """

    at: dt.datetime
    partition: dt.date
    action: DropAction
    key: str
    sha256: str
    actor: str
    reason: str


def read_decisions(
    conn: Connection, dataset: str, partitions: PartitionRange
) -> list[DropDecision]:
    """Return the decisions about a range, in the order in which they were made.

    Args:
        conn: Any connection.
        dataset: Name in the ledger, ``raw/<name>``.
        partitions: Both ends included.
    """
    rows = conn.execute(
        """
        select at, partition_date, action, object_key, source_sha256, actor, reason
        from ops.drop_decisions where dataset = %s and partition_date between %s and %s
        order by decision_id
        """,
        [dataset, partitions.first.day, partitions.last.day],
    ).fetchall()
    return [DropDecision(at, day, DropAction(action), *rest) for at, day, action, *rest in rows]


def withdraw(conn: Connection, landing: Landing, key: str, actor: str, reason: str) -> DropManifest:
    """Record that a drop is not to be taken any more, and return it.

    Args:
        conn: A connection.
        landing: The partition's folder.
        key: The data file, or its manifest.
        actor: Who decides.
        reason: Why.

    Raises:
        DropUnknownError: There is no such drop, or it is withdrawn already.
    """
    promised = [*landing.drops, *landing.absent]
    found = [drop for drop in promised if key in {drop.data_key, landing.manifests[drop].key}]
    if not found:
        raise _unknown(
            key, "the data file or manifest of a drop", [drop.data_key for drop in promised]
        )
    for drop in found:
        _record(
            conn,
            drop.dataset,
            drop.partition,
            (DropAction.WITHDRAWN, drop.data_key, drop.sha256),
            (actor, reason),
        )
    return found[-1]


def set_aside(
    conn: Connection, dataset: str, landing: Landing, key: str, decided: tuple[str, str]
) -> None:
    """Record that a wrong manifest stands for nothing.

    Args:
        conn: A connection.
        dataset: Name of the contract.
        landing: The partition's folder.
        key: The manifest.
        decided: Who decides, and why.

    Raises:
        DropUnknownError: There is no such wrong manifest, or it is set aside already.
    """
    found = [wrong for wrong in landing.wrong if wrong.object.key == key]
    if not found:
        raise _unknown(
            key, "a manifest that is wrong", [wrong.object.key for wrong in landing.wrong]
        )
    _record(conn, dataset, found[0].partition, (DropAction.SET_ASIDE, key, ""), decided)


def redeliveries(
    drops: Sequence[DropManifest],
    decisions: Sequence[DropDecision],
    ingested: set[tuple[dt.date, str, dt.datetime]],
) -> list[DropManifest]:
    """Return the next best drop for each withdrawal, as delivered when it was withdrawn.

    Only a drop that is in and was the newest then has a successor: what nobody read needs none.

    Args:
        drops: All drops of the range, withdrawn ones too.
        decisions: Decisions about the range, in their order.
        ingested: Partition, digest and delivery of the drops that are in.
    """
    gone: set[tuple[str, str]] = set()
    found = []
    for decision in decisions:
        if decision.action is not DropAction.WITHDRAWN:
            continue
        known = [
            drop
            for drop in drops
            if drop.partition == decision.partition and drop.delivered_at <= decision.at
        ]
        left = [drop for drop in known if (drop.data_key, drop.sha256) not in gone]
        gone.add((decision.key, decision.sha256))
        if not left or (left[-1].data_key, left[-1].sha256) != (decision.key, decision.sha256):
            continue
        *others, newest = left
        if others and _identity(newest) in ingested:
            good = [drop for drop in others if _identity(drop) in ingested]
            found.append((good or others)[-1].model_copy(update={"delivered_at": decision.at}))
    still_there = {(decision.key, decision.sha256) for decision in decisions}
    return [drop for drop in found if (drop.data_key, drop.sha256) not in still_there]


def _identity(drop: DropManifest) -> tuple[dt.date, str, dt.datetime]:
    return drop.partition, drop.sha256, drop.delivered_at


def _record(
    conn: Connection,
    dataset: str,
    day: dt.date,
    what: tuple[DropAction, str, str],
    decided: tuple[str, str],
) -> None:
    action, key, digest = what
    row = conn.execute(
        """
        insert into ops.drop_decisions (dataset, partition_date, action, object_key, source_sha256, actor, reason)
        values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing returning decision_id
        """,
        [f"raw/{dataset}", day, action.value, key, digest, *decided],
    ).fetchone()
    if row is None:
        raise DropUnknownError(
            f"Something was decided about {key} already; nothing was changed.",
            todo=f"Look: nightshift drop list {dataset} {day}",
        )


def _unknown(key: str, expected: str, there: Sequence[str]) -> DropUnknownError:
    return DropUnknownError(
        f"There is nothing of that name to decide about: {key}.",
        expected=expected,
        got=f"there are {', '.join(there)}" if there else "the folder has none",
        todo="Copy the key from `nightshift drop list <dataset> <day>`.",
    )
