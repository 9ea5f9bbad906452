"""Fit one model by its recipe: members, their shares, calibration, level and threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.contracts.metrics import Task
from nightshift.models.booster import load_booster, predict_raw
from nightshift.models.calibration import apply_calibration
from nightshift.models.linear_member import LinearMember
from nightshift.models.model_format.blend import blend_models
from nightshift.models.signature import encode, numbers
from nightshift.models.trained_model import TrainedModel
from nightshift.training.evaluation import best_threshold
from nightshift.training.recipe.members import (
    NO_PATHS,
    FitPaths,
    FitRows,
    averaged_trees,
    days_of,
    linear_member,
    watched_trees,
)
from nightshift.training.recipe.out_of_fold import (
    OutOfFold,
    choose_calibration,
    choose_share,
    common_rounds,
    level_offset,
    rolling_blocks,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.training_spec import Calibration
    from nightshift.models.arrays import Vector
    from nightshift.models.predictions import Predictions
    from nightshift.models.signature import Signature


DEFAULT_THRESHOLD = 0.5
_CALIBRATIONS: dict[Task, tuple[Calibration, ...]] = {
    Task.BINARY: ("platt", "isotonic", "none"),
    Task.MULTICLASS: ("temperature", "vector", "none"),
}
"""What ``auto`` chooses from, by task."""


@dataclass(frozen=True)
class Members:
    """Fitted members of a recipe.

    Attributes:
        signature: Features and levels.
        trees: The trees of each night and seed; text models.
        linear: The linear member; None without one.
        n_rounds: Trees that count in each text; -1 for all.
    """

    signature: Signature
    trees: list[str]
    linear: LinearMember | None
    n_rounds: int = -1

    def scores(self, spec: ModelSpec, rows: pa.Table) -> OutOfFold:
        """Score rows of days that the members were not fitted on, as one block."""
        matrix = encode(rows, self.signature)
        trees = np.zeros((len(matrix), len(spec.classes)) if spec.classes else len(matrix))
        for text in self.trees:
            booster = load_booster(text, self.signature.names)
            trees += predict_raw(booster, matrix, self.n_rounds) / len(self.trees)
        linear = np.zeros(trees.shape) if self.linear is None else self.linear.raw(matrix)
        label = numbers(rows, spec.label.column)
        return OutOfFold(label, days_of(rows), np.zeros(len(matrix), np.int64), trees, linear)


@dataclass(frozen=True)
class RecipeFit:
    """A fitted recipe and the evidence by which it was put together.

    Attributes:
        model: The model; without reference profile, deciles and metrics.
        members: Its members.
        scores: Out-of-fold scores of the validation days.
        n_rounds: Trees of each night and seed.
    """

    model: TrainedModel
    members: Members
    scores: OutOfFold
    n_rounds: int

    @property
    def unseen(self) -> Predictions:
        """Return the model's predictions of the out-of-fold rows."""
        raw = self.scores.blended(self.model.training["linear_share"])
        return self.model.from_raw(raw + self.model.training["shift"])

    @property
    def unseen_score(self) -> Vector:
        """Return the model's scores of the out-of-fold rows, shape (n,), for its deciles."""
        return self.unseen.score


def fit_model(
    spec: ModelSpec, train_rows: pa.Table, validation: pa.Table, paths: FitPaths = NO_PATHS
) -> TrainedModel:
    """Fit a recipe; see ``fit_recipe``."""
    return fit_recipe(spec, train_rows, validation, paths).model


def fit_recipe(
    spec: ModelSpec, train_rows: pa.Table, validation: pa.Table, paths: FitPaths = NO_PATHS
) -> RecipeFit:
    """Fit a recipe on earlier and validation rows; the validation rows are predicted in blocks.

    Each block is predicted by members that were fitted on the rows before it. These predictions
    choose the rounds, the linear share, the calibration, the level and the threshold. The members
    themselves are then fitted on all rows.

    Raises:
        TrainingError: The task has no trainer, or a weight is not above 0.
        SignatureError: The rows do not fit the spec.
        DaskError: The spec asks for Dask, and its cluster failed.
    """
    import pyarrow as pa

    training = spec.training
    blocks = list(rolling_blocks(train_rows, validation, training.recipe.folds, training.gap_days))
    grown = []
    for number, (before, block) in enumerate(blocks):
        fit_rows = FitRows(spec, before)
        fit = watched_trees(fit_rows, block, paths, f"block-{number}")
        grown.append((fit_rows, fit))
    losses = [fit.losses for _, fit in grown]
    n_rounds, loss = common_rounds(losses, [block.num_rows for _, block in blocks])

    scores: OutOfFold | None = None
    for (fit_rows, fit), (_, block) in zip(grown, blocks, strict=True):
        linear = _linear_of(fit_rows)
        members = Members(fit_rows.signature, [fit.text], linear, n_rounds)
        part = members.scores(spec, block)
        scores = part if scores is None else scores.and_then(part)
    assert scores is not None  # noqa: S101 - the validation rows make at least one block

    fit_rows = FitRows(spec, pa.concat_tables([train_rows, validation]))
    members = _fit_members(fit_rows, n_rounds, paths, "evaluated")
    model = _assemble(spec, members, scores, {"n_rounds": n_rounds, "loss": loss})
    return RecipeFit(model, members, scores, n_rounds)


