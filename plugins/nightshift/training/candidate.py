"""A candidate: a trained model, stored with its evidence, that no gate has decided about yet."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import code_version
from nightshift.lake.content_keys import content_key
from nightshift.lake.object_errors import ObjectCorruptError, ObjectMissingError
from nightshift.models.booster import importance, trees_digest

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.trained_model import TrainedModel
    from nightshift.training.evaluation import MetricValue
    from nightshift.training.training_set import TrainingSet
    from nightshift.warehouse.connection import Connection

_CONTENT_TYPES = {"model.lgb": "text/plain", "model.json": "application/json"}


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        training_set: Key of the training set.
        partition: The partition that trained.
        fit_end: Last feature partition that a fit of the model has seen.
        spec_digest: Digest of the spec.
        code_version: Version of the code.
    """

    training_set: str
    partition: Partition
    fit_end: dt.date
    spec_digest: str
    code_version: str


@dataclass(frozen=True)
class EvaluatedModel:
    """The stored files of the model that a version's evidence is about.

    It is of the version's recipe and training set, but was fitted on the days before the hold-out
    only. It never serves.

    Attributes:
        digest: The digest of both file digests.
        model_key: Object key of ``model.lgb``; with digest and size.
        metadata_key: Object key of ``model.json``; likewise.
        fit_end: Last feature partition that a fit has seen, ISO.
    """

    digest: str
    model_key: str
    model_sha256: str
    model_bytes: int
    metadata_key: str
    metadata_sha256: str
    metadata_bytes: int
    fit_end: str


@dataclass(frozen=True, kw_only=True)
class Candidate(Provenance):
    """What a training hands to the registry, with the attributes of its ``Provenance``.

    Attributes:
        model: Name of the spec.
        digest: Identity of the model: the digest of both file digests.
        model_key: Object key of ``model.lgb``.
        model_sha256: Its digest, hex.
        model_bytes: Its size.
        metadata_key: Object key of ``model.json``.
        metadata_sha256: Its digest, hex.
        metadata_bytes: Its size.
        trees_sha256: Digest of the trees without parameters, hex.
        metrics: Hold-out metrics by source and name.
        figures: File name to object key of the PNGs.
        measured: All evidence; empty when the version was registered before.
        engine_proof: Of ``models.engines.equivalence``; None leaves the version to the reference
            engine.
        evaluated: The model that the evidence is about, of ``EvaluatedModel``; None if it is this
            one.
        importance: Share of the trees' total gain by feature; None for a version of before.
        model_json: Content of ``model.json``; empty when the version was registered before.
    """

    model: str
    digest: str
    model_key: str
    model_sha256: str
    model_bytes: int
    metadata_key: str
    metadata_sha256: str
    metadata_bytes: int
    trees_sha256: str
    metrics: dict[str, dict[str, float | None]]
    figures: dict[str, str]
    measured: list[MetricValue] = field(default_factory=list)
    engine_proof: dict[str, Any] | None = None
    evaluated: dict[str, Any] | None = None
    importance: dict[str, float] | None = None
    model_json: bytes = field(default=b"", repr=False)


def store_evaluated(
    store: ObjectStore, evaluated: TrainedModel, served: TrainedModel, fit_end: dt.date
) -> EvaluatedModel:
    """Write the files of an evaluated model next to those of the model that serves; idempotent.

    Raises:
        ObjectStoreError: The object store cannot be reached.
    """
    prefix = f"models/{served.model}/{served.digest}/evaluated-{evaluated.digest}"
    return EvaluatedModel(
        digest=evaluated.digest,
        fit_end=fit_end.isoformat(),
        **_store_files(store, evaluated, prefix),
    )


def store_candidate(
    store: ObjectStore,
    trained: TrainedModel,
    provenance: Provenance,
    measured: list[MetricValue],
    figures: dict[str, bytes],
    evaluated: EvaluatedModel | None = None,
) -> Candidate:
    """Write a model's files under its digest, and its figures; idempotent.

    Raises:
        ObjectStoreError: The object store cannot be reached.
    """
    # Every key has the digest of its content, so a rerun writes the same objects.
    prefix = f"models/{trained.model}/{trained.digest}"
    files = _store_files(store, trained, prefix)
    figure_keys = {}
    for name, png in figures.items():
        # Another drawing library may give other bytes, so a figure's key has its own digest.
        figure_keys[name] = content_key(f"{prefix}/figures", png, f"-{name}")
        store.put(figure_keys[name], png, "image/png")
    return Candidate(
        **vars(provenance),
        model=trained.model,
        digest=trained.digest,
        **files,
        trees_sha256=trees_digest(trained.text),
        metrics=trained.metrics,
        figures=figure_keys,
        measured=measured,
        evaluated=None if evaluated is None else asdict(evaluated),
        importance=importance(trained.booster),
        model_json=trained.files["model.json"],
    )


def _store_files(store: ObjectStore, trained: TrainedModel, prefix: str) -> dict[str, Any]:
    """Write both files of a model; return their keys, digests and sizes."""
    stored: dict[str, Any] = {}
    for part, name in (("model", "model.lgb"), ("metadata", "model.json")):
        content = trained.files[name]
        key = f"{prefix}/{name}"
        stored[f"{part}_key"] = key
        # The folder is named by the digest of both files: other content is damage.
        digest = store.put(key, content, _CONTENT_TYPES[name], names_content=True)
        stored[f"{part}_sha256"] = digest
        stored[f"{part}_bytes"] = len(content)
    return stored


def has_intact_files(store: ObjectStore, candidate: Candidate) -> bool:
    """Return whether both files of a registered candidate are what was stored.

    Raises:
        ObjectStoreError: The object store cannot be reached.
    """
    files = [
        (candidate.model_key, candidate.model_sha256),
        (candidate.metadata_key, candidate.metadata_sha256),
    ]
    try:
        for key, digest in files:
            store.verify(key, digest)
    except (ObjectMissingError, ObjectCorruptError):
        return False
    return True


def find_candidate(
    conn: Connection, spec: ModelSpec, training_set: TrainingSet
) -> Candidate | None:
    """Return the registered version of the same training set, spec and code, None without."""
    not_stored = {"partition", "measured", "model_json"}
    names = [part.name for part in fields(Candidate) if part.name not in not_stored]
    query = f"""
        select {", ".join(names)} from ml.model_versions
        where model = %s and training_set = %s and spec_digest = %s and code_version = %s
            and model_bytes is not null
        order by version limit 1
    """  # noqa: S608 - field names of our own type
    # A version without a size was registered before golden predictions: it cannot be loaded, so it
    # is trained again.
    values = [spec.name, training_set.key, spec.digest, code_version()]
    row = conn.execute(query.encode(), values).fetchone()
    if row is None:
        return None
    return Candidate(partition=training_set.partition, **dict(zip(names, row, strict=True)))
