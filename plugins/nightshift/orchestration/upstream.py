"""Decide what a task waits for: late drops and look-back holes that upstream can still deliver.

A run that waits for data that never comes would block other runs for hours. So a task waits only
until the contract's maximum wait is over, or while somebody ingests the day. Anything else fails at
once, with a code that tells what to do.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, load_contracts, require_history
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.transformation.build import LookbackIncomplete

if TYPE_CHECKING:
    from nightshift.orchestration.task_scope import TaskScope
    from nightshift.warehouse.connection import Connection

# Maximum wait where no contract sets one: for the cut-off, and for holes in the look-back.
MAX_WAIT = dt.timedelta(minutes=180)
# Time before its cut-off from which a run may start and wait; the scheduled run starts half an hour
# before it.
EARLY_START = dt.timedelta(hours=2)
# Maximum wait for the drop of a past day: somebody started the run, so it may be on its way.
PAST_DAY_WAIT = dt.timedelta(minutes=30)
# An ingest that was seen within this time may still fill a hole.
ACTIVE_INGEST_WINDOW = dt.timedelta(minutes=30)
_MAX_SHOWN_HOLES = 10


class CutoffAheadError(NightshiftError):
    """The partition's knowledge cut-off is not reached yet."""

    code = "NS-AIRFLOW-003"
    is_retryable = True
    is_waiting = True


class FutureDayError(NightshiftError):
    """The operating day is far from over."""

    code = "NS-TIME-005"


class PermanentHoleError(NightshiftError):
    """The look-back has a hole that waiting does not fill."""

    code = "NS-AIRFLOW-009"


def require_runnable(scope: TaskScope) -> None:
    """Refuse a day without data, and a day whose knowledge cut-off is not reached.

    Raises:
        BeforeHistoryError: No daily dataset has a history by that day.
        FutureDayError: The cut-off is hours ahead.
        CutoffAheadError: The cut-off is near: the task waits for it.
    """
    partition = scope.partition
    now = dt.datetime.now(dt.UTC)
    require_history(partition, load_contracts(scope.settings.datasets_dir).values())
    earliest_start = partition.cutoff - EARLY_START
    if now < earliest_start:
        raise FutureDayError(
            f"{partition} is not over: its cut-off is {partition.cutoff.isoformat()}.",
            expected=f"a start at {earliest_start.isoformat()} or later",
            got=now.isoformat(timespec="seconds"),
            todo="No event was emitted. Delete the run: the day's own run starts by itself.",
        )
    # Data that arrives between an early start and the cut-off would change a rerun's result.
    if now < partition.cutoff:
        raise CutoffAheadError(
            f"The cut-off of {partition} is {partition.cutoff.isoformat()}.",
            todo="Nothing: the task waits for it.",
        )


def drop_wait(
    contract: DatasetContract, partition: Partition, now: dt.datetime | None = None
) -> dt.timedelta:
    """Return the maximum wait for the partition's own drop, from the task's first check on."""
    wait = dt.timedelta(minutes=contract.maximum_wait_minutes)
    now = now or dt.datetime.now(dt.UTC)
    if now <= _latest_delivery(contract, partition.day):
        return wait
    return min(wait, PAST_DAY_WAIT)


@contextmanager
def fail_on_permanent_holes(scope: TaskScope) -> Iterator[None]:
    """Replace the block's look-back error if a hole cannot be filled any more.

    Raises:
        LookbackIncomplete: All holes can still be filled; the task waits.
        PermanentHoleError: A hole stays, however long the task waits.
    """
    try:
        yield
    except LookbackIncomplete as error:
        contracts = load_contracts(scope.settings.datasets_dir)
        permanent = []
        with scope.connect() as conn:
            for dataset, day in error.holes:
                contract = contracts[dataset.removeprefix("raw/")]
                if not _can_arrive(conn, contract, day):
                    permanent.append((dataset, day))
        if not permanent:
            raise
        raise _permanent_holes(scope.partition, permanent) from error


def _permanent_holes(partition: Partition, holes: list[tuple[str, dt.date]]) -> PermanentHoleError:
    names = [f"{dataset} {day}" for dataset, day in holes[:_MAX_SHOWN_HOLES]]
    shown = ", ".join(names)
    n_hidden = len(holes) - len(names)
    if n_hidden:
        shown += f" and {n_hidden} more"
    return PermanentHoleError(
        f"The look-back of {partition} has {len(holes)} hole(s) that waiting does not fill:"
        f" {shown}.",
        expected="drops within their maximum wait, or an ingest that is active",
        got="days that upstream does not deliver any more",
        todo="Ingest the missing days, then clear this task. No other run waits for this one.",
    )


def _latest_delivery(contract: DatasetContract, day: dt.date) -> dt.datetime:
    """Return until when a run waits for the drop of a day, UTC."""
    return Partition(day).cutoff + dt.timedelta(minutes=contract.maximum_wait_minutes)


def _can_arrive(conn: Connection, contract: DatasetContract, day: dt.date) -> bool:
    """Return whether a drop is within its maximum wait, or somebody ingests its day now."""
    if dt.datetime.now(dt.UTC) <= _latest_delivery(contract, day):
        return True
    query = """
        select exists (
            select from ops.task_tries
            where dag_id = 'ingest' and task_id = %s and partition_date = %s
                and (outcome is null or outcome = 'waiting')
                and started_at > clock_timestamp() - %s::interval
        )
    """
    parameters = [f"load_{contract.name}", day, ACTIVE_INGEST_WINDOW]
    row = conn.execute(query, parameters).fetchone()
    return row == (True,)
