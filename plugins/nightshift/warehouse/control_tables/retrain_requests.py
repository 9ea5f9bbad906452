"""Requests to retrain: opened once per model and partition, closed by exactly one run.

The row is the request, and the asset event only wakes the training up: a lost event delays a
training, but never loses it. Every function is safe to repeat and to run concurrently.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class RetrainRequest:
    """One request to retrain.

    Attributes:
        decision_id: Identity in ``monitoring.retrain_decisions``.
        model: The model.
        partition_date: The partition whose evidence opened it.
        state: ``open``, ``consumed`` or ``refused``.
        reasons: Why, for people.
        closed_partition: The partition whose training closed it.
    """

    decision_id: int
    model: str
    partition_date: dt.date
    state: str
    reasons: tuple[str, ...]
    closed_partition: dt.date | None


def open_request(
    conn: Connection,
    model: str,
    partition: Partition,
    reasons: Sequence[str],
    evidence: Mapping[str, Any],
    run: RunContext,
) -> RetrainRequest:
    """Open a request, or return the one of this model and partition, whatever its state."""
    # A rerun of the monitor comes here again: the conflict makes it find its first request.
    conn.execute(
        """
        insert into monitoring.retrain_decisions (
            model, partition_date, reasons, evidence, opened_by
        )
        values (%s, %s, %s, %s, %s)
        on conflict (model, partition_date) do nothing
        """,
        [model, partition.day, list(reasons), json.dumps(evidence, default=str), run.run_id],
    )
    return _select(conn, "model = %s and partition_date = %s", [model, partition.day])[0]


@contextmanager
def retrain_request_lock(conn: Connection, model: str) -> Iterator[None]:
    """Run the block in a transaction that alone may decide about a model's requests.

    Otherwise two partitions that are monitored at the same time could both find the cooldown over
    and the budget free.
    """
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('retrain/' || %s, 0))", [model])
        yield


def requested_days(conn: Connection, model: str, partition: Partition, days: int) -> list[dt.date]:
    """Return the days of a model's requests of any state, ``days`` before to ``days`` after one."""
    rows = conn.execute(
        """
        select partition_date from monitoring.retrain_decisions
        where model = %s and abs(partition_date - %s::date) <= %s
        order by partition_date
        """,
        [model, partition.day, days],
    )
    return [day for (day,) in rows]


def open_requests(
    conn: Connection, model: str, until: Partition | None = None
) -> list[RetrainRequest]:
    """Return the open requests of a model up to a partition, or all of them, oldest first."""
    condition = "model = %s and state = 'open' and partition_date <= coalesce(%s, 'infinity'::date)"
    return _select(conn, condition, [model, until and until.day])


def requests_closed_by(conn: Connection, model: str, partition: Partition) -> list[RetrainRequest]:
    """Return the requests that the training of this partition closed."""
    return _select(conn, "model = %s and closed_partition = %s", [model, partition.day])


def close_request(
    conn: Connection,
    decision_id: int,
    partition: Partition,
    run: RunContext,
    outcome: Mapping[str, Any],
    state: Literal["consumed", "refused"] = "consumed",
) -> bool:
    """Close an open request.

    Returns:
        True for the one caller that closed it; False when it was closed before.
    """
    # Of two runs that close it at the same time, the second waits for the row and then finds it
    # closed.
    cursor = conn.execute(
        """
        update monitoring.retrain_decisions
        set state = %s, closed_at = clock_timestamp(), closed_by = %s, closed_partition = %s,
            outcome = %s
        where decision_id = %s and state = 'open'
        """,
        [state, run.run_id, partition.day, json.dumps(outcome, default=str), decision_id],
    )
    return cursor.rowcount == 1


def _select(conn: Connection, condition: str, parameters: list[Any]) -> list[RetrainRequest]:
    query = f"""
        select decision_id, model, partition_date, state, reasons, closed_partition
        from monitoring.retrain_decisions
        where {condition}
        order by partition_date
    """  # noqa: S608  (our own conditions)
    requests = []
    for decision_id, model, day, state, reasons, closed_partition in conn.execute(
        query.encode(), parameters
    ):
        # psycopg reads an array as a list, which a frozen request must not hold.
        request = RetrainRequest(decision_id, model, day, state, tuple(reasons), closed_partition)
        requests.append(request)
    return requests
