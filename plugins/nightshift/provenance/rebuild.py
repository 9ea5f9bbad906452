"""Rebuild the feature rows of predictions from the raw rows that their builds read.

Partitions are built together as long as that gives the same rows as a build of each partition.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
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
# Feature load, partition and entity key.
RowKey = tuple[int, dt.date, str]


@dataclass(frozen=True)
class _RawLoad:
    load_id: int
    dataset: str
    day: dt.date
    known_at: dt.datetime


def rebuild_rows(
    settings: Settings, spec: ModelSpec, entities: Iterable[tuple[FeatureLoad, str]]
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
    keys: dict[FeatureLoad, set[str]] = {}
    for load, key in entities:
        keys.setdefault(load, set()).add(key)
    stored: dict[RowKey, Row] = {}
    rebuilt: dict[RowKey, Row] = {}
    # One connection: the builds are in its temporary schema.
    with connect(settings, "nightshift repro") as conn:
        for group in _groups(conn, list(keys)):
            as_of = {Partition(load.day): load.as_of for load in group}
            knowledge = RebuildCutoff(as_of, _all_raw_loads(group))
            build_from(conn, settings, spec.feature_table, knowledge, _SCRATCH)
            for load in group:
                names = sorted(keys[load])
                published = ("features", spec.feature_table)
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
        "select * from {} where partition_date = %s and load_id = %s and {} = any(%s)"
    ).format(sql.Identifier(*table), sql.Identifier(spec.entity.key))
    rows: dict[RowKey, Row] = {}
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, [load.day, load_id, keys]):
            del row["load_id"]  # differs between the stored and the rebuilt row by design
            rows[load.load_id, load.day, row[spec.entity.key]] = row
    return rows


def _groups(conn: Connection, loads: Sequence[FeatureLoad]) -> Iterator[list[FeatureLoad]]:
    """Group loads whose partitions see the same raw versions together as each alone."""
    raw_loads = _read_raw_loads(conn, _all_raw_loads(loads))
    for run in _runs(sorted(loads, key=lambda load: (load.day, load.load_id))):
        yield from _compatible(run, raw_loads)


def _runs(loads: Iterable[FeatureLoad]) -> list[list[FeatureLoad]]:
    """Split into runs of days without large gaps; a second load of a day is in another run."""
    runs: list[list[FeatureLoad]] = []
    for load in loads:
        # 0 is excluded: a build has one knowledge cut-off per day.
        for run in runs:
            if 0 < (load.day - run[-1].day).days <= LARGEST_GAP_DAYS:
                run.append(load)
                break
        else:
            runs.append([load])
    return runs


def _compatible(loads: list[FeatureLoad], raw_loads: list[_RawLoad]) -> Iterator[list[FeatureLoad]]:
    """Halve a run until each part sees the same raw versions together as each load alone."""
    together = _all_raw_loads(loads)
    if len(loads) == 1 or all(
        _visible(raw_loads, together, load) == _visible(raw_loads, load.raw_loads, load)
        for load in loads
    ):
        yield loads
        return
    # A load of one day may hide a raw version from the next day: smaller groups see less of it.
    half = len(loads) // 2
    yield from _compatible(loads[:half], raw_loads)
    yield from _compatible(loads[half:], raw_loads)


def _visible(
    raw_loads: Iterable[_RawLoad], among: frozenset[int], load: FeatureLoad
) -> dict[tuple[str, dt.date], tuple[dt.datetime, int]]:
    """Return the version of each drop that a partition sees: the last one known at its as-of."""
    visible: dict[tuple[str, dt.date], tuple[dt.datetime, int]] = {}
    for raw in raw_loads:
        if raw.load_id in among and raw.day <= load.day and raw.known_at <= load.as_of:
            drop, version = (raw.dataset, raw.day), (raw.known_at, raw.load_id)
            visible[drop] = max(visible.get(drop, version), version)
    return visible


def _all_raw_loads(loads: Iterable[FeatureLoad]) -> frozenset[int]:
    return frozenset[int]().union(*(load.raw_loads for load in loads))


def _read_raw_loads(conn: Connection, load_ids: frozenset[int]) -> list[_RawLoad]:
    query = """
        select load_id, dataset, partition_date, known_at from ops.loads
        where dataset like 'raw/%%' and load_id = any(%s) and state in ('published', 'duplicate')
    """
    return [_RawLoad(*row) for row in conn.execute(query, [sorted(load_ids)])]
