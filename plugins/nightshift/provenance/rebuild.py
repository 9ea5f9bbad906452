"""Rebuild the feature rows of many predictions from the raw rows that their builds had read, with as few builds as give the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.transformation.feature_manifest import FeatureLoad
from nightshift.transformation.point_in_time_rebuild import Knowledge, build_from
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

LARGEST_GAP_DAYS = 7
"""Days further apart are built apart: a trailing window over a range with holes takes longer
than a second build.
"""
_SCRATCH = "rebuilt_features"

Row = dict[str, Any]
RowKey = tuple[int, dt.date, str]
"""Feature load, partition and entity key."""


@dataclass(frozen=True)
class _Version:
    load_id: int
    dataset: str
    day: dt.date
    known_at: dt.datetime


def rebuild_rows(
    settings: Settings, spec: ModelSpec, wanted: Iterable[tuple[FeatureLoad, str]]
) -> tuple[dict[RowKey, Row], dict[RowKey, Row]]:
    """Return the stored and the rebuilt feature rows of some entities; a row that one side lacks is absent there.

    Nothing is published, staged or locked: the builds live in the temporary schema of their
    connection.

    Args:
        settings: Warehouse and dbt project.
        spec: The model, for its feature view.
        wanted: Feature load and entity key.

    Raises:
        HiddenSourceError: A feature reads something whose past nobody knows.
        DbtProcessError: dbt cannot compile the view.
    """
    keys: dict[FeatureLoad, set[str]] = {}
    for load, key in wanted:
        keys.setdefault(load, set()).add(key)
    stored: dict[RowKey, Row] = {}
    rebuilt: dict[RowKey, Row] = {}
    with connect(settings, "nightshift repro") as conn:
        for group in _groups(conn, list(keys)):
            knowledge = Knowledge(
                {Partition(load.day): load.as_of for load in group},
                frozenset[int]().union(*(load.raw_loads for load in group)),
            )
            build_from(conn, settings, spec.feature_table, knowledge, _SCRATCH)
            for load in group:
                places = sorted(keys[load])
                stored |= _rows(
                    conn, spec, load, ("features", spec.feature_table), load.load_id, places
                )
                rebuilt |= _rows(conn, spec, load, ("pg_temp", _SCRATCH), 0, places)
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

    key = sql.Identifier(spec.entity.key)
    query = sql.SQL(
        "select * from {} where partition_date = %s and load_id = %s and {} = any(%s)"
    ).format(sql.Identifier(*table), key)
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, [load.day, load_id, keys]).fetchall()
    return {
        (load.load_id, load.day, row[spec.entity.key]): {
            name: value for name, value in row.items() if name != "load_id"
        }
        for row in rows
    }


def _groups(conn: Connection, loads: Sequence[FeatureLoad]) -> Iterator[list[FeatureLoad]]:
    """Put loads together whose partitions see the same versions in one world as each in its own."""
    known = _versions(conn, frozenset[int]().union(*(load.raw_loads for load in loads)))
    for run in _runs(sorted(loads, key=lambda load: (load.day, load.load_id))):
        yield from _agreeing(run, known)


def _runs(loads: Iterable[FeatureLoad]) -> list[list[FeatureLoad]]:
    """Cut into runs of days without large gaps, each day once; a second load of a day begins a run of its own."""
    runs: list[list[FeatureLoad]] = []
    for load in loads:
        fitting = [run for run in runs if 0 < (load.day - run[-1].day).days <= LARGEST_GAP_DAYS]
        if fitting:
            fitting[0].append(load)
        else:
            runs.append([load])
    return runs


def _agreeing(loads: list[FeatureLoad], known: list[_Version]) -> Iterator[list[FeatureLoad]]:
    everything = frozenset[int]().union(*(load.raw_loads for load in loads))
    if len(loads) == 1 or all(
        _visible(known, everything, load) == _visible(known, load.raw_loads, load) for load in loads
    ):
        yield loads
        return
    half = len(loads) // 2
    yield from _agreeing(loads[:half], known)
    yield from _agreeing(loads[half:], known)


def _visible(
    versions: Iterable[_Version], among: frozenset[int], load: FeatureLoad
) -> dict[tuple[str, dt.date], tuple[dt.datetime, int]]:
    """Return the version of each drop that a partition sees: the last one that was known at its as-of."""
    seen: dict[tuple[str, dt.date], tuple[dt.datetime, int]] = {}
    for version in versions:
        if version.load_id in among and version.day <= load.day and version.known_at <= load.as_of:
            drop = (version.dataset, version.day)
            seen[drop] = max(
                seen.get(drop, (version.known_at, version.load_id)),
                (version.known_at, version.load_id),
            )
    return seen


def _versions(conn: Connection, load_ids: frozenset[int]) -> list[_Version]:
    rows = conn.execute(
        "select load_id, dataset, partition_date, known_at from ops.loads"
        " where dataset like 'raw/%%' and load_id = any(%s) and state in ('published', 'duplicate')",
        [sorted(load_ids)],
    )
    return [_Version(*row) for row in rows]
