"""Record the paired losses of matured nights, and the evidence of each stream after each night.

A night is recorded when its labels are mature, whenever its scores were made: a night that a failed
run left out is recorded by the next one.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.models.predictions import labels_of
from nightshift.registry.streams.members import CANARY_ROWS, CHAMPION_ROWS, evidence_start
from nightshift.registry.streams.paired_rows import (
    has_shadow_scores,
    labelled,
    mean_loss,
    proper_loss,
    read_pairs,
    stored_predictions,
)
from nightshift.training.statistics.sequential_test import (
    MINIMUM_NIGHTS,
    SequentialResult,
    running_e_values,
    sequential_result,
)
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.models.arrays import Vector
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

LOOK_BACK_DAYS = 14
"""Matured nights that a run looks back for scores whose losses are not recorded yet."""


MAXIMUM_UNSCORED, RECENT_NIGHTS = 1, 28
"""A stream may miss so many of its newest nights: a machine may be away for one."""


@dataclass(frozen=True)
class StreamNight:
    """The paired loss of one matured night; columns of ``monitoring.stream_nights``."""

    model: str
    stream: str
    partition_date: dt.date
    champion_version: int
    challenger_version: int
    loss: str
    n_rows: int
    champion_loss: float
    challenger_loss: float
    predictions_load: int
    shadow_load: int
    known_on: dt.date


def record_nights(
    settings: Settings, spec: ModelSpec, partition: Partition, run: RunContext
) -> list[StreamNight]:
    """Record the losses of all matured nights near a partition; return those that were new.

    Idempotent: a night whose scores are the recorded ones stays as it was recorded.

    Raises:
        WarehouseError: The warehouse cannot be reached.
    """
    recorded: list[StreamNight] = []
    with connect(settings, run.application_name) as conn:
        # Without a challenger there is no table to read.
        if not has_shadow_scores(conn, spec):
            return []
        for stream, day in _unrecorded(conn, spec, partition):
            scored = Partition(day)
            pairs = read_pairs(
                settings, conn, spec, stream, PartitionRange(scored, scored), partition
            )
            result = _measure(conn, spec, stream, scored, partition, pairs)
            # It stays unrecorded, and a later night looks at it again.
            if isinstance(result, str):
                logger.info("%s of %s is no night of the stream: %s", stream, scored, result)
                continue
            recorded.append(result)
        _write(conn, spec, partition, recorded, run)
    return recorded


def stream_gains(
    conn: Connection, model: str, stream: str, first: dt.date, last: dt.date
) -> tuple[list[dt.date], list[int], Vector]:
    """Return days, champions and gains of the recorded nights of a range, in order."""
    rows = conn.execute(
        """
        select partition_date, champion_version, champion_loss - challenger_loss
        from monitoring.stream_nights
        where model = %s and stream = %s and partition_date between %s and %s
        order by partition_date
        """,
        [model, stream, first, last],
    ).fetchall()
    gains = np.array([gain for *_, gain in rows], dtype=np.float64)
    return [day for day, *_ in rows], [champion for _, champion, _ in rows], gains


@dataclass(frozen=True)
class StreamEvidence:
    """What a stream has proved for a decision.

    Attributes:
        partition: The partition that decides: what it does not know does not count.
        stream: Its name.
        since: First partition that counts; None without a champion.
        result: Of all nights since.
        champion_nights: Nights of the champion that serves now.
        champion_gain: Mean gain on them; 0 without any.
        pairs: Their labelled rows; None where they are not read, or too few.
        n_unscored: Of the newest ``RECENT_NIGHTS`` since its first one, those that were published
            and that it has not scored.
    """

    partition: Partition
    stream: str
    since: dt.date | None
    result: SequentialResult
    champion_nights: int = 0
    champion_gain: float = 0.0
    pairs: pa.Table | None = None
    n_unscored: int = 0

    @property
    def is_complete(self) -> bool:
        """Return whether the stream has scored its nights, so that none was chosen.

        A model that fails on some rows has no night on which these are; on all others it may be
        better.
        """
        return self.n_unscored <= MAXIMUM_UNSCORED

    @property
    def facts(self) -> dict[str, object]:
        """Return what a record must hold, so that its reader can decide as the checks do."""
        return {
            "stream": self.stream,
            "since": str(self.since),
            "n_nights": self.result.n_nights,
            "mean_gain": self.result.mean_gain,
            "gain_low": self.result.low,
            "champion_nights": self.champion_nights,
            "champion_gain": self.champion_gain,
            "n_unscored": self.n_unscored,
        }

    @property
    def has_own_nights(self) -> bool:
        """Return whether the champion that serves has itself lost, on enough nights."""
        return self.champion_nights >= MINIMUM_NIGHTS and self.champion_gain > 0


def read_evidence(
    conn: Connection, spec: ModelSpec, stream: str, partition: Partition, champion: int | None
) -> StreamEvidence:
    """Return the evidence of a stream for a decision that a partition makes.

    Args:
        conn: A connection to the warehouse.
        spec: The model.
        stream: Name of the stream.
        partition: The partition that decides: labels that it does not know do not count.
        champion: The version that serves from the next partition on.
    """
    confidence = spec.promotion.superiority_probability
    since = evidence_start(conn, spec.name, partition.shift(1))
    if since is None:
        nothing = sequential_result(np.zeros(0), confidence)
        return StreamEvidence(partition, stream, None, nothing)
    last = mature_window(spec, partition).last.day
    days, champions, gains = stream_gains(conn, spec.name, stream, since, last)
    # A refresh leaves the test running, and the new champion must lose on its own nights too.
    own = gains[np.array(champions, dtype=np.int64) == champion] if champions else gains
    return StreamEvidence(
        partition=partition,
        stream=stream,
        since=since,
        result=sequential_result(gains, confidence),
        champion_nights=int(own.size),
        champion_gain=float(own.mean()) if own.size else 0.0,
        n_unscored=_n_unscored(conn, spec, stream, days[0], last) if days else 0,
    )


def _n_unscored(
    conn: Connection, spec: ModelSpec, stream: str, first: dt.date, last: dt.date
) -> int:
    """Return how many published nights with rows a stream has not scored."""
    from psycopg import sql

    if not has_shadow_scores(conn, spec):
        return 0
    first = max(first, last - dt.timedelta(days=RECENT_NIGHTS - 1))
    query = sql.SQL(
        """
        select count(*) from ops.published p
        join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date between %s and %s and l.n_rows > 0
            and not exists (
                select from shadow.{} t
                join ops.published s using (partition_date, load_id)
                where s.dataset = %s and t.partition_date = p.partition_date and t.stream = %s)
        """
    ).format(sql.Identifier(spec.name))
    names = [spec.predictions_dataset, first, last, spec.shadow_dataset, stream]
    row = conn.execute(query, names).fetchone()
    return int(row[0]) if row else 0


def _unrecorded(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> list[tuple[str, dt.date]]:
    """Return streams and matured nights whose published scores are not the recorded ones."""
    from psycopg import sql

    last = mature_window(spec, partition).last
    query = sql.SQL(
        """
        select distinct
            case when t.stream = %(champion_rows)s then %(canary_rows)s else t.stream end,
            t.partition_date
        from shadow.{} t
        join ops.published s on s.dataset = %(shadow)s
            and s.partition_date = t.partition_date and s.load_id = t.load_id
        join ops.published p on p.dataset = %(predictions)s
            and p.partition_date = t.partition_date
        where t.partition_date between %(first)s and %(last)s and not exists (
            select from monitoring.stream_nights n
            where n.model = %(model)s
                and n.stream = case
                    when t.stream = %(champion_rows)s then %(canary_rows)s else t.stream end
                and n.partition_date = t.partition_date
                and n.shadow_load = s.load_id and n.predictions_load = p.load_id)
        order by 2, 1
        """
    ).format(sql.Identifier(spec.name))
    values = {
        "model": spec.name,
        "champion_rows": CHAMPION_ROWS,
        "canary_rows": CANARY_ROWS,
        "shadow": spec.shadow_dataset,
        "predictions": spec.predictions_dataset,
        "first": last.shift(1 - LOOK_BACK_DAYS).day,
        "last": last.day,
    }
    return conn.execute(query, values).fetchall()


def _measure(
    conn: Connection,
    spec: ModelSpec,
    stream: str,
    scored: Partition,
    known_on: Partition,
    pairs: pa.Table,
) -> StreamNight | str:
    """Return the night's paired loss, or why it has none."""
    if pairs.num_rows == 0:
        return "no row was scored by the champion and by the stream from the same features"
    versions = {
        source: pairs.column(f"{source}_version").unique().to_pylist()
        for source in ("champion", "challenger")
    }
    # One version makes a partition; two mean that a load was put together by hand.
    if any(len(of_source) != 1 for of_source in versions.values()):
        return "several versions scored it"
    [champion], [challenger] = versions["champion"], versions["challenger"]
    if champion == challenger:
        return "the challenger serves by now"
    n_known = pairs.num_rows
    n_predictions = n_known
    # All rows of a canary are paired, or the shadow scores would have been refused.
    if stream != CANARY_ROWS:
        load_id = pairs.column("champion_load")[0].as_py()
        n_predictions = _n_predictions(conn, spec, scored, load_id)
    pairs = labelled(spec, pairs)
    # An entity that never gets a label is no reason to wait.
    n_possible = n_predictions - (n_known - pairs.num_rows)
    share = pairs.num_rows / max(n_possible, 1)
    if pairs.num_rows == 0 or share < spec.monitoring.minimum_label_share:
        return f"only {share:.0%} of its rows have a label and both scores"
    loss = proper_loss(spec)
    label = labels_of(spec, pairs)
    means = {
        source: mean_loss(spec, label, stored_predictions(spec, pairs, source))
        for source in ("champion", "challenger")
    }
    if np.isnan(means["champion"]):
        return "no group has rows of different relevance"
    return StreamNight(
        model=spec.name,
        stream=stream,
        partition_date=scored.day,
        champion_version=champion,
        challenger_version=challenger,
        loss=loss,
        n_rows=pairs.num_rows,
        champion_loss=means["champion"],
        challenger_loss=means["challenger"],
        predictions_load=pairs.column("champion_load")[0].as_py(),
        shadow_load=pairs.column("challenger_load")[0].as_py(),
        known_on=known_on.day,
    )


