"""A candidate: a trained model whose files lie in the object store, with the evidence about it, before anybody has judged it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.contracts.partitions import Partition
from nightshift.lake.content_keys import content_key
from nightshift.models.booster import trees_digest

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.trained_model import TrainedModel
    from nightshift.training.evaluation import MetricValue


@dataclass(frozen=True)
class Candidate:
    """What a training hands to the registry.

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
        training_set: Key of the training set.
        partition: The night that trained.
        fit_end: Last feature partition that a fit has seen.
        spec_digest: Digest of the spec.
        code_version: Version of the code.
        metrics: Hold-out metrics by source and name.
        figures: File name to object key of the PNGs.
        measured: All evidence; empty when the version was registered before.
        engine_proof: Of ``training.engine_proof``; None leaves the version to the reference engine.
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
    training_set: str
    partition: Partition
    fit_end: dt.date
    spec_digest: str
    code_version: str
    metrics: dict[str, dict[str, float | None]]
    figures: dict[str, str]
    measured: list[MetricValue] = field(default_factory=list)
    engine_proof: dict[str, Any] | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        training_set: Key of the training set.
        partition: The night that trained.
        fit_end: Last feature partition that a fit has seen.
        spec_digest: Digest of the spec.
        code_version: Version of the code.
    """

    training_set: str
    partition: Partition
    fit_end: dt.date
    spec_digest: str
    code_version: str


def store_candidate(
    store: ObjectStore,
    trained: TrainedModel,
    origin: Provenance,
    measured: list[MetricValue],
    figures: dict[str, bytes],
) -> Candidate:
    """Write the files of a model under its digest, and its figures; again is harmless.

    Raises:
        ObjectStoreError: The object store cannot be reached.
    """
    files, digest = trained.files, trained.digest
    prefix = f"models/{trained.model}/{digest}"
    types = {"model.lgb": "text/plain", "model.json": "application/json"}
    shas = {
        name: store.put(f"{prefix}/{name}", content, types[name]) for name, content in files.items()
    }
    # A picture may come out otherwise with another drawing library: its key has its own digest.
    keys = {
        name: content_key(f"{prefix}/figures", png, f"-{name}") for name, png in figures.items()
    }
    for name, png in figures.items():
        store.put(keys[name], png, "image/png")
    return Candidate(
        model=trained.model,
        digest=digest,
        model_key=f"{prefix}/model.lgb",
        model_sha256=shas["model.lgb"],
        model_bytes=len(files["model.lgb"]),
        metadata_key=f"{prefix}/model.json",
        metadata_sha256=shas["model.json"],
        metadata_bytes=len(files["model.json"]),
        trees_sha256=trees_digest(trained.text),
        metrics=trained.metrics,
        figures=keys,
        measured=measured,
        training_set=origin.training_set,
        partition=origin.partition,
        fit_end=origin.fit_end,
        spec_digest=origin.spec_digest,
        code_version=origin.code_version,
    )
