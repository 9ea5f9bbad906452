"""The training pipeline: read the rows, fit, evaluate, prove the engines, store a candidate."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from shutil import rmtree
from typing import TYPE_CHECKING

from nightshift.contracts.run import code_version
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.object_store import ObjectStore
from nightshift.models.engines.equivalence import prove_engines
from nightshift.stage_times import stage
from nightshift.training.candidate import (
    Candidate,
    Provenance,
    find_candidate,
    has_intact_files,
    store_candidate,
    store_evaluated,
)
from nightshift.training.holdout import train_rows
from nightshift.training.recipe.members import FitPaths
from nightshift.training.splits import rows_of, split_window
from nightshift.training.training_set import find_training_set, read_rows
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings


def train(settings: Settings, spec: ModelSpec, training_set_key: str, run: RunContext) -> Candidate:
    """Train one candidate, or return the version that was registered from the same inputs.

    The same training set, spec and code give the same digest, unless the spec trains on Dask. A
    killed call resumes from its last checkpoint. The model that serves is fitted on all days of
    the window; its evidence is about the evaluated model, which never saw the hold-out.

    Raises:
        TrainingError: The task has no trainer.
        TrainingSetError: There is no such training set.
        ObjectStoreError: The rows are missing or were changed, or the store cannot be reached.
    """
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        training_set = find_training_set(conn, training_set_key)
        registered = find_candidate(conn, spec, training_set)
    # A fit takes minutes; a rerun of a registered version takes none. If its files were lost or
    # damaged, the same fit writes them again.
    if registered is not None and has_intact_files(store, registered):
        return registered

    rows = read_rows(store, training_set)
    split = split_window(training_set.window, spec.training)
    # Another spec, code or training set has other checkpoints.
    fit_identity = f"{training_set.key} {spec.digest} {code_version()}"
    checkpoints = settings.home / "checkpoints" / sha256(fit_identity.encode()).hexdigest()
    # Binned rows are found by their content, so all fits share one folder.
    paths = FitPaths(checkpoints, settings.home / "binned_rows", settings.dask_scheduler)
    with stage("fit", model=spec.name, rows=rows.num_rows):
        training, measured, figures = train_rows(spec, rows, split, training_set.key, paths)

    # The fast engines may serve this version only if they give the bits of the reference engine.
    with stage("prove_engines", model=spec.name):
        engine_proof = prove_engines(training.served, rows_of(rows, split.holdout))
    evaluated_end = split.validation.last.day
    provenance = Provenance(
        training_set=training_set.key,
        partition=training_set.partition,
        fit_end=split.holdout.last.day if training.evaluated else evaluated_end,
        spec_digest=spec.digest,
        code_version=code_version(),
    )
    evaluated = None
    if training.evaluated is not None:
        evaluated = store_evaluated(store, training.evaluated, training.served, evaluated_end)
    # A model knows what it was made from; the sanity checks compare this with its files.
    candidate = store_candidate(store, training.served, provenance, measured, figures, evaluated)
    # A kill between these two lines leaves checkpoints that the rerun uses and deletes.
    hit(Failpoint.TRAIN_STORED)
    # Only a stored candidate makes the checkpoints useless.
    rmtree(checkpoints, ignore_errors=True)
    return replace(candidate, engine_proof=engine_proof)
