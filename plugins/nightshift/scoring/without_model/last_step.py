"""Publish a partition without a model: last scores and the rule, for the best list of entities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.scoring_spec import CarryOver
from nightshift.errors import NightshiftError
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.scoring.prediction_tables import predictions_target
from nightshift.scoring.row_checks import gate_refusal, refuse_incomplete, set_ranks
from nightshift.scoring.without_model.last_score import knows_entities, past_digest, past_scores
from nightshift.scoring.without_model.rows import stage_without_model
from nightshift.scoring.without_model.spine import (
    SpineSource,
    find_spine,
    newest_rule_load,
    prepare_spine,
)
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class _LastStep:
    """Everything that makes the rows of the steps without a model for one partition."""

    spec: ModelSpec
    partition: Partition
    source: SpineSource
    rule_load: tuple[dt.date, int] | None
    day: DayPlan
    run: RunContext

    def with_reason(self, addition: str) -> _LastStep:
        """Return the same step with more of a reason."""
        reason = f"{self.day.score_source_reason}; {addition}"
        return replace(self, day=self.day.model_copy(update={"score_source_reason": reason}))


def publish_without_model(
    settings: Settings,
    spec: ModelSpec,
    partition: Partition,
    reason: str,
    run: RunContext,
    *,
    runs_gate: bool,
) -> partition_write.PublishedLoad:
    """Publish last scores and the rule for the best source of entities.

    A gate that cannot be evaluated, or is not run, does not keep them from being published: the
    checks in SQL have passed then.

    Raises:
        NoSpineError: No source names the entities to predict for.
        GateError: The gate refused the rows.
        IncompletePredictionsError: There is not one valid row per entity.
        StaleTokenError: A newer attempt owns the partition.
    """
    with connect(settings, run.application_name) as conn:
        step = _plan_last_step(conn, spec, partition, reason, run)
        plan = _stage(conn, step)
        gate_problem: str | None = (
            "the gate was not asked, since earlier attempts did not come back"
        )
        if runs_gate:
            gate_problem = _run_gate(settings, step, plan)
        if gate_problem:
            # The rows must name the missing gate, so they are staged again with another reason.
            partition_write.refuse(conn, plan.write(step.spec), gate_problem)
            step = step.with_reason(f"{gate_problem}, the checks in SQL have passed")
            plan = _stage(conn, step)
        gate = "no verdict" if gate_problem else "passed"
        # Recorded in the transaction that publishes: neither exists without the other.
        (load,) = partition_write.publish(
            conn, plan.write(step.spec), lambda: _record(conn, step, plan, gate)
        )
        partition_write.collect(conn, [predictions_target(step.spec)])
    return load


def _plan_last_step(
    conn: Connection, spec: ModelSpec, partition: Partition, reason: str, run: RunContext
) -> _LastStep:
    if not knows_entities(conn, spec):
        # The relation that identifies entities across days is missing: there are no last scores.
        scoring = spec.scoring.model_copy(update={"carry_over": CarryOver(maximum_age_days=0)})
        spec = spec.model_copy(update={"scoring": scoring})
    source = find_spine(conn, spec, partition)
    past = past_scores(conn, spec, [partition.day]).get(partition.day, ())
    rule_load = newest_rule_load(conn, spec, partition)
    prepare_spine(conn, spec, partition, source, rule_load, past)
    day = DayPlan(
        partition_date=partition.day,
        feature_load_id=source.load_id,
        score_source="carried_over" if past else "fallback_rule",
        score_source_reason=source.reason(reason),
        past=past,
    )
    return _LastStep(spec, partition, source, rule_load, day, run)


def _stage(conn: Connection, step: _LastStep) -> ScorePlan:
    """Begin a write, stage all rows, and check them in SQL: complete, finite, unique keys."""
    spec, source, day = step.spec, step.source, step.day
    inputs = {
        "entities": f"{source.type} {source.partition_date} {source.load_id}",
        "rule values": _digest(step.rule_load),
        "reason": _digest(day.score_source_reason),
        "spec": spec.digest,
        "past scores": past_digest(conn, spec, [day]),
    }
    manifest = partition_write.LoadManifest(step.run, inputs)
    partitions = PartitionRange.single(step.partition)
    write = partition_write.begin(conn, [predictions_target(spec)], partitions, manifest)
    plan = ScorePlan(load_id=write.load_id, n_shards=1, days=(day,))
    # The temporary table of last scores lives as long as this transaction.
    with conn.transaction():
        stage_without_model(conn, spec, plan, 0, step.run, is_prepared=True)
    set_ranks(conn, spec, plan, is_prepared=True)
    refuse_incomplete(conn, spec, plan, is_prepared=True)
    partition_write.audit(conn, write, plan.sources_detail)
    return plan


def _digest(value: object) -> str:
    return sha256(str(value).encode()).hexdigest()


def _run_gate(settings: Settings, step: _LastStep, plan: ScorePlan) -> str | None:
    """Return None after a pass, and why there is no result if there is none.

    Raises:
        GateError: The gate refused the rows.
    """
    try:
        refusal = gate_refusal(settings, step.spec, plan, step.run)
    # Whatever keeps the gate from an answer: these rows need the warehouse alone.
    except Exception as error:  # noqa: BLE001
        name = error.code if isinstance(error, NightshiftError) else type(error).__name__
        return f"the gate gave no verdict ({name})"
    if refusal is not None:
        raise refusal
    return None


def _record(conn: Connection, step: _LastStep, plan: ScorePlan, gate: str) -> None:
    source, day = step.source, step.day
    values = {
        "model": step.spec.name,
        "partition_date": day.partition_date,
        "load_id": plan.load_id,
        "entities_from": source.type,
        "entities_date": source.partition_date,
        "reason": day.score_source_reason,
        "gate": gate,
        "run_id": step.run.run_id,
        "actor": step.run.actor,
    }
    conn.execute(
        """
        insert into ops.rescues (
            model, partition_date, load_id, entities_from, entities_date, reason, gate, run_id,
            actor
        )
        values (
            %(model)s, %(partition_date)s, %(load_id)s, %(entities_from)s, %(entities_date)s,
            %(reason)s, %(gate)s, %(run_id)s, %(actor)s
        )
        """,
        values,
    )
