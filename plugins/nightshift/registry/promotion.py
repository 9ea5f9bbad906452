"""Who is champion: judge a challenger on rows that nobody was fitted on, and keep the decision with its numbers for ever.

Source: docs/adr/0007-training-and-promotion.md, docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import code_version
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.content_keys import content_key
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.evidence import PREFIX, StoredRecord, last_digest, write_record
from nightshift.registry.evidence_page import draw_figures, render_page
from nightshift.registry.model_versions import (
    ModelVersion,
    find_version,
    lock_model,
    mirror_aliases,
    record_evidence,
)
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.promotion_gate import failures, run_gate
from nightshift.training.evaluation import MetricValue, evidence, overall
from nightshift.training.statistics.confidence_intervals import N_DRAWS
from nightshift.training.training_set import find_training_set
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.retrain_requests import consume, open_ones

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.registry.checks import Criterion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

SAMPLE = "promotion"


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
        verdict: ``first`` (champion without a predecessor), ``promoted`` or ``refused``.
        champion_version: What it was measured against; None without a champion.
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
    reasons: tuple[str, ...]
    numbers: dict[str, Any]

    @property
    def is_promoted(self) -> bool:
        """Return whether the challenger is champion from ``effective_partition`` on."""
        return self.verdict != "refused"


def champion_for(conn: Connection, model: str, partition: Partition) -> ModelVersion | None:
    """Return the version that serves a partition: the one of the last promotion whose effective partition is not later.

    Promotions are ordered by effective partition, then by when they were decided: an old night that
    is trained late does not replace the champion of later nights. A rollback revokes the promotions
    before it that would count from its own partition on.
    """
    row = conn.execute(
        """
        select version from ml.succession where model = %s and effective_partition <= %s
        order by effective_partition desc, promotion_id desc limit 1
        """,
        [model, partition.day],
    ).fetchone()
    return None if row is None else find_version(conn, model, row[0])


def promoted_versions(conn: Connection, model: str, partition: Partition, n: int) -> list[int]:
    """Return the last ``n`` versions that were promoted for a partition, the champion first; one that was rolled back is left out."""
    rows = conn.execute(
        """
        with promoted as (
            select distinct on (version) version, effective_partition, promotion_id from ml.succession
            where model = %(model)s and effective_partition <= %(day)s
            order by version, effective_partition desc, promotion_id desc
        )
        select version from promoted where not exists (
            select from ml.promotions r where r.model = %(model)s and r.verdict = 'rolled_back' and r.effective_partition <= %(day)s
                and r.champion_version = promoted.version and r.promotion_id > promoted.promotion_id)
        order by effective_partition desc, promotion_id desc limit %(n)s
        """,
        {"model": model, "day": partition.day, "n": n},
    )
    return [version for (version,) in rows]


def decide(settings: Settings, spec: ModelSpec, version: int, run: RunContext) -> Decision:
    """Judge a challenger once: promote it from the partition after its own on, or refuse it; open orders to retrain are closed by this.

    Champion, challenger and baselines are scored on the same rows: the challenger's hold-out, as
    far as it is later than all that either was fitted on. Every criterion of ``registry.gate`` must
    be met; the evidence record and its page are in the bucket before the decision stands. A rerun
    returns the recorded decision.

    Raises:
        RegistryError: There is no such version.
        PromotionRaceError: Another version became champion meanwhile.
        ObjectStoreError: The object store cannot be reached.
    """
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        challenger = find_version(conn, spec.name, version)
        decision = find_decision(conn, spec.name, version)
        if decision is None:
            champion = champion_for(conn, spec.name, Partition(challenger.partition_date).shift(1))
            case = _case(settings, store, conn, spec, (challenger, champion))
            decision = _record(conn, case, _judge(case), run)
        mirror_aliases(settings, conn, spec.name)
    return decision


def find_decision(conn: Connection, model: str, version: int) -> Decision | None:
    """Return the decision about a challenger, None if nobody has judged it."""
    row = conn.execute(
        """
        select promotion_id, model, version, verdict, champion_version, effective_partition, reasons, numbers
        from ml.promotions where model = %s and version = %s and verdict <> 'rolled_back'
        """,
        [model, version],
    ).fetchone()
    return (
        None
        if row is None
        else Decision(row[0], row[1], row[2], row[3], row[4], row[5], tuple(row[6]), row[7])
    )


@dataclass(frozen=True)
class GateResult:
    """What the gate found.

    Attributes:
        criteria: Every answer, in the order of the record.
        remarks: What else a reader should know.
        measured: All metrics behind it, by source and slice; empty where the challenger cannot
            score.
        rows: First day, last day and number of the rows compared.
        page: The page for people.
        champion_status: Of ``Case.champion_status``; ``not asked`` where the challenger cannot
            score.
    """

    criteria: list[Criterion]
    remarks: list[str]
    measured: list[MetricValue]
    rows: dict[str, Any]
    page: str
    champion_status: str

    @property
    def objections(self) -> list[str]:
        """Return why the challenger must not serve; empty promotes it."""
        return failures(self.criteria)

    def verdict(self, champion: ModelVersion | None) -> str:
        """Return the verdict of ``ml.promotions``."""
        return "refused" if self.objections else ("promoted" if champion else "first")

    def reasons(self, champion: ModelVersion | None) -> list[str]:
        """Return why, one sentence each."""
        agreement = (
            "Every criterion is met: better than the champion."
            if champion
            else "Every criterion is met; there is no champion yet."
        )
        return [*(self.objections or [agreement]), *self.remarks]

    @property
    def numbers(self) -> dict[str, Any]:
        """Return the rows, every criterion in short, and every metric: by source overall, and by slice."""
        overall_numbers = {
            source: overall(self.measured, source, SAMPLE)
            for source in dict.fromkeys(m.source for m in self.measured)
        }
        slices: dict[str, Any] = {}
        for part in self.measured:
            if part.slice_column:
                level = slices.setdefault(part.slice_column, {}).setdefault(
                    part.slice_level, {"n_rows": part.n_rows}
                )
                level.setdefault(part.source, {})[part.metric] = part.value
        verdicts = {criterion.name: criterion.verdict.value for criterion in self.criteria}
        found = {
            "rows": self.rows,
            "criteria": verdicts,
            "overall": overall_numbers,
            "slices": slices,
        }
        return found | {"champion_status": self.champion_status}


def _judge(case: PromotionContext) -> GateResult:
    """Ask the gate, measure what can be measured, and write the page."""
    criteria = run_gate(case)
    can_score = any(
        criterion.name == "scores" and not criterion.is_refusal for criterion in criteria
    )
    sources = {
        "challenger": "challenger",
        "baseline": "rule",
        **({"champion": "champion"} if can_score and case.champion_model else {}),
    }
    measured = (
        evidence(
            case.spec, SAMPLE, case.rows, case.label, {k: case.of(v) for k, v in sources.items()}
        )
        if can_score
        else []
    )
    facts = {
        "first": case.first_day.isoformat(),
        "last": case.split.holdout.last.key,
        "n_rows": case.n_rows,
    }
    status = case.champion_status if can_score else "not asked"
    remarks = (
        [f"Not compared: {case.champion_problem}."]
        if case.champion and can_score and case.champion_problem
        else []
    )
    page = render_page(
        case, criteria, failures(criteria), draw_figures(case, criteria) if can_score else {}
    )
    key = content_key(f"{PREFIX}/{case.spec.name}", page, ".html")
    case.store.put(key, page, "text/html; charset=utf-8")
    return GateResult(criteria, remarks, measured, facts, key, status)


def _case(
    settings: Settings,
    store: ObjectStore,
    conn: Connection,
    spec: ModelSpec,
    versions: tuple[ModelVersion, ModelVersion | None],
) -> PromotionContext:
    challenger, champion = versions
    training_set = find_training_set(conn, challenger.training_set)
    row = conn.execute(
        "select manifest from ml.training_sets where training_set = %s", [training_set.key]
    ).fetchone()
    return PromotionContext(
        settings, store, spec, training_set, row[0] if row else {}, challenger, champion
    )


def _record(
    conn: Connection, case: PromotionContext, judged: GateResult, run: RunContext
) -> Decision:
    """Append decision and evidence and close the open orders in one transaction; the first recorded decision stands."""
    challenger, champion = case.challenger, case.champion
    partition = Partition(challenger.partition_date)
    hit(Failpoint.PROMOTION_JUDGED)
    with conn.transaction():
        lock_model(conn, challenger.model)
        if find_decision(conn, challenger.model, challenger.version) is None:
            _refuse_race(champion, champion_for(conn, challenger.model, partition.shift(1)))
            document = _document(case, judged, run, last_digest(conn, challenger.model))
            kept = write_record(case.settings, case.store, challenger.model, document)
            _append(conn, case, judged, kept, run)
            record_evidence(conn, challenger, judged.measured, run)
        decision = find_decision(conn, challenger.model, challenger.version)
        assert decision is not None  # noqa: S101 - appended above
        outcome = {
            "version": challenger.version,
            "verdict": decision.verdict,
            "promotion_id": decision.promotion_id,
        }
        for order in open_ones(conn, challenger.model, partition):
            consume(conn, order.decision_id, partition, run, outcome)
    hit(Failpoint.PROMOTION_AFTER, lambda: lose(conn))
    return decision


def _document(
    case: PromotionContext, judged: GateResult, run: RunContext, previous: str | None
) -> dict[str, Any]:
    """Return the evidence record: who was judged by which limits on which rows, every answer, and the record before."""
    challenger, champion = case.challenger, case.champion
    partition = Partition(challenger.partition_date)
    return {
        "previous": previous,
        "model": challenger.model,
        "version": challenger.version,
        "digest": challenger.digest,
        "champion": champion and {"version": champion.version, "digest": champion.digest},
        "partition": partition.key,
        "effective_partition": partition.shift(1).key,
        "verdict": judged.verdict(champion),
        "reasons": judged.reasons(champion),
        "criteria": [criterion.as_json() for criterion in judged.criteria],
        "rows": judged.rows,
        "numbers": judged.numbers,
        "training_set": {
            "key": case.training_set.key,
            "sha256": case.training_set.sha256,
            "n_rows": case.training_set.n_rows,
        },
        "limits": case.spec.promotion.model_dump(mode="json"),
        "spec_digest": case.spec.digest,
        "code_version": code_version(),
        "draws": {"of": "days", "n": N_DRAWS, "seed": case.seed},
        "page": judged.page,
        "run_id": run.run_id,
        "actor": run.actor,
    }


def _refuse_race(judged: ModelVersion | None, now: ModelVersion | None) -> None:
    before, after = judged and judged.version, now and now.version
    if before != after:
        raise PromotionRaceError(
            "Another version became champion while this one was compared with its predecessor.",
            expected=f"version {before}",
            got=f"version {after}",
            todo="Rerun: it is then compared with the new champion.",
        )


def _append(
    conn: Connection, case: PromotionContext, judged: GateResult, kept: StoredRecord, run: RunContext
) -> None:
    challenger, champion = case.challenger, case.champion
    conn.execute(
        """
        insert into ml.promotions (model, version, verdict, champion_version, partition_date, effective_partition, reasons, numbers,
            run_id, actor, evidence_key, evidence_sha256, evidence_signature, evidence_page)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            *(
                challenger.model,
                challenger.version,
                judged.verdict(champion),
                champion and champion.version,
            ),
            *(challenger.partition_date, Partition(challenger.partition_date).shift(1).day),
            *(judged.reasons(champion), json.dumps(judged.numbers), run.run_id, run.actor),
            *(kept.key, kept.sha256, kept.signature, judged.page),
        ],
    )
