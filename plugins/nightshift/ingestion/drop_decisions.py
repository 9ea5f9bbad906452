"""Decisions of a person about objects of the landing prefix; the objects stay unchanged.

A withdrawn drop is not loaded any more. Source: docs/adr/0040-hostile-drops.md.
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
    """The possible decisions."""

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
    """Record that a drop is not to be loaded any more, and return it.

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
    matches = [drop for drop in promised if key in {drop.data_key, landing.manifests[drop].key}]
    if not matches:
        keys = [drop.data_key for drop in promised]
        raise _unknown(key, "the data file or manifest of a drop", keys)
    for drop in matches:
        decision = DropAction.WITHDRAWN, drop.data_key, drop.sha256
        _record(conn, drop.dataset, drop.partition, decision, (actor, reason))
    return matches[-1]


def set_aside(
    conn: Connection, dataset: str, landing: Landing, key: str, decided: tuple[str, str]
) -> None:
    """Record that a wrong manifest is ignored.

    Args:
        conn: A connection.
        dataset: Name of the contract.
        landing: The partition's folder.
        key: The manifest.
        decided: Who decides, and why.

    Raises:
        DropUnknownError: There is no such wrong manifest, or it is set aside already.
    """
    by_key = {wrong.object.key: wrong for wrong in landing.wrong}
    if key not in by_key:
        raise _unknown(key, "a manifest that is wrong", list(by_key))
    _record(conn, dataset, by_key[key].partition, (DropAction.SET_ASIDE, key, ""), decided)


def _record(
    conn: Connection,
    dataset: str,
    day: dt.date,
    decision: tuple[DropAction, str, str],
    decided: tuple[str, str],
) -> None:
    action, key, digest = decision
    row = conn.execute(
        """
        insert into ops.drop_decisions (
            dataset, partition_date, action, object_key, source_sha256, actor, reason
        )
        values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing returning decision_id
        """,
        [f"raw/{dataset}", day, action.value, key, digest, *decided],
    ).fetchone()
    if row is None:
        raise DropUnknownError(
            f"There is a decision about {key} already; nothing was changed.",
            todo=f"See the decision: nightshift drop list {dataset} {day}",
        )


def _unknown(key: str, expected: str, keys: Sequence[str]) -> DropUnknownError:
    return DropUnknownError(
        f"There is no drop or manifest of this name to decide about: {key}.",
        expected=expected,
        got=f"the folder has {', '.join(keys)}" if keys else "the folder has none",
        todo="Copy the key from `nightshift drop list <dataset> <day>`.",
    )
