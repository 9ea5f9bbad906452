"""Find versions of a model in the warehouse, and load them from the bucket after every check.

Sizes and digests come from the warehouse, so a changed file in the bucket is noticed. Source:
docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.trained_model import TrainedModel
from nightshift.stage_times import stage

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
        partition_date: The partition that trained it.
        fit_end: Last feature partition that a fit has seen.
        metrics: Hold-out metrics by source and name.
        figures: File name to object key.
        engine_proof: Of ``models.engines.equivalence``; None for older versions.
        evaluated: The model that the evidence is about, of ``training.candidate.EvaluatedModel``;
            None for a version that was evaluated itself.
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
    evaluated: dict[str, Any] | None = None

    @property
    def as_evaluated(self) -> ModelVersion:
        """Return the version with the files and the fit of the model that its evidence is about."""
        if self.evaluated is None:
            return self
        fit_end = dt.date.fromisoformat(self.evaluated["fit_end"])
        return replace(self, **{**self.evaluated, "fit_end": fit_end, "evaluated": None})

    @property
    def partition(self) -> Partition:
        """Return the partition that trained it."""
        return Partition(self.partition_date)


def find_version(conn: Connection, model: str, version: int) -> ModelVersion:
    """Return one version.

    Raises:
        RegistryError: It does not exist.
    """
    versions = select_versions(conn, "where v.model = %s and v.version = %s", [model, version])
    if not versions:
        raise RegistryError(
            f"There is no version {version} of {model}.", todo="Look at ml.model_versions."
        )
    return versions[0]


def select_versions(
    conn: Connection, condition: LiteralString, values: list[str | int]
) -> list[ModelVersion]:
    """Return the versions ``v`` for which a condition in SQL holds."""
    query = """
        select v.model, v.version, v.digest, v.model_key, v.model_sha256, v.model_bytes,
            v.metadata_key, v.metadata_sha256, v.metadata_bytes, v.training_set, v.partition_date,
            v.fit_end, v.metrics, v.figures, v.engine_proof, v.evaluated
        from ml.model_versions v
    """
    return [ModelVersion(*row) for row in conn.execute(query + condition, values)]


def load_model(store: ObjectStore, version: ModelVersion) -> TrainedModel:
    """Open a version and load its trees: in a child process first, then with golden predictions.

    Raises:
        ObjectStoreError: A file is missing or was changed.
        ModelSizeError: A file is too large, or its size is not known.
        ModelTextError: The trees are refused; the code says by which check.
    """
    with stage("load_model", model=version.model, version=version.version):
        trained = open_model(store, version)
        # Loads the trees now: a broken version must fail where the caller can still fall back.
        trained.booster  # noqa: B018
    return trained


def open_model(store: ObjectStore, version: ModelVersion) -> TrainedModel:
    """Read a version and check sizes, digests and the text's structure, without LightGBM.

    Raises:
        ObjectStoreError: A file is missing or was changed.
        ModelSizeError: A file is too large, or its size is not known.
        ModelTextError: The trees are refused; the code says by which check.
    """
    model_lgb = _read_file(store, version.model_key, version.model_sha256, version.model_bytes)
    model_json = _read_file(
        store, version.metadata_key, version.metadata_sha256, version.metadata_bytes
    )
    trained = TrainedModel.from_files(model_lgb, model_json)
    opened = replace(trained, engine_proof=version.engine_proof)
    # The structure of the text is checked before LightGBM, which crashes on a broken one, sees it.
    opened.trees  # noqa: B018 - parsed here, kept for engines and reasons
    return opened


def _read_file(store: ObjectStore, key: str, sha256: str, n_bytes: int | None) -> bytes:
    """Read one file, after a check of the size that the warehouse holds."""
    # An object is not read before its size is known to be safe.
    if n_bytes is None:
        raise ModelSizeError(
            f"{key} was registered without golden predictions.",
            expected="a version whose size is registered",
            todo="Train again, or roll back to a later version.",
        )
    if n_bytes > MAX_FILE_BYTES:
        raise ModelSizeError(
            f"{key} is too large to be loaded.",
            expected=f"at most {MAX_FILE_BYTES} bytes",
            got=str(n_bytes),
            todo="Train fewer or smaller trees.",
        )
    return store.get(key, sha256, n_bytes)
