"""Score partitions in shards: plan once, then every shard writes its own rows, as often as it is asked to."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError, WarehouseError, cause_of, stack_of
from nightshift.failpoints import Failpoint, hit
from nightshift.models.sandboxed_load import retry_starved
from nightshift.models.shapley.shap_values import METHOD
from nightshift.prefetch import Prefetcher
from nightshift.scoring.champion import (
    LOADING_SECONDS,
    Champions,
    Choice,
    PinnedVersion,
    load_version,
)
from nightshift.scoring.fallback import stage_fallback
from nightshift.scoring.feature_rows import (
    FeatureLoad,
    in_key_order,
    published_features,
    shard_query,
)
from nightshift.scoring.last_score import feature_spine, past_digest, past_scores
from nightshift.scoring.plan import LADDER, MODEL_MADE, DayPlan, PastScores, ScorePlan, ScoreSource
from nightshift.scoring.prediction_tables import SCHEMA, ensure_prediction_relations
from nightshift.scoring.progress import Progress
from nightshift.scoring.scorer import ChampionBrokenError, Scorer
from nightshift.warehouse.cancel_attempts import end_older_attempts
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.control_tables.last_good_specs import keep_spec
from nightshift.warehouse.fast_io.arrow_io import stream_arrow
from nightshift.warehouse.fast_io.copy_stream import append_stream
from nightshift.warehouse.partition_write import LoadManifest, Target, hold_stage, refuse
from nightshift.warehouse.partition_write import begin as begin_write

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import Transaction

logger = logging.getLogger(__name__)

CHAMPION_BROKE = "champion broke while scoring"
"""Why a load was refused so that ``publication`` goes on with the next step of the ladder."""


class WorseStepError(NightshiftError):
    """A rerun would replace a model's published scores by a worse step of the ladder."""

    code = "NS-SCORE-004"
    is_retryable = True


def predictions_target(spec: ModelSpec) -> Target:
    """Return where a model's predictions are written and published."""
    return Target(spec.predictions_dataset, SCHEMA, spec.name, (spec.entity.key,))


