"""Publish a partition before its deadline, if nothing else has: by a model, else without one.

Level-triggered: it reads the state of the warehouse, never an event. So a lost event, a failed task
and missing features are all handled here. Source: docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.scoring_spec import CarryOver
from nightshift.errors import NightshiftError, StaleTokenError, WarehouseError, cause_of, stack_of
from nightshift.scoring.pipeline import score
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.scoring.prediction_tables import ensure_prediction_relations, predictions_target
from nightshift.scoring.row_checks import pass_gate, refuse_incomplete
from nightshift.scoring.without_model.last_score import knows_entities, past_digest, past_scores
from nightshift.scoring.without_model.rows import stage_without_model
from nightshift.scoring.without_model.spine import (
    RULE_DAYS,
    SpineSource,
    find_spine,
    prepare_spine,
)
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import published_records
from nightshift.warehouse.partition_write import LoadManifest, PublishedLoad

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
        if _is_dormant(conn, partition):
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
            (load,) = score(settings, spec, PartitionRange.single(partition), run)
            return DeadlineResult("scored", load.load_id, load.n_rows)
        except (StaleTokenError, WarehouseError):
            # A newer attempt publishes, or nothing can be published at all.
            raise
        except Exception as error:  # noqa: BLE001  (the last step needs only the warehouse)
            logger.warning("The last step of the fallback chain takes over:\n%s", stack_of(error))
            reason = f"scoring failed ({cause_of(error)})"

    runs_gate = attempt < WITHOUT_GATE
    load = _publish_without_model(settings, spec, partition, reason, run, runs_gate=runs_gate)
    return DeadlineResult("rescued", load.load_id, load.n_rows, reason)


def _is_dormant(conn: Connection, partition: Partition) -> bool:
    query = "select exists (select from ops.published where partition_date between %s and %s)"
    first = partition.shift(-DORMANT_DAYS)
    return conn.execute(query, [first.day, partition.day]).fetchone() == (False,)


def scoring_in_progress(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> tuple[str, dt.datetime] | None:
    """Return run id and start, UTC, of the newest scoring of a partition that may still finish."""
    return conn.execute(
        "select run_id, started_at from ops.loads"
        " where dataset = %s and partition_date = %s and state in ('staged', 'audited')"
        " and started_at > clock_timestamp() - make_interval(mins => %s)"
        " order by started_at desc limit 1",
        [spec.predictions_dataset, partition.day, IN_PROGRESS_MINUTES],
    ).fetchone()


def _wait_for_scoring(conn: Connection, spec: ModelSpec, partition: Partition) -> None:
    if scoring := scoring_in_progress(conn, spec, partition):
        run_id, started_at = scoring
        raise ScoringInProgressError(
            f"{run_id} began to score {partition} at {started_at:%H:%M:%S} UTC.",
            todo="Nothing: the rescue task checks again.",
        )


def _publish_without_model(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    reason: str,
    run: RunContext,
    *,
    runs_gate: bool,
) -> PublishedLoad:
    """Publish last scores and the rule for the best source of entities.

    A gate that cannot be evaluated, or is not run, does not keep them from being published: the
    checks in SQL have passed then.
    """
    with connect(settings, run.application_name) as conn:
        job = _plan_last_step(conn, spec, partition, reason, run)
        plan = _stage(conn, job)
        if runs_gate:
            gate_problem = _run_gate(settings, job.spec, plan, run)
        else:
            gate_problem = "the gate was not asked, since earlier attempts did not come back"
        if gate_problem:
            # The rows must name the missing gate, so they are staged again with another reason.
            partition_write.refuse(conn, plan.write(job.spec), gate_problem)
            job = job.with_reason(f"{gate_problem}, the checks in SQL have passed")
            plan = _stage(conn, job)
        gate = "no verdict" if gate_problem else "passed"
        (load,) = partition_write.publish(
            conn, plan.write(job.spec), lambda: _record(conn, job, plan, gate)
        )
        partition_write.collect(conn, [predictions_target(job.spec)])
    return load


@dataclass(frozen=True)
class _LastStep:
    """Everything that makes the rows of the steps without a model for one partition."""

    spec: ModelSpec
    partition: Partition
    source: SpineSource
    day: DayPlan
    run: RunContext

    def with_reason(self, addition: str) -> _LastStep:
        reason = f"{self.day.score_source_reason}; {addition}"
        return replace(self, day=self.day.model_copy(update={"score_source_reason": reason}))


def _plan_last_step(
    conn: Connection, spec: ModelSpec, partition: Partition, reason: str, run: RunContext
) -> _LastStep:
    if not knows_entities(conn, spec):
        # The relation that identifies entities across days is missing: there are no last scores.
        scoring = spec.scoring.model_copy(update={"carry_over": CarryOver(maximum_age_days=0)})
        spec = spec.model_copy(update={"scoring": scoring})
    source = find_spine(conn, spec, partition)
    past = past_scores(conn, spec, [partition.day]).get(partition.day, ())
    prepare_spine(conn, spec, partition, source, past)
    day = DayPlan(
        partition_date=partition.day,
        feature_load_id=source.load_id,
        score_source="carried_over" if past else "fallback_rule",
        score_source_reason=source.reason(reason),
        past=past,
    )
    return _LastStep(spec, partition, source, day, run)


def _stage(conn: Connection, job: _LastStep) -> ScorePlan:
    """Begin a write, stage all rows, and check them in SQL: complete, finite, unique keys."""
    spec, source, day = job.spec, job.source, job.day
    inputs = {
        "entities": f"{source.type} {source.partition_date} {source.load_id}",
        "rule values": _digest(_rule_load(conn, spec, job.partition)),
        "reason": _digest(day.score_source_reason),
        "spec": spec.digest,
        "past scores": past_digest(conn, spec, [day]),
    }
    manifest = LoadManifest(job.run, inputs)
    partitions = PartitionRange.single(job.partition)
    write = partition_write.begin(conn, [predictions_target(spec)], partitions, manifest)
    plan = ScorePlan(load_id=write.load_id, n_shards=1, days=(day,))
    # The temporary table of last scores lives as long as this transaction.
    with conn.transaction():
        stage_without_model(conn, spec, plan, 0, job.run, is_prepared=True)
    refuse_incomplete(conn, spec, plan, is_prepared=True)
    partition_write.audit(conn, write)
    return plan


def _rule_load(conn: Connection, spec: ModelSpec, partition: Partition) -> object:
    return conn.execute(
        "select partition_date, load_id from ops.published"
        " where dataset = %s and partition_date between %s and %s"
        " order by partition_date desc limit 1",
        [spec.features_dataset, partition.shift(-RULE_DAYS).day, partition.day],
    ).fetchone()


def _run_gate(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> str | None:
    """Return None after a pass, and why there is no result if there is none.

    Raises:
        GateError: The gate refused the rows.
    """
    from nightshift.quality.gate_errors import GateCrashError, GateError, SuiteError

    try:
        pass_gate(settings, spec, plan, run)
    except Exception as error:
        if isinstance(error, GateError) and not isinstance(error, GateCrashError | SuiteError):
            raise
        name = error.code if isinstance(error, NightshiftError) else type(error).__name__
        return f"the gate gave no verdict ({name})"
    return None


def _record(conn: Connection, job: _LastStep, plan: ScorePlan, gate: str) -> None:
    source, day, run = job.source, job.day, job.run
    conn.execute(
        "insert into ops.rescues (model, partition_date, load_id, entities_from, entities_date,"
        " reason, gate, run_id, actor) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(job.spec.name, day.partition_date, plan.load_id, source.type, source.partition_date),
            *(day.score_source_reason, gate, run.run_id, run.actor),
        ],
    )


def _digest(value: object) -> str:
    return sha256(str(value).encode()).hexdigest()
