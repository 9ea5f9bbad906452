"""Before the deadline: look whether a partition is published and, if it is not, publish the best step of the ladder that is possible.

Level-triggered: it asks the warehouse, never an event, so a lost wake-up, a failed task or missing
features all end here. Source: docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.scoring_spec import CarryOver
from nightshift.errors import NightshiftError, StaleTokenError, WarehouseError, cause_of, stack_of
from nightshift.scoring.batch_scorer import predictions_target
from nightshift.scoring.fallback import stage_fallback
from nightshift.scoring.last_score import knows_entities, past_digest, past_scores
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.scoring.prediction_tables import ensure_prediction_relations
from nightshift.scoring.publication import pass_gate, refuse_incomplete, score
from nightshift.scoring.spine import RULE_DAYS, SpineSource, find_spine, prepare_spine
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import LoadManifest, PublishedLoad

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.last_score import Spine
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

DORMANT_DAYS = 28
"""Without anything published for so long a pipeline is not in operation, and nobody waits for
its predictions.
"""
WITHOUT_MODEL, WITHOUT_GATE = 2, 3
"""Attempts from which on the rescue asks no model, and no gate."""
IN_PROGRESS_MINUTES = 5
"""A scoring that began so short ago is left to finish while there is time."""


class ScoringInProgressError(NightshiftError):
    """A scoring of the partition is under way, and there is still time for it."""

    code = "NS-SCORE-006"
    is_retryable = True
    is_waiting = True


@dataclass(frozen=True)
class Rescue:
    """What a look before the deadline came to.

    Attributes:
        outcome: ``in time``: it was published before; ``scored``: from features whose scoring
            nobody had started or finished; ``rescued``: by old scores and the rule; ``dormant``:
            the pipeline is not in operation.
        load_id: The published load; None when dormant.
        n_rows: Its rows.
        reason: Why the partition had to be rescued.
    """

    outcome: Literal["in time", "scored", "rescued", "dormant"]
    load_id: int | None = None
    n_rows: int = 0
    reason: str | None = None


def rescue(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    run: RunContext,
    *,
    may_wait: bool = False,
    attempt: int | None = None,
) -> Rescue:
    """Make sure that the partition's predictions are published; harmless, at any time and as often as one likes.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        partition: The night.
        run: Who looks.
        may_wait: Whether a scoring that has just begun may finish first.
        attempt: Number of this attempt among those that began; None takes the run's. From the
            second on no model is asked, from the third on no gate: the first may have hung in them.

    Raises:
        ScoringInProgressError: It may, and there is one.
        NoSpineError: Nothing says for which entities to predict.
        GateError: The gate said no to the ladder's last step.
        IncompletePredictionsError: The last step did not give one good row per entity.
        StaleTokenError: A newer attempt owns the partition.
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        if published := _published(conn, spec.predictions_dataset, partition):
            return Rescue("in time", *published)
        if _is_dormant(conn, partition):
            return Rescue(
                "dormant",
                reason=f"nothing was published in the {DORMANT_DAYS} days before {partition}",
            )
        if may_wait:
            _wait_for_scoring(conn, spec, partition)
        has_features = _published(conn, spec.features_dataset, partition) is not None
    why = f"the features of {partition} are not published"
    number = run.attempt if attempt is None else attempt
    if has_features and number >= WITHOUT_MODEL:
        why = "an earlier attempt of the rescue did not come back from scoring"
    elif has_features:
        try:
            (load,) = score(settings, spec, PartitionRange.single(partition), run)
            return Rescue("scored", load.load_id, load.n_rows)
        except (StaleTokenError, WarehouseError):
            raise
        except Exception as error:  # noqa: BLE001  (whatever broke: the last step needs nothing but the warehouse)
            logger.warning("The ladder's last step takes over:\n%s", stack_of(error))
            why = f"scoring failed ({cause_of(error)})"
    load = _publish_last_step(
        settings, spec, partition, why, run, may_ask_gate=number < WITHOUT_GATE
    )
    return Rescue("rescued", load.load_id, load.n_rows, why)


def _published(conn: Connection, dataset: str, partition: Partition) -> tuple[int, int] | None:
    row = conn.execute(
        "select load_id, n_rows from ops.published join ops.loads using (dataset, partition_date, load_id)"
        " where dataset = %s and partition_date = %s",
        [dataset, partition.day],
    ).fetchone()
    return (row[0], row[1]) if row else None


def _is_dormant(conn: Connection, partition: Partition) -> bool:
    query = "select exists (select from ops.published where partition_date between %s and %s)"
    return conn.execute(query, [partition.shift(-DORMANT_DAYS).day, partition.day]).fetchone() == (
        False,
    )


def _wait_for_scoring(conn: Connection, spec: ModelSpec, partition: Partition) -> None:
    row = conn.execute(
        "select run_id, started_at from ops.loads where dataset = %s and partition_date = %s and state in ('staged', 'audited')"
        " and started_at > clock_timestamp() - make_interval(mins => %s) order by started_at desc limit 1",
        [spec.predictions_dataset, partition.day, IN_PROGRESS_MINUTES],
    ).fetchone()
    if row:
        raise ScoringInProgressError(
            f"{row[0]} began to score {partition} at {row[1]:%H:%M:%S} UTC.",
            todo="Nothing: the rescue looks again.",
        )


