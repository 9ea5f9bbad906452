"""Find published predictions and the feature loads that they were scored on."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.tasks.ranking import RANK_TYPES
from nightshift.errors import NightshiftError
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.scoring.plan import MODEL_STEPS, digest_rows
from nightshift.scoring.prediction_tables import class_types, rank_types
from nightshift.transformation.feature_manifest import (
    FeatureLoad,
    OriginLostError,
    find_feature_load,
)
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.warehouse.connection import Connection


class NoPredictionError(NightshiftError):
    """No such prediction is published."""

    code = "NS-REPRO-001"


@dataclass(frozen=True)
class Prediction:
    """One published row.

    Attributes:
        key: The entity.
        day: Its partition.
        load_id: The load that wrote it, which is or was published.
        is_current: Whether readers see it now.
        version: The model version; None if no model scored it.
        values: ``PREDICTION_COLUMNS``, the interval and those of the task, as analysts read them.
        score_source: The step of the fallback chain.
    """

    key: str
    day: dt.date
    load_id: int
    is_current: bool
    version: int | None
    values: dict[str, Any]
    score_source: str

    @property
    def own_values(self) -> dict[str, Any]:
        """Return the values that follow from the row alone: a rank is one of its group's rows."""
        own = dict(self.values)
        for name in RANK_TYPES:
            own.pop(name, None)
        return own


# Columns of a prediction that a replay must reproduce.
PREDICTION_COLUMNS = (
    "score",
    "probability",
    "decile",
    "is_positive",
    "reasons",
    "event_timestamp",
    "features_as_of",
)


def find_prediction(
    conn: Connection, spec: ModelSpec, key: str, partition: Partition | None = None
) -> Prediction:
    """Return the prediction that readers see of an entity, by default of its last partition.

    Raises:
        NoPredictionError: There is none.
    """
    condition = """
        p.load_id is not null and t.{key} = %s
            and (%s::date is null or t.partition_date = %s)
        order by t.partition_date desc limit 1
    """
    day = partition.day if partition else None
    predictions = _select(conn, spec, condition, [key, day, day])
    if not predictions:
        when = f" for {partition}" if partition else ""
        raise NoPredictionError(
            f"No prediction of {spec.entity.key} {key!r} by {spec.name} is published{when}.",
            expected=f"a value of {spec.entity.key} in analytics.{spec.name}_current",
            todo="Look there. The partition is the day of scoring, not the predicted day.",
        )
    return predictions[0]


def sample_predictions(
    conn: Connection, spec: ModelSpec, n: int, seed: int, partition: Partition | None = None
) -> list[Prediction]:
    """Return random predictions of models, superseded ones included; a seed gives the same ones.

    Raises:
        NoPredictionError: No model has made any.
    """
    # The hash gives a random order that is the same for the same seed. Key and load decide between
    # rows of the same hash.
    condition = """
        t.score_source = any(%s)
            and (%s::date is null or t.partition_date = %s)
        order by
            hashtextextended(t.{key} || t.partition_date::text || t.load_id::text, %s),
            t.{key},
            t.load_id
        limit %s
    """
    day = partition.day if partition else None
    predictions = _select(conn, spec, condition, [list(MODEL_STEPS), day, day, seed, n])
    if not predictions:
        raise NoPredictionError(
            f"No model has made a published prediction of {spec.name}.",
            todo="Score a partition first.",
        )
    return predictions


def _select(
    conn: Connection, spec: ModelSpec, condition: str, values: list[Any]
) -> list[Prediction]:
    from psycopg import sql

    key = sql.Identifier(spec.entity.key)
    # A warehouse that was not migrated yet has no intervals.
    table = table_columns(conn, "predictions", spec.name)
    more = (*INTERVAL_COLUMNS, *class_types(spec), *rank_types(spec))
    names = [*PREDICTION_COLUMNS, *(name for name in more if name in table)]
    columns = [sql.Identifier("t", name) for name in names]
    # Superseded loads count too, so the ledger selects the rows; the pointer only marks them.
    query = sql.SQL(
        """
        select t.{key}, t.partition_date, t.load_id, p.load_id is not null, t.model_version,
            t.score_source, {columns}
        from {table} t
        join ops.loads l on l.dataset = {dataset} and l.partition_date = t.partition_date
            and l.load_id = t.load_id and l.state = 'published'
        left join ops.published p on p.dataset = l.dataset
            and p.partition_date = l.partition_date and p.load_id = l.load_id
        where {condition}
        """
    ).format(
        key=key,
        columns=sql.SQL(", ").join(columns),
        table=sql.Identifier("predictions", spec.name),
        dataset=sql.Literal(spec.predictions_dataset),
        condition=sql.SQL(condition).format(key=key),
    )
    predictions: list[Prediction] = []
    for entity, day, load_id, is_current, version, source, *cells in conn.execute(query, values):
        by_name = dict(zip(names, cells, strict=True))
        prediction = Prediction(entity, day, load_id, is_current, version, by_name, source)
        predictions.append(prediction)
    return predictions


