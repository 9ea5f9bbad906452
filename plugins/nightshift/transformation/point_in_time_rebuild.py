"""What a partition could know, and its features built from nothing else, in a session that leaves nothing behind.

Every relation between the raw tables and the feature view is made again as a temporary view over
raw tables that are cut to the known rows. Temporary relations are seen by their own session alone
and end with it, also when it is killed: no reader, no token and no load of the write path is
touched. Source: docs/adr/0019-replay-of-predictions.md.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.datasets import read_contracts
from nightshift.errors import NightshiftError
from nightshift.warehouse.dbt.compiled_views import CompiledModel, CompiledView, compile_view

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_RAW, _VERSIONS = "raw/", "ops/raw_versions"
_PLANNER = (
    "set enable_nestloop = off; set enable_mergejoin = off; set enable_sort = off; set jit = off"
)
"""As the feature models have it, by the macro ``prefer_hashing``; on a scratch session of our
own it may hold until the end.
"""


class HiddenSourceError(NightshiftError):
    """A feature view reads something of which nobody can say what was known of it when."""

    code = "NS-LEAK-003"


@dataclass(frozen=True)
class Knowledge:
    """What may be read.

    Attributes:
        as_of: The partitions to build, and each one's knowledge cut-off.
        load_ids: Raw loads; all other rows do not exist.
        later: What became known or happened after the last partition's as-of: ``listed`` shows what
            stands in the listed loads, ``hidden`` nothing of it, ``shown`` all of it, also of other
            loads.
    """

    as_of: Mapping[Partition, dt.datetime]
    load_ids: frozenset[int]
    later: Literal["listed", "hidden", "shown"] = "listed"

    @property
    def end(self) -> tuple[dt.date, dt.datetime]:
        """Return the last partition's day and its as-of."""
        last = max(self.as_of)
        return last.day, self.as_of[last]


def build_from(
    conn: Connection, settings: Settings, table: str, knowledge: Knowledge, scratch: str
) -> int:
    """Build a feature view from what was known, as the temporary table ``pg_temp.<scratch>`` of this connection.

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
        HiddenSourceError: A model reads past the raw tables.
        DbtProcessError: dbt cannot compile the view.
    """
    from psycopg import sql

    variables = {
        "load_id": 0,
        "as_of": {
            partition.key: instant.isoformat()
            for partition, instant in sorted(knowledge.as_of.items())
        },
    }
    view = compile_view(settings, table, variables)
    conn.execute(_PLANNER)
    _make_sources(conn, settings, view, knowledge)
    for model in view.models:
        conn.execute(sql.SQL("drop view if exists {} cascade").format(_temporary(model.relation)))
    for model in view.models:
        _make_view(conn, view, model)
    target, last = sql.Identifier("pg_temp", scratch), _temporary(view.models[-1].relation)
    columns = sql.SQL(", ").join(map(sql.Identifier, view.columns))
    conn.execute(sql.SQL("drop table if exists {}").format(target))
    conn.execute(
        sql.SQL("create temp table {} (like {})").format(
            sql.Identifier(scratch), sql.Identifier("features", table)
        )
    )
    return conn.execute(
        sql.SQL("insert into {} ({}) select {} from {}").format(target, columns, columns, last)
    ).rowcount


def _stand_in(relation: str) -> str:
    """Return the name of the session's own relation that stands for a quoted one, ``<schema>.<name>``."""
    return ".".join(re.findall(r'"([^"]+)"', relation)[1:])


