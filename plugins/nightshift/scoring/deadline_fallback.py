"""Publish a partition before its deadline, if nothing else has: by a model, else without one.

Level-triggered: it reads the state of the warehouse, never an event. So a lost event, a failed task
and missing features are all handled here. Source: docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import NightshiftError, StaleTokenError, WarehouseError, cause_of, stack_of
from nightshift.scoring.pipeline import score
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.without_model.last_step import publish_without_model
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import published_records

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

DORMANT_DAYS = 28
"""A pipeline that has published nothing for so long is not in operation: nothing is due."""
WITHOUT_MODEL, WITHOUT_GATE = 2, 3
"""Attempts from which on no model is tried, and no gate is run."""
IN_PROGRESS_MINUTES = 5
"""A scoring that began less than this ago may finish while there is time."""


class ScoringInProgressError(NightshiftError):
    """A scoring of the partition is in progress, and there is still time for it."""

    code = "NS-SCORE-006"
    is_retryable = True
    is_waiting = True


@dataclass(frozen=True)
class DeadlineResult:
    """What was done before the deadline.

    Attributes:
        outcome: ``in time``: it was published before; ``scored``: from features whose scoring was
            never started or finished; ``rescued``: by last scores and the rule; ``dormant``: the
            pipeline is not in operation.
        load_id: The published load; None when dormant.
        n_rows: Its rows.
        reason: Why the partition needed the fallback.
    """

    outcome: Literal["in time", "scored", "rescued", "dormant"]
    load_id: int | None = None
    n_rows: int = 0
    reason: str | None = None


def publish_by_deadline(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    run: RunContext,
    *,
    may_wait: bool = False,
    attempt: int | None = None,
) -> DeadlineResult:
    """Make sure that the partition's predictions are published. Idempotent.

    With ``may_wait``, a scoring that has just begun may finish first. ``attempt`` is the number of
    this attempt among those that began, by default the run's. The second tries no model, the third
    runs no gate: the one before may have hung in them.

    Raises:
        ScoringInProgressError: It may, and there is one.
        NoSpineError: No source names the entities to predict for.
        GateError: The gate refused the last step of the fallback chain.
        IncompletePredictionsError: The last step did not give one valid row per entity.
        StaleTokenError: A newer attempt owns the partition.
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        if published := published_records(conn, spec.predictions_dataset, [partition.day]):
            (record,) = published
            return DeadlineResult("in time", record.load_id, record.n_rows or 0)
        if is_dormant(conn, partition):
            reason = f"nothing was published in the {DORMANT_DAYS} days before {partition}"
            return DeadlineResult("dormant", reason=reason)
        if may_wait:
            _wait_for_scoring(conn, spec, partition)
        has_features = bool(published_records(conn, spec.features_dataset, [partition.day]))

    attempt = run.attempt if attempt is None else attempt
    if not has_features:
        reason = f"the features of {partition} are not published"
    elif attempt >= WITHOUT_MODEL:
        reason = "an earlier attempt of the rescue did not come back from scoring"
    else:
        try:
            partitions = PartitionRange.single(partition)
            (load,) = score(settings, spec, partitions, run, may_try_canary=False)
            return DeadlineResult("scored", load.load_id, load.n_rows)
        except (StaleTokenError, WarehouseError):
            # A newer attempt publishes, or nothing can be published at all.
            raise
        except Exception as error:  # noqa: BLE001  (the last step needs only the warehouse)
            logger.warning("The last step of the fallback chain takes over:\n%s", stack_of(error))
            reason = f"scoring failed ({cause_of(error)})"

    runs_gate = attempt < WITHOUT_GATE
    load = publish_without_model(settings, spec, partition, reason, run, runs_gate=runs_gate)
    return DeadlineResult("rescued", load.load_id, load.n_rows, reason)


def is_dormant(conn: Connection, partition: Partition) -> bool:
    """Return whether nothing at all was published in the days before a partition."""
    # Of any dataset: a model without features is late, a pipeline without data is switched off.
    query = "select exists (select from ops.published where partition_date between %s and %s)"
    first = partition.shift(-DORMANT_DAYS)
    return conn.execute(query, [first.day, partition.day]).fetchone() == (False,)


def scoring_in_progress(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> tuple[str, dt.datetime] | None:
    """Return run id and start, UTC, of the newest scoring of a partition that may still finish."""
    return conn.execute(
        """
        select run_id, started_at from ops.loads
        where dataset = %s and partition_date = %s and state in ('staged', 'audited')
            and started_at > clock_timestamp() - make_interval(mins => %s)
        order by started_at desc limit 1
        """,
        [spec.predictions_dataset, partition.day, IN_PROGRESS_MINUTES],
    ).fetchone()


def _wait_for_scoring(conn: Connection, spec: ModelSpec, partition: Partition) -> None:
    if scoring := scoring_in_progress(conn, spec, partition):
        run_id, started_at = scoring
        raise ScoringInProgressError(
            f"{run_id} began to score {partition} at {started_at:%H:%M:%S} UTC.",
            todo="Nothing: the rescue task checks again.",
        )
