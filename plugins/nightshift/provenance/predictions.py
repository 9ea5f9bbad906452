"""Find published predictions, the feature loads that they were scored on, and what those loads had read."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.scoring.plan import MODEL_MADE
from nightshift.transformation.feature_manifest import (
    FeatureLoad,
    OriginLostError,
    find_feature_load,
)

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
        load_id: The load that wrote it; readers see it now or saw it once.
        is_current: Whether readers see it now.
        version: The model version; None where no model scored.
        values: What analysts read: score, probability, decile, is_positive, reasons and the times.
        score_source: The step of the ladder.
    """

    key: str
    day: dt.date
    load_id: int
    is_current: bool
    version: int | None
    values: dict[str, Any]
    score_source: str


PREDICTION_COLUMNS = (
    "score",
    "probability",
    "decile",
    "is_positive",
    "reasons",
    "event_timestamp",
    "features_as_of",
)
"""Columns of a prediction that must come out again."""


def find_prediction(
    conn: Connection, spec: ModelSpec, key: str, partition: Partition | None = None
) -> Prediction:
    """Return the prediction that readers see of an entity; of its last partition if none is named.

    Raises:
        NoPredictionError: There is none.
    """
    condition = "p.load_id is not null and t.{key} = %s and (%s::date is null or t.partition_date = %s) order by t.partition_date desc limit 1"
    day = partition.day if partition else None
    found = _select(conn, spec, condition, [key, day, day])
    if not found:
        when = f" for {partition}" if partition else ""
        raise NoPredictionError(
            f"No prediction of {spec.entity.key} {key!r} by {spec.name} is published{when}.",
            expected=f"a value of {spec.entity.key} in analytics.{spec.name}_current",
            todo="Look there; the partition is the night that predicted, not the day that was predicted.",
        )
    return found[0]


def sample_predictions(
    conn: Connection, spec: ModelSpec, n: int, seed: int, partition: Partition | None = None
) -> list[Prediction]:
    """Return random predictions of models among all that were ever published, superseded ones too; the same seed gives the same ones.

    Raises:
        NoPredictionError: No model has made any.
    """
    condition = (
        "t.score_source = any(%s) and (%s::date is null or t.partition_date = %s)"
        " order by hashtextextended(t.{key} || t.partition_date::text || t.load_id::text, %s), t.{key}, t.load_id limit %s"
    )
    day = partition.day if partition else None
    found = _select(conn, spec, condition, [list(MODEL_MADE), day, day, seed, n])
    if not found:
        raise NoPredictionError(
            f"No model has made a published prediction of {spec.name}.", todo="Score a night first."
        )
    return found


def _select(
    conn: Connection, spec: ModelSpec, condition: str, values: list[Any]
) -> list[Prediction]:
    from psycopg import sql

    column = sql.Identifier(spec.entity.key)
    query = sql.SQL(
        "select t.{key}, t.partition_date, t.load_id, p.load_id is not null, t.model_version, t.score_source, {columns} from {table} t"
        " join ops.loads l on l.dataset = {dataset} and l.partition_date = t.partition_date and l.load_id = t.load_id"
        " and l.state = 'published'"
        " left join ops.published p on p.dataset = l.dataset and p.partition_date = l.partition_date and p.load_id = l.load_id where "
    ).format(
        key=column,
        columns=sql.SQL(", ").join(sql.Identifier("t", name) for name in PREDICTION_COLUMNS),
        table=sql.Identifier("predictions", spec.name),
        dataset=sql.Literal(spec.predictions_dataset),
    )
    rows = conn.execute(query + sql.SQL(condition).format(key=column), values)
    return [
        Prediction(
            key,
            day,
            load_id,
            is_current,
            version,
            dict(zip(PREDICTION_COLUMNS, values, strict=True)),
            source,
        )
        for key, day, load_id, is_current, version, source, *values in rows
    ]


def feature_loads(
    conn: Connection, spec: ModelSpec, predictions: Iterable[Prediction]
) -> dict[tuple[int, dt.date], FeatureLoad]:
    """Return the feature load of each (prediction load, partition): the one whose content the prediction load's manifest names.

    Raises:
        OriginLostError: The manifest names features that are not kept, or the features' manifest
            names no raw loads.
    """
    wanted: dict[int, set[dt.date]] = {}
    for prediction in predictions:
        wanted.setdefault(prediction.load_id, set()).add(prediction.day)
    return {
        (load_id, day): found
        for load_id, days in sorted(wanted.items())
        for day, found in _read_by(conn, spec, load_id, days).items()
    }


def _read_by(
    conn: Connection, spec: ModelSpec, load_id: int, days: set[dt.date]
) -> dict[dt.date, FeatureLoad]:
    candidates: dict[dt.date, list[tuple[int, str]]] = {}
    named = ""
    asked = {
        "dataset": spec.predictions_dataset,
        "load": load_id,
        "features": spec.features_dataset,
    }
    for day, feature_load, content_hash, digest in conn.execute(_CANDIDATES, asked):
        candidates.setdefault(day, []).append((feature_load, content_hash))
        named = digest
    seen = {day: loads[0] for day, loads in candidates.items()}
    if _digest({day: content for day, (_, content) in seen.items()}) != named:
        others = (
            [{day: load} for day, loads in candidates.items() for load in loads]
            if len(candidates) == 1
            else []
        )
        seen = next(
            (
                one
                for one in others
                if _digest({day: content for day, (_, content) in one.items()}) == named
            ),
            {},
        )
    if not days <= seen.keys():
        raise OriginLostError(
            f"The features that load {load_id} of {spec.predictions_dataset} was scored on cannot be found.",
            expected=f"published loads of {spec.features_dataset} whose content has the digest in the load's manifest",
            got=f"{len(candidates)} partition(s) with candidates, none of that content",
            todo="Look at ops.loads: was the feature view's history collected or edited by hand?",
        )
    return {day: find_feature_load(conn, spec, day, seen[day][0]) for day in sorted(days)}


def reason_methods(
    conn: Connection, spec: ModelSpec, predictions: Iterable[Prediction]
) -> dict[int, str | None]:
    """Return, by load, how its reasons were made; None for loads of before this was noted: path attribution."""
    loads = sorted({prediction.load_id for prediction in predictions})
    query = "select distinct load_id, inputs ->> 'reasons' from ops.loads where dataset = %s and load_id = any(%s)"
    return dict(conn.execute(query, [spec.predictions_dataset, loads]).fetchall())


_CANDIDATES = """
select p.partition_date, f.load_id, f.content_hash, p.inputs ->> 'features'
from ops.loads p join ops.loads f on f.dataset = %(features)s and f.partition_date = p.partition_date and f.state = 'published'
where p.dataset = %(dataset)s and p.load_id = %(load)s
order by p.partition_date,
    (f.published_at <= p.started_at and (f.superseded_at is null or f.superseded_at > p.started_at)) desc, f.load_id desc
"""


def _digest(contents: dict[dt.date, str]) -> str:
    """Return the digest that ``scoring.batch_scorer`` notes of the features that it reads."""
    return sha256(
        json.dumps([[str(day), content] for day, content in sorted(contents.items())]).encode()
    ).hexdigest()
