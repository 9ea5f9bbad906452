"""Find triggers and rules of others that can drop or alter the rows that a write stores.

PostgreSQL reports success for a row that such a trigger has left out. Counts find it where somebody
knows how many rows were sent; of features nobody does. So the catalog is asked before a write.
Triggers that run after the row are allowed: audit tools and pg_repack use them, and rows that they
delete are missed by the counts. Source: docs/adr/0058-what-the-warehouse-alters.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import RowsAlteredError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import Target

_MAX_SHOWN = 5


def refuse_alterations(conn: Connection, targets: Sequence[Target]) -> None:
    """Refuse a write whose rows, or whose record in the ledger, somebody else's code may change.

    Args:
        conn: Any connection; one query of the catalog.
        targets: The tables that the write fills, with their parts.

    Raises:
        RowsAlteredError: A table has such a trigger or rule; the message names it.
    """
    schemas = [target.schema for target in targets]
    tables = [target.table for target in targets]
    names = [name for (name,) in conn.execute(_ALTERATIONS, [schemas, tables])]
    if not names:
        return
    raise RowsAlteredError(
        "Triggers or rules that are not ours can drop or alter rows of our tables.",
        expected="only triggers that run after the row, and none that changes it",
        got="; ".join(names[:_MAX_SHOWN]),
        todo="Nothing was written. Ask their owner, or drop them (runbook); then rerun the task.",
    )


# Bits of `tgtype`: 1 for each row, 2 before it, 4 insert, 16 update. Records change by update too;
# our own triggers there, with functions in schema ops, only refuse. Rules have type 2 for an update
# and 3 for an insert.
_ALTERATIONS = """
with recursive target (oid) as (
    select to_regclass(format('%%I.%%I', s, t))::oid from unnest(%s::text[], %s::text[]) n (s, t)
    union
    select i.inhrelid from pg_inherits i join target on target.oid = i.inhparent
), written (oid, events) as (
    select oid, 4 from target where oid is not null
    union
    select c.oid, 20 from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
        and (n.nspname in ('ops', 'quarantine')
            or (n.nspname, c.relname) = ('raw', 'ingested_drops'))
)
select format('trigger %%I on %%s', t.tgname, t.tgrelid::regclass)
from written w
join pg_trigger t on t.tgrelid = w.oid
join pg_proc f on f.oid = t.tgfoid
where not t.tgisinternal and t.tgenabled in ('O', 'A')
    and t.tgtype & 3 = 3 and t.tgtype & w.events <> 0
    and f.pronamespace <> to_regnamespace('ops')
union all
select format('rule %%I on %%s', r.rulename, r.ev_class::regclass)
from written w
join pg_rewrite r on r.ev_class = w.oid
where r.ev_type in ('2', '3') and r.ev_enabled in ('O', 'A')
order by 1
"""