def _n_predictions(conn: Connection, spec: ModelSpec, scored: Partition, load_id: int) -> int:
    query = (
        "select n_rows from ops.loads where dataset = %s and partition_date = %s and load_id = %s"
    )
    row = conn.execute(query, [spec.predictions_dataset, scored.day, load_id]).fetchone()
    return int(row[0] or 0) if row else 0


def _write(
    conn: Connection,
    spec: ModelSpec,
    partition: Partition,
    recorded: list[StreamNight],
    run: RunContext,
) -> None:
    """Store the nights and the evidence after each night, in one transaction."""
    with conn.transaction():
        # Two runs that record at once must not compute the evidence of different nights.
        lock = "select pg_advisory_xact_lock(hashtextextended('streams:' || %s, 0))"
        conn.execute(lock, [spec.name])
        rows = [{**vars(row), "run_id": run.run_id} for row in recorded]
        with conn.cursor() as cursor:
            cursor.executemany(_RECORD, rows)
        for stream in sorted({row.stream for row in recorded}):
            _write_evidence(conn, spec, stream, partition)


# A scored night that is published again replaces its loss.
_RECORD = """
insert into monitoring.stream_nights (
    model, stream, partition_date, champion_version, challenger_version, loss, n_rows,
    champion_loss, challenger_loss, predictions_load, shadow_load, known_on, run_id
)
values (
    %(model)s, %(stream)s, %(partition_date)s, %(champion_version)s, %(challenger_version)s,
    %(loss)s, %(n_rows)s, %(champion_loss)s, %(challenger_loss)s, %(predictions_load)s,
    %(shadow_load)s, %(known_on)s, %(run_id)s
)
on conflict (model, stream, partition_date) do update set
    champion_version = excluded.champion_version,
    challenger_version = excluded.challenger_version,
    loss = excluded.loss,
    n_rows = excluded.n_rows,
    champion_loss = excluded.champion_loss,
    challenger_loss = excluded.challenger_loss,
    predictions_load = excluded.predictions_load,
    shadow_load = excluded.shadow_load,
    known_on = excluded.known_on,
    run_id = excluded.run_id,
    recorded_at = clock_timestamp()
"""


def _write_evidence(conn: Connection, spec: ModelSpec, stream: str, partition: Partition) -> None:
    """Store the evidence after each night since the test of the stream began."""
    since = evidence_start(conn, spec.name, partition.shift(1))
    if since is None:
        return
    last = mature_window(spec, partition).last.day
    # All nights again: one that was recorded late changes the value of every later one.
    days, _, gains = stream_gains(conn, spec.name, stream, since, last)
    if not days:
        return
    confidence = spec.promotion.superiority_probability
    e_values = running_e_values(gains)
    rows = []
    for index, day in enumerate(days):
        result = sequential_result(gains[: index + 1], confidence)
        values = [result.n_nights, result.mean_gain, result.low, float(e_values[index])]
        rows.append([spec.name, stream, day, since, *values])
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into monitoring.stream_evidence values (%s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (model, stream, partition_date) do update set
                since = excluded.since, n_nights = excluded.n_nights,
                mean_gain = excluded.mean_gain, gain_low = excluded.gain_low,
                e_value = excluded.e_value
            """,
            rows,
        )
