"""Decide who is champion: evaluate a challenger on unseen rows, record, publish the aliases.

Source: docs/adr/0007-training-and-promotion.md, docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.registry.champions import champion_for
from nightshift.registry.evidence import last_digest, write_record
from nightshift.registry.model_versions import (
    find_version,
    lock_model,
    mirror_aliases,
    record_evidence,
)
from nightshift.registry.promotion_gate import (
    SERVING_VERDICTS,
    SHADOWED,
    PromotionResult,
    evaluate_challenger,
)
from nightshift.registry.streams.context_reading import read_context
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.control_tables.retrain_requests import close_request, open_requests

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


OTHER_VERDICTS = ("rolled_back", "canary", "returned")
"""Verdicts that are no decision of the gate about a challenger."""


class PromotionRaceError(NightshiftError):
    """The champion changed between comparison and decision."""

    code = "NS-REGISTRY-002"
    is_retryable = True


@dataclass(frozen=True)
class Decision:
    """A recorded decision.

    Attributes:
        promotion_id: Identity in ``ml.promotions``.
        model: Name of the spec.
        version: The challenger.
        verdict: Of ``PromotionResult``.
        champion_version: The version that it was compared with; None without a champion.
        effective_partition: First partition for which the verdict counts.
        reasons: Why, one sentence each.
        numbers: Everything that was compared.
    """

    promotion_id: int
    model: str
    version: int
    verdict: str
    champion_version: int | None
    effective_partition: dt.date
    reasons: Sequence[str]
    numbers: dict[str, Any]

    @property
    def is_promoted(self) -> bool:
        """Return whether the challenger is champion from ``effective_partition`` on."""
        return self.verdict in SERVING_VERDICTS

    @property
    def is_final(self) -> bool:
        """Return whether the version is never decided about again."""
        return self.verdict != SHADOWED


def decide(
    settings: Settings,
    spec: ModelSpec,
    version: int,
    run: RunContext,
    partition: Partition | None = None,
) -> Decision:
    """Promote a challenger from the next partition on, keep it in the shadow, or refuse it.

    Every check of ``promotion_gate`` must pass. The challenger is promoted when its stream is
    proved better, it refreshes an old champion, else it stays in the shadow and is decided about
    again when its stream has proved something. A rerun returns the decision. The decision of the
    partition that trained the challenger closes the open retrain requests.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        version: The challenger.
        run: Who decides.
        partition: The partition that decides; None takes the one that trained the challenger.

    Raises:
        RegistryError: There is no such version.
        PromotionRaceError: Another version became champion meanwhile.
        ObjectStoreError: The object store cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        challenger = find_version(conn, spec.name, version)
        on = partition or challenger.partition
        decision = find_decision(conn, spec.name, version)
        # A shadowed version is decided about again on a later partition only.
        if decision is None or (
            not decision.is_final and on.shift(1).day > decision.effective_partition
        ):
            context = read_context(settings, conn, spec, challenger, on)
            result = evaluate_challenger(context)
            hit(Failpoint.PROMOTION_JUDGED)
            decision = _record(conn, context, result, run)
            hit(Failpoint.PROMOTION_AFTER, lambda: lose(conn))
        # MLflow follows the warehouse: a rerun repairs aliases that were not set.
        mirror_aliases(settings, conn, spec.name)
    return decision


def _record(
    conn: Connection, context: PromotionContext, result: PromotionResult, run: RunContext
) -> Decision:
    """Append decision and evidence, and close the requests they answer, in one transaction."""
    challenger = context.challenger
    partition = context.evidence.partition
    with conn.transaction():
        # Under the lock nobody else decides. A decision that was recorded meanwhile stands.
        lock_model(conn, challenger.model)
        stands = find_decision(conn, challenger.model, challenger.version)
        # What stays in the shadow is recorded once, not every night.
        if stands is None or (not stands.is_final and result.verdict != SHADOWED):
            # The comparison took minutes without the lock: the champion may have changed.
            _refuse_race(conn, context)
            _append(conn, context, result, run)
            record_evidence(conn, challenger, result.measured, run)
        decision = find_decision(conn, challenger.model, challenger.version)
        assert decision is not None  # noqa: S101 - appended above
        outcome = {
            "version": challenger.version,
            "verdict": decision.verdict,
            "promotion_id": decision.promotion_id,
        }
        # Requests are closed with the decision: no crash may leave one open, or close it without.
        # An older challenger that is decided about again is no training that was asked for.
        if partition == challenger.partition:
            for request in open_requests(conn, challenger.model, partition):
                close_request(conn, request.decision_id, partition, run, outcome)
    return decision


