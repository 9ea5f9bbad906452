"""Delete staged rows that nobody can ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.failpoints import Failpoint, hit

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import Target


def collect_target(conn: Connection, target: Target) -> int:
    """Delete the rows of one target's dead loads, in one transaction, and return how many they were.

    A load that an old attempt still stages is left for the next time: whoever has published must
    not wait for whom it overtook.
    """
    from psycopg import sql

    with conn.transaction():
        # A delivery that said nothing new becomes a version again when an older one arrives between
        # it and its twin.
        dead_states = (
            ["refused", "collected"]
            if target.is_versioned
            else ["duplicate", "refused", "collected"]
        )
        dead = conn.execute(_DEAD_LOADS, [target.dataset, dead_states]).fetchall()
        if not dead:
            return 0
        pairs = {
            "days": [day for day, _ in dead],
            "load_ids": [load_id for _, load_id in dead],
            "dataset": target.dataset,
        }
        delete = sql.SQL(_DELETE_ROWS).format(table=sql.Identifier(target.schema, target.table))
        n_deleted = conn.execute(delete, pairs).rowcount
        hit(Failpoint.COLLECT_DELETED)
        conn.execute(_MARK_COLLECTED, pairs)
    return n_deleted


_DEAD_LOADS = """
select l.partition_date, l.load_id from ops.loads l join ops.fences f using (dataset, partition_date)
where l.dataset = %s and (l.collected_at is null or l.collected_at > clock_timestamp() - interval '1 day')
    and (l.state = any(%s) or (l.state in ('staged', 'audited') and l.token < f.token))
order by l.partition_date, l.load_id
for update of l skip locked
"""
_DELETE_ROWS = """
delete from {table} t using unnest(%(days)s::date[], %(load_ids)s::bigint[]) d (partition_date, load_id)
where t.partition_date = d.partition_date and t.load_id = d.load_id
"""
_MARK_COLLECTED = """
update ops.loads l
set collected_at = coalesce(l.collected_at, clock_timestamp()),
    state = case when l.state in ('staged', 'audited') then 'collected' else l.state end
from unnest(%(days)s::date[], %(load_ids)s::bigint[]) d (partition_date, load_id)
where l.dataset = %(dataset)s and l.partition_date = d.partition_date and l.load_id = d.load_id
"""
