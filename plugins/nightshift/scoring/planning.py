"""Plan a scoring: choose the step of each partition, refuse a downgrade, and begin the write.

A rollback begins its writes here too, and copies the rows of retained loads into them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import consecutive_ranges
from nightshift.errors import NightshiftError
from nightshift.failpoints import Failpoint, hit
from nightshift.scoring.level.chosen_levels import keep_levels, with_levels_and_canaries
from nightshift.scoring.plan import (
    FALLBACK_CHAIN,
    MODEL_STEPS,
    DayPlan,
    ScorePlan,
    inputs_of,
    is_downgrade,
)
from nightshift.scoring.prediction_tables import (
    ensure_prediction_relations,
    has_damaged_rows,
    model_query,
    predictions_target,
)
from nightshift.scoring.without_model.last_score import past_digest, past_scores
from nightshift.warehouse import partition_write
from nightshift.warehouse.control_tables.last_good_specs import keep_spec
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import PastScores, ScoreSource, VersionChoice
    from nightshift.scoring.version_choice import VersionChooser
    from nightshift.warehouse.connection import Connection


class DowngradeError(NightshiftError):
    """A rerun would replace a model's published scores by those of a lower fallback step."""

    code = "NS-SCORE-004"
    is_retryable = True


def plan_scoring(chooser: VersionChooser, partitions: PartitionRange, run: RunContext) -> ScorePlan:
    """Choose the version that scores each partition, and begin the write.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        DamagedInputError: Its rows differ from what was published.
        DowngradeError: A better step made the published rows and cannot repeat them now.
        ChampionBrokenError: The named version cannot score.
    """
    conn, spec = chooser.conn, chooser.spec
    # The deadline fallback takes this spec if the file is broken by then.
    keep_spec(conn, spec)
    choices = choose_versions(chooser, partitions, run)
    # A person who names a version wants it also where a better step has scored.
    if chooser.named is None:
        _refuse_downgrade(conn, spec, choices)
    return begin_plan(conn, spec, choices, run, chooser.broken)


def choose_versions(
    chooser: VersionChooser, partitions: PartitionRange, run: RunContext
) -> list[VersionChoice]:
    """Return the chooser's choices with the level and the canary of each, before a write.

    The model's relations exist from then on.
    """
    ensure_prediction_relations(chooser.conn, chooser.spec)
    return with_levels_and_canaries(chooser, chooser.choose_all(partitions), run)


def _refuse_downgrade(conn: Connection, spec: ModelSpec, choices: Sequence[VersionChoice]) -> None:
    """Keep published scores of a model from being replaced by a lower fallback step."""
    query = model_query(
        spec,
        """
        select distinct t.partition_date, t.score_source from {predictions} t {published}
        where t.partition_date = any(%s) and t.score_source = any(%s)
        """,
        published=join_published(spec.predictions_dataset, "t"),
    )
    days = [choice.day for choice in choices]
    steps = [step for step in MODEL_STEPS if step in FALLBACK_CHAIN]
    rows = conn.execute(query, [days, steps]).fetchall()
    published: dict[dt.date, ScoreSource] = dict(rows)
    downgraded = [
        choice
        for choice in choices
        if choice.day in published and is_downgrade(choice.source, published[choice.day])
    ]
    if not downgraded:
        _refuse_lost_canary(spec, choices)
        return
    first = downgraded[0]
    raise DowngradeError(
        f"{len(downgraded)} published partition(s) of {spec.name} would be downgraded.",
        expected=f"{published[first.day]} on {first.day}, as published",
        got=f"only {first.source} can score now",
        todo="The published rows stand. Repair or roll back the model, then clear the task.",
    )


def _refuse_lost_canary(spec: ModelSpec, choices: Sequence[VersionChoice]) -> None:
    """Keep the published rows of a canary that cannot repeat them now.

    Over corrected features the champion takes its share: what is published is wrong then.
    """
    for choice in choices:
        canary = choice.canary
        if canary and canary.is_pinned and canary.problem:
            raise DowngradeError(
                f"The canary's rows of {choice.day} of {spec.name} cannot be repeated.",
                expected=f"version {canary.canary.version} on its share, as published",
                got=canary.problem,
                todo="The published rows stand. Repair the version's files, then clear the task.",
            )


def begin_plan(
    conn: Connection,
    spec: ModelSpec,
    choices: Sequence[VersionChoice],
    run: RunContext,
    broken: Mapping[int, str],
) -> ScorePlan:
    """Begin the write of consecutive partitions whose features and versions are chosen."""
    days_without_model = [choice.day for choice in choices if choice.version is None]
    past = past_scores(conn, spec, days_without_model)
    days = [_plan_day(choice, past.get(choice.day, ())) for choice in choices]
    inputs = inputs_of(spec, choices)
    # Only then last scores are part of the content, and their loads of its inputs.
    if past:
        inputs["past scores"] = past_digest(conn, spec, days)
    (partitions,) = consecutive_ranges(choice.day for choice in choices)
    # If these features turn out to have been damaged, this load proves nothing about its inputs.
    reads = {spec.features_dataset: max(choice.level_days for choice in choices)}
    manifest = partition_write.LoadManifest(run, inputs, reads=reads)
    write = partition_write.begin(conn, [predictions_target(spec)], partitions, manifest)
    keep_levels(conn, write.load_id, choices, run)
    hit(Failpoint.SCORE_BEGIN_AFTER)
    return ScorePlan(
        load_id=write.load_id,
        n_shards=spec.scoring.shards,
        days=tuple(days),
        broken=dict(broken),
    )


def _plan_day(choice: VersionChoice, past: tuple[PastScores, ...]) -> DayPlan:
    return DayPlan(
        partition_date=choice.day,
        feature_load_id=choice.features.load_id,
        model_version=choice.version,
        score_source="carried_over" if past else choice.source,
        score_source_reason=choice.reason,
        past=past,
        level_shift=choice.level.level.shift if choice.level else 0.0,
        interval=choice.level.interval.interval if choice.level else None,
        canary=choice.canary.plan_for(choice.features) if choice.canary else None,
    )


def are_reusable(conn: Connection, spec: ModelSpec, loads: Mapping[dt.date, int]) -> bool:
    """Return whether retained loads, by day, are still what was published: a copy is then safe."""
    return not has_damaged_rows(conn, spec, loads)


def copy_rows(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, from_loads: Sequence[int], run: RunContext
) -> None:
    """Copy the rows of retained loads into the begun write, in the warehouse."""
    from psycopg import sql

    cursor = conn.execute(model_query(spec, "select * from {predictions} limit 0"))
    # The columns as they are now, whatever release created the table.
    names = [column.name for column in cursor.description or []]
    copied = [sql.Identifier(name) for name in names if name not in {"load_id", "run_id"}]
    copy = model_query(
        spec,
        """
        insert into {predictions} (load_id, run_id, {copied})
        select %(load_id)s, %(run_id)s, {copied} from {predictions} t
        join unnest(%(days)s::date[], %(from_loads)s::bigint[]) d (partition_date, load_id)
            using (partition_date, load_id)
        """,
        copied=sql.SQL(", ").join(copied),
    )
    values = {
        "load_id": plan.load_id,
        "run_id": run.run_id,
        "days": plan.partitions.days,
        "from_loads": list(from_loads),
    }
    with conn.transaction():
        # A rerun may find the load audited: it is complete then, and must not grow.
        if partition_write.hold_stage(conn, plan.write(spec)) == "staged":
            conn.execute(copy, values)
