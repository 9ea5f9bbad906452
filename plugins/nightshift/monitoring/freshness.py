"""Freshness seen from outside Airflow: what is published, compared with each spec's deadline.

A scheduler that hangs cannot report that it hangs. So another clock runs this check, cron or
systemd (docs/freshness.md). It needs one warehouse connection, no Airflow and no object store.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.warehouse.connection import connect
from nightshift.warehouse.published import newest_published_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

# Partitions before the due one that must be published too.
LOOK_BACK_DAYS = 7
# The check fails rather than wait for a busy warehouse.
STATEMENT_TIMEOUT_SECONDS = 30
# Score sources that are not degraded: the champion, or a version that a person named.
BEST_SOURCES = frozenset({"champion", "named_version", "canary"})


@dataclass(frozen=True)
class Punctuality:
    """Whether the due predictions of a model are published.

    Attributes:
        model: Name of the spec.
        partition: The last partition whose deadline has passed.
        deadline: Its deadline, UTC.
        published_at: When readers saw what they see now, UTC; None if it is not published.
        newest: The newest published partition; None if there is none.
        n_rows: Rows of the partition by score source, counted now.
        n_published: Rows that were published; None if the partition is not.
        missing_before: Unpublished partitions of the days before, after the first published one.
        owner: Team that answers for it.
        runbook: Its page.
    """

    model: str
    partition: dt.date
    deadline: dt.datetime
    published_at: dt.datetime | None
    newest: dt.date | None
    n_rows: dict[str, int]
    n_published: int | None
    missing_before: tuple[dt.date, ...]
    owner: str
    runbook: str

    @property
    def has_lost_rows(self) -> bool:
        """Return whether readers see another number of rows than was published."""
        return self.published_at is not None and sum(self.n_rows.values()) != self.n_published

    @property
    def is_late(self) -> bool:
        """Return whether the partition or an earlier one is missing, or has lost rows."""
        # Counted rows: a pointer to a load whose rows are gone does not count as published.
        return self.published_at is None or self.has_lost_rows or bool(self.missing_before)

    @property
    def status(self) -> str:
        """Return ``late``, ``degraded`` (a source below ``BEST_SOURCES``) or ``ok``."""
        if self.is_late:
            return "late"
        return "ok" if self.n_rows.keys() <= BEST_SOURCES else "degraded"


@dataclass(frozen=True)
class InputAge:
    """The newest published partition of an input, and the operating days since then."""

    dataset: str
    newest: dt.date | None
    days_behind: int | None


@dataclass(frozen=True)
class Freshness:
    """The result of a check.

    Attributes:
        at: The instant that was checked, UTC.
        models: One entry per spec, by name.
        inputs: One entry per daily raw dataset and feature view.
    """

    at: dt.datetime
    models: tuple[Punctuality, ...]
    inputs: tuple[InputAge, ...]

    @property
    def late(self) -> tuple[Punctuality, ...]:
        """Return the models whose predictions are late."""
        return tuple(model for model in self.models if model.is_late)


def check(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    contracts: Iterable[DatasetContract],
    at: dt.datetime,
) -> Freshness:
    """Compare what is published with what must be published at an instant.

    Args:
        settings: The warehouse.
        specs: The models, by name; at least one.
        contracts: The daily datasets.
        at: The instant, with a timezone.

    Raises:
        WarehouseError: The warehouse cannot be reached, or does not answer in time.
    """
    impatient = settings.model_copy(update={"statement_timeout_seconds": STATEMENT_TIMEOUT_SECONDS})
    # Several models may share a feature view.
    views = sorted({spec.features_dataset for spec in specs.values()})
    datasets = [*(contract.dataset for contract in contracts), *views]
    with connect(impatient, "nightshift check-freshness") as conn:
        models = tuple(_punctuality(conn, spec, at) for spec in specs.values())
        due = max(spec.last_due(at) for spec in specs.values())
        inputs = tuple(_input_age(conn, dataset, due) for dataset in datasets)
    return Freshness(at, models, inputs)


def _punctuality(conn: Connection, spec: ModelSpec, at: dt.datetime) -> Punctuality:
    partition = spec.last_due(at)
    dataset = spec.predictions_dataset
    # A pointer whose load is gone must be reported as late, not end the check: a left join.
    row = conn.execute(
        """
        select p.published_at, load_id, n_rows
        from ops.published p left join ops.loads using (dataset, partition_date, load_id)
        where dataset = %s and partition_date = %s
        """,
        [dataset, partition.day],
    ).fetchone()
    published_at, load_id, n_published = row or (None, None, None)
    n_rows: dict[str, int] = {}
    if row is not None:
        n_rows = _rows_by_source(conn, spec, partition, load_id)
    return Punctuality(
        model=spec.name,
        partition=partition.day,
        deadline=spec.deadline_of(partition),
        published_at=published_at,
        newest=newest_published_day(conn, dataset),
        n_rows=n_rows,
        n_published=n_published,
        missing_before=_missing_before(conn, dataset, partition),
        owner=spec.owner,
        runbook=spec.runbook,
    )


def _missing_before(conn: Connection, dataset: str, partition: Partition) -> tuple[dt.date, ...]:
    rows = conn.execute(
        """
        with seen as (select partition_date from ops.published where dataset = %(dataset)s)
        select day::date
        from generate_series(%(first)s::timestamp, %(last)s, interval '1 day') day
        where day::date > (select min(partition_date) from seen)
            and day::date not in (select partition_date from seen)
        order by 1
        """,
        {
            "dataset": dataset,
            "first": partition.shift(-LOOK_BACK_DAYS).day,
            "last": partition.shift(-1).day,
        },
    )
    return tuple(day for (day,) in rows)


def _rows_by_source(
    conn: Connection, spec: ModelSpec, partition: Partition, load_id: int
) -> dict[str, int]:
    from psycopg import sql

    query = sql.SQL(
        """
        select score_source, count(*) from {}
        where partition_date = %s and load_id = %s
        group by 1 order by 1
        """
    ).format(sql.Identifier("predictions", spec.name))
    return dict(conn.execute(query, [partition.day, load_id]).fetchall())


def _input_age(conn: Connection, dataset: str, due: Partition) -> InputAge:
    newest = newest_published_day(conn, dataset)
    if newest is None:
        return InputAge(dataset, None, None)
    return InputAge(dataset, newest, (due.day - newest).days)