def refit_recipe(
    spec: ModelSpec,
    rows: pa.Table,
    evaluated: RecipeFit,
    holdout: pa.Table,
    paths: FitPaths,
) -> RecipeFit:
    """Fit the recipe of an evaluated model on all mature days: the model that serves.

    Args:
        spec: The recipe.
        rows: All rows of the window.
        evaluated: The model that was fitted on the days before the hold-out; its rounds hold.
        holdout: Rows of the hold-out; their predictions by the evaluated members are the newest
            block.
        paths: Checkpoints and binned rows.
    """
    scores = evaluated.scores.and_then(evaluated.members.scores(spec, holdout))
    members = _fit_members(FitRows(spec, rows), evaluated.n_rounds, paths, "served")
    facts = {name: evaluated.model.training[name] for name in ("n_rounds", "loss")}
    model = _assemble(spec, members, scores, facts)
    return RecipeFit(model, members, scores, evaluated.n_rounds)


def choose_threshold(spec: ModelSpec, label: Vector, predictions: Predictions) -> float:
    """Return the threshold that the spec declares, or the one with the best F1 score.

    Costs give the threshold at which a false alarm and a miss cost the same; without a positive
    class it is 0.5.
    """
    if spec.positive_threshold is not None:
        return spec.positive_threshold
    costs = spec.training.recipe.costs
    if costs is not None:
        return costs.threshold
    if spec.task is not Task.BINARY or predictions.probability is None:
        return DEFAULT_THRESHOLD
    return best_threshold(label, predictions.probability)


def _fit_members(fit_rows: FitRows, n_rounds: int, paths: FitPaths, name: str) -> Members:
    trees = averaged_trees(fit_rows, n_rounds, paths, name)
    return Members(fit_rows.signature, trees, _linear_of(fit_rows))


def _linear_of(fit_rows: FitRows) -> LinearMember | None:
    has_share = any(share > 0 for share in fit_rows.spec.training.recipe.linear.shares)
    return linear_member(fit_rows) if has_share else None


def _assemble(
    spec: ModelSpec, members: Members, scores: OutOfFold, facts: dict[str, Any]
) -> TrainedModel:
    """Put members together by their out-of-fold scores."""
    recipe = spec.training.recipe
    is_binary = spec.task == Task.BINARY
    share = choose_share(scores, recipe.linear.shares, is_binary=is_binary)
    raw = scores.blended(share)
    linear = members.linear.scaled(share) if members.linear and share > 0 else None

    # A regression predicts the label itself: its level is an intercept, and nothing is calibrated.
    calibration: dict[str, Any] = {"method": "none"}
    predicted = raw
    if spec.task.has_probability:
        declared = spec.training.calibration
        methods: tuple[Calibration, ...] = (declared,)
        if declared == "auto":
            methods = _CALIBRATIONS[spec.task]
        calibration = choose_calibration(scores, raw, methods)
        predicted = apply_calibration(calibration, raw)
    offset = 0.0
    # The steps of an isotonic calibration stay where they are: a level would have to move them all.
    if calibration["method"] != "isotonic":
        offset = level_offset(predicted, scores, recipe.level, is_binary=is_binary)
    shift = 0.0
    if is_binary:
        calibration = _moved(calibration, offset)
    elif spec.task is Task.REGRESSION:
        shift = offset
        linear = (linear or _no_line(members.signature)).shifted(shift)

    model = TrainedModel(
        text=blend_models(members.trees, 1 - share),
        model=spec.name,
        task=spec.task,
        signature=members.signature,
        linear=linear,
        calibration=calibration,
        threshold=DEFAULT_THRESHOLD,
        decile_edges=(),
        reference={},
        metrics={},
        classes=spec.classes,
        training={
            **facts,
            "seed": spec.training.seed,
            # A round of classes has a tree of each.
            "n_trees": facts["n_rounds"] * len(members.trees) * (len(spec.classes) or 1),
            "linear_share": share,
            "level_offset": offset,
            "shift": shift,
        },
    )
    # The threshold is one of calibrated probabilities, so it is chosen last.
    predictions = model.from_raw(raw + shift)
    return replace(model, threshold=choose_threshold(spec, scores.label, predictions))


def _moved(calibration: dict[str, Any], offset: float) -> dict[str, Any]:
    """Return a calibration whose log-odds are moved by an offset; without one it stays itself."""
    if offset == 0:
        return calibration
    slope = calibration.get("slope", 1.0)
    intercept = calibration.get("intercept", 0.0) + offset
    return {"method": "platt", "slope": slope, "intercept": intercept}


def _no_line(signature: Signature) -> LinearMember:
    """Return a linear member that adds nothing."""
    return LinearMember.empty(
        len(signature.number_names), [len(levels) for _, levels in signature.categorical]
    )