def begin(
    settings: Settings,
    spec: ModelSpec,
    partitions: PartitionRange,
    run: RunContext,
    broken: Mapping[int, str] | None = None,
    named: PinnedVersion | None = None,
) -> ScorePlan:
    """Choose who scores each partition, try it on tonight's rows, and begin the write.

    A missing or broken champion is no failure: the plan then names the next step of the ladder and
    the reason.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        partitions: Both ends included.
        run: Who scores.
        broken: Versions that broke in this run already, and why; they are not asked again.
        named: The version to take, whoever was champion; None takes who was valid on each night.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        DamagedInputError: Its published rows are not what was published.
        WorseStepError: What is published is the work of a better step, which cannot be repeated
            now.
        ChampionBrokenError: The named version cannot score.
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        keep_spec(conn, spec)
        features = published_features(conn, spec, partitions)
        champions = Champions(settings, spec, conn, broken or {}, named=named)
        choices = [
            champions.choose(partition, load)
            for partition, load in zip(partitions, features, strict=True)
        ]
        if named is None:
            refuse_worse_steps(
                conn,
                spec,
                list(zip(partitions.days, (choice.source for choice in choices), strict=True)),
            )
        elif reason := next((choice.reason for choice in choices if choice.version is None), None):
            raise ChampionBrokenError(
                f"Version {named.version} of {spec.name} was asked for and cannot score: {reason}.",
                expected=f"a version whose files are whole and which scores the features of {partitions}",
                todo="Nothing was published. Name another version; `nightshift models` shows them.",
            )
        return begin_plan(conn, spec, list(zip(features, choices, strict=True)), run, broken or {})


def refuse_worse_steps(
    conn: Connection, spec: ModelSpec, steps: Sequence[tuple[dt.date, ScoreSource]]
) -> None:
    """Keep what a model made: a rerun while that model cannot be read must not replace its scores by a worse step's.

    Raises:
        WorseStepError: It would, for one of the days.
    """
    from psycopg import sql

    query = sql.SQL(
        "select distinct t.partition_date, t.score_source from {} t join ops.published p using (partition_date, load_id)"
        " where p.dataset = %s and t.partition_date = any(%s) and t.score_source = any(%s)"
    ).format(sql.Identifier(SCHEMA, spec.name))
    rows = conn.execute(
        query, [spec.predictions_dataset, [day for day, _ in steps], list(MODEL_MADE)]
    ).fetchall()
    published: dict[dt.date, ScoreSource] = dict(rows)
    worse = [
        (day, step)
        for day, step in steps
        if day in published and LADDER.index(step) > LADDER.index(published[day])
    ]
    if worse:
        day, step = worse[0]
        raise WorseStepError(
            f"The predictions of {spec.name} for {len(worse)} partition(s) would become worse than they are.",
            expected=f"{published[day]} on {day}, as published",
            got=f"only {step} can score now",
            todo="The published rows stand. Repair or roll back the model, then clear the task; nothing is late.",
        )


def begin_plan(
    conn: Connection,
    spec: ModelSpec,
    chosen: Sequence[tuple[FeatureLoad, Choice]],
    run: RunContext,
    broken: Mapping[int, str],
) -> ScorePlan:
    """Begin the write of consecutive partitions whose features and scorers are chosen."""
    past = past_scores(
        conn, spec, [load.partition_date for load, choice in chosen if choice.version is None]
    )
    days = tuple(
        _plan_day(load, choice, past.get(load.partition_date, ())) for load, choice in chosen
    )
    inputs = inputs_of(spec, chosen)
    if past:
        inputs["past scores"] = past_digest(conn, spec, days)
    partitions = PartitionRange(
        Partition(days[0].partition_date), Partition(days[-1].partition_date)
    )
    manifest = LoadManifest(run, inputs, reads={spec.features_dataset: 0})
    write = begin_write(conn, [predictions_target(spec)], partitions, manifest)
    hit(Failpoint.SCORE_BEGIN_AFTER)
    return ScorePlan(
        load_id=write.load_id, n_shards=spec.scoring.shards, days=days, broken=dict(broken)
    )


def inputs_of(spec: ModelSpec, chosen: Sequence[tuple[FeatureLoad, Choice]]) -> dict[str, str]:
    """Return digests of what the predictions of these partitions are made from, past scores apart."""
    return {
        "features": _digest((load.partition_date, load.content_hash) for load, _ in chosen),
        "models": _digest(
            (load.partition_date, f"{choice.source} {choice.digest} {choice.reason or ''}")
            for load, choice in chosen
        ),
        "spec": spec.digest,
        "reasons": METHOD,
    }


def _plan_day(load: FeatureLoad, choice: Choice, past: tuple[PastScores, ...]) -> DayPlan:
    return DayPlan(
        partition_date=load.partition_date,
        feature_load_id=load.load_id,
        model_version=choice.version,
        score_source="carried_over" if past else choice.source,
        score_source_reason=choice.reason,
        past=past,
    )


def _digest(parts: Iterable[tuple[object, str]]) -> str:
    return sha256(json.dumps([[str(day), value] for day, value in parts]).encode()).hexdigest()


def score_shard(
    settings: Settings, spec: ModelSpec, plan: ScorePlan, shard: int, run: RunContext
) -> dict[str, int]:
    """Score one shard's entities in all partitions of the plan, and stage the rows; again is harmless, also at the same time.

    A champion that breaks here although it was tried refuses the whole load;
    ``publication.publish`` then takes the next step. A load that is audited or published already is
    left as it is.

    Returns:
        ``shard`` and ``n_rows``, the shard's rows in the load as the warehouse has counted them.

    Raises:
        LoadStateError: There is no such load.
        ObjectStoreError: The first attempt could not read the champion; later attempts fall back.
        WarehouseError: The warehouse cannot be reached.
    """
    hit(Failpoint.SCORE_SHARD_BEFORE)
    with connect(settings, run.application_name) as conn:
        end_older_attempts(conn, run)
        try:
            n_rows = _stage(settings, conn, spec, plan, shard, run)
        except ChampionBrokenError as error:
            refuse(conn, plan.write(predictions_target(spec)), f"{CHAMPION_BROKE}: {error.what}")
            n_rows = None
        else:
            hit(Failpoint.SCORE_SHARD_AFTER, lambda: lose(conn))
        return {
            "shard": shard,
            "n_rows": _count(conn, spec, plan, shard) if n_rows is None else n_rows,
        }


def _stage(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    plan: ScorePlan,
    shard: int,
    run: RunContext,
) -> int | None:
    """Replace the shard's rows, one writer a shard, unless the load is audited already.

    Reading, predicting and writing overlap, a few batches ahead of each other: the memory does not
    grow with the partition.

    Returns:
        Rows that the warehouse has taken; None if that is not all of the shard.
    """
    models = _load_champions(settings, conn, spec, plan, run)
    with conn.transaction():
        if plan.days_without_model and _may_replace(
            conn, spec, plan, shard, plan.days_without_model
        ):
            stage_fallback(conn, spec, plan, shard, run, feature_spine(spec))
    if not models:
        return None
    scored_days = [day for day in plan.days if day.model_version is not None]
    progress = Progress(f"shard {shard} of {spec.name}", _expected_rows(conn, spec, plan))
    with Prefetcher(_scored(settings, spec, plan, shard, models, run)) as scored:
        n_rows = append_stream(
            settings,
            SCHEMA,
            spec.name,
            progress.watch(scored),
            lambda transaction: _may_replace(transaction, spec, plan, shard, scored_days),
            run.application_name,
        )
    progress.end()
    return None if plan.days_without_model else n_rows or None


def _may_replace(
    transaction: Transaction, spec: ModelSpec, plan: ScorePlan, shard: int, days: Sequence[DayPlan]
) -> bool:
    """Keep other attempts and the audit away until the transaction ends, and delete the shard's rows of these days.

    Returns:
        Whether rows may still be staged; nothing is deleted if not.
    """
    from psycopg import sql

    name = sql.Literal(f"score {plan.load_id} {shard}")
    transaction.execute(
        sql.SQL("select pg_advisory_xact_lock(hashtextextended({}, 0))::text").format(name)
    )
    if hold_stage(transaction, plan.write(predictions_target(spec))) != "staged":
        return False
    delete = sql.SQL(
        "delete from {} where partition_date = any({}) and load_id = {} and shard = {}"
    )
    places = map(sql.Literal, ([day.partition_date for day in days], plan.load_id, shard))
    transaction.execute(delete.format(sql.Identifier(SCHEMA, spec.name), *places))
    return True


def _load_champions(
    settings: Settings, conn: Connection, spec: ModelSpec, plan: ScorePlan, run: RunContext
) -> dict[int, TrainedModel]:
    """Return the plan's models by version."""
    models = {}
    for version in plan.days_by_version:
        with _blame_champion(version, run):
            models[version] = load_version(settings, conn, spec, version)
    return models


