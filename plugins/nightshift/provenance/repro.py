"""Replay published predictions from raw rows and the stored model, and compare every bit."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.models.shapley.shap_values import METHOD
from nightshift.provenance.predictions import (
    Prediction,
    feature_loads,
    reason_methods,
)
from nightshift.provenance.rebuild import Row, RowKey, rebuild_rows
from nightshift.scoring.level.level_records import RecordedAnswers, answers_of
from nightshift.scoring.model_loading import load_version
from nightshift.scoring.scorer import score_rows
from nightshift.training.feature_query import select_rows
from nightshift.transformation.feature_manifest import FeatureLoad
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings


class NotReplayableError(NightshiftError):
    """No model made the prediction."""

    code = "NS-REPRO-003"


@dataclass(frozen=True)
class Difference:
    """One value, of a feature or a column of the prediction, that the replay did not reproduce."""

    column: str
    published: object
    replayed: object


@dataclass(frozen=True)
class Replay:
    """The replay of a prediction.

    Attributes:
        prediction: As published.
        features: The feature load that it was scored on.
        differences: Empty if every bit is the same.
        n_values: Values compared: features and columns of the prediction.
        row_hash: SHA-256 of the replayed prediction and its features, hex.
        published_hash: The same of what is published.
        note: What could not be compared, and why; empty if everything was.
    """

    prediction: Prediction
    features: FeatureLoad
    differences: tuple[Difference, ...]
    n_values: int
    row_hash: str
    published_hash: str
    note: str = ""

    @property
    def is_equal(self) -> bool:
        """Return whether every bit is the same."""
        return not self.differences and self.row_hash == self.published_hash


def replay_predictions(
    settings: Settings, spec: ModelSpec, predictions: Sequence[Prediction]
) -> list[Replay]:
    """Rebuild the features as known then, load the models, score, and compare; nothing is written.

    Args:
        settings: Warehouse, bucket, dbt project.
        spec: The model.
        predictions: Of any partitions; builds and models are shared.

    Returns:
        One entry per prediction, in order.

    Raises:
        NotReplayableError: A prediction was carried over, or made by the rule.
        OriginLostError: The features that it was scored on are not kept.
        HiddenSourceError: A feature reads something whose past is unknown.
        RegistryError: The version does not exist.
        ObjectStoreError: The model's files are missing or were changed.
        ModelTextError: The model is refused.
    """
    _require_model(predictions)
    with connect(settings, "nightshift repro") as conn:
        loads = feature_loads(conn, spec, predictions)
        methods = reason_methods(conn, spec, predictions)
        versions = sorted({p.version for p in predictions if p.version is not None})
        models = {version: load_version(settings, conn, spec, version) for version in versions}
        load_ids = [p.load_id for p in predictions]
        recorded = answers_of(conn, spec, load_ids)

    # The connection is closed here: a rebuild takes minutes, and opens its own.
    rows = [(loads[p.load_id, p.day], p.key) for p in predictions]
    stored, rebuilt = rebuild_rows(settings, spec, rows)

    scores: dict[tuple[int, RowKey], Row] = {}
    for version, model in models.items():
        # All rows of a version are scored in one batch.
        batch: list[tuple[RowKey, int]] = []
        # A load keeps the level and the interval that it was scored with.
        answers: list[RecordedAnswers] = []
        for prediction, row in zip(predictions, rows, strict=True):
            if prediction.version == version and row in rebuilt:
                batch.append((row, prediction.load_id))
                load = (prediction.load_id, prediction.day, version)
                answers.append(recorded.get(load, RecordedAnswers()))
        scored = _score(settings, spec, model, [rebuilt[row] for row, _ in batch], answers)
        for (row, load_id), score in zip(batch, scored, strict=True):
            scores[load_id, row] = score

    replays: list[Replay] = []
    for prediction, row in zip(predictions, rows, strict=True):
        score = scores.get((prediction.load_id, row), {})
        replayed_values = {name: score.get(name) for name in prediction.own_values}
        published = _named_values(stored.get(row, {}), prediction.own_values)
        replayed = _named_values(rebuilt.get(row, {}), replayed_values)
        method = methods.get(prediction.load_id)
        replays.append(_compare(prediction, row[0], published, replayed, method))
    return replays


def _require_model(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        if prediction.version is None:
            raise NotReplayableError(
                f"No model made the prediction of {prediction.key} on {prediction.day}:"
                f" its source is {prediction.score_source}.",
                expected="a row that a champion or its predecessor scored",
                todo="`nightshift why <model> <key>` shows the rule or the earlier score.",
            )


def _score(
    settings: Settings,
    spec: ModelSpec,
    model: TrainedModel,
    rows: list[Row],
    answers: list[RecordedAnswers],
) -> list[Row]:
    """Return the prediction of feature rows, each by the level and interval of its load."""
    import numpy as np
    import pyarrow as pa
    from psycopg import sql

    if not rows:
        return []
    # An empty read of the feature query has the exact types that scoring reads.
    query = select_rows(spec, model.signature.names, sql.SQL("false").format())
    schema = read_arrow(settings, query).schema
    selected = [{name: row[name] for name in schema.names} for row in rows]
    table = pa.Table.from_pylist(selected, schema=schema)
    shift = np.array([answer.shift for answer in answers])
    intervals = [answer.interval for answer in answers]
    scored = score_rows(model, table, spec.scoring.reasons, spec.scoring.engine, shift, intervals)
    scores: list[Row] = scored.to_pylist()
    for score, row in zip(scores, rows, strict=True):
        score["reasons"] = json.loads(score["reasons"])
        score["event_timestamp"] = row[spec.event_timestamp]
        score["features_as_of"] = row["as_of"]
    return scores


def _named_values(features: Row, scores: Row) -> Row:
    named = {f"feature {name}": value for name, value in features.items()}
    return named | scores


def _compare(
    prediction: Prediction, load: FeatureLoad, published: Row, replayed: Row, method: str | None
) -> Replay:
    note = ""
    if method != METHOD:
        # This code cannot make reasons of another method; everything else must still be equal.
        published.pop("reasons", None)
        replayed.pop("reasons", None)
        made_by = method or "path attribution"
        note = f"reasons not compared: they were made by {made_by}, this code makes {METHOD}"
    # Columns of both sides: a column that only one side has is a difference too.
    names = (published | replayed).keys()
    differences: list[Difference] = []
    for name in names:
        before = published.get(name, "no value")
        after = replayed.get(name, "no value")
        is_in_both = name in published and name in replayed
        if not is_in_both or _exact(before) != _exact(after):
            differences.append(Difference(name, before, after))
    return Replay(
        prediction,
        load,
        tuple(differences),
        len(names),
        row_hash(replayed),
        row_hash(published),
        note,
    )


def row_hash(values: Row) -> str:
    """Return the SHA-256, hex, of named values; equal if and only if every bit is equal."""
    exact = {name: _exact(value) for name, value in values.items()}
    return sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()


def _exact(value: object) -> object:
    """Return a text that keeps every bit; a list of reasons stays a list, as in JSON."""
    if isinstance(value, list):
        return [{name: _number(part) for name, part in reason.items()} for reason in value]
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    return repr(value)


def _number(value: object) -> object:
    """Return numbers as exact doubles: JSON has neither integers nor a negative zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return (float(value) + 0.0).hex()
