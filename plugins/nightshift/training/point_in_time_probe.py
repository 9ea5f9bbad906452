"""Refuse features that know the future: rebuild sampled partitions with and without later rows.

The two rebuilds must be equal. Later rows are rows of later partitions or events, and rows that
were delivered later. Source: docs/adr/0019-replay-of-predictions.md.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.training.training_query import relation_columns
from nightshift.transformation.feature_manifest import FeatureLoad, find_feature_load
from nightshift.transformation.point_in_time_rebuild import RebuildCutoff, build_from
from nightshift.warehouse.connection import connect
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

BLIND_TABLE = "features_without_future"
SEEING_TABLE = "features_with_future"


class LeakError(NightshiftError):
    """A feature changes with rows of the future."""

    code = "NS-LEAK-001"


class SkewError(NightshiftError):
    """Published features differ from what their SQL computes from the same raw versions."""

    code = "NS-LEAK-002"


@dataclass(frozen=True)
class Probe:
    """The result of a probe.

    Attributes:
        partitions: The sampled partitions.
        n_rows: Feature rows that were rebuilt, twice each.
        seconds: Duration.
    """

    partitions: tuple[Partition, ...]
    n_rows: int
    seconds: float


def probe_features(
    settings: Settings, spec: ModelSpec, window: PartitionRange, run: RunContext
) -> Probe:
    """Rebuild ``settings.leakage_probe_days`` partitions of a window and refuse leaks and skew.

    Args:
        settings: Warehouse, dbt project, number of partitions.
        spec: The model; its seed and the window choose the partitions.
        window: Feature partitions to train on; those that are not published are skipped.
        run: The run that trains.

    Raises:
        LeakError: A value changes when later rows are hidden.
        SkewError: The published values of the model's features are not the rebuilt ones.
        UnknownViewError: The dbt project has no such view, so its rows cannot be rebuilt.
        HiddenSourceError: A feature reads a source whose past is not recorded.
    """
    started = time.monotonic()
    with connect(settings, run.application_name) as conn:
        published = list(published_loads(conn, spec.features_dataset, window))
        n_sampled = min(settings.leakage_probe_days, len(published))
        # A rerun probes the same partitions; the next window probes others.
        dice = random.Random(f"{spec.training.seed} {window}")  # noqa: S311 - a reproducible sample
        sampled = [Partition(day) for day in sorted(dice.sample(published, n_sampled))]
        n_rows = sum(_probe_partition(conn, settings, spec, partition) for partition in sampled)
    probe = Probe(tuple(sampled), n_rows, time.monotonic() - started)
    logger.info(
        "Leakage probe of %s: %s rows of %s, %.1f s.",
        spec.name,
        n_rows,
        ", ".join(map(str, sampled)) or "no partition",
        probe.seconds,
    )
    return probe


def _probe_partition(
    conn: Connection, settings: Settings, spec: ModelSpec, partition: Partition
) -> int:
    """Rebuild a partition twice, compare it thrice; return its number of rows."""
    load = find_feature_load(conn, spec, partition.day)
    as_of = {partition: load.as_of}
    # Both rebuilds read the raw loads that the published features were built from.
    hidden = RebuildCutoff(as_of, load.raw_loads, "hidden")
    shown = RebuildCutoff(as_of, load.raw_loads, "shown")
    n_rows = build_from(conn, settings, spec.feature_table, hidden, BLIND_TABLE)
    build_from(conn, settings, spec.feature_table, shown, SEEING_TABLE)
    _refuse_leak(conn, spec, partition, load)
    _refuse_skew(conn, spec, partition, load)
    return n_rows


def _refuse_leak(
    conn: Connection, spec: ModelSpec, partition: Partition, load: FeatureLoad
) -> None:
    """Refuse features that change when later rows are hidden."""
    changed = _differing_columns(conn, spec, partition, ("pg_temp", SEEING_TABLE), 0)
    if changed:
        raise LeakError(
            f"{len(changed)} column(s) of {spec.feature_table} on {partition} change with what "
            f"came later: {', '.join(changed[:10])}.",
            expected="the same bytes, whatever happened or was delivered after "
            f"{load.as_of.isoformat()}",
            got="other values once the later rows are hidden",
            todo="Let the model read versions through int_visible_versions and partitions up to "
            "its own only; then rebuild the features.",
        )


def _refuse_skew(
    conn: Connection, spec: ModelSpec, partition: Partition, load: FeatureLoad
) -> None:
    """Refuse published features that the blind rebuild does not reproduce."""
    published = ("features", spec.feature_table)
    changed = _differing_columns(conn, spec, partition, published, load.load_id)
    # Other columns of the view may change with its SQL; this model does not read them.
    own = {*spec.features.names, spec.entity.key, "as_of", "rows"}
    changed = [name for name in changed if name in own]
    if changed:
        raise SkewError(
            f"{len(changed)} feature(s) of {spec.name} on {partition} are not what their SQL "
            f"makes of what was known: {', '.join(changed[:10])}.",
            expected=f"the values of load {load.load_id}, built by code {load.code_version}",
            got="other values from the same raw versions",
            todo="If the SQL was changed since, rebuild the window: "
            f"`nightshift backfill {partition}` and its neighbours. A sum of doubles depends on "
            "the order of rows: sum integers or numeric.",
        )


def _differing_columns(
    conn: Connection, spec: ModelSpec, partition: Partition, table: tuple[str, str], load_id: int
) -> list[str]:
    """Return the columns whose bytes differ between the blind rebuild and another table.

    Args:
        conn: Connection of the rebuilds, which are temporary tables.
        spec: The model; rows are matched by its entity key.
        partition: The partition to compare.
        table: Schema and name of the other table.
        load_id: Its load; 0 for a rebuild.

    Returns:
        Names of columns; ``rows`` if an entity is on one side only.
    """
    from psycopg import sql

    not_compared = {"load_id", spec.entity.key, "partition_date"}
    columns = [
        name for name in relation_columns(conn, "pg_temp", BLIND_TABLE) if name not in not_compared
    ]
    # record_send compares bytes: two NaN are equal, and 0.0 differs from -0.0.
    column_differs = sql.SQL(
        "coalesce(bool_or(record_send(row(a.{0})) <> record_send(row(b.{0}))), false)"
    )
    query = sql.SQL(
        """
        select count(*) filter (where a.{key} is null or b.{key} is null) > 0, {differs}
        from (select * from {blind} where partition_date = %s) a
        full join (select * from {table} where partition_date = %s and load_id = %s) b
            using ({key})
        """
    ).format(
        key=sql.Identifier(spec.entity.key),
        differs=sql.SQL(", ").join(column_differs.format(sql.Identifier(name)) for name in columns),
        blind=sql.Identifier("pg_temp", BLIND_TABLE),
        table=sql.Identifier(*table),
    )
    row: tuple[Any, ...] | None = conn.execute(
        query, [partition.day, partition.day, load_id]
    ).fetchone()
    flags = zip(["rows", *columns], row or (), strict=True)
    return [name for name, is_different in flags if is_different]
