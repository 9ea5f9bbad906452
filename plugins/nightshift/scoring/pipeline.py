"""Score partitions and publish their predictions: ``begin``, ``score_shard``, ``publish``.

The three functions are the tasks of a scoring DAG; ``score`` calls them in one process. A broken
model does not keep a partition from being published: ``publish`` then takes the next step of the
fallback chain (champion, previous champion, last score, fallback rule), and every row names its
step. Source: docs/adr/0008-scoring.md, docs/adr/0015-always-on-time.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.failpoints import Failpoint, hit
from nightshift.scoring.plan import ScorePlan
from nightshift.scoring.planning import plan_scoring
from nightshift.scoring.row_checks import audit_rows, gate_refusal
from nightshift.scoring.scorer import ChampionBrokenError
from nightshift.scoring.shard import ShardJob, stage_shard
from nightshift.scoring.version_choice import VersionChooser
from nightshift.warehouse import partition_write
from nightshift.warehouse.cancel_attempts import end_older_attempts
from nightshift.warehouse.connection import connect, lose

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import PinnedVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

CHAMPION_BROKE = "champion broke while scoring"
"""Begin of a load's refusal that tells ``publish`` to take the next step of the fallback chain."""


def score(
    settings: Settings,
    spec: ModelSpec,
    partitions: PartitionRange,
    run: RunContext,
    named: PinnedVersion | None = None,
    *,
    may_try_canary: bool = True,
) -> list[partition_write.PublishedLoad]:
    """Plan, score and publish partitions in one process.

    A named version scores whichever version is champion, is named in every row, stays when the
    partition is rerun, and has no fallback. Without ``may_try_canary``, the champion scores every
    row of a partition that is not published: there is no time to try anything.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        DowngradeError: A better step made the published rows and cannot repeat them now.
        ChampionBrokenError: The named version cannot score.
        NightshiftError: As ``publish``.
    """
    with connect(settings, run.application_name) as conn:
        chooser = VersionChooser(settings, spec, conn, named=named, may_try_canary=may_try_canary)
        plan = plan_scoring(chooser, partitions, run)
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
    with connect(settings, run.application_name) as conn:
        chooser = VersionChooser(settings, spec, conn, broken or {}, named=named)
        return plan_scoring(chooser, partitions, run)


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
) -> list[partition_write.PublishedLoad]:
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
    while True:
        with connect(settings, run.application_name) as conn:
            (target,) = plan.write(spec).targets
            # Empty features have empty predictions. Any other empty partition lost its rows.
            target = replace(target, may_be_empty=_has_empty_partition(conn, spec, plan))
            write, state = partition_write.resume(conn, plan.load_id, [target], plan.partitions)
            broken: dict[int, str] = {}
            if state == "refused" and may_fall_back:
                broken = _broken_version(conn, plan)
            elif state in ("staged", "audited"):
                audit_rows(conn, spec, plan, write)
                refusal = gate_refusal(settings, spec, plan, run)
                if refusal is not None:
                    # Without a model there is no other step that could be taken.
                    if not may_fall_back or not plan.days_by_version:
                        raise refusal
                    logger.warning("The next step of the fallback chain takes over:\n%s", refusal)
                    partition_write.refuse(conn, write, f"{refusal.code}: {refusal.what}")
                    broken = _refused_versions(plan, refusal.code)
            if not broken:
                published = partition_write.publish(conn, write)
                partition_write.collect(conn, [target])
                return published
        # Every round excludes one more version. So the loop ends, at the latest with the steps
        # that need no model.
        plan = begin(settings, spec, plan.partitions, run, {**plan.broken, **broken})
        score_shards(settings, spec, plan, run)


def _refused_versions(plan: ScorePlan, code: str) -> dict[int, str]:
    """Return the versions whose scores a gate refused, with the reason."""
    # A suite does not tell whose rows it refused. What is being tried out gives way first.
    return {
        version: f"the scores of version {version} failed their gate ({code})"
        for version in plan.canary_versions or plan.days_by_version
    }


def _broken_version(conn: Connection, plan: ScorePlan) -> dict[int, str]:
    """Return the version that made ``score_shard`` refuse the load, with the reason.

    Empty if the load was refused for another reason.
    """
    row = conn.execute(
        """
        select detail ->> 'refused' from ops.loads where load_id = %s
        order by partition_date limit 1
        """,
        [plan.load_id],
    ).fetchone()
    refusal = row[0] if row and row[0] else ""
    match = re.match(rf"{CHAMPION_BROKE}: (version (\d+) .*)", refusal, re.DOTALL)
    return {int(match[2]): match[1]} if match else {}


def _has_empty_partition(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> bool:
    """Return whether the features of a partition have no row: its predictions have none then."""
    # The planned loads count, also where a newer one is published by now.
    query = """
        select bool_or(n_rows = 0) from ops.loads
        join unnest(%s::date[], %s::bigint[]) d (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s and state = 'published'
    """
    feature_loads = [day.feature_load_id for day in plan.days]
    values = [plan.partitions.days, feature_loads, spec.features_dataset]
    row = conn.execute(query, values).fetchone()
    return row == (True,)


def has_successor(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> bool:
    """Return whether a newer attempt has published every partition of the plan."""
    # The fencing tokens of a partition order its attempts, so the pointer alone does not do.
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
