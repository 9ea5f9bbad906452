"""Metrics that need a model's spec: punctuality against its deadline, and who made the scores."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from nightshift.contracts.model_spec import read_specs
from nightshift.monitoring.freshness import BEST_SOURCES
from nightshift.warehouse.control_tables.last_good_specs import last_good_spec

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# Rows of these sources were not scored by the champion.
FALLBACK_SOURCES = ("previous_champion", "carried_over", "fallback_rule")
SOURCES = (*sorted(BEST_SOURCES), *FALLBACK_SOURCES)


@dataclass(frozen=True)
class DuePartition:
    """The last partition of a model whose deadline is over.

    Attributes:
        deadline: Its deadline, UTC.
        first_published_at: When readers first had it, UTC; None if they have it not.
    """

    deadline: dt.datetime
    first_published_at: dt.datetime | None

    def delay_seconds(self, at: dt.datetime) -> float:
        """Return the seconds from the deadline to the publication, negative when it was in time."""
        published_at = self.first_published_at or at
        delay = published_at - self.deadline
        return delay.total_seconds()


class ScoreSourceCounts:
    """Count the rows of published predictions by score source; a load is counted once."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._by_model: dict[str, tuple[int, dict[str, int]]] = {}

    def count(self, conn: Connection, model: str, until: float) -> dict[str, int] | None:
        """Return the rows of a model's newest published partition by source.

        Args:
            conn: The warehouse.
            model: Name of the model.
            until: Monotonic time after which nothing new is counted: the next scrape does.

        Returns:
            The counts; None without a published partition or its table, or when time is over.
        """
        from psycopg import sql

        row = conn.execute(
            """
            select partition_date, load_id from ops.published
            where dataset = %s and to_regclass(%s) is not null
            order by partition_date desc limit 1
            """,
            [f"predictions/{model}", f"predictions.{model}"],
        ).fetchone()
        if row is None:
            return None
        day, load_id = row
        # The rows of a published load do not change: they are read again for another load only.
        known = self._by_model.get(model)
        if known is None or known[0] != load_id:
            if time.monotonic() > until:
                return None
            query = sql.SQL(
                """
                select score_source, count(*) from {}
                where partition_date = %s and load_id = %s
                group by 1
                """
            )
            table = sql.Identifier("predictions", model)
            rows = conn.execute(query.format(table), [day, load_id])
            known = (load_id, dict(rows.fetchall()))
            self._by_model[model] = known
        return known[1]


def model_families(
    conn: Connection,
    settings: Settings,
    counts: ScoreSourceCounts,
    at: dt.datetime,
    until: float,
) -> Iterator[GaugeMetricFamily]:
    """Yield the metrics of all models whose spec can be read, now or when it last was good.

    Args:
        conn: The warehouse.
        settings: The folder of specs.
        counts: What was counted by earlier scrapes.
        at: The instant whose deadlines count, with a timezone.
        until: Monotonic time after which no more rows are counted.
    """
    specs = read_specs(settings.models_dir)
    models = dict(specs.documents)
    for name in specs.broken:
        # A wrong file must not hide a late model: its last good spec has the deadline.
        spec = last_good_spec(conn, name)
        if spec is not None:
            models[name] = spec
    yield from _punctuality(conn, models, at)
    yield from _score_sources(conn, models, counts, until)
    yield GaugeMetricFamily(
        "nightshift_wrong_spec_files",
        "Model specs that cannot be read.",
        value=len(specs.problems),
    )


def _punctuality(
    conn: Connection, models: dict[str, ModelSpec], at: dt.datetime
) -> Iterator[GaugeMetricFamily]:
    late = _family("late", "1 if the last due partition is not published.")
    delay = _family(
        "delay_seconds",
        "From the deadline of the last due partition to its first publication, or to now.",
    )
    next_deadline = _family("next_deadline_timestamp_seconds", "The next deadline.")
    for name, spec in models.items():
        due = _due_partition(conn, spec, at)
        is_late = due.first_published_at is None
        late.add_metric([name], float(is_late))
        delay.add_metric([name], due.delay_seconds(at))
        next_partition = spec.last_due(at).shift(1)
        following = spec.deadline_of(next_partition)
        next_deadline.add_metric([name], following.timestamp())
    yield from (late, delay, next_deadline)


def _due_partition(conn: Connection, spec: ModelSpec, at: dt.datetime) -> DuePartition:
    partition = spec.last_due(at)
    # A correction publishes a partition again; readers had it from the first time on.
    row = conn.execute(
        """
        select coalesce(min(g.at), min(p.published_at))
        from ops.published p
        left join ops.ledger g
            on g.dataset = p.dataset
            and g.partition_date = p.partition_date
            and g.event = 'published'
        where p.dataset = %s and p.partition_date = %s
        """,
        [spec.predictions_dataset, partition.day],
    ).fetchone()
    published_at = row[0] if row else None
    return DuePartition(spec.deadline_of(partition), published_at)


def _score_sources(
    conn: Connection, models: dict[str, ModelSpec], counts: ScoreSourceCounts, until: float
) -> Iterator[GaugeMetricFamily]:
    rows = GaugeMetricFamily(
        "nightshift_predictions_rows",
        "Rows of the newest published partition by score source.",
        labels=["model", "source"],
    )
    ratio = _family(
        "fallback_ratio",
        "Share of these rows that no champion has scored.",
    )
    for name in models:
        by_source = counts.count(conn, name, until)
        if by_source is None:
            continue
        for source in SOURCES:
            rows.add_metric([name, source], by_source.get(source, 0))
        n_rows = sum(by_source.values())
        n_fallback = sum(by_source.get(source, 0) for source in FALLBACK_SOURCES)
        # An empty night has no share: nothing was scored by anybody.
        if n_rows:
            ratio.add_metric([name], n_fallback / n_rows)
    yield from (rows, ratio)


def _family(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"nightshift_predictions_{name}", text, labels=["model"])
