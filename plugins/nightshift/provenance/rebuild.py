"""Rebuild the feature rows of predictions from the raw rows that their builds read.

Partitions are built together as long as that gives the same rows as a build of each partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.provenance.raw_loads import RawLoad, read_raw_loads, visible_loads
from nightshift.transformation.feature_manifest import FeatureLoad
from nightshift.transformation.point_in_time_rebuild import RebuildCutoff, build_from
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# Days further apart are built separately: a trailing window over a range with holes takes longer
# than a second build.
LARGEST_GAP_DAYS = 7
_SCRATCH = "rebuilt_features"

Row = dict[str, Any]
# Feature load, which is of one partition, and entity key.
RowKey = tuple[FeatureLoad, str]


def rebuild_rows(
    settings: Settings, spec: ModelSpec, entities: Iterable[RowKey]
) -> tuple[dict[RowKey, Row], dict[RowKey, Row]]:
    """Return the stored and the rebuilt feature rows; a row that a side lacks is absent there.

    Nothing is published, staged or locked: the builds use the temporary schema of their connection.

    Args:
        settings: Warehouse and dbt project.
        spec: The model, for its feature view.
        entities: Feature load and entity key.

    Raises:
        HiddenSourceError: A feature reads something whose past is unknown.
        DbtProcessError: dbt cannot compile the view.
    """
    keys: defaultdict[FeatureLoad, set[str]] = defaultdict(set)
    for load, key in entities:
        keys[load].add(key)
    stored: dict[RowKey, Row] = {}
    rebuilt: dict[RowKey, Row] = {}
    # One connection: the builds are in its temporary schema.
    with connect(settings, "nightshift repro") as conn:
        for group in _groups(conn, list(keys)):
            as_of = {Partition(load.day): load.as_of for load in group}
            knowledge = RebuildCutoff(as_of, _all_raw_loads(group))
            build_from(conn, settings, spec.feature_table, knowledge, _SCRATCH)
            published = ("features", spec.feature_table)
            for load in group:
                names = sorted(keys[load])
                stored |= _rows(conn, spec, load, published, load.load_id, names)
                rebuilt |= _rows(conn, spec, load, ("pg_temp", _SCRATCH), 0, names)
    return stored, rebuilt


def _rows(
    conn: Connection,
    spec: ModelSpec,
    load: FeatureLoad,
    table: tuple[str, str],
    load_id: int,
    keys: list[str],
) -> dict[RowKey, Row]:
    from psycopg import sql
    from psycopg.rows import dict_row

    query = sql.SQL(
        """
        select * from {}
        where partition_date = %s and load_id = %s and {} = any(%s)
        """
    ).format(sql.Identifier(*table), sql.Identifier(spec.entity.key))
    rows: dict[RowKey, Row] = {}
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, [load.day, load_id, keys]):
            # Differs between the stored and the rebuilt row by design.
            del row["load_id"]
            rows[load, row[spec.entity.key]] = row
    return rows


def _groups(conn: Connection, loads: Sequence[FeatureLoad]) -> Iterator[list[FeatureLoad]]:
    """Group loads whose partitions see the same raw versions together as each alone."""
    raw_loads = read_raw_loads(conn, _all_raw_loads(loads))
    for run in _runs(sorted(loads, key=lambda load: (load.day, load.load_id))):
        yield from _compatible(run, raw_loads)


def _runs(loads: Iterable[FeatureLoad]) -> list[list[FeatureLoad]]:
    """Split into runs of days without large gaps; a second load of a day is in another run."""
    runs: list[list[FeatureLoad]] = []
    for load in loads:
        for run in runs:
            gap = load.day - run[-1].day
            # 0 is excluded: a build has one knowledge cut-off per day.
            if 0 < gap.days <= LARGEST_GAP_DAYS:
                run.append(load)
                break
        else:
            runs.append([load])
    return runs


def _compatible(loads: list[FeatureLoad], raw_loads: list[RawLoad]) -> Iterator[list[FeatureLoad]]:
    """Halve a run until each part sees the same raw versions together as each load alone."""
    if len(loads) == 1 or _see_the_same(loads, raw_loads):
        yield loads
        return
    # A load of one day may hide a raw version from the next day: smaller groups see less of it.
    half = len(loads) // 2
    yield from _compatible(loads[:half], raw_loads)
    yield from _compatible(loads[half:], raw_loads)


def _see_the_same(loads: Sequence[FeatureLoad], raw_loads: list[RawLoad]) -> bool:
    together = _all_raw_loads(loads)
    for load in loads:
        alone = visible_loads(raw_loads, load.raw_loads, load)
        if visible_loads(raw_loads, together, load) != alone:
            return False
    return True


def _all_raw_loads(loads: Iterable[FeatureLoad]) -> frozenset[int]:
    return frozenset[int]().union(*(load.raw_loads for load in loads))
