"""Score partitions and publish their predictions: ``begin``, ``score_shard``, ``publish``.

The three functions are the tasks of a scoring DAG; ``score`` calls them in one process. A broken
model does not keep a partition from being published: ``publish`` then takes the next step of the
fallback chain (champion, previous champion, last score, fallback rule), and every row names its
step. Source: docs/adr/0008-scoring.md, docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import PartitionRange, consecutive_ranges
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.models.shapley.shap_values import METHOD
from nightshift.scoring.plan import MODEL_STEPS, DayPlan, ScorePlan, ScoreSource, is_downgrade
from nightshift.scoring.prediction_tables import (
    ensure_prediction_relations,
    model_query,
    predictions_target,
)
from nightshift.scoring.row_checks import pass_gate, refuse_damaged_features, refuse_incomplete
from nightshift.scoring.scorer import ChampionBrokenError
from nightshift.scoring.shard import ShardJob, stage_shard
from nightshift.scoring.version_choice import VersionChooser
from nightshift.scoring.without_model.last_score import past_digest, past_scores
from nightshift.warehouse import partition_write
from nightshift.warehouse.cancel_attempts import end_older_attempts
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.control_tables.last_good_specs import keep_spec

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.quality.gate_errors import GateError
    from nightshift.scoring.plan import PastScores
    from nightshift.scoring.version_choice import PinnedVersion, VersionChoice
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import PartitionWrite, PublishedLoad

logger = logging.getLogger(__name__)

CHAMPION_BROKE = "champion broke while scoring"
"""Begin of a load's refusal that tells ``publish`` to take the next step of the fallback chain."""


class DowngradeError(NightshiftError):
    """A rerun would replace a model's published scores by those of a lower fallback step."""

    code = "NS-SCORE-004"
    is_retryable = True


def score(
    settings: Settings,
    spec: ModelSpec,
    partitions: PartitionRange,
    run: RunContext,
    named: PinnedVersion | None = None,
) -> list[PublishedLoad]:
    """Plan, score and publish partitions in one process.

    A named version scores whichever version is champion, is named in every row, stays when the
    partition is rerun, and has no fallback.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        DowngradeError: A better step made the published rows and cannot repeat them now.
        ChampionBrokenError: The named version cannot score.
        NightshiftError: As ``publish``.
    """
    plan = begin(settings, spec, partitions, run, named=named)
    score_shards(settings, spec, plan, run)
    return publish(settings, spec, plan, run, may_fall_back=named is None)


def begin(
    settings: Settings,
    spec: ModelSpec,
    partitions: PartitionRange,
    run: RunContext,
    broken: Mapping[int, str] | None = None,
    named: PinnedVersion | None = None,
) -> ScorePlan:
    """Choose the version that scores each partition, try it on its rows, and begin the write.

    A missing or broken champion is no failure: the plan then holds the next step of the fallback
    chain and the reason.

    ``broken`` are versions that failed in this run already, with the reason; they are not tried
    again. ``named`` is the version to take, whichever is champion.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        DamagedInputError: Its rows differ from what was published.
        DowngradeError: A better step made the published rows and cannot repeat them now.
        ChampionBrokenError: The named version cannot score.
        WarehouseError: The warehouse cannot be reached.
    """
    broken = broken or {}
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        # The deadline fallback takes this spec if the file is broken by then.
        keep_spec(conn, spec)
        choices = VersionChooser(settings, spec, conn, broken, named=named).choose_all(partitions)
        if named is None:
            refuse_downgrade(conn, spec, choices)
        else:
            _refuse_unusable(spec, named, choices, partitions)
        return begin_plan(conn, spec, choices, run, broken)


def score_shard(
    settings: Settings, spec: ModelSpec, plan: ScorePlan, shard: int, run: RunContext
) -> None:
    """Score one shard's entities in all partitions of the plan, and stage the rows.

    Idempotent, also when two attempts run at the same time. A model that breaks here, although its
    trial passed, refuses the whole load; ``publish`` then takes the next step. A load that is
    audited or published is left unchanged.

    Raises:
        LoadStateError: There is no such load.
        ObjectStoreError: The first attempt could not read the champion; later attempts fall back.
        WarehouseError: The warehouse cannot be reached.
    """
    hit(Failpoint.SCORE_SHARD_BEFORE)
    with connect(settings, run.application_name) as conn:
        # An older attempt may hang in a transaction, and would hold the shard's lock.
        end_older_attempts(conn, run)
        try:
            stage_shard(conn, ShardJob(settings, spec, plan, shard, run))
        except ChampionBrokenError as error:
            # The refusal names the version: publish reads it, also in another process.
            reason = f"{CHAMPION_BROKE}: {error.what}"
            partition_write.refuse(conn, plan.write(spec), reason)
        else:
            hit(Failpoint.SCORE_SHARD_AFTER, lambda: lose(conn))


