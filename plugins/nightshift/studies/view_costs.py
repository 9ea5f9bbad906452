"""What feature views cost, by the ledger: seconds and bytes per partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.studies.findings import Finding

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


def view_costs(conn: Connection) -> Iterator[Finding]:
    """Yield the seconds and the bytes of a partition of every view that has been published."""
    for dataset, n_loads, seconds in conn.execute(_SECONDS):
        view = dataset.removeprefix("features/")
        note = f"median of the newest {n_loads} loads; a load of many partitions is divided by them"
        yield Finding("seconds", view, float(seconds), note=note)
        # A view may be published whose table was dropped since.
        row = conn.execute(_BYTES, {"view": f"feat_{view}", "dataset": dataset}).fetchone()
        if row and row[0] is not None:
            note = f"of {row[1]:,} stored partitions, with indexes"
            yield Finding("bytes", view, float(row[0]), note=note)


# A load of dbt publishes several views and partitions at once: each gets an even part of its time.
_SECONDS = """
with loads as (
    select
        l.load_id,
        extract(epoch from max(l.published_at) - min(l.started_at)) / count(*) as seconds
    from ops.loads l
    where l.dataset like 'features/%' and l.published_at is not null
    group by l.load_id
), ranked as (
    select distinct l.dataset, l.load_id, loads.seconds,
        dense_rank() over (partition by l.dataset order by l.load_id desc) as place
    from ops.loads l
    join loads using (load_id)
    where l.dataset like 'features/%' and l.published_at is not null
)
select dataset, count(*), percentile_cont(0.5) within group (order by seconds)
from ranked
where place <= 28
group by dataset
order by dataset
"""
_BYTES = """
select pg_total_relation_size(to_regclass(format('features.%%I', %(view)s::text)))::float8
    / nullif(count(*), 0), count(*)
from ops.loads
where dataset = %(dataset)s and n_rows > 0 and published_at is not null
"""
