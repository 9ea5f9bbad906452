"""Before training: rebuild features of sampled nights with the future hidden, and with all of it in view; nothing may change.

Both clocks count: rows of later partitions and later events, and rows that were delivered later.
Source: docs/adr/0019-replay-of-predictions.md.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.transformation.feature_manifest import FeatureLoad, find_feature_load
from nightshift.transformation.point_in_time_rebuild import Knowledge, build_from
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_BLIND, _SEEING = "features_without_future", "features_with_future"
_NOT_CONTENT = {"load_id"}


class LeakError(NightshiftError):
    """A feature changes with what nobody could know."""

    code = "NS-LEAK-001"


class SkewError(NightshiftError):
    """Published features are not what their SQL makes of what was known."""

    code = "NS-LEAK-002"


@dataclass(frozen=True)
class Probe:
    """What a probe looked at.

    Attributes:
        partitions: The sampled nights.
        n_rows: Feature rows that were rebuilt, twice each.
        seconds: How long it took.
    """

    partitions: tuple[Partition, ...]
    n_rows: int
    seconds: float


def probe_features(
    settings: Settings, spec: ModelSpec, window: PartitionRange, run: RunContext
) -> Probe:
    """Refuse to train on features that know the future; looks at ``settings.leakage_probe_days`` nights of the window, chosen by the seed.

    Args:
        settings: Warehouse, dbt project, number of nights.
        spec: The model; its seed and the window's end choose the nights.
        window: Feature partitions to train on; those that are not published are passed over.
        run: Who trains.

    Raises:
        LeakError: A value changes when what came later is hidden.
        SkewError: The published values of the model's features are not those that were rebuilt.
        UnknownViewError: The dbt project has no such view: its rows cannot be rebuilt, so nobody
            can vouch for them.
        HiddenSourceError: A feature reads something whose past nobody knows.
    """
    started = time.monotonic()
    with connect(settings, run.application_name) as conn:
        days = _published_days(conn, spec, window)
        n_days = min(settings.leakage_probe_days, len(days))
        chosen = sorted(random.Random(f"{spec.training.seed} {window}").sample(days, n_days))  # noqa: S311 - a reproducible sample
        n_rows = sum(_probe_day(conn, settings, spec, partition) for partition in chosen)
    probe = Probe(tuple(chosen), n_rows, time.monotonic() - started)
    logger.info(
        "Leakage probe of %s: %s rows of %s, %.1f s.",
        spec.name,
        n_rows,
        ", ".join(map(str, chosen)) or "no night",
        probe.seconds,
    )
    return probe


def _published_days(conn: Connection, spec: ModelSpec, window: PartitionRange) -> list[Partition]:
    rows = conn.execute(
        "select partition_date from ops.published where dataset = %s and partition_date between %s and %s order by 1",
        [spec.features_dataset, window.first.day, window.last.day],
    )
    return [Partition(day) for (day,) in rows]


def _probe_day(conn: Connection, settings: Settings, spec: ModelSpec, partition: Partition) -> int:
    load = find_feature_load(conn, spec, partition.day)
    as_of = {partition: load.as_of}
    n_rows = build_from(
        conn, settings, spec.feature_table, Knowledge(as_of, load.raw_loads, "hidden"), _BLIND
    )
    build_from(
        conn, settings, spec.feature_table, Knowledge(as_of, load.raw_loads, "shown"), _SEEING
    )
    if changed := _differing(conn, spec, partition, (("pg_temp", _SEEING), 0)):
        raise LeakError(
            f"{len(changed)} column(s) of {spec.feature_table} on {partition} change with what came later: {', '.join(changed[:10])}.",
            expected=f"the same bytes, whatever happened or was delivered after {load.as_of.isoformat()}",
            got="other values once the later rows are hidden",
            todo="Let the model read versions through int_visible_versions and partitions up to its own only; then rebuild the features.",
        )
    _refuse_skew(conn, spec, partition, load)
    return n_rows


def _refuse_skew(
    conn: Connection, spec: ModelSpec, partition: Partition, load: FeatureLoad
) -> None:
    own = {*spec.features.names, spec.entity.key, "as_of", "rows"}
    changed = [
        name
        for name in _differing(
            conn, spec, partition, (("features", spec.feature_table), load.load_id)
        )
        if name in own
    ]
    if changed:
        raise SkewError(
            f"{len(changed)} feature(s) of {spec.name} on {partition} are not what their SQL makes of what was known: "
            f"{', '.join(changed[:10])}.",
            expected=f"the values of load {load.load_id}, built by code {load.code_version}",
            got="other values from the same raw versions",
            todo=f"If the SQL was changed since, rebuild the window: `nightshift backfill {partition}` and its neighbours; else look why.",
        )


def _differing(
    conn: Connection, spec: ModelSpec, partition: Partition, other: tuple[tuple[str, str], int]
) -> list[str]:
    """Return the columns whose bytes differ between the blind rebuild and another table; ``rows`` when the entities are others."""
    from psycopg import sql

    columns = [
        name
        for name in _columns(conn)
        if name not in {*_NOT_CONTENT, spec.entity.key, "partition_date"}
    ]
    differs = sql.SQL(", ").join(
        sql.SQL(
            "coalesce(bool_or(record_send(row(a.{0})) <> record_send(row(b.{0}))), false)"
        ).format(sql.Identifier(name))
        for name in columns
    )
    key = sql.Identifier(spec.entity.key)
    query = sql.SQL(
        "select count(*) filter (where a.{key} is null or b.{key} is null) > 0, {differs}"
        " from (select * from {blind} where partition_date = %s) a"
        " full join (select * from {other} where partition_date = %s and load_id = %s) b using ({key})"
    ).format(
        key=key,
        differs=differs,
        blind=sql.Identifier("pg_temp", _BLIND),
        other=sql.Identifier(*other[0]),
    )
    found: tuple[Any, ...] = (
        conn.execute(query, [partition.day, partition.day, other[1]]).fetchone() or ()
    )
    return [name for name, is_other in zip(["rows", *columns], found, strict=True) if is_other]


def _columns(conn: Connection) -> list[str]:
    rows = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum",
        [f"pg_temp.{_BLIND}"],
    )
    return [str(name) for (name,) in rows]