def score_shards(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> None:
    """Score all shards of a plan, one after the other."""
    for shard in plan.shards:
        score_shard(settings, spec, plan, shard, run)


def publish(
    settings: Settings,
    spec: ModelSpec,
    plan: ScorePlan,
    run: RunContext,
    *,
    may_fall_back: bool = True,
) -> list[PublishedLoad]:
    """Publish the staged rows of a plan; if its models fail, the rows of the next fallback step.

    Idempotent: a published plan is read back. A load that a broken model refused, or whose scores
    the gate refused, is replaced by the next step of the fallback chain. A gate that could not be
    evaluated publishes nothing. Without ``may_fall_back``, for a version that a person requested,
    nothing replaces the load.

    Raises:
        IncompletePredictionsError: Rows are missing, unknown, or hold impossible values; nothing is
            published.
        DamagedInputError: The feature rows that were scored differ from what was published.
        AuditError: The write path's audit refused the load, or the load was refused before and
            there is no fallback.
        GateError: The expectation suite refused and there is no fallback, or it could not be
            evaluated.
        StaleTokenError: A newer attempt owns a partition.
        ContentConflictError: The same features, model and spec gave other predictions.
    """
    from nightshift.quality.gate_errors import GateError

    target = predictions_target(spec)
    while True:
        broken: dict[int, str] = {}
        with connect(settings, run.application_name) as conn:
            # Empty features have empty predictions. Any other empty partition lost its rows.
            target = replace(target, may_be_empty=_has_empty_partition(conn, spec, plan))
            write, state = partition_write.resume(conn, plan.load_id, [target], plan.partitions)
            if state == "refused" and may_fall_back:
                broken = _broken_version(conn, plan)
            elif state in ("staged", "audited"):
                _audit(conn, spec, plan, write)
                try:
                    pass_gate(settings, spec, plan, run)
                except GateError as error:
                    broken = _refused_versions(plan, error) if may_fall_back else {}
                    if not broken:
                        raise
                    logger.warning("The next step of the fallback chain takes over:\n%s", error)
                    partition_write.refuse(conn, write, f"{error.code}: {error.what}")
            if not broken:
                published = partition_write.publish(conn, write)
                partition_write.collect(conn, [target])
                return published
        # Every round excludes one more version. So the loop ends, at the latest with the steps
        # that need no model.
        plan = begin(settings, spec, plan.partitions, run, {**plan.broken, **broken})
        score_shards(settings, spec, plan, run)


def _audit(conn: Connection, spec: ModelSpec, plan: ScorePlan, write: PartitionWrite) -> None:
    # The checks scan rows that were just written: the planner must know of them.
    partition_write.analyze_grown_tables(conn, write)
    refuse_damaged_features(conn, spec, plan)
    refuse_incomplete(conn, spec, plan)
    partition_write.audit(conn, write)


def _refused_versions(plan: ScorePlan, error: GateError) -> dict[int, str]:
    """Return the versions whose scores a gate refused, with the reason.

    Empty if the gate could not be evaluated: that says nothing about the scores.
    """
    from nightshift.quality.gate_errors import GateCrashError, SuiteError

    if isinstance(error, GateCrashError | SuiteError):
        return {}
    return {
        version: f"the scores of version {version} failed their gate ({error.code})"
        for version in plan.days_by_version
    }


def _broken_version(conn: Connection, plan: ScorePlan) -> dict[int, str]:
    """Return the version that made ``score_shard`` refuse the load, with the reason.

    Empty if the load was refused for another reason.
    """
    row = conn.execute(
        "select detail ->> 'refused' from ops.loads where load_id = %s"
        " order by partition_date limit 1",
        [plan.load_id],
    ).fetchone()
    refusal = row[0] if row and row[0] else ""
    match = re.match(rf"{CHAMPION_BROKE}: (version (\d+) .*)", refusal, re.DOTALL)
    return {int(match[2]): match[1]} if match else {}


def _has_empty_partition(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> bool:
    """Return whether the features of a partition have no row: its predictions have none then."""
    query = """
        select bool_or(n_rows = 0) from ops.loads
        join unnest(%s::date[], %s::bigint[]) d (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s and state = 'published'
    """
    days = [day.partition_date for day in plan.days]
    feature_loads = [day.feature_load_id for day in plan.days]
    row = conn.execute(query, [days, feature_loads, spec.features_dataset]).fetchone()
    return row == (True,)


def has_successor(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> bool:
    """Return whether a newer attempt has published every partition of the plan."""
    query = """
        select count(*) from ops.loads mine
        join ops.published p using (dataset, partition_date)
        join ops.loads newer on (newer.dataset, newer.partition_date, newer.load_id)
            = (p.dataset, p.partition_date, p.load_id)
        where mine.dataset = %s and mine.load_id = %s and newer.token > mine.token
    """
    with connect(settings, run.application_name) as conn:
        row = conn.execute(query, [spec.predictions_dataset, plan.load_id]).fetchone()
    return row == (len(plan.days),)


def refuse_downgrade(conn: Connection, spec: ModelSpec, choices: Sequence[VersionChoice]) -> None:
    """Keep published scores of a model from being replaced by a lower fallback step.

    Raises:
        DowngradeError: A choice would do so.
    """
    query = model_query(
        spec,
        "select distinct t.partition_date, t.score_source from {predictions} t"
        " join ops.published p using (partition_date, load_id)"
        " where p.dataset = %s and t.partition_date = any(%s) and t.score_source = any(%s)",
    )
    days = [choice.day for choice in choices]
    rows = conn.execute(query, [spec.predictions_dataset, days, list(MODEL_STEPS)]).fetchall()
    published: dict[dt.date, ScoreSource] = dict(rows)
    downgraded = [
        choice
        for choice in choices
        if choice.day in published and is_downgrade(choice.source, published[choice.day])
    ]
    if downgraded:
        day, source = downgraded[0].day, downgraded[0].source
        raise DowngradeError(
            f"{len(downgraded)} published partition(s) of {spec.name} would be downgraded.",
            expected=f"{published[day]} on {day}, as published",
            got=f"only {source} can score now",
            todo="The published rows stand. Repair or roll back the model, then clear the task.",
        )


def _refuse_unusable(
    spec: ModelSpec,
    named: PinnedVersion,
    choices: Iterable[VersionChoice],
    partitions: PartitionRange,
) -> None:
    for choice in choices:
        if choice.version is None:
            raise ChampionBrokenError(
                f"Version {named.version} of {spec.name} cannot score: {choice.reason}.",
                expected=f"a version with complete files that scores the features of {partitions}",
                todo="Nothing was published. Name another version: `nightshift models`.",
            )


def begin_plan(
    conn: Connection,
    spec: ModelSpec,
    choices: Sequence[VersionChoice],
    run: RunContext,
    broken: Mapping[int, str],
) -> ScorePlan:
    """Begin the write of consecutive partitions whose features and versions are chosen."""
    past = past_scores(conn, spec, [choice.day for choice in choices if choice.version is None])
    days = tuple(_plan_day(choice, past.get(choice.day, ())) for choice in choices)
    inputs = inputs_of(spec, choices)
    # Only then last scores are part of the content, and their loads of its inputs.
    if past:
        inputs["past scores"] = past_digest(conn, spec, days)
    (partitions,) = consecutive_ranges(choice.day for choice in choices)
    # If these features turn out to have been damaged, this load proves nothing about its inputs.
    manifest = partition_write.LoadManifest(run, inputs, reads={spec.features_dataset: 0})
    write = partition_write.begin(conn, [predictions_target(spec)], partitions, manifest)
    hit(Failpoint.SCORE_BEGIN_AFTER)
    n_shards = spec.scoring.shards
    return ScorePlan(load_id=write.load_id, n_shards=n_shards, days=days, broken=dict(broken))


def _plan_day(choice: VersionChoice, past: tuple[PastScores, ...]) -> DayPlan:
    return DayPlan(
        partition_date=choice.day,
        feature_load_id=choice.features.load_id,
        model_version=choice.version,
        score_source="carried_over" if past else choice.source,
        score_source_reason=choice.reason,
        past=past,
    )


def inputs_of(spec: ModelSpec, choices: Iterable[VersionChoice]) -> dict[str, str]:
    """Return digests of everything that determines the predictions, except past scores."""
    features, models = [], []
    for choice in choices:
        day = str(choice.day)
        features.append([day, choice.features.content_hash])
        models.append([day, f"{choice.source} {choice.digest} {choice.reason or ''}"])
    # Another method of the reasons gives other content, so it counts as an input.
    return {
        "features": _digest(features),
        "models": _digest(models),
        "spec": spec.digest,
        "reasons": METHOD,
    }


def _digest(rows: list[list[str]]) -> str:
    return sha256(json.dumps(rows).encode()).hexdigest()
