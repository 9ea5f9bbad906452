"""The context manager that every task body runs in: identity, time limit, and an honest end.

Airflow 3.3 records a task that handles SIGTERM and goes on as a success, and its own time limit is
an alarm that Python handles only between two instructions.
Source: docs/adr/0012-tasks-tell-the-truth.md.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

# Pause between two checks for late upstream data.
WAIT_DELAY = dt.timedelta(minutes=2)
# Time that an overdue try has to notice its limit before its process is ended.
GRACE_SECONDS = 10.0
# EX_TEMPFAIL of sysexits.h: Airflow tries again, if tries are left.
OVERDUE_EXIT_CODE = 75
_STDERR = 2


class TaskTerminatedError(NightshiftError):
    """Airflow terminated the task: it was marked or cleared by a person, or is shutting down."""

    code = "NS-AIRFLOW-001"
    is_retryable = True


class NotPartitionedError(NightshiftError):
    """A run has no partition key."""

    code = "NS-AIRFLOW-002"


class TaskOverdueError(NightshiftError):
    """A try exceeded its limit in code that cannot be interrupted; its process is ended."""

    code = "NS-AIRFLOW-004"
    is_retryable = True


# A KeyboardInterrupt passes every `except Exception` of a stage, and psycopg cancels the running
# statement for it.
class Interruption(KeyboardInterrupt):
    """SIGTERM as an exception."""


@dataclass(frozen=True)
class TaskScope:
    """What a task body works with.

    Attributes:
        settings: Endpoints and credentials.
        partition: The run's partition.
        run: The identity of this try.
        n_failed: Tries of our own code that failed since the task was started or cleared.
    """

    settings: Settings
    partition: Partition
    run: RunContext
    n_failed: int = 0

    @property
    def partitions(self) -> PartitionRange:
        """Return the partition as a range."""
        return PartitionRange.single(self.partition)

    def connect(self) -> AbstractContextManager[Connection]:
        """Open a connection to the warehouse under the name of this try."""
        return connect(self.settings, self.run.application_name)

    def spec(self, model: str) -> ModelSpec:
        """Return one model's spec."""
        return load_spec(self.settings.models_dir, model)


@contextmanager
def task_scope(partition_key: str | None) -> Iterator[TaskScope]:
    """Run a task body with its scope; raise if Airflow terminates it or its limit is over.

    Raises:
        NotPartitionedError: There is no partition key.
        TaskTerminatedError: Airflow terminated the task; tells what readers see by then.
        TriesUsedUpError: The processes of all earlier tries vanished.
    """
    context = get_current_context()
    run, instance = context["dag_run"], context["ti"]
    if not partition_key:
        raise NotPartitionedError(
            f"Run {run.run_id} has no partition key.",
            expected="a partition key YYYY-MM-DD",
            todo="Trigger `ingest` with a partition key, or run `nightshift airflow backfill"
            " create --dag-id ingest --from-date <day> --to-date <day> --max-active-runs 1`.",
        )
    partition = Partition.parse(partition_key)
    identity = task_identity(
        run.dag_id, run.run_id, partition.key, instance.task_id, instance.map_index
    )
    run_context = RunContext(identity, instance.try_number, "airflow")
    scope = TaskScope(load_settings(), partition, run_context)
    logger.info("The task's own code begins: %s, try %s.", identity, instance.try_number)
    with (
        raises_when_terminated(scope),
        ended_when_overdue(context["task"].execution_timeout),
        translate_resource_errors(),
        recorded(scope.settings, TaskTry.of(context), partition.day) as n_failed,
    ):
        yield replace(scope, n_failed=n_failed)


def task_identity(
    dag_id: str, run_id: str, partition_key: str, task_id: str, map_index: int = -1
) -> str:
    """Return ``<dag>/<partition>/<task>[.<map index>]@<digest of the DAG run>``.

    It is the same in all tries of a task, and differs between runs and shards.
    """
    shard = f".{map_index}" if map_index >= 0 else ""
    run_digest = sha256(run_id.encode()).hexdigest()[:6]
    return f"{dag_id}/{partition_key}/{task_id}{shard}@{run_digest}"


@contextmanager
def raises_when_terminated(scope: TaskScope) -> Iterator[None]:
    """Turn SIGTERM into an error of the block, even if the block swallows the exception.

    Raises:
        TaskTerminatedError: The signal came.
    """
    received: list[int] = []

    def interrupt(signal_number: int, _: object) -> None:
        # A second signal must not interrupt the clean-up that the first one started.
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
        f"The task was terminated by signal {signal_number}.",
        got=_published_by_this_dag(scope),
        todo="Clear the task to run it again; no partial data was published.",
    )


def _published_by_this_dag(scope: TaskScope) -> str:
    """Return what this DAG has published of the partition, as text for people."""
    # Needed because a person may mark the task as failed after its commit. The records are read
    # and no rows, so `join_published` has nothing to join.
    query = """
        select p.dataset, p.load_id,
            to_char(p.published_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s and starts_with(l.run_id, %s) order by 1
    """
    dag_and_partition = scope.run.run_id.rpartition("/")[0] + "/"
    try:
        with scope.connect() as conn:
            rows = conn.execute(query, [scope.partition.day, dag_and_partition]).fetchall()
    except Exception as error:  # noqa: BLE001 - the task is ending; report what is known
        return f"the published state could not be read ({type(error).__name__})"
    loads = [
        f"readers see {dataset} load {load_id}, published {at}" for dataset, load_id, at in rows
    ]
    return "; ".join(loads) or "nothing is published"


@contextmanager
def ended_when_overdue(
    limit: dt.timedelta | None, grace_seconds: float = GRACE_SECONDS
) -> Iterator[None]:
    """End the process if the block still runs some seconds after its limit.

    Args:
        limit: Limit of the try; None for no limit.
        grace_seconds: Time for the regular way, Airflow's alarm.
    """
    if limit is None:
        yield
        return
    # The thread works while C code runs without the interpreter's lock (LightGBM, libpq). If C code
    # holds the lock, the interpreter's own watchdog follows, which needs none. Both write the
    # stacks into the log, and neither needs Airflow's supervisor.
    seconds = limit.total_seconds() + grace_seconds
    timer = threading.Timer(seconds, _end_process, [limit])
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + grace_seconds / 2, file=_STDERR, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end_process(limit: dt.timedelta) -> None:
    error = TaskOverdueError(
        f"The try exceeded its limit of {limit} and cannot be interrupted: its process ends now.",
        got="the stacks below",
        todo="Nothing while tries are left. No partial data was published.",
    )
    os.write(_STDERR, f"{error}\n".encode())
    faulthandler.dump_traceback(file=_STDERR)
    os._exit(OVERDUE_EXIT_CODE)


@contextmanager
def waiting(limit: dt.timedelta) -> Iterator[None]:
    """Reschedule the task while the block waits for upstream; after the limit, let its error pass.

    Args:
        limit: Maximum time since the first check.

    Raises:
        AirflowRescheduleException: The block waits, and time is left.
        NightshiftError: The block failed, or it waits and the limit is over.
    """
    try:
        yield
    except NightshiftError as error:
        if not error.is_waiting:
            raise
        context = get_current_context()
        now = dt.datetime.now(dt.UTC)
        first_check = context["ti"].get_first_reschedule_date(context) or now
        if now - first_check >= limit:
            raise
        logger.warning("Waiting for upstream:\n%s", error)
        raise AirflowRescheduleException(now + WAIT_DELAY) from error
