"""Lateness as seen from outside: what is published, compared with each spec's deadline; no Airflow, no object store, one connection.

A scheduler that hangs cannot report that it hangs. So this is run by another clock: cron or systemd
(docs/freshness.md).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

LOOK_BACK_DAYS = 7
"""Partitions before the one that is due whose absence counts too: a night that nobody repaired
in the morning.
"""
STATEMENT_TIMEOUT_SECONDS = 30
"""A look from outside gives up rather than waits behind a busy night."""


@dataclass(frozen=True)
class Punctuality:
    """Whether the predictions stand that are due.

    Attributes:
        model: Name of the spec.
        partition: The last partition whose deadline is over.
        deadline: When it was, UTC.
        published_at: When readers saw what they see now, UTC; None if the partition is not
            published.
        newest: The newest published partition; None if there is none.
        n_rows: Rows of the partition by step of the ladder, counted now.
        n_published: Rows that were published; None if the partition is not.
        missing_before: Partitions of the days before that readers do not have, although they have
            older ones.
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
    def is_late(self) -> bool:
        """Return whether the deadline is over and nothing is published, rows of it are gone, or a partition before it is missing."""
        return (
            self.published_at is None
            or sum(self.n_rows.values()) != self.n_published
            or bool(self.missing_before)
        )

    @property
    def status(self) -> str:
        """Return ``late``, ``degraded`` (published by neither the champion nor a version that a person named), or ``ok``."""
        return (
            "late"
            if self.is_late
            else ("ok" if set(self.n_rows) <= {"champion", "named_version"} else "degraded")
        )


@dataclass(frozen=True)
class InputAge:
    """How old the newest partition of an input is.

    Attributes:
        dataset: Name in the ledger.
        newest: The newest published partition; None if there is none.
        days_behind: Operating days that it lies behind the newest partition whose deadline is over;
            None if there is none.
    """

    dataset: str
    newest: dt.date | None
    days_behind: int | None


@dataclass(frozen=True)
class Freshness:
    """What a look found.

    Attributes:
        at: The instant that it was made for, UTC.
        models: One entry per spec, by name.
        inputs: One entry per daily raw dataset and feature view.
    """

    at: dt.datetime
    models: tuple[Punctuality, ...]
    inputs: tuple[InputAge, ...]

    @property
    def late(self) -> tuple[Punctuality, ...]:
        """Return what should stand and does not."""
        return tuple(one for one in self.models if one.is_late)

    def document(self) -> dict[str, Any]:
        """Return what a notification says, as plain JSON."""
        models = [asdict(one) | {"status": one.status} for one in self.models]
        found: dict[str, Any] = _plain(
            {"at": self.at, "models": models, "inputs": [asdict(one) for one in self.inputs]}
        )
        return {
            "event": "late" if self.late else "ok",
            "late": [one.model for one in self.late],
            **found,
        }


def check(
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    contracts: Iterable[DatasetContract],
    at: dt.datetime,
) -> Freshness:
    """Compare what is published with what must stand at an instant.

    Args:
        settings: The warehouse.
        specs: The models, by name; at least one.
        contracts: The daily datasets.
        at: The instant, with a timezone.

    Raises:
        WarehouseError: The warehouse cannot be reached, or does not answer in time.
    """
    impatient = settings.model_copy(update={"statement_timeout_seconds": STATEMENT_TIMEOUT_SECONDS})
    with connect(impatient, "nightshift check-freshness") as conn:
        models = tuple(_punctuality(conn, spec, at) for spec in specs.values())
        views = sorted({spec.features_dataset for spec in specs.values()})
        due = max(spec.last_due(at) for spec in specs.values())
        datasets = [*(contract.dataset for contract in contracts), *views]
        inputs = tuple(_age(conn, dataset, due) for dataset in datasets)
    return Freshness(at, models, inputs)


def _punctuality(conn: Connection, spec: ModelSpec, at: dt.datetime) -> Punctuality:
    partition = spec.last_due(at)
    row = conn.execute(
        "select p.published_at, load_id, n_rows from ops.published p left join ops.loads using (dataset, partition_date, load_id)"
        " where dataset = %s and partition_date = %s",
        [spec.predictions_dataset, partition.day],
    ).fetchone()
    return Punctuality(
        model=spec.name,
        partition=partition.day,
        deadline=spec.deadline_of(partition),
        published_at=row[0] if row else None,
        newest=_newest(conn, spec.predictions_dataset),
        n_rows=_steps(conn, spec, partition, row[1]) if row else {},
        n_published=row[2] if row else None,
        missing_before=_missing_before(conn, spec.predictions_dataset, partition),
        owner=spec.owner,
        runbook=spec.runbook,
    )


def _missing_before(conn: Connection, dataset: str, partition: Partition) -> tuple[dt.date, ...]:
    rows = conn.execute(
        """
        with seen as (select partition_date from ops.published where dataset = %(dataset)s)
        select day::date from generate_series(%(first)s::timestamp, %(last)s, interval '1 day') day
        where day::date > (select min(partition_date) from seen) and day::date not in (select partition_date from seen) order by 1
        """,
        {
            "dataset": dataset,
            "first": partition.shift(-LOOK_BACK_DAYS).day,
            "last": partition.shift(-1).day,
        },
    )
    return tuple(day for (day,) in rows)


def _steps(conn: Connection, spec: ModelSpec, partition: Partition, load_id: int) -> dict[str, int]:
    from psycopg import sql

    query = sql.SQL(
        "select score_source, count(*) from {} where partition_date = %s and load_id = %s group by 1 order by 1"
    )
    return dict(
        conn.execute(
            query.format(sql.Identifier("predictions", spec.name)), [partition.day, load_id]
        ).fetchall()
    )


def _age(conn: Connection, dataset: str, due: Partition) -> InputAge:
    newest = _newest(conn, dataset)
    return InputAge(dataset, newest, (due.day - newest).days if newest else None)


def _newest(conn: Connection, dataset: str) -> dt.date | None:
    row = conn.execute(
        "select max(partition_date) from ops.published where dataset = %s", [dataset]
    ).fetchone()
    return row[0] if row else None


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.isoformat() if isinstance(value, dt.date) else value
