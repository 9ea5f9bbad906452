"""Rebuild features from what a partition could know, in a session that leaves nothing behind.

Every relation between the raw tables and the feature view is recreated as a temporary view over raw
tables that are cut to the known rows. Temporary relations are visible in their own session only and
end with it, also when it is killed: no reader, no token and no load of the write path is touched.
Source: docs/adr/0019-replay-of-predictions.md.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.datasets import DatasetContract, read_contracts
from nightshift.errors import NightshiftError
from nightshift.transformation.later_rows import (
    Clock,
    Perturbation,
    add_later_rows,
    add_later_versions,
)
from nightshift.warehouse.dbt.compiled_views import CompiledModel, CompiledView, compile_view

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_RAW, _VERSIONS = "raw/", "ops/raw_versions"

# The settings of the feature models' macro prefer_hashing. The session is our own, so they may stay
# until its end.
_PLANNER = (
    "set enable_nestloop = off; set enable_mergejoin = off; set enable_sort = off; set jit = off"
)


class HiddenSourceError(NightshiftError):
    """A feature view reads data of which nothing records what was known when."""

    code = "NS-LEAK-003"


@dataclass(frozen=True)
class RebuildCutoff:
    """What may be read.

    Attributes:
        as_of: The partitions to build, and each one's knowledge cut-off.
        load_ids: Raw loads; all other rows do not exist.
        later: What became known or happened after the last partition's as-of: ``listed`` shows the
            rows of the listed loads, ``hidden`` no row, ``shown`` all rows, also of other loads.
        added: Later rows that are invented; for a single partition.
    """

    as_of: Mapping[Partition, dt.datetime]
    load_ids: frozenset[int]
    later: Literal["listed", "hidden", "shown"] = "listed"
    added: tuple[Perturbation, ...] = ()

    def clocks_of(self, dataset: str) -> list[Clock]:
        """Return by which clocks a dataset gets later rows."""
        return [part.clock for part in self.added if part.dataset == dataset]

    @property
    def end(self) -> tuple[dt.date, dt.datetime]:
        """Return the last partition's day and its as-of."""
        last = max(self.as_of)
        return last.day, self.as_of[last]


def build_from(
    conn: Connection, settings: Settings, table: str, knowledge: RebuildCutoff, scratch: str
) -> int:
    """Build a feature view from what was known, as the temporary table ``pg_temp.<scratch>``.

    Args:
        conn: A connection of the caller's own; close it afterwards.
        settings: Where the dbt project is.
        table: The feature view's table.
        knowledge: What may be read.
        scratch: Name of the table; it has the columns of ``features.<table>``, and load id 0.

    Returns:
        Number of rows.

    Raises:
        UnknownViewError: The project has no such view.
        HiddenSourceError: A model reads data outside the raw tables.
        DbtProcessError: dbt cannot compile the view.
    """
    from psycopg import sql

    as_of = {partition.key: at.isoformat() for partition, at in sorted(knowledge.as_of.items())}
    view = compile_view(settings, table, {"load_id": 0, "as_of": as_of})
    conn.execute(_PLANNER)
    _create_sources(conn, settings, view, knowledge)
    # All are dropped first: a new view must not read an old one of an earlier build.
    for model in view.models:
        _drop_view(conn, model.relation)
    for model in view.models:
        _create_view(conn, view, model)

    target = sql.Identifier("pg_temp", scratch)
    conn.execute(sql.SQL("drop table if exists {}").format(target))
    create = sql.SQL("create temp table {} (like {})")
    conn.execute(create.format(sql.Identifier(scratch), sql.Identifier("features", table)))
    insert = sql.SQL("insert into {target} ({columns}) select {columns} from {source}").format(
        target=target,
        columns=sql.SQL(", ").join(map(sql.Identifier, view.columns)),
        source=_temporary(view.models[-1].relation),
    )
    return conn.execute(insert).rowcount


def _names(relation: str) -> tuple[str, str]:
    """Return schema and name of a relation that dbt quoted: ``"database"."schema"."name"``."""
    _, schema, name = re.findall(r'"([^"]+)"', relation)
    return schema, name


def _temporary_name(relation: str) -> str:
    """Return the name, with a dot in it, of the temporary relation that replaces another one."""
    return ".".join(_names(relation))


