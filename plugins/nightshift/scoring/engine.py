"""Compute raw scores: LightGBM is the reference, lignum the accelerated engine for models that were proved equal in every bit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from nightshift.training.booster import predict_raw
from nightshift.training.engine_proof import objection_to
from nightshift.training.lignum_trees import LignumTrees

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.contracts.model_spec import EngineChoice
    from nightshift.training.trained_model import TrainedModel

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Something that scores one model."""

    @property
    def name(self) -> str:
        """Return the name by which specs and logs know it."""

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,), of a matrix of ``TrainedModel.encode``, shape (n, k)."""


class LightGbmEngine:
    """The reference."""

    name = "lightgbm"

    def __init__(self, model: TrainedModel) -> None:
        self._booster = model.booster

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,)."""
        return predict_raw(self._booster, matrix)


class LignumEngine:
    """The accelerated engine; a batch that it cannot score is scored by the reference, to the same bits."""

    name = "lignum"

    def __init__(self, model: TrainedModel, trees: LignumTrees) -> None:
        self._reference, self._trees = LightGbmEngine(model), trees

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,)."""
        if not len(matrix):
            return self._reference.raw(matrix)
        try:
            raw = self._trees.raw(matrix)
        except Exception as error:  # noqa: BLE001  (scores are published on time, whatever an optional engine does)
            logger.warning("Engine lignum failed in the middle (%s: %s); lightgbm scores this batch.", type(error).__name__, error)
            return self._reference.raw(matrix)
        return raw if raw.shape == (len(matrix),) else self._reference.raw(matrix)


def choose_engine(model: TrainedModel, choice: EngineChoice) -> Engine:
    """Return the engine that the spec asks for, if the model's proof and golden rows allow it here, else the reference.

    Never an error: a demand for ``lignum`` that cannot be met is logged as one, and LightGBM gives the same scores later.

    Args:
        model: A loaded version, with its stored proof.
        choice: ``scoring.engine`` of the spec.
    """
    if choice == "lightgbm":
        return LightGbmEngine(model)
    objection = objection_to(model.engine_proof)
    if objection is None:
        try:
            return _accelerated(model)
        except Exception as error:  # noqa: BLE001  (as in ``raw``)
            objection = f"{type(error).__name__}: {error}"
    level = logging.ERROR if choice == "lignum" else logging.INFO
    logger.log(level, "Engine lightgbm scores %s though scoring.engine is %s: %s.", model.model, choice, objection)
    return LightGbmEngine(model)


def _accelerated(model: TrainedModel) -> LignumEngine:
    """Return the accelerated engine after it has given the golden scores.

    Raises:
        ValueError: It gives others, or there are none.
    """
    import numpy as np

    trees = LignumTrees(model.text)
    if model.golden is None or trees.raw(model.golden.matrix).tobytes() != np.array(model.golden.raw).tobytes():
        raise ValueError("it does not give the model's golden scores")
    return LignumEngine(model, trees)
