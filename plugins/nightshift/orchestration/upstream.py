"""What upstream can still owe: which days a night may wait for, and which keys are refused before anything is announced.

A run that waits for what will never come would keep others from starting for hours. So a task waits
only while the wait that a contract grants is not over, or while somebody is ingesting the day; all
else fails at once, with a code that says what to do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, Delivery, load_contracts
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.transformation.build import LookbackIncomplete
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.orchestration.task_scope import TaskScope
    from nightshift.warehouse.connection import Connection

EARLY_START = dt.timedelta(hours=2)
"""How long before its cut-off a night may start and wait; the scheduled one starts half an hour
before it.
"""
PAST_DAY_WAIT = dt.timedelta(minutes=30)
"""How long a day of the past waits for its own drop: somebody has started it, so the drop may be
on its way.
"""
ACTIVE_INGEST_WINDOW = dt.timedelta(minutes=30)
"""An ingest that was seen so short ago may still fill a hole."""
_SHOWN_HOLES = 10


class CutoffAheadError(NightshiftError):
    """The partition's knowledge cut-off lies ahead."""

    code = "NS-AIRFLOW-003"
    is_retryable = True
    is_waiting = True


class FutureDayError(NightshiftError):
    """The operating day is far from over."""

    code = "NS-TIME-005"


class BeforeHistoryError(NightshiftError):
    """The operating day lies before the history of every dataset."""

    code = "NS-TIME-003"


class PermanentHoleError(NightshiftError):
    """The look-back has a hole that waiting does not fill."""

    code = "NS-AIRFLOW-009"


def require_runnable(scope: TaskScope) -> None:
    """Refuse a day that has no data, and keep a night from starting before its as-of: what came in between would change a rerun.

    Raises:
        BeforeHistoryError: No daily dataset has a history by that day.
        FutureDayError: The cut-off lies hours ahead.
        CutoffAheadError: The cut-off lies ahead, and is worth waiting for.
    """
    partition, now = scope.partition, dt.datetime.now(dt.UTC)
    first = min((contract.history_start for contract in _daily(scope).values()), default=None)
    if first is not None and partition.day < first:
        raise BeforeHistoryError(
            f"{partition} lies before the history.",
            expected=f"{first} or later: `history_start` of the earliest daily dataset",
            got=partition.key,
            todo="Nothing was announced. Delete the run, and start the day that you meant.",
        )
    if now < partition.cutoff - EARLY_START:
        raise FutureDayError(
            f"{partition} is not over: its cut-off is {partition.cutoff.isoformat()}.",
            expected=f"a start at {(partition.cutoff - EARLY_START).isoformat()} or later",
            got=now.isoformat(timespec="seconds"),
            todo="Nothing was announced. Delete the run: the day's own night starts by itself.",
        )
    if now < partition.cutoff:
        raise CutoffAheadError(
            f"The cut-off of {partition} is {partition.cutoff.isoformat()}.",
            todo="Nothing: the task waits for it.",
        )


def drop_wait(
    contract: DatasetContract, partition: Partition, now: dt.datetime | None = None
) -> dt.timedelta:
    """Return how long a task waits from its first look for the partition's own drop."""
    granted = dt.timedelta(minutes=contract.maximum_wait_minutes)
    is_over = (now or dt.datetime.now(dt.UTC)) > _latest(contract, partition.day)
    return min(granted, PAST_DAY_WAIT) if is_over else granted


@contextmanager
def fail_on_permanent_holes(scope: TaskScope) -> Iterator[None]:
    """Let the block's look-back error pass if every hole can still be filled; else say which cannot.

    Raises:
        HoleStaysError: A hole stays, however long one waits.
    """
    try:
        yield
    except LookbackIncomplete as error:
        contracts = {
            contract.dataset: contract
            for contract in load_contracts(scope.settings.datasets_dir).values()
        }
        with connect(scope.settings, scope.run.application_name) as conn:
            staying = [hole for hole in error.holes if not _can_come(conn, contracts, *hole)]
        if not staying:
            raise
        raise _hole_stays(scope.partition, staying) from error


def _hole_stays(partition: Partition, staying: list[tuple[str, dt.date]]) -> PermanentHoleError:
    shown = ", ".join(f"{dataset} {day}" for dataset, day in staying[:_SHOWN_HOLES])
    more = f" and {len(staying) - _SHOWN_HOLES} more" if len(staying) > _SHOWN_HOLES else ""
    return PermanentHoleError(
        f"The look-back of {partition} has {len(staying)} hole(s) that waiting does not fill: {shown}{more}.",
        expected="drops whose cut-off and maximum wait are not over, or an ingest that is under way",
        got="days that nobody delivers any more",
        todo="Ingest the missing days, then clear this task. No other night waits for this one.",
    )


def _daily(scope: TaskScope) -> Mapping[str, DatasetContract]:
    contracts = load_contracts(scope.settings.datasets_dir)
    return {
        name: contract
        for name, contract in contracts.items()
        if contract.delivery is Delivery.DAILY
    }


def _latest(contract: DatasetContract, day: dt.date) -> dt.datetime:
    """Return until when a night waits for the drop of a day, UTC."""
    return Partition(day).cutoff + dt.timedelta(minutes=contract.maximum_wait_minutes)


def _can_come(
    conn: Connection, contracts: Mapping[str, DatasetContract], dataset: str, day: dt.date
) -> bool:
    contract = contracts[dataset]
    if dt.datetime.now(dt.UTC) <= _latest(contract, day):
        return True
    query = """
        select exists (
            select from ops.task_tries
            where dag_id = 'ingest' and task_id = %s and partition_date = %s
            and (outcome is null or outcome = 'waiting')
            and started_at > clock_timestamp() - %s::interval
        )
    """
    return conn.execute(query, [f"load_{contract.name}", day, ACTIVE_INGEST_WINDOW]).fetchone() == (
        True,
    )