def _refuse_race(conn: Connection, context: PromotionContext) -> None:
    """Refuse a comparison with a version that is not the champion any more."""
    compared = context.champion
    champion = champion_for(conn, context.spec.name, context.evidence.partition.shift(1))
    before, after = compared and compared.version, champion and champion.version
    if before != after:
        raise PromotionRaceError(
            "Another version became champion while this one was compared with its predecessor.",
            expected=f"version {before}",
            got=f"version {after}",
            todo="Rerun: it is then compared with the new champion.",
        )


def _append(
    conn: Connection, context: PromotionContext, result: PromotionResult, run: RunContext
) -> None:
    """Store the evidence record, then append the decision that names it."""
    challenger, champion = context.challenger, context.champion
    document = _evidence_document(context, result, run)
    document["previous"] = last_digest(conn, challenger.model)
    # The record is in the bucket before the decision stands.
    record = write_record(context.settings, context.store, challenger.model, document)
    conn.execute(
        """
        insert into ml.promotions (model, version, verdict, champion_version, partition_date,
            effective_partition, reasons, numbers, run_id, actor, evidence_key, evidence_sha256,
            evidence_signature, evidence_page)
        values (%(model)s, %(version)s, %(verdict)s, %(champion_version)s, %(partition)s,
            %(effective_partition)s, %(reasons)s, %(numbers)s, %(run_id)s, %(actor)s, %(key)s,
            %(sha256)s, %(signature)s, %(page)s)
        """,
        {
            **document,
            **vars(record),
            "champion_version": champion and champion.version,
            "numbers": json.dumps(result.numbers),
        },
    )


def _evidence_document(
    context: PromotionContext, result: PromotionResult, run: RunContext
) -> dict[str, Any]:
    """Return the evidence record: versions, limits, rows, every criterion, every number."""
    challenger, champion, training_set = context.challenger, context.champion, context.training_set
    partition = context.evidence.partition
    return {
        "model": challenger.model,
        "version": challenger.version,
        "digest": challenger.digest,
        # The metrics below are about this model; null: about the version itself.
        "evaluated": challenger.evaluated,
        "champion": champion and {"version": champion.version, "digest": champion.digest},
        "partition": partition.key,
        "effective_partition": partition.shift(1).key,
        "verdict": result.verdict,
        "reasons": result.reasons,
        "criteria": [criterion.as_json() for criterion in result.criteria],
        "rows": result.rows,
        "numbers": result.numbers,
        "training_set": {
            "key": training_set.key,
            "sha256": training_set.sha256,
            "n_rows": training_set.n_rows,
        },
        "limits": context.spec.promotion.model_dump(mode="json"),
        "spec_digest": context.spec.digest,
        "code_version": code_version(),
        "draws": {"of": "days", "n": context.n_draws, "seed": context.seed},
        "page": result.page,
        "run_id": run.run_id,
        "actor": run.actor,
    }


def find_decision(conn: Connection, model: str, version: int) -> Decision | None:
    """Return the decision about a challenger, the final one if there is one; None without any."""
    from psycopg.rows import class_row

    query = """
        select promotion_id, model, version, verdict, champion_version, effective_partition,
            reasons, numbers
        from ml.promotions where model = %s and version = %s and verdict <> all(%s)
        order by verdict = 'shadowed' limit 1
    """
    with conn.cursor(row_factory=class_row(Decision)) as cursor:
        return cursor.execute(query, [model, version, list(OTHER_VERDICTS)]).fetchone()
