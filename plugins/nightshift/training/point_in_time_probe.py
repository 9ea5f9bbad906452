"""Refuse features that know the future: rebuild sampled partitions with and without later rows.

A partition is rebuilt with later rows hidden, with all that came later, and with later rows that
are invented, by both clocks of every source. All rebuilds must be equal, bit by bit: that proves
more than any separation of labels, and does not depend on what the view's SQL says of time.
Source: docs/adr/0019-replay-of-predictions.md, docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.training.training_query import relation_columns
from nightshift.transformation.feature_manifest import FeatureLoad, find_feature_load
from nightshift.transformation.later_rows import (
    Perturbation,
    count_later_rows,
    perturbations,
)
from nightshift.transformation.point_in_time_rebuild import (
    RebuildCutoff,
    build_from,
    raw_sources,
)
from nightshift.warehouse.connection import connect
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

BLIND_TABLE = "features_without_future"
SEEING_TABLE = "features_with_future"
_MAX_SHOWN = 10
_SHOWN = "what really came later"


class LeakError(NightshiftError):
    """A feature changes with rows of the future."""

    code = "NS-LEAK-001"


class SkewError(NightshiftError):
    """Published features differ from what their SQL computes from the same raw versions."""

    code = "NS-LEAK-002"


@dataclass(frozen=True)
class PartitionProbe:
    """What the probe of one partition found.

    Attributes:
        load: The probed load of the feature view.
        n_rows: Its feature rows, each rebuilt at least three times.
        n_later: Invented later rows, by perturbation.
        leaks: By column, what changes it; ``rows`` if entities come or go. Empty without a leak.
        skewed: The model's columns whose published values are not the rebuilt ones.
        seconds: Duration.
    """

    load: FeatureLoad
    n_rows: int
    n_later: Mapping[str, int]
    leaks: Mapping[str, list[str]]
    skewed: list[str]
    seconds: float


@dataclass(frozen=True)
class Probe:
    """The result of a probe.

    Attributes:
        partitions: The sampled partitions.
        n_rows: Feature rows that were rebuilt.
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
        LeakError: A value changes with what came later.
        SkewError: The published values of the model's features are not the rebuilt ones.
        UnknownViewError: The dbt project has no such view, so its rows cannot be rebuilt.
        HiddenSourceError: A feature reads a source whose past is not recorded.
    """
    started = time.monotonic()
    probes = []
    with connect(settings, run.application_name) as conn:
        published = list(published_loads(conn, spec.features_dataset, window))
        n_sampled = min(settings.leakage_probe_days, len(published))
        # A rerun probes the same partitions; the next window probes others.
        dice = random.Random(f"{spec.training.seed} {window}")  # noqa: S311 - a reproducible sample
        for day in sorted(dice.sample(published, n_sampled)):
            probe = probe_partition(conn, settings, spec, day, run)
            refuse_leak(spec, probe)
            _refuse_skew(spec, probe)
            probes.append(probe)
    partitions = tuple(Partition(probe.load.day) for probe in probes)
    n_rows = sum(probe.n_rows for probe in probes)
    seconds = time.monotonic() - started
    logger.info(
        "Leakage probe of %s: %s rows of %s, %.1f s.",
        spec.name,
        n_rows,
        ", ".join(map(str, partitions)) or "no partition",
        seconds,
    )
    return Probe(partitions, n_rows, seconds)


def probe_partition(
    conn: Connection,
    settings: Settings,
    spec: ModelSpec,
    day: dt.date,
    run: RunContext,
    load_id: int | None = None,
) -> PartitionProbe:
    """Rebuild one partition with and without later rows, compare, and record the probe.

    Args:
        conn: Holds the rebuilds, which are temporary tables; close it afterwards.
        settings: Warehouse and dbt project.
        spec: The model.
        day: The partition.
        run: The run that asks.
        load_id: The load of the feature view; by default the published one.

    Raises:
        OriginLostError: The load does not say what it was built from.
        UnknownViewError: The dbt project has no such view.
        HiddenSourceError: A feature reads a source whose past is not recorded.
    """
    started = time.monotonic()
    load = find_feature_load(conn, spec, day, load_id)
    partition = Partition(day)
    added = perturbations(raw_sources(settings, spec.feature_table, partition, load.as_of))
    rebuild = _Rebuild(conn, settings, spec, load)
    n_rows = rebuild.build(BLIND_TABLE, "hidden")
    leaks: dict[str, list[str]] = {}

    rebuild.build(SEEING_TABLE, "shown")
    for column in rebuild.changed_columns():
        leaks.setdefault(column, []).append(_SHOWN)
    rebuild.build(SEEING_TABLE, "hidden", added)
    n_later = count_later_rows(conn, added)
    if leaks or rebuild.changed_columns():
        # A person must know which clock of which source leaks.
        for perturbation in rebuild.leaking(added):
            for column in rebuild.changed_columns():
                leaks.setdefault(column, []).append(str(perturbation))

    published = ("features", spec.feature_table)
    changed = _differing_columns(conn, spec, partition, published, load.load_id)
    # Other columns of the view may change with its SQL; this model does not read them.
    own = {*spec.features.names, spec.entity.key, "as_of", "rows"}
    skewed = [name for name in changed if name in own]
    probe = PartitionProbe(load, n_rows, n_later, leaks, skewed, time.monotonic() - started)
    _record(conn, spec, probe, run)
    return probe


@dataclass(frozen=True)
class _Rebuild:
    """The rebuilds of one partition, from the raw loads that its features were built from."""

    conn: Connection
    settings: Settings
    spec: ModelSpec
    load: FeatureLoad

    def build(
        self,
        scratch: str,
        later: Any,  # noqa: ANN401 - the literal of RebuildCutoff
        added: Sequence[Perturbation] = (),
    ) -> int:
        """Build the view as a temporary table; return its number of rows."""
        as_of = {Partition(self.load.day): self.load.as_of}
        knowledge = RebuildCutoff(as_of, self.load.raw_loads, later, tuple(added))
        return build_from(self.conn, self.settings, self.spec.feature_table, knowledge, scratch)

    def leaking(self, added: Sequence[Perturbation]) -> Iterator[Perturbation]:
        """Yield each perturbation that changes a column, while its rebuild is the last one."""
        for clock in sorted({part.clock for part in added}):
            of_clock = [part for part in added if part.clock == clock]
            # All sources first: most views that leak do so by one clock.
            self.build(SEEING_TABLE, "hidden", of_clock)
            if not self.changed_columns():
                continue
            for perturbation in of_clock:
                self.build(SEEING_TABLE, "hidden", [perturbation])
                if self.changed_columns():
                    yield perturbation

    def changed_columns(self) -> list[str]:
        """Return the columns that differ between the blind rebuild and the last other one."""
        partition = Partition(self.load.day)
        table = ("pg_temp", SEEING_TABLE)
        return _differing_columns(self.conn, self.spec, partition, table, 0)


def _record(conn: Connection, spec: ModelSpec, probe: PartitionProbe, run: RunContext) -> None:
    conn.execute(
        """
        insert into ml.leak_probes (
            model, partition_date, load_id, n_rows, perturbations, leaks, seconds, run_id,
            code_version
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            spec.name,
            probe.load.day,
            probe.load.load_id,
            probe.n_rows,
            json.dumps(dict(probe.n_later)),
            json.dumps(dict(probe.leaks)),
            probe.seconds,
            run.run_id,
            code_version(),
        ],
    )