def _publish_last_step(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    why: str,
    run: RunContext,
    *,
    may_ask_gate: bool,
) -> PublishedLoad:
    """Publish old scores and the rule for the best list of entities; past the gate or, if that gives no verdict, past the checks in SQL."""
    target = predictions_target(spec)
    with connect(settings, run.application_name) as conn:
        if not knows_entities(conn, spec):
            spec = _without_carry_over(spec)
        source = find_spine(conn, spec, partition)
        past = past_scores(conn, spec, [partition.day]).get(partition.day, ())
        spine = prepare_spine(conn, spec, partition, source, past)
        day = DayPlan(
            partition_date=partition.day,
            feature_load_id=source.load_id,
            score_source="carried_over" if past else "fallback_rule",
            score_source_reason=source.reason(why),
            past=past,
        )
        plan = _stage(conn, spec, partition, source, day, spine, run)
        no_verdict = (
            _gate(settings, spec, plan, run)
            if may_ask_gate
            else "the gate was not asked, since earlier attempts did not come back"
        )
        if no_verdict:
            partition_write.refuse(conn, plan.write(target), no_verdict)
            day = day.model_copy(
                update={
                    "score_source_reason": f"{day.score_source_reason}; {no_verdict}, the checks in SQL have passed"
                }
            )
            plan = _stage(conn, spec, partition, source, day, spine, run)
        gate = "no verdict" if no_verdict else "passed"
        (load,) = partition_write.publish(
            conn, plan.write(target), lambda: _record(conn, spec, source, day, plan, run, gate=gate)
        )
        partition_write.collect(conn, [target])
    return load


def _without_carry_over(spec: ModelSpec) -> ModelSpec:
    """Return the spec as it is when the relation that knows an entity on another day is not there."""
    scoring = spec.scoring.model_copy(update={"carry_over": CarryOver(maximum_age_days=0)})
    return spec.model_copy(update={"scoring": scoring})


def _stage(  # noqa: PLR0913, PLR0917  (all that makes the rows)
    conn: Connection,
    spec: ModelSpec,
    partition: Partition,
    source: SpineSource,
    day: DayPlan,
    spine: Spine,
    run: RunContext,
) -> ScorePlan:
    """Begin a write, stage all rows, and check them in SQL: complete, finite, in their ranges, keys unique."""
    target = predictions_target(spec)
    inputs = {
        "entities": f"{source.kind} {source.partition_date} {source.load_id}",
        "rule values": _digest(_rule_load(conn, spec, partition)),
        "reason": _digest(day.score_source_reason),
        "spec": spec.digest,
        "past scores": past_digest(conn, spec, [day]),
    }
    write = partition_write.begin(
        conn, [target], PartitionRange.single(partition), LoadManifest(run, inputs)
    )
    plan = ScorePlan(load_id=write.load_id, n_shards=1, days=(day,))
    with conn.transaction():
        stage_fallback(conn, spec, plan, 0, run, spine)
    refuse_incomplete(conn, spec, plan, spine)
    partition_write.audit(conn, write)
    return plan


def _rule_load(conn: Connection, spec: ModelSpec, partition: Partition) -> object:
    return conn.execute(
        "select partition_date, load_id from ops.published where dataset = %s and partition_date between %s and %s"
        " order by partition_date desc limit 1",
        [spec.features_dataset, partition.shift(-RULE_DAYS).day, partition.day],
    ).fetchone()


def _gate(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> str | None:
    """Return None after a pass, and why there is no verdict if there is none; a verdict that says no is raised."""
    from nightshift.quality.gate_errors import GateCrashError, GateError, SuiteError

    try:
        pass_gate(settings, spec, plan, run)
    except GateError as error:
        if not isinstance(error, GateCrashError | SuiteError):
            raise
        return f"the gate gave no verdict ({error.code})"
    except Exception as error:  # noqa: BLE001  (a gate that breaks in any other way has given no verdict either)
        return f"the gate gave no verdict ({_name(error)})"
    return None


def _record(  # noqa: PLR0913  (one row of ops.rescues)
    conn: Connection,
    spec: ModelSpec,
    source: SpineSource,
    day: DayPlan,
    plan: ScorePlan,
    run: RunContext,
    *,
    gate: str,
) -> None:
    conn.execute(
        "insert into ops.rescues (model, partition_date, load_id, entities_from, entities_date, reason, gate, run_id, actor)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(spec.name, day.partition_date, plan.load_id, source.kind, source.partition_date),
            *(day.score_source_reason, gate, run.run_id, run.actor),
        ],
    )


def _digest(value: object) -> str:
    return sha256(str(value).encode()).hexdigest()


def _name(error: Exception) -> str:
    return error.code if isinstance(error, NightshiftError) else type(error).__name__