def _scored(
    settings: Settings,
    spec: ModelSpec,
    plan: ScorePlan,
    shard: int,
    models: Mapping[int, TrainedModel],
    run: RunContext,
) -> Iterator[pa.Table]:
    """Yield the finished rows of one shard, batch by batch."""
    for version, days in plan.days_by_version.items():
        model = models[version]
        with _blame_champion(version, run):
            load = partial(Scorer, model, spec.scoring.reasons, spec.scoring.engine)
            scorer = retry_starved(load, LOADING_SECONDS)
        same_in_all: dict[str, int | str] = {
            "load_id": plan.load_id,
            "shard": shard,
            "model_version": version,
            "run_id": run.run_id,
        }
        query = shard_query(spec, plan, days, shard, model.signature.names)
        with Prefetcher(stream_arrow(settings, query, run.application_name)) as waiting:
            for batch in waiting:
                rows = in_key_order(spec, batch)
                with _blame_champion(version, run):
                    scored = scorer.score(rows)
                yield _prediction_rows(spec, days, rows, scored, same_in_all)


@contextmanager
def _blame_champion(version: int, run: RunContext) -> Iterator[None]:
    """Turn whatever a model does wrong into one error; what the warehouse does is not its fault, and a first attempt may be repeated."""
    import psycopg

    try:
        yield
    except (psycopg.Error, WarehouseError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, NightshiftError) and error.is_retryable and run.attempt == 1:
            raise
        logger.warning("Version %s cannot score:\n%s", version, stack_of(error))
        raise ChampionBrokenError(
            f"version {version} cannot score ({cause_of(error)})",
            todo="Roll the champion back.",
        ) from error


def _prediction_rows(
    spec: ModelSpec,
    days: Sequence[DayPlan],
    rows: pa.RecordBatch,
    scored: pa.Table,
    same_in_all: dict[str, int | str],
) -> pa.Table:
    """Return the columns of the predictions table, shape (n, 15)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(
        rows.column("partition_date"), pa.array([day.partition_date for day in days], pa.date32())
    )
    columns = {
        "partition_date": rows.column("partition_date"),
        spec.entity.key: rows.column(spec.entity.key),
        "event_timestamp": rows.column(spec.event_timestamp),
        "features_as_of": rows.column("as_of"),
        **{name: scored.column(name) for name in scored.column_names},
        "score_source": pa.array([day.score_source for day in days], pa.string()).take(place),
        "score_source_reason": pa.array(
            [day.score_source_reason for day in days], pa.string()
        ).take(place),
    }
    return pa.table(
        columns | {name: pa.repeat(value, rows.num_rows) for name, value in same_in_all.items()}
    )


def _expected_rows(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> int:
    """Return about how many rows a shard has: the feature loads' rows, evenly split."""
    loads = [day.feature_load_id for day in plan.days if day.model_version is not None]
    query = """
        select coalesce(sum(n_rows), 0) from ops.loads
        where dataset = %s and load_id = any(%s) and partition_date between %s and %s
    """
    row = conn.execute(
        query, [spec.features_dataset, loads, plan.partitions.first.day, plan.partitions.last.day]
    ).fetchone()
    return int(row[0]) // plan.n_shards if row else 0


def _count(conn: Connection, spec: ModelSpec, plan: ScorePlan, shard: int) -> int:
    from psycopg import sql

    query = sql.SQL(
        "select count(*) from {} where partition_date between %s and %s and load_id = %s and shard = %s"
    )
    days = plan.partitions
    row = conn.execute(
        query.format(sql.Identifier(SCHEMA, spec.name)),
        [days.first.day, days.last.day, plan.load_id, shard],
    ).fetchone()
    return int(row[0]) if row else 0