def refuse_leak(spec: ModelSpec, probe: PartitionProbe) -> None:
    """Refuse features that change with what came later.

    Raises:
        LeakError: There is one.
    """
    if not probe.leaks:
        return
    columns = sorted(probe.leaks)
    causes = sorted(set().union(*probe.leaks.values()))
    raise LeakError(
        f"{len(columns)} column(s) of {spec.feature_table} on {probe.load.day} change with what "
        f"came later: {', '.join(columns[:_MAX_SHOWN])}.",
        expected="the same bytes, whatever happened or was delivered after "
        f"{probe.load.as_of.isoformat()}",
        got=f"other values with {'; '.join(causes)}",
        todo="Let the model read versions through int_visible_versions and partitions up to "
        "its own only; then rebuild the features.",
    )


def _refuse_skew(spec: ModelSpec, probe: PartitionProbe) -> None:
    """Refuse published features that the blind rebuild does not reproduce."""
    if not probe.skewed:
        return
    day, load = probe.load.day, probe.load
    raise SkewError(
        f"{len(probe.skewed)} feature(s) of {spec.name} on {day} are not what their SQL "
        f"makes of what was known: {', '.join(probe.skewed[:_MAX_SHOWN])}.",
        expected=f"the values of load {load.load_id}, built by code {load.code_version}",
        got="other values from the same raw versions",
        todo="If the SQL was changed since, rebuild the window: "
        f"`nightshift backfill {day}` and its neighbours. A sum of doubles depends on "
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