def _temporary(relation: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier("pg_temp", _temporary_name(relation))


def _drop_view(conn: Connection, relation: str) -> None:
    from psycopg import sql

    conn.execute(sql.SQL("drop view if exists {} cascade").format(_temporary(relation)))


def _create_sources(
    conn: Connection, settings: Settings, view: CompiledView, knowledge: RebuildCutoff
) -> None:
    """Create the table of known versions, and a cut view of each raw table.

    Raises:
        HiddenSourceError: The feature view reads another source.
    """
    from psycopg import sql

    sources = set(view.sources.values()) - {_VERSIONS}
    hidden = sorted(name for name in sources if not name.startswith(_RAW))
    if hidden:
        raise HiddenSourceError(
            f"{view.table} reads {', '.join(hidden)}.",
            expected="raw data and its versions: they record what was delivered when",
            todo="Read it through a raw dataset with a contract.",
        )
    contracts = read_contracts(settings.datasets_dir)
    for name, problem in contracts.broken.items():
        # The contract names the column that dates the rows of the dataset.
        if f"{_RAW}{name}" in sources:
            raise problem

    day, as_of = knowledge.end
    conn.execute("drop table if exists pg_temp.known_versions cascade")
    values = {
        "loads": sorted(knowledge.load_ids),
        "later": knowledge.later,
        "day": day,
        "as_of": as_of,
    }
    conn.execute(_KNOWN_VERSIONS, values)
    conn.execute("drop table if exists pg_temp.visible_versions cascade")
    if knowledge.added:
        add_later_versions(conn, knowledge.added, day, as_of)
    # A temporary table has no statistics of its own, and every cut view joins it.
    conn.execute("analyze pg_temp.known_versions")

    by_dataset = {contract.dataset: contract for contract in contracts.documents.values()}
    # A version that was known in time may still hold rows of later events.
    latest = as_of if knowledge.later == "hidden" else None
    for relation, name in view.sources.items():
        body: sql.Composable = sql.SQL(_ALL_VERSIONS)
        if name != _VERSIONS:
            contract = by_dataset.get(name)
            event = contract.event_timestamp if contract else None
            body = _known_rows(relation, name, event, latest)
            body += _later_rows(conn, contract, knowledge)
        _drop_view(conn, relation)
        create = sql.SQL("create temp view {} as {}")
        conn.execute(create.format(sql.Identifier(_temporary_name(relation)), body))


def _later_rows(
    conn: Connection, contract: DatasetContract | None, knowledge: RebuildCutoff
) -> sql.Composed:
    """Return the part of a raw table's query that adds invented rows; empty without any."""
    from psycopg import sql

    clocks = knowledge.clocks_of(contract.dataset) if contract else []
    if contract is None or not clocks:
        return sql.Composed([])
    _, as_of = knowledge.end
    table = add_later_rows(conn, contract, clocks, as_of)
    return sql.SQL(" union all select * from {}").format(table)


def raw_sources(
    settings: Settings, table: str, partition: Partition, as_of: dt.datetime
) -> list[str]:
    """Return the raw datasets that a feature view reads, by their names in the ledger.

    Raises:
        UnknownViewError: The project has no such view.
        DbtProcessError: dbt cannot compile the view.
    """
    variables = {"load_id": 0, "as_of": {partition.key: as_of.isoformat()}}
    view = compile_view(settings, table, variables)
    return sorted({name for name in view.sources.values() if name.startswith(_RAW)})


_KNOWN_VERSIONS = """
create temp table known_versions as
select dataset, partition_date, load_id, known_at, n_rows, content_hash,
    lead(known_at) over (
        partition by dataset, partition_date order by known_at, load_id
    ) as superseded_at
from ops.loads
where dataset like 'raw/%%' and state in ('published', 'duplicate') and case
    when partition_date > %(day)s or known_at > %(as_of)s
        then %(later)s = 'shown' or (%(later)s = 'listed' and load_id = any(%(loads)s::bigint[]))
    else load_id = any(%(loads)s::bigint[]) end
"""
_ALL_VERSIONS = """
select dataset, partition_date, load_id, known_at, superseded_at, n_rows, content_hash
from pg_temp.known_versions
"""


def _known_rows(
    relation: str, dataset: str, event: str | None, latest: dt.datetime | None
) -> sql.Composed:
    """Return the query of a raw table's rows of known versions, up to the latest event."""
    from psycopg import sql

    query = sql.SQL(
        """
        select r.* from {raw} r
        where exists (
            select from pg_temp.known_versions v
            where v.dataset = {dataset}
                and v.partition_date = r.partition_date and v.load_id = r.load_id
        )
        """
    ).format(
        raw=sql.Identifier(*_names(relation)),
        dataset=sql.Literal(dataset),
    )
    if event is None or latest is None:
        return query
    is_past = sql.SQL(" and (r.{0} is null or r.{0} <= {1})")
    return query + is_past.format(sql.Identifier(event), sql.Literal(latest))


def _create_view(conn: Connection, view: CompiledView, model: CompiledModel) -> None:
    """Create a model's temporary view.

    Raises:
        HiddenSourceError: It reads a relation that is not temporary.
    """
    from psycopg import sql

    text = model.sql
    # The longest first: a name may be the beginning of another one.
    for relation in sorted({*model.reads, *view.sources}, key=len, reverse=True):
        text = text.replace(relation, _temporary(relation).as_string(conn))
    name = _temporary_name(model.relation)
    conn.execute(sql.SQL("create temp view {} as ").format(sql.Identifier(name)) + sql.SQL(text))
    # A permanent relation shows what is known today, whatever was cut.
    hidden = [row[0] for row in conn.execute(_PERMANENT_RELATIONS, [name])]
    if hidden:
        raise HiddenSourceError(
            f"Model {model.name} reads {', '.join(hidden)}, which dbt does not know.",
            expected="ref() and source() only",
            todo="Name it by ref() or source(): then a rebuild knows what a feature reads.",
        )


_PERMANENT_RELATIONS = """
select distinct format('%%I.%%I', n.nspname, c.relname)
from pg_rewrite r
join pg_depend d
    on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    and d.refclassid = 'pg_class'::regclass
join pg_class c on c.oid = d.refobjid
join pg_namespace n on n.oid = c.relnamespace
where r.ev_class = to_regclass(format('pg_temp.%%I', %s::text))
    and c.relnamespace <> pg_my_temp_schema() and n.nspname <> 'pg_catalog'
order by 1
"""
