"""What every task body runs in: its partition and identity, a time limit that holds in C code too, and an end that tells the truth.

Airflow 3.3 records a task that handles SIGTERM and goes on as success, and its own time limit is an
alarm that Python sees only between two instructions. Source: docs/adr/0012-tasks-tell-the-truth.md.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowRescheduleException

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.orchestration.task_tries import TaskTry, recorded
from nightshift.resource_errors import translate_resource_errors
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

WAIT_DELAY = dt.timedelta(minutes=2)
"""Pause between two looks for what upstream still owes."""
GRACE_SECONDS = 10.0
"""How long a try that is over its limit may take to notice it, before its process is ended."""
OVERDUE_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: Airflow tries again, if tries are left."""
_STDERR = 2


class TaskTerminatedError(NightshiftError):
    """Airflow ended the task, by a person's mark, a clear or a shutdown."""

    code = "NS-AIRFLOW-001"
    is_retryable = True


class NotPartitionedError(NightshiftError):
    """A run has no partition key."""

    code = "NS-AIRFLOW-002"


class TaskOverdueError(NightshiftError):
    """A try outlived its limit in code that cannot be interrupted; its process is ended."""

    code = "NS-AIRFLOW-004"
    is_retryable = True


class Interruption(KeyboardInterrupt):
    """SIGTERM: passes every ``except Exception`` of a stage, and psycopg cancels the running statement for it."""


@dataclass(frozen=True)
class TaskScope:
    """What a task body works with.

    Attributes:
        settings: Endpoints and credentials.
        partition: The run's partition.
        run: The identity of this try.
        n_failed: Tries of our own code that failed before this one since the task was started or
            cleared.
    """

    settings: Settings
    partition: Partition
    run: RunContext
    n_failed: int = 0

    @property
    def partitions(self) -> PartitionRange:
        """Return the partition as a range."""
        return PartitionRange.single(self.partition)

    def spec(self, model: str) -> ModelSpec:
        """Return one model's spec."""
        return load_spec(self.settings.models_dir, model)


@contextmanager
def task_scope(partition: Partition | None = None) -> Iterator[TaskScope]:
    """Give the running task its scope; end it with an error when Airflow ends it or its limit is over, whatever a stage does.

    Args:
        partition: The partition, in a run that a person starts with a form; else it is the run's
            key.

    Raises:
        NotPartitionedError: The run was started without a partition key.
        TaskTerminatedError: Airflow ended the task; says what readers see by then.
        TriesUsedUpError: The tries before this one vanished without an answer.
    """
    context = get_current_context()
    run, instance = context["dag_run"], context["ti"]
    if partition is None and not run.partition_key:
        raise NotPartitionedError(
            f"Run {run.run_id} has no partition key.",
            expected="a partition key YYYY-MM-DD",
            todo="Trigger `ingest` with a partition key, or use `airflow backfill create --dag-id ingest`.",
        )
    partition = partition or Partition.parse(run.partition_key)
    identity = task_identity(
        run.dag_id, run.run_id, partition.key, instance.task_id, instance.map_index
    )
    scope = TaskScope(
        load_settings(), partition, RunContext(identity, instance.try_number, "airflow")
    )
    logger.info("The task's own code begins: %s, try %s.", identity, instance.try_number)
    with (
        ended_by_sigterm(scope),
        ended_when_overdue(context["task"].execution_timeout),
        translate_resource_errors(),
        recorded(scope.settings, TaskTry.of(context), partition.day) as n_failed,
    ):
        yield replace(scope, n_failed=n_failed)


def task_identity(
    dag_id: str, run_id: str, partition_key: str, task_id: str, map_index: int = -1
) -> str:
    """Return ``<dag>/<partition>/<task>[.<map index>]@<digest of the DAG run>``: equal in all tries, other in other runs and shards."""
    place = f".{map_index}" if map_index >= 0 else ""
    return f"{dag_id}/{partition_key}/{task_id}{place}@{sha256(run_id.encode()).hexdigest()[:6]}"


@contextmanager
def ended_by_sigterm(scope: TaskScope) -> Iterator[None]:
    """Turn SIGTERM into an error of the block, also where the block swallows it.

    Raises:
        TaskTerminatedError: The signal came.
    """
    received: list[int] = []

    def interrupt(signal_number: int, _: object) -> None:
        if not received:
            received.append(signal_number)
            raise Interruption

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BaseException as error:
        if received:
            raise _terminated(scope, received[0]) from error
        raise
    if received:
        raise _terminated(scope, received[0])


def _terminated(scope: TaskScope, signal_number: int) -> TaskTerminatedError:
    return TaskTerminatedError(
        f"The task was ended by signal {signal_number}.",
        got=_what_readers_see(scope),
        todo="Clear it to run it again; nothing is half published.",
    )


def _what_readers_see(scope: TaskScope) -> str:
    """Return what this DAG has published of the partition, for people: a mark as failed can come after the commit."""
    from nightshift.warehouse.connection import connect

    query = """
        select p.dataset, p.load_id, to_char(p.published_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s and starts_with(l.run_id, %s) order by 1
    """
    try:
        with connect(scope.settings, scope.run.application_name) as conn:
            rows = conn.execute(
                query, [scope.partition.day, scope.run.run_id.rpartition("/")[0] + "/"]
            ).fetchall()
    except Exception as error:  # noqa: BLE001 - whatever it is, the task is ending and says what it knows
        return f"what is published could not be read ({type(error).__name__})"
    return (
        "; ".join(
            f"readers see {dataset} load {load_id}, published {at}" for dataset, load_id, at in rows
        )
        or "nothing is published"
    )


@contextmanager
def ended_when_overdue(
    limit: dt.timedelta | None, grace_seconds: float = GRACE_SECONDS
) -> Iterator[None]:
    """End the process if the block is still there some seconds after its limit.

    A thread does it while C code runs without the interpreter's lock (LightGBM, libpq); if C code
    holds the lock, the interpreter's own watchdog, which needs none, follows. Both leave the stacks
    in the log. It works without a supervisor too.

    Args:
        limit: Limit of the try; None: there is none.
        grace_seconds: Time for the ordinary way, Airflow's alarm.
    """
    if limit is None:
        yield
        return
    seconds = limit.total_seconds() + grace_seconds
    timer = threading.Timer(seconds, _end_overdue, [limit])
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + grace_seconds / 2, file=_STDERR, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end_overdue(limit: dt.timedelta) -> None:
    error = TaskOverdueError(
        f"The try is over its limit of {limit} and cannot be interrupted: its process ends here.",
        got="the stacks that follow",
        todo="Nothing while tries are left. Nothing is half published.",
    )
    os.write(_STDERR, f"{error}\n".encode())
    faulthandler.dump_traceback(file=_STDERR)
    os._exit(OVERDUE_EXIT_CODE)


@contextmanager
def waiting(limit: dt.timedelta) -> Iterator[None]:
    """Put the task back for a while if the block waits for upstream; after the limit, let its error through.

    Args:
        limit: Time since the first look.

    Raises:
        AirflowRescheduleException: The block waits, and there is time left.
        NightshiftError: The block waits and the limit is over, or it failed.
    """
    try:
        yield
    except NightshiftError as error:
        context, now = get_current_context(), dt.datetime.now(dt.UTC)
        if (
            not error.is_waiting
            or now - (context["ti"].get_first_reschedule_date(context) or now) >= limit
        ):
            raise
        logger.warning("Waiting for upstream:\n%s", error)
        raise AirflowRescheduleException(now + WAIT_DELAY) from error
