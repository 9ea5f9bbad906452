"""Find the champion of a partition, and its predecessors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry.model_loader import ModelVersion, find_version

if TYPE_CHECKING:
    from nightshift.contracts.partitions import Partition
    from nightshift.warehouse.connection import Connection


def champion_for(conn: Connection, model: str, partition: Partition) -> ModelVersion | None:
    """Return the version that serves a partition, None without a champion.

    It is that of the last promotion whose effective partition is not later. Promotions are ordered
    by effective partition, then by when they were decided: an old partition that is trained late
    does not replace the champion of later ones. A rollback revokes the earlier promotions that
    would count from its own partition on.
    """
    row = conn.execute(
        """
        select version from ml.succession where model = %s and effective_partition <= %s
        order by effective_partition desc, promotion_id desc limit 1
        """,
        [model, partition.day],
    ).fetchone()
    return None if row is None else find_version(conn, model, row[0])


def promoted_versions(conn: Connection, model: str, partition: Partition, n: int) -> list[int]:
    """Return the last ``n`` versions that were promoted for a partition, the champion first.

    A version that was rolled back is left out.
    """
    rows = conn.execute(
        """
        with promoted as (
            select distinct on (version) version, effective_partition, promotion_id
            from ml.succession
            where model = %(model)s and effective_partition <= %(day)s
            order by version, effective_partition desc, promotion_id desc
        )
        select version from promoted where not exists (
            select from ml.promotions r
            where r.model = %(model)s and r.verdict = 'rolled_back'
                and r.effective_partition <= %(day)s and r.champion_version = promoted.version
                and r.promotion_id > promoted.promotion_id)
        order by effective_partition desc, promotion_id desc limit %(n)s
        """,
        {"model": model, "day": partition.day, "n": n},
    )
    return [version for (version,) in rows]
