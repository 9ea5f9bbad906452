"""Who is champion: judge a challenger on rows that nobody was fitted on, and keep the decision with its numbers for ever.

Source: docs/adr/0007-training-and-promotion.md.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import METRICS
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError, ObjectStoreError
from nightshift.fault_points import FaultPoint, reach
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.model_versions import ModelVersion, find_version, load_model, lock_model, mirror_aliases, record_evidence
from nightshift.training.evaluation import Measured, evidence, overall, rule_predictions
from nightshift.training.model_text import ModelTextError
from nightshift.training.signature import SignatureError, numbers
from nightshift.training.splits import rows_between, split_window
from nightshift.training.training_set import find_training_set, read_rows
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.decisions import consume, open_ones

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.training.training_set import TrainingSet
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

    Promotions are ordered by effective partition, then by when they were decided: an old night that is trained late does not replace
    the champion of later nights.
    """
    row = conn.execute(
        """
        select version from ml.promotions where model = %s and verdict <> 'refused' and effective_partition <= %s
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
            select distinct on (version) version, effective_partition, promotion_id from ml.promotions
            where model = %(model)s and verdict <> 'refused' and effective_partition <= %(day)s
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

    Champion, challenger and rule baseline are scored on the same rows: the challenger's hold-out, as far as it is later than all that
    either was fitted on. A rerun returns the recorded decision.

    Raises:
        RegistryError: There is no such version.
        ObjectStoreError: The challenger's files or rows are missing or were changed.
    """
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        challenger = find_version(conn, spec.name, version)
        decision = find_decision(conn, spec.name, version)
        if decision is None:
            champion = champion_for(conn, spec.name, Partition(challenger.partition_date).shift(1))
            training_set = find_training_set(conn, challenger.training_set)
            decision = _record(conn, challenger, champion, _judge(spec, store, training_set, challenger, champion), run)
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
    return None if row is None else Decision(row[0], row[1], row[2], row[3], row[4], row[5], tuple(row[6]), row[7])


@dataclass(frozen=True)
class Judgement:
    """What a comparison found.

    Attributes:
        objections: Why the challenger must not serve; empty promotes it.
        remarks: What else a reader should know.
        measured: All numbers behind it.
        rows: First day, last day and number of the rows compared.
    """

    objections: list[str]
    remarks: list[str]
    measured: list[Measured]
    rows: dict[str, Any]

    def verdict(self, champion: ModelVersion | None) -> str:
        """Return the verdict of ``ml.promotions``."""
        return "refused" if self.objections else ("promoted" if champion else "first")

    @property
    def numbers(self) -> dict[str, Any]:
        """Return the rows and every metric: by source overall, and by slice."""
        overall_numbers = {source: overall(self.measured, source, SAMPLE) for source in dict.fromkeys(m.source for m in self.measured)}
        slices: dict[str, Any] = {}
        for part in self.measured:
            if part.slice_column:
                level = slices.setdefault(part.slice_column, {}).setdefault(part.slice_level, {"n_rows": part.n_rows})
                level.setdefault(part.source, {})[part.metric] = part.value
        return {"rows": self.rows, "overall": overall_numbers, "slices": slices}


def _judge(
    spec: ModelSpec, store: ObjectStore, training_set: TrainingSet, challenger: ModelVersion, champion: ModelVersion | None
) -> Judgement:
    holdout = split_window(training_set.window, spec.training).holdout
    fitted_until = max([challenger.fit_end, *([champion.fit_end] if champion else [])])
    first = max(holdout.first.day, fitted_until + dt.timedelta(days=1 + spec.training.gap_days))
    rows = rows_between(read_rows(store, training_set), first, holdout.last.day)
    facts = {"first": first.isoformat(), "last": holdout.last.key, "n_rows": rows.num_rows}
    if rows.num_rows == 0:
        return Judgement(["No row is later than everything that champion and challenger were fitted on."], [], [], facts)
    trained = load_model(store, challenger)
    predictions = {
        "challenger": trained.predictions(rows),
        "baseline": rule_predictions(spec.task, spec.scoring.fallback, rows, trained.threshold),
    }
    remarks = []
    if champion is not None:
        try:
            predictions["champion"] = load_model(store, champion).predictions(rows)
        except (ObjectStoreError, ModelTextError, SignatureError) as error:
            if isinstance(error, ObjectStoreError) and error.is_retryable:
                raise
            remarks.append(f"Champion version {champion.version} can score no more ({error.code}): it is not compared.")
    measured = evidence(spec, SAMPLE, rows, numbers(rows, spec.label.column), predictions)
    return Judgement(_objections(spec, measured), remarks, measured, facts)


def _objections(spec: ModelSpec, measured: list[Measured]) -> list[str]:
    """Return why the challenger must not serve: champion, baseline, slices, calibration."""
    metric = METRICS[spec.promotion.metric]
    by_source = {source: overall(measured, source, SAMPLE) for source in ("challenger", "champion", "baseline")}
    values = {source: found.get(spec.promotion.metric) for source, found in by_source.items()}
    challenger, champion, baseline = values["challenger"], values["champion"], values["baseline"]
    if challenger is None:
        return [f"{spec.promotion.metric} is not defined on these rows: they have one class only."]
    objections = []
    margin = spec.promotion.non_inferiority_margin
    if champion is not None and not _is_enough(metric.gain(challenger, champion), margin):
        objections.append(f"{spec.promotion.metric} {challenger:.4f} is not better than the champion's {champion:.4f} (margin {margin:g}).")
    minimum = spec.promotion.minimum_gain_over_baseline
    if baseline is not None and (gain := metric.gain(challenger, baseline)) < minimum:
        objections.append(
            f"{spec.promotion.metric} {challenger:.4f} gains {gain:.4f} on the rule baseline's {baseline:.4f}, not {minimum:g}."
        )
    limit, error = spec.promotion.maximum_calibration_error, by_source["challenger"].get("calibration_error")
    if limit is not None and error is not None and error > limit:
        objections.append(f"Calibration error {error:.4f} is above {limit:g}.")
    return objections + _slice_objections(spec, measured)


def _is_enough(gain: float, margin: float) -> bool:
    """Return whether the gain beats the champion; an equal one only counts within a declared margin."""
    return gain > 0 or (margin > 0 and gain >= -margin)


def _slice_objections(spec: ModelSpec, measured: list[Measured]) -> list[str]:
    metric = METRICS[spec.promotion.metric]
    minimum_rows = {part.column: part.minimum_rows for part in spec.promotion.slices}
    judged = [m for m in measured if m.metric == spec.promotion.metric and m.slice_column and m.n_rows >= minimum_rows[m.slice_column]]
    values = {(m.source, m.slice_column, m.slice_level): m.value for m in judged}
    objections = []
    for (source, column, level), champion in values.items():
        challenger = values.get(("challenger", column, level))
        if source == "champion" and champion is not None and challenger is not None:
            loss = -metric.gain(challenger, champion)
            if loss > spec.promotion.slice_margin:
                where = f"{spec.promotion.metric} of {column} = {level}"
                objections.append(f"{where} is {challenger:.4f}, the champion's {champion:.4f}: worse by {loss:.4f}.")
    return objections


def _record(conn: Connection, challenger: ModelVersion, champion: ModelVersion | None, judged: Judgement, run: RunContext) -> Decision:
    """Append decision and evidence and close the open orders in one transaction; the first recorded decision stands."""
    partition = Partition(challenger.partition_date)
    reach(FaultPoint.PROMOTION_JUDGED)
    with conn.transaction():
        lock_model(conn, challenger.model)
        if find_decision(conn, challenger.model, challenger.version) is None:
            _refuse_race(champion, champion_for(conn, challenger.model, partition.shift(1)))
            _append(conn, challenger, champion, judged, run)
            record_evidence(conn, challenger, judged.measured, run)
        decision = find_decision(conn, challenger.model, challenger.version)
        assert decision is not None  # noqa: S101 - appended above
        outcome = {"version": challenger.version, "verdict": decision.verdict, "promotion_id": decision.promotion_id}
        for order in open_ones(conn, challenger.model, partition):
            consume(conn, order.decision_id, partition, run, outcome)
    reach(FaultPoint.PROMOTION_AFTER, lambda: lose(conn))
    return decision


def _refuse_race(judged: ModelVersion | None, now: ModelVersion | None) -> None:
    before, after = judged and judged.version, now and now.version
    if before != after:
        raise PromotionRaceError(
            "Another version became champion while this one was compared with its predecessor.",
            expected=f"version {before}",
            got=f"version {after}",
            todo="Rerun: it is then compared with the new champion.",
        )


def _append(conn: Connection, challenger: ModelVersion, champion: ModelVersion | None, judged: Judgement, run: RunContext) -> None:
    agreement = "Better than champion and rule baseline." if champion else "Not worse than the rule baseline; there is no champion yet."
    conn.execute(
        """
        insert into ml.promotions (model, version, verdict, champion_version, partition_date, effective_partition, reasons, numbers,
            run_id, actor)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            *(challenger.model, challenger.version, judged.verdict(champion), champion and champion.version),
            *(challenger.partition_date, Partition(challenger.partition_date).shift(1).day),
            *([*(judged.objections or [agreement]), *judged.remarks], json.dumps(judged.numbers), run.run_id, run.actor),
        ],
    )
