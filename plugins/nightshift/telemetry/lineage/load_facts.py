"""What lineage says of loads and trainings, as the warehouse and its catalog have it."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.rows import class_row

from nightshift.warehouse.write_types import target_of

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

# A manifest names a dataset, or a dataset and a day of it.
_DATASET = re.compile(r"((?:raw|features|predictions|shadow)/[a-z0-9_]+)(?: \d{4}-\d\d-\d\d)?")
# The monitor's rows of all models stand in common tables.
MONITORING_TABLES = {
    "monitoring": "verdicts",
    "monitoring_drift": "drift",
    "monitoring_performance": "performance",
    "monitoring_faults": "column_faults",
    "monitoring_estimates": "estimates",
}


@dataclass(frozen=True)
class LoadSummary:
    """A dataset of a load, all partitions together.

    Attributes:
        inputs: Names in the manifest; those of datasets have a layer.
        reads: Datasets whose published rows it read.
        source_prefixes: Prefixes of the lake that its files came from.
        last_content_hash: Of its last partition.
    """

    dataset: str
    n_rows: int | None
    inputs: list[str]
    reads: list[str]
    sources: list[str]
    last_content_hash: str | None

    @property
    def read_datasets(self) -> list[str]:
        """Return the datasets of the warehouse that it was made from."""
        matches = map(_DATASET.fullmatch, [*self.inputs, *self.reads])
        return sorted({match[1] for match in matches if match})


@dataclass(frozen=True)
class ColumnFact:
    """A column of a table, or what was counted in it.

    Attributes:
        description: Its comment in the catalog.
        n_missing: Rows without a value; None where no profile was made.
        n_distinct: Different values, as the profile has it.
    """

    name: str
    type: str
    description: str | None
    n_missing: int | None
    n_distinct: int | None


@dataclass(frozen=True)
class TrainingFact:
    """A training: from the training set to the registered version.

    Attributes:
        n_rows: Rows of the training set.
        n_bytes: Size of the model's files; None for versions of old releases.
    """

    model: str
    version: int
    run_id: str
    actor: str
    began_at: dt.datetime
    ended_at: dt.datetime
    n_rows: int
    n_bytes: int | None
    model_sha256: str
    feature_view: str | None


@dataclass(frozen=True)
class ModelOwner:
    """Who answers for a model, and what it is for."""

    model: str
    owner: str | None
    description: str | None
    feature_view: str | None


def table_of(dataset: str) -> tuple[str, str]:
    """Return schema and table of a dataset."""
    target = target_of(dataset)
    if target:
        return target.schema, target.table
    layer, _, name = dataset.partition("/")
    return "monitoring", MONITORING_TABLES.get(layer, name)


def read_load(conn: Connection, load_id: int) -> list[LoadSummary]:
    """Return the datasets of a load."""
    with conn.cursor(row_factory=class_row(LoadSummary)) as cursor:
        return cursor.execute(_LOAD, [load_id]).fetchall()


def read_columns(conn: Connection, dataset: str, load_id: int) -> list[ColumnFact]:
    """Return the columns of a dataset's table in their order; none without the table."""
    schema, table = table_of(dataset)
    parameters = {"schema": schema, "table": table, "dataset": dataset, "load": load_id}
    with conn.cursor(row_factory=class_row(ColumnFact)) as cursor:
        return cursor.execute(_COLUMNS, parameters).fetchall()


def read_table_comment(conn: Connection, dataset: str) -> str:
    """Return the comment of a dataset's table in the catalog; empty without one."""
    # A table that does not exist has no comment, and is no error.
    query = "select obj_description(to_regclass(format('%%I.%%I', %s::text, %s::text)))"
    row = conn.execute(query, list(table_of(dataset))).fetchone()
    return str(row[0]) if row and row[0] else ""


def read_trainings(conn: Connection, day: dt.date) -> list[TrainingFact]:
    """Return the versions that a partition has trained."""
    with conn.cursor(row_factory=class_row(TrainingFact)) as cursor:
        return cursor.execute(_TRAININGS, [day]).fetchall()


def read_owners(conn: Connection) -> dict[str, ModelOwner]:
    """Return what the last good spec of each model says, by model."""
    with conn.cursor(row_factory=class_row(ModelOwner)) as cursor:
        rows = cursor.execute(
            "select model, owner, description, feature_view from ops.model_facts"
        ).fetchall()
    return {row.model: row for row in rows}


# A drop lies in a folder of its day: the dataset's prefix is what stays the same.
_LOAD = r"""
select l.dataset, sum(l.n_rows)::bigint as n_rows,
    coalesce((
        select array_agg(distinct k)
        from ops.loads i, jsonb_object_keys(i.inputs) k
        where i.load_id = l.load_id and i.dataset = l.dataset
    ), '{}') as inputs,
    coalesce((
        select array_agg(distinct k)
        from ops.loads r, jsonb_object_keys(coalesce(r.detail -> 'reads', '{}')) k
        where r.load_id = l.load_id and r.dataset = l.dataset
    ), '{}') as reads,
    coalesce((
        select array_agg(distinct substring(d.source_uri from '^(s3://.+)/dt=[^/]+/'))
            filter (where d.source_uri ~ '^s3://.+/dt=[^/]+/')
        from raw.ingested_drops d
        where d.load_id = l.load_id and d.dataset = l.dataset
    ), '{}') as sources,
    (array_agg(l.content_hash order by l.partition_date desc))[1] as last_content_hash
from ops.loads l
where l.load_id = %s
group by l.load_id, l.dataset
order by l.dataset
"""
# Neither minimum nor maximum: those are values of rows.
_COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
    col_description(a.attrelid, a.attnum) as description, p.n_missing, p.n_distinct
from pg_attribute a
left join lateral (
    select n_missing, n_distinct from monitoring.profiles
    where dataset = %(dataset)s and load_id = %(load)s and column_name = a.attname
    order by partition_date desc
    limit 1
) p on true
where a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
    and a.attnum > 0 and not a.attisdropped
order by a.attnum
"""
_TRAININGS = """
select v.model, v.version, v.run_id, case when v.run_id like '%%@%%' then 'airflow' else '' end
    as actor,
    least(t.created_at, v.created_at) as began_at, v.created_at as ended_at, t.n_rows,
    v.model_bytes + v.metadata_bytes as n_bytes, v.model_sha256, f.feature_view
from ml.model_versions v
join ml.training_sets t using (training_set)
left join ops.model_facts f on f.model = v.model
where v.partition_date = %s
order by v.created_at
"""