def _temporary(relation: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier("pg_temp", _stand_in(relation))


def _make_sources(
    conn: Connection, settings: Settings, view: CompiledView, knowledge: Knowledge
) -> None:
    """Make the known versions, and a cut view of each raw table."""
    from psycopg import sql

    unknown = [
        name for name in view.sources.values() if name != _VERSIONS and not name.startswith(_RAW)
    ]
    if unknown:
        raise HiddenSourceError(
            f"{view.table} reads {', '.join(sorted(unknown))}.",
            expected="raw data and its versions: of these one knows what was delivered when",
            todo="Read it through a raw dataset with a contract.",
        )
    conn.execute("drop table if exists pg_temp.known_versions cascade")
    day, as_of = knowledge.end
    parameters = {
        "loads": sorted(knowledge.load_ids),
        "later": knowledge.later,
        "day": day,
        "as_of": as_of,
    }
    conn.execute(_KNOWN_VERSIONS, parameters)
    conn.execute("analyze pg_temp.known_versions")
    contracts = read_contracts(settings.datasets_dir)
    for name, problem in contracts.broken.items():
        # Without its contract nobody can say when a row of the dataset happened.
        if f"{_RAW}{name}" in view.sources.values():
            raise problem
    events = {
        contract.dataset: contract.event_timestamp for contract in contracts.documents.values()
    }
    for relation, name in view.sources.items():
        body = (
            sql.SQL(_ALL_VERSIONS)
            if name == _VERSIONS
            else _cut(
                relation, name, events.get(name), as_of if knowledge.later == "hidden" else None
            )
        )
        conn.execute(sql.SQL("drop view if exists {} cascade").format(_temporary(relation)))
        conn.execute(
            sql.SQL("create temp view {} as {}").format(sql.Identifier(_stand_in(relation)), body)
        )


_KNOWN_VERSIONS = """
create temp table known_versions as
select dataset, partition_date, load_id, known_at, n_rows, content_hash,
    lead(known_at) over (partition by dataset, partition_date order by known_at, load_id) as superseded_at
from ops.loads where dataset like 'raw/%%' and state in ('published', 'duplicate') and case
    when partition_date > %(day)s or known_at > %(as_of)s
        then %(later)s = 'shown' or (%(later)s = 'listed' and load_id = any(%(loads)s::bigint[]))
    else load_id = any(%(loads)s::bigint[]) end
"""
_ALL_VERSIONS = "select dataset, partition_date, load_id, known_at, superseded_at, n_rows, content_hash from pg_temp.known_versions"


def _cut(
    relation: str, dataset: str, event: str | None, latest: dt.datetime | None
) -> sql.Composed:
    from psycopg import sql

    schema, table = re.findall(r'"([^"]+)"', relation)[1:]
    query = sql.SQL(
        "select r.* from {} r where exists (select from pg_temp.known_versions v"
        " where v.dataset = {} and v.partition_date = r.partition_date and v.load_id = r.load_id)"
    ).format(sql.Identifier(schema, table), sql.Literal(dataset))
    if event is None or latest is None:
        return query
    return query + sql.SQL(" and (r.{0} is null or r.{0} <= {1})").format(
        sql.Identifier(event), sql.Literal(latest)
    )


def _make_view(conn: Connection, view: CompiledView, model: CompiledModel) -> None:
    """Make a model's stand-in, and refuse it if it reads anything but other stand-ins."""
    from psycopg import sql

    text = model.sql
    for relation in sorted({*model.reads, *view.sources}, key=len, reverse=True):
        text = text.replace(relation, _temporary(relation).as_string(conn))
    name = _stand_in(model.relation)
    conn.execute(sql.SQL("create temp view {} as ").format(sql.Identifier(name)) + sql.SQL(text))
    past = [row[0] for row in conn.execute(_READS_PAST, [name])]
    if past:
        raise HiddenSourceError(
            f"Model {model.name} reads {', '.join(past)} without saying so to dbt.",
            expected="ref() and source() only",
            todo="Name it by ref() or source(), so that one can see what a feature knows.",
        )


_READS_PAST = """
select distinct format('%%I.%%I', n.nspname, c.relname) from pg_rewrite r
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
join pg_class c on c.oid = d.refobjid join pg_namespace n on n.oid = c.relnamespace
where r.ev_class = to_regclass(format('pg_temp.%%I', %s::text)) and c.relnamespace <> pg_my_temp_schema() and n.nspname <> 'pg_catalog'
order by 1
"""
