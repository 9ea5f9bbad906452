"""Which versions score in the shadow, and since when the evidence of a stream counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry.champions import champion_for

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.registry.model_loader import ModelVersion
    from nightshift.warehouse.connection import Connection

TRAINED = "trained"
"""The stream of the newest sound challenger, whichever version that is on a night."""
CANARY_VERSION = "canary"
"""The stream of a canary's version on all entities, where no other stream has it."""
CANARY_ROWS = "canary_rows"
"""The published rows of a canary, against what the champion would have said of the same rows."""
CHAMPION_ROWS = "champion"
"""Shadow scores that are no stream: the champion's, of the entities that a canary got."""


def version_stream(version: int) -> str:
    """Return the stream of a version that the spec names."""
    return f"version_{version}"


def stream_of(spec: ModelSpec, version: int) -> str:
    """Return the stream whose evidence decides about a version."""
    return version_stream(version) if version in spec.promotion.shadow_versions else TRAINED


def shadow_members(conn: Connection, spec: ModelSpec, partition: Partition) -> dict[str, int]:
    """Return the version that scores a partition in the shadow, by stream.

    A version knows nothing of the partition: it was decided about on an earlier one. Without a
    champion nothing can be compared, and there is no stream.
    """
    champion = champion_for(conn, spec.name, partition)
    if champion is None:
        return {}
    members = {}
    # A champion that nobody has challenged yet is compared with nothing.
    newest = newest_challenger(conn, champion, partition)
    if newest is not None:
        members[TRAINED] = newest
    query = """
        select version from ml.model_versions
        where model = %s and version = any(%s) and version <> %s and partition_date < %s
        order by version
    """
    # Also one that was refused: a person wants to see how it would have done.
    named = [spec.name, list(spec.promotion.shadow_versions), champion.version, partition.day]
    for (version,) in conn.execute(query, named):
        members[version_stream(version)] = version
    return members


def newest_challenger(conn: Connection, champion: ModelVersion, partition: Partition) -> int | None:
    """Return the newest shadowed version that was trained later than the champion; None without."""
    values = {
        "model": champion.model,
        "day": partition.day,
        "trained": champion.partition_date,
    }
    row = conn.execute(_NEWEST, values).fetchone()
    return None if row is None else int(row[0])


# A version that serves or served, or was refused since, is no challenger any more.
_NEWEST = """
select p.version
from ml.promotions p join ml.model_versions v using (model, version)
where p.model = %(model)s and p.verdict = 'shadowed' and p.effective_partition <= %(day)s
    and v.partition_date > %(trained)s
    and not exists (
        select from ml.promotions q
        where q.model = p.model and q.version = p.version
            and q.verdict not in ('shadowed', 'rolled_back', 'canary', 'returned')
            and q.effective_partition <= %(day)s)
order by v.partition_date desc, p.promotion_id desc
limit 1
"""


def evidence_start(conn: Connection, model: str, partition: Partition) -> dt.date | None:
    """Return the first partition whose night counts as evidence for a decision of a partition.

    A refresh does not restart the test: it proved nothing, and a test that restarted every month
    would be wrong several times as often in a year. None without a champion.
    """
    row = conn.execute(
        """
        select effective_partition from ml.succession
        where model = %s and effective_partition <= %s and verdict <> 'refreshed'
        order by effective_partition desc, promotion_id desc limit 1
        """,
        [model, partition.day],
    ).fetchone()
    return row[0] if row else None
