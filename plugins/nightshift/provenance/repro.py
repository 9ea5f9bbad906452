"""Make published predictions again from raw rows and the stored model, and compare every bit."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.models.shap_values import METHOD
from nightshift.provenance.predictions import (
    PREDICTION_COLUMNS,
    Prediction,
    feature_loads,
    reason_methods,
)
from nightshift.provenance.rebuild import Row, rebuild_rows
from nightshift.scoring.champion import load_version
from nightshift.scoring.scorer import score_rows
from nightshift.training.feature_query import select_rows
from nightshift.transformation.feature_manifest import FeatureLoad
from nightshift.warehouse.arrow_io import read_arrow
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings


class NotReplayableError(NightshiftError):
    """The prediction was made by no model."""

    code = "NS-REPRO-003"


@dataclass(frozen=True)
class Difference:
    """One value that did not come out again.

    Attributes:
        column: A feature, or a column of the prediction.
        published: What stands in the warehouse.
        replayed: What came out now.
    """

    column: str
    published: object
    replayed: object


@dataclass(frozen=True)
class Replay:
    """A prediction made again.

    Attributes:
        prediction: As published.
        features: The feature load that it had been scored on.
        differences: Empty when every bit is the same.
        n_values: Values compared: features and columns of the prediction.
        row_hash: SHA-256 over the replayed prediction and its features, hex.
        published_hash: The same over what is published.
        remark: What could not be compared, and why; empty when everything was.
    """

    prediction: Prediction
    features: FeatureLoad
    differences: tuple[Difference, ...]
    n_values: int
    row_hash: str
    published_hash: str
    remark: str = ""

    @property
    def is_equal(self) -> bool:
        """Return whether everything came out again."""
        return not self.differences and self.row_hash == self.published_hash


def replay_predictions(
    settings: Settings, spec: ModelSpec, predictions: Sequence[Prediction]
) -> list[Replay]:
    """Rebuild features as known then, load the model versions, score, and compare; nothing is written.

    Args:
        settings: Warehouse, bucket, dbt project.
        spec: The model.
        predictions: Of any nights; builds and models are shared.

    Returns:
        One entry per prediction, in order.

    Raises:
        NotReplayableError: A prediction is an aged score or the rule's.
        OriginLostError: The features that it was scored on are not kept.
        HiddenSourceError: A feature reads something whose past nobody knows.
        RegistryError: The version is not there.
        ObjectStoreError: The model's files are missing or were changed.
        ModelTextError: The model is refused.
    """
    _refuse_without_model(predictions)
    with connect(settings, "nightshift repro") as conn:
        loads = feature_loads(conn, spec, predictions)
        methods = reason_methods(conn, spec, predictions)
        models = {
            v: load_version(settings, conn, spec, v)
            for v in sorted({p.version for p in predictions if p.version is not None})
        }
    read = [loads[p.load_id, p.day] for p in predictions]
    stored, rebuilt = rebuild_rows(
        settings, spec, [(load, p.key) for load, p in zip(read, predictions, strict=True)]
    )
    places = [(load.load_id, load.day, p.key) for load, p in zip(read, predictions, strict=True)]
    scored: dict[int, Row] = {}
    for version, model in models.items():
        mine = [
            i for i, p in enumerate(predictions) if p.version == version and places[i] in rebuilt
        ]
        scored |= dict(
            zip(
                mine, _score(settings, spec, model, [rebuilt[places[i]] for i in mine]), strict=True
            )
        )
    return [
        _compare(
            p,
            load,
            (stored.get(place, {}), rebuilt.get(place, {})),
            scored.get(i, {}),
            methods.get(p.load_id),
        )
        for i, (p, load, place) in enumerate(zip(predictions, read, places, strict=True))
    ]


def _refuse_without_model(predictions: Sequence[Prediction]) -> None:
    without = [p for p in predictions if p.version is None]
    if without:
        raise NotReplayableError(
            f"No model made the prediction of {without[0].key} on {without[0].day}: its source is {without[0].score_source}.",
            expected="a row that a champion or its predecessor scored",
            todo="`nightshift why` says which rule or older score it is.",
        )


def _score(settings: Settings, spec: ModelSpec, model: TrainedModel, rows: list[Row]) -> list[Row]:
    """Return score, probability, decile, is_positive, reasons and the times of feature rows."""
    if not rows:
        return []
    table = _as_arrow(settings, spec, model.signature.names, rows)
    scored = score_rows(model, table, spec.scoring.reasons, spec.scoring.engine).to_pylist()
    return [
        {
            **made,
            "reasons": json.loads(made["reasons"]),
            "event_timestamp": row[spec.event_timestamp],
            "features_as_of": row["as_of"],
        }
        for made, row in zip(scored, rows, strict=True)
    ]


def _as_arrow(
    settings: Settings, spec: ModelSpec, features: Sequence[str], rows: list[Row]
) -> pa.Table:
    """Return rows with the very types with which scoring reads them."""
    import pyarrow as pa
    from psycopg import sql

    schema = read_arrow(settings, select_rows(spec, features, sql.SQL("false").format())).schema
    return pa.Table.from_pylist(
        [{name: row[name] for name in schema.names} for row in rows], schema=schema
    )


def _compare(
    prediction: Prediction,
    load: FeatureLoad,
    features: tuple[Row, Row],
    scored: Row,
    method: str | None,
) -> Replay:
    published = {
        **{f"feature {name}": value for name, value in features[0].items()},
        **prediction.values,
    }
    replayed = {
        **{f"feature {name}": value for name, value in features[1].items()},
        **{name: scored.get(name) for name in PREDICTION_COLUMNS},
    }
    remark = ""
    if method != METHOD:
        # This code cannot make such reasons; everything else must still be equal.
        published.pop("reasons", None)
        replayed.pop("reasons", None)
        remark = f"reasons not compared: they were made by {method or 'path attribution'}, this code makes {METHOD}"
    names = list(dict.fromkeys([*published, *replayed]))
    differences = tuple(
        Difference(name, published.get(name, "no value"), replayed.get(name, "no value"))
        for name in names
        if _exact(published.get(name)) != _exact(replayed.get(name))
        or (name in published) != (name in replayed)
    )
    return Replay(
        prediction, load, differences, len(names), row_hash(replayed), row_hash(published), remark
    )


def row_hash(values: Row) -> str:
    """Return the SHA-256, hex, of named values; equal if and only if every bit of every value is."""
    return sha256(
        json.dumps({name: _exact(value) for name, value in values.items()}, sort_keys=True).encode()
    ).hexdigest()


def _exact(value: object) -> object:
    """Return a text that keeps every bit; in the list of reasons numbers count as JSON does, where 1 and 1.0 are one."""
    if isinstance(value, list):
        return [{name: _number(part) for name, part in reason.items()} for reason in value]
    if isinstance(value, float):
        return value.hex()
    return value.astimezone(dt.UTC).isoformat() if isinstance(value, dt.datetime) else repr(value)


def _number(value: object) -> object:
    """Return numbers as doubles; JSON in the warehouse knows no negative zero."""
    return (
        (float(value) + 0.0).hex()
        if isinstance(value, int | float) and not isinstance(value, bool)
        else value
    )
