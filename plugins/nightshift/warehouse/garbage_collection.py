"""Delete staged rows that nobody can ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.failpoints import Failpoint, hit

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import Target


def collect_target(conn: Connection, target: Target) -> int:
    """Delete the rows of one target's dead loads in one transaction; return their number."""
    from psycopg import sql

    # A version of raw data that was a duplicate becomes a version again when an older delivery
    # arrives between it and its twin. So its rows stay.
    dead_states = ["refused", "collected"] + ([] if target.is_versioned else ["duplicate"])
    with conn.transaction():
        dead_loads = conn.execute(_DEAD_LOADS, [target.dataset, dead_states]).fetchall()
        if not dead_loads:
            return 0
        parameters = {
            "days": [day for day, _ in dead_loads],
            "load_ids": [load_id for _, load_id in dead_loads],
            "dataset": target.dataset,
        }
        table = sql.Identifier(target.schema, target.table)
        n_deleted = conn.execute(sql.SQL(_DELETE_ROWS).format(table=table), parameters).rowcount
        hit(Failpoint.COLLECT_DELETED)
        conn.execute(_MARK_COLLECTED, parameters)
    return n_deleted


# An old attempt that still stages rows holds its load: it is skipped and collected the next time,
# because the attempt that published must not wait for it. What such an attempt stages afterwards is
# found for one more day.
_DEAD_LOADS = """
select l.partition_date, l.load_id
from ops.loads l join ops.fences f using (dataset, partition_date)
where l.dataset = %s
    and (l.collected_at is null or l.collected_at > clock_timestamp() - interval '1 day')
    and (l.state = any(%s) or (l.state in ('staged', 'audited') and l.token < f.token))
order by l.partition_date, l.load_id
for update of l skip locked
"""
_DELETE_ROWS = """
delete from {table} t
using unnest(%(days)s::date[], %(load_ids)s::bigint[]) d (partition_date, load_id)
where t.partition_date = d.partition_date and t.load_id = d.load_id
"""
_MARK_COLLECTED = """
update ops.loads l
set collected_at = coalesce(l.collected_at, clock_timestamp()),
    state = case when l.state in ('staged', 'audited') then 'collected' else l.state end
from unnest(%(days)s::date[], %(load_ids)s::bigint[]) d (partition_date, load_id)
where l.dataset = %(dataset)s and l.partition_date = d.partition_date and l.load_id = d.load_id
"""
