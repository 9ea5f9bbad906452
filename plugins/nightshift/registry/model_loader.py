"""Stored versions of a model: find them in the warehouse, and load them only after every check.

The warehouse says what a file must be: the bucket is never asked about itself. Source:
docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.trained_model import TrainedModel

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

MAX_FILE_BYTES = 64 << 20
"""Of either file. A model of 400 trees has half a megabyte; checking takes about forty times a
file's size in memory.
"""


class RegistryError(NightshiftError):
    """A model version does not exist."""

    code = "NS-REGISTRY-001"


class ModelSizeError(ModelTextError):
    """A model's file is too large to be loaded, or the warehouse does not know its size."""

    code = "NS-MODEL-006"


@dataclass(frozen=True)
class ModelVersion:
    """One version of ``ml.model_versions``.

    Attributes:
        model: Name of the spec.
        version: 1, 2, … in order of registration.
        digest: Identity: the digest of both file digests.
        model_key: Object key of ``model.lgb``; with its digest.
        metadata_key: Object key of ``model.json``; with its digest.
        model_bytes: Size of ``model.lgb``; None for versions that were registered without golden
            predictions.
        metadata_bytes: Size of ``model.json``; likewise.
        training_set: Key of its training set.
        partition_date: The night that trained it.
        fit_end: Last feature partition that a fit has seen.
        metrics: Hold-out metrics by source and name.
        figures: File name to object key.
        engine_proof: Of ``training.engine_proof``; None for versions of before.
    """

    model: str
    version: int
    digest: str
    model_key: str
    model_sha256: str
    model_bytes: int | None
    metadata_key: str
    metadata_sha256: str
    metadata_bytes: int | None
    training_set: str
    partition_date: dt.date
    fit_end: dt.date
    metrics: dict[str, dict[str, float | None]]
    figures: dict[str, str]
    engine_proof: dict[str, Any] | None = None


_SELECT = """
select v.model, v.version, v.digest, v.model_key, v.model_sha256, v.model_bytes, v.metadata_key, v.metadata_sha256, v.metadata_bytes,
    v.training_set, v.partition_date, v.fit_end, v.metrics, v.figures, v.engine_proof
from ml.model_versions v
"""


def find_version(conn: Connection, model: str, version: int) -> ModelVersion:
    """Return one version.

    Raises:
        RegistryError: It does not exist.
    """
    found = select_versions(conn, "where v.model = %s and v.version = %s", [model, version])
    if not found:
        raise RegistryError(
            f"There is no version {version} of {model}.", todo="Look at ml.model_versions."
        )
    return found[0]


def select_versions(
    conn: Connection, condition: LiteralString, values: list[str | int]
) -> list[ModelVersion]:
    """Return the versions ``v`` for which a condition in SQL holds."""
    rows = conn.execute(_SELECT + condition, values).fetchall()
    return [
        ModelVersion(**dict(zip(ModelVersion.__dataclass_fields__, row, strict=True)))
        for row in rows
    ]


def load_model(store: ObjectStore, version: ModelVersion) -> TrainedModel:
    """Load a version: what ``open_model`` does, then a load in a child process, and golden predictions.

    Raises:
        ObjectStoreError: A file is missing or was changed.
        ModelSizeError: A file is too large, or its size is not known.
        ModelTextError: The trees are refused; the code says by which check.
    """
    trained = open_model(store, version)
    # Loads the trees now: a broken version must fail here, where the caller can still fall back.
    trained.booster  # noqa: B018
    return trained


def open_model(store: ObjectStore, version: ModelVersion) -> TrainedModel:
    """Read a version: sizes and digests of the warehouse, the text's structure. LightGBM is not needed before something asks for it.

    Raises:
        ObjectStoreError: A file is missing or was changed.
        ModelSizeError: A file is too large, or its size is not known.
        ModelTextError: The trees are refused; the code says by which check.
    """
    model_lgb = _file(store, version.model_key, version.model_sha256, version.model_bytes)
    model_json = _file(store, version.metadata_key, version.metadata_sha256, version.metadata_bytes)
    trained = replace(
        TrainedModel.from_files(model_lgb, model_json), engine_proof=version.engine_proof
    )
    read_model(trained.text, trained.signature.names)
    return trained


def _file(store: ObjectStore, key: str, sha256: str, n_bytes: int | None) -> bytes:
    """Read one file, after a look at the size that the warehouse holds."""
    if n_bytes is None:
        todo = "Train again, or roll back to a later version."
        raise ModelSizeError(
            f"{key} was registered without golden predictions.",
            expected="a version of now",
            todo=todo,
        )
    if n_bytes > MAX_FILE_BYTES:
        todo = "Train fewer or smaller trees."
        raise ModelSizeError(
            f"{key} is too large to be loaded.",
            expected=f"at most {MAX_FILE_BYTES} bytes",
            got=str(n_bytes),
            todo=todo,
        )
    return store.get(key, sha256, n_bytes)
