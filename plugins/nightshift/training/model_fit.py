"""Fit one model: encode, grow trees, calibrate, choose the threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.errors import NightshiftError
from nightshift.kernels import thread_count
from nightshift.models.booster import load_booster, predict_raw
from nightshift.models.calibration import fit_calibration
from nightshift.models.signature import encode, encode_columns, learn_signature, numbers
from nightshift.models.trained_model import TrainedModel
from nightshift.training.evaluation import best_threshold
from nightshift.training.trees.boosting import FitPlan, fit_trees
from nightshift.training.trees.dask_trees import fit_trees_on_dask

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.models.predictions import Predictions
    from nightshift.models.signature import Signature


_OBJECTIVES = {Task.BINARY: "binary", Task.REGRESSION: "regression"}
DEFAULT_THRESHOLD = 0.5


class TrainingError(NightshiftError):
    """The spec cannot be trained."""

    code = "NS-TRAIN-011"


@dataclass(frozen=True)
class FitPaths:
    """Files and the cluster that a fit may use.

    Attributes:
        checkpoint: File from which a killed fit resumes; None starts anew.
        binned_rows: Folder of rows that earlier fits have binned; None bins them.
        dask_scheduler: Address for ``training.engine: dask``; empty starts local workers.
    """

    checkpoint: Path | None = None
    binned_rows: Path | None = None
    dask_scheduler: str = ""


NO_PATHS = FitPaths()


def fit_model(
    spec: ModelSpec, train_rows: pa.Table, validation: pa.Table, paths: FitPaths = NO_PATHS
) -> TrainedModel:
    """Fit trees on one part; stop, calibrate and choose the threshold on a later one.

    Raises:
        TrainingError: The task has no trainer.
        SignatureError: The rows do not fit the spec.
        DaskError: The spec asks for Dask, and its cluster failed.
    """
    # Levels of categories are learnt from the training part alone.
    signature = learn_signature(spec.features, train_rows)
    plan = _fit_plan(spec, signature)
    matrix, label = encode(validation, signature), numbers(validation, spec.label.column)
    train = encode_columns(train_rows, signature), numbers(train_rows, spec.label.column)
    if spec.training.engine == "dask":
        fit = fit_trees_on_dask(train, (matrix, label), plan, paths.dask_scheduler)
    else:
        fit = fit_trees(train, (matrix, label), plan, paths.checkpoint, paths.binned_rows)

    raw = predict_raw(load_booster(fit.text, signature.names), matrix)
    # A regression predicts the label itself, so nothing is calibrated.
    calibration: dict[str, Any] = {"method": "none"}
    if spec.task == Task.BINARY:
        calibration = fit_calibration(spec.training.calibration, raw, label)
    model = TrainedModel(
        text=fit.text,
        model=spec.name,
        task=spec.task,
        signature=signature,
        calibration=calibration,
        threshold=DEFAULT_THRESHOLD,
        decile_edges=(),
        reference={},
        metrics={},
        training={
            "seed": spec.training.seed,
            "n_trees": fit.best_round,
            "n_rounds": len(fit.losses),
            "loss": min(fit.losses),
        },
    )
    # The threshold is one of calibrated probabilities, so it is chosen last.
    return replace(model, threshold=choose_threshold(spec, label, model.from_raw(raw)))


def choose_threshold(spec: ModelSpec, label: Vector, predictions: Predictions) -> float:
    """Return the spec's threshold, or the one with the best F1 score; 0.5 for a regression."""
    if spec.positive_threshold is not None:
        return spec.positive_threshold
    if predictions.probability is None:
        return DEFAULT_THRESHOLD
    return best_threshold(label, predictions.probability)


def _fit_plan(spec: ModelSpec, signature: Signature) -> FitPlan:
    if spec.task not in _OBJECTIVES:
        raise TrainingError(
            f"Task {spec.task} has no trainer.",
            expected=", ".join(_OBJECTIVES),
            todo="Choose a task that has one.",
        )
    return FitPlan(
        objective=spec.training.objective or _OBJECTIVES[spec.task],
        params=spec.training.params,
        seed=spec.training.seed,
        n_rounds=spec.training.num_boost_round,
        patience_rounds=spec.training.early_stopping_rounds,
        categorical_positions=signature.categorical_positions,
        names=signature.names,
        n_threads=thread_count(),
    )