def feature_loads(
    conn: Connection, spec: ModelSpec, predictions: Iterable[Prediction]
) -> dict[tuple[int, dt.date], FeatureLoad]:
    """Return the feature load that each (prediction load, partition) was scored on.

    Raises:
        OriginLostError: The prediction load's manifest names features that are not kept, or the
            features' manifest names no raw loads.
    """
    # One look-up per prediction load: its manifest names the features of all its partitions.
    days_by_load: defaultdict[int, set[dt.date]] = defaultdict(set)
    for prediction in predictions:
        days_by_load[prediction.load_id].add(prediction.day)
    loads: dict[tuple[int, dt.date], FeatureLoad] = {}
    for load_id, days in sorted(days_by_load.items()):
        scored_on = _feature_load_ids(conn, spec, load_id)
        if not days <= scored_on.keys():
            # Never a guess: other features with the same day would give another score.
            raise OriginLostError(
                f"The features of load {load_id} of {spec.predictions_dataset} cannot be found.",
                expected=f"published loads of {spec.features_dataset} with the content digest of"
                " the load's manifest",
                got="no published loads with that content",
                todo="Check ops.loads: was the history of the feature view collected or edited?",
            )
        for day in sorted(days):
            loads[load_id, day] = find_feature_load(conn, spec, day, scored_on[day])
    return loads


def _feature_load_ids(conn: Connection, spec: ModelSpec, load_id: int) -> dict[dt.date, int]:
    """Return, by partition, the feature load with the content that a manifest names; else none."""
    parameters = {
        "dataset": spec.predictions_dataset,
        "load": load_id,
        "features": spec.features_dataset,
    }
    rows = conn.execute(_CANDIDATES, parameters).fetchall()
    digest: str | None = None
    # By partition, first the one that was published when the scoring began.
    candidates: defaultdict[dt.date, list[tuple[int, str]]] = defaultdict(list)
    for day, feature_load_id, content_hash, recorded_digest in rows:
        candidates[day].append((feature_load_id, content_hash))
        digest = recorded_digest

    attempts = [{day: loads[0] for day, loads in candidates.items()}]
    # One digest covers all partitions of a load, so other loads can be tried only for a single one.
    if len(candidates) == 1:
        ((day, loads),) = candidates.items()
        attempts += [{day: load} for load in loads[1:]]
    for attempt in attempts:
        # As scoring records it for the features that it reads.
        contents = [[str(day), attempt[day][1]] for day in sorted(attempt)]
        if digest_rows(contents) == digest:
            return {day: feature_load_id for day, (feature_load_id, _) in attempt.items()}
    return {}


_CANDIDATES = """
select p.partition_date, f.load_id, f.content_hash, p.inputs ->> 'features'
from ops.loads p
join ops.loads f on f.dataset = %(features)s and f.partition_date = p.partition_date
    and f.state = 'published'
where p.dataset = %(dataset)s and p.load_id = %(load)s
order by p.partition_date,
    (
        f.published_at <= p.started_at
        and (f.superseded_at is null or f.superseded_at > p.started_at)
    ) desc,
    f.load_id desc
"""


def reason_methods(
    conn: Connection, spec: ModelSpec, predictions: Iterable[Prediction]
) -> dict[int, str | None]:
    """Return, by load, the method of its reasons; None for early loads: path attribution."""
    loads = sorted({prediction.load_id for prediction in predictions})
    # The manifest of a load is in each of its rows of the ledger: one for each partition.
    query = """
        select distinct load_id, inputs ->> 'reasons' from ops.loads
        where dataset = %s and load_id = any(%s)
    """
    return dict(conn.execute(query, [spec.predictions_dataset, loads]).fetchall())
