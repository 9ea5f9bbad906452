"""Read the newest mature nights as a version sees them: its raw scores, and the outcomes.

The version scores the published features of those nights again. So the level depends on the
version, the as-of and these features and labels only, never on what other versions published.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.models.signature import numbers
from nightshift.scoring.feature_rows import features_of_loads
from nightshift.scoring.level.night_level import MatureNight
from nightshift.training.feature_query import features_target
from nightshift.training.training_query import TrainingQuery, in_sample
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import published_records, refuse_damaged
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.models.arrays import Vector
    from nightshift.scoring.scorer import Scorer
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

BUDGET_SECONDS = 20.0
"""How long the level of a partition may take: then it is scored without one."""
STATEMENT_SECONDS = 10
"""Limit of one query of the level."""
NIGHTS_AT_ONCE = 14
"""Nights that one query reads."""
MAXIMUM_ROWS = 100_000
"""Of all nights of a partition: more are sampled by a hash of the key, as a training set is."""


class SlowLevelError(NightshiftError):
    """The level of a partition took longer than scoring can wait for."""

    code = "NS-SCORE-010"


@dataclass(frozen=True)
class ScoredNight:
    """The rows of one published feature load, scored by one version.

    Attributes:
        features: The load.
        keys: Entity keys, sorted; shape (n,).
        raw: Raw scores of the version; shape (n,).
    """

    features: LoadRecord
    keys: pa.Array
    raw: Vector


@dataclass
class NightReader:
    """Reads mature nights; a range of partitions shares the nights that a version has scored.

    Attributes:
        settings: The warehouse.
        spec: The model.
        application_name: Shown by the warehouse.
    """

    settings: Settings
    spec: ModelSpec
    application_name: str
    _scored: dict[tuple[int, dt.date, float], ScoredNight] = field(default_factory=dict)
    _deadline: float = 0.0

    def read(
        self,
        scorer: Scorer,
        version: int,
        window: PartitionRange,
        features: LoadRecord,
        kept_from: dt.date,
    ) -> list[MatureNight]:
        """Return the nights that are published and whose labels a partition knew, in order.

        Args:
            scorer: Of the version.
            version: The version.
            window: Their partitions.
            features: The load that is scored; its as-of bounds the nights and their labels.
            kept_from: Scores of earlier nights are read no more.

        Raises:
            SlowLevelError: Time is up.
            DamagedInputError: Rows of a night differ from what was published.
            WarehouseError: A query failed or took too long.
        """
        partition = Partition(features.partition_date)
        self._deadline = time.monotonic() + BUDGET_SECONDS
        self._forget_before(kept_from)
        # A connection of its own: what fails or waits here ends nothing that scoring has begun.
        with connect(self._hurried, self.application_name) as conn:
            loads = published_records(conn, self.spec.features_dataset, window.days)
            as_of = self._as_ofs(conn, [features]).get(features.key, partition.cutoff)
            # A night that took in a later drop knows more than the partition did.
            as_ofs = self._as_ofs(conn, loads)
            loads = [load for load in loads if as_ofs.get(load.key, as_of) <= as_of]
            share = _sampled_share(sum(load.n_rows or 0 for load in loads))
            scored: list[ScoredNight] = []
            for first in range(0, len(loads), NIGHTS_AT_ONCE):
                # The clock is looked at in between: so many nights are a bounded number of rows.
                self._refuse_late(partition, f"{len(scored)} of {len(loads)} nights scored")
                batch = loads[first : first + NIGHTS_AT_ONCE]
                scored += self._score(conn, scorer, version, batch, share)
            self._refuse_late(partition, "no labels read")
            query = TrainingQuery(conn, self.spec, window, partition, as_of)
            labels = self._labels(query, share)
        mature = [self._with_labels(entry, labels) for entry in scored]
        return [entry for entry in mature if entry is not None]

    def _refuse_late(self, partition: Partition, progress: str) -> None:
        if time.monotonic() > self._deadline:
            raise SlowLevelError(
                f"The level of {self.spec.name} on {partition} took too long.",
                expected=f"at most {BUDGET_SECONDS:g} s",
                got=progress,
                todo="Nothing: the partition is scored without it.",
            )

    def _as_ofs(
        self, conn: Connection, loads: Sequence[LoadRecord]
    ) -> dict[tuple[dt.date, int], dt.datetime]:
        """Return the as-of of feature loads, which all rows of a load share; not of empty ones."""
        from psycopg import sql

        query = sql.SQL(
            """
            select l.day, l.load_id, (
                select f.as_of from {} f
                where f.partition_date = l.day and f.load_id = l.load_id limit 1
            )
            from unnest(%s::date[], %s::bigint[]) l (day, load_id)
            """
        ).format(sql.Identifier("features", self.spec.feature_table))
        keys = [load.key for load in loads]
        rows = conn.execute(query, [[day for day, _ in keys], [number for _, number in keys]])
        return {(day, number): as_of for day, number, as_of in rows if as_of is not None}

    @property
    def _hurried(self) -> Settings:
        seconds = min(STATEMENT_SECONDS, self._deadline - time.monotonic())
        limits = {"statement_timeout_seconds": max(1, int(seconds))}
        return self.settings.model_copy(update=limits)

    def _forget_before(self, first: dt.date) -> None:
        """Drop the nights that no later partition of a range reads: the memory stays bounded."""
        for name, kept in list(self._scored.items()):
            if kept.features.partition_date < first:
                del self._scored[name]

    def _score(
        self,
        conn: Connection,
        scorer: Scorer,
        version: int,
        loads: Sequence[LoadRecord],
        share: float,
    ) -> list[ScoredNight]:
        """Return the rows of loads with the version's raw scores; each load is scored once."""
        names = {load.key: (version, load.partition_date, share) for load in loads}
        # A night that was published again meanwhile is another one.
        kept = {key: self._scored.get(name) for key, name in names.items()}
        missing = []
        for load in loads:
            scored = kept[load.key]
            if scored is None or scored.features != load:
                missing.append(load)
        if missing:
            # Rows that changed since their publication would move a whole night.
            refuse_damaged(conn, features_target(self.spec), missing)
            # One query for all of them: a query costs more than the rows of a night.
            rows = self._read(features_of_loads(self.spec, missing, scorer.feature_names, share))
            for load in missing:
                self._scored[names[load.key]] = self._scored_night(scorer, load, rows)
        return [self._scored[names[load.key]] for load in loads]

    def _scored_night(self, scorer: Scorer, load: LoadRecord, rows: pa.Table) -> ScoredNight:
        import pyarrow as pa
        import pyarrow.compute as pc

        key = self.spec.entity.key
        day = pa.scalar(load.partition_date, pa.date32())
        of_night = rows.filter(pc.equal(rows.column("partition_date"), day))
        # In one order: the last bits of a mean depend on it.
        of_night = of_night.sort_by([(key, "ascending")])
        keys = of_night.column(key).combine_chunks()
        return ScoredNight(load, keys, scorer.raw(of_night))

    def _labels(self, training_query: TrainingQuery, share: float) -> pa.Table:
        """Return key and label of every entity whose outcome was known; a label may be null."""
        from psycopg import sql

        query = sql.SQL("select * from ({labels}) labels where {in_sample}").format(
            labels=training_query.labels,
            in_sample=in_sample(sql.Identifier(self.spec.entity.key), share),
        )
        return self._read(query, is_label_query=True)

    def _with_labels(self, scored: ScoredNight, labels: pa.Table) -> MatureNight | None:
        """Return a night with its outcomes; None while too few of them are known."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        known = labels.column(self.spec.entity.key).combine_chunks()
        position = pc.index_in(scored.keys, known)
        label = numbers(labels, self.spec.label.column)
        is_known = pc.is_valid(position).to_numpy(zero_copy_only=False)
        outcome = np.full(len(scored.keys), np.nan)
        outcome[is_known] = label[pc.drop_null(position).to_numpy()]

        # An entity that never gets a label is no reason to wait.
        is_labelled = np.isfinite(outcome)
        n_possible = int((is_labelled | ~is_known).sum())
        n_labelled = int(is_labelled.sum())
        if n_labelled < max(1.0, self.spec.monitoring.minimum_label_share * n_possible):
            return None
        keys = scored.keys.filter(pa.array(is_labelled))
        # Keys and labels together: which outcomes were known decides as much as their values.
        digest = sha256(scored.features.content_hash.encode())
        digest.update("\n".join(map(str, keys.to_pylist())).encode())
        digest.update(outcome[is_labelled].tobytes())
        return MatureNight(
            day=scored.features.partition_date,
            label=outcome[is_labelled],
            raw=scored.raw[is_labelled],
            evidence=digest.hexdigest(),
        )

    def _read(self, query: sql.Composed, *, is_label_query: bool = False) -> pa.Table:
        return read_arrow(
            self._hurried, query, self.application_name, is_label_query=is_label_query
        )


def _sampled_share(n_rows: int) -> float:
    """Return the share of the entities that is read: 1, a half, a quarter and so on."""
    # Halves: neighbouring partitions of a range have the same share, and so share their nights.
    share = 1.0
    while n_rows * share > MAXIMUM_ROWS:
        share /= 2
    return share
