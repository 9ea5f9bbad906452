"""Compute raw scores by LightGBM, or by the accelerated engine where it was proved equal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from nightshift.models.booster import predict_raw
from nightshift.models.engines.equivalence import ACCELERATED, objection_to_proof

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.contracts.model_spec import EngineChoice
    from nightshift.models.trained_model import TrainedModel

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

N_SORTED_BY, LEAST_SORTED = 4, 1_000
"""Features by whose quarters rows are sorted, and rows for which that pays. Source:
docs/adr/0022-engines.md.
"""


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
        import numpy as np

        self._booster = model.booster
        self._asked_most = np.argsort(-model.booster.feature_importance("split"), kind="stable")[
            :N_SORTED_BY
        ]

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,).

        Rows go in by quarters of the features that are asked most: neighbours then take the same
        branches, which processors guess right.
        """
        import numpy as np

        cell = np.zeros(len(matrix), np.int16)
        for feature in self._asked_most if len(matrix) >= LEAST_SORTED else ():
            values = np.nan_to_num(matrix[:, feature])
            cell = cell * 4 + np.searchsorted(
                np.quantile(values[::8], (0.25, 0.5, 0.75)), values
            ).astype(np.int16)
        order = np.argsort(cell, kind="stable")
        raw = np.empty(len(matrix))
        raw[order] = predict_raw(self._booster, matrix[order])
        return raw


class AcceleratedEngine:
    """QuickScorer; a batch that it cannot score is scored by the reference, to the same bits."""

    name = ACCELERATED

    def __init__(self, model: TrainedModel) -> None:
        """Load the trees, and have them give the golden scores.

        Raises:
            ValueError: They give others, or there are none.
            UnsuitableTreesError: The trees are too large for this engine.
        """
        import numpy as np

        from nightshift.models.engines.quickscorer import QuickScorer

        self._model, self._trees = model, QuickScorer(model.text)
        if model.golden is None:
            raise ValueError("the model has no golden scores")
        golden_raw = self._trees.raw(model.golden.matrix)
        if golden_raw.tobytes() != np.array(model.golden.raw).tobytes():
            raise ValueError("it does not give the model's golden scores")

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,)."""
        try:
            raw = self._trees.raw(matrix)
            if raw.shape == (len(matrix),):
                return raw
            wrong = f"{raw.shape} scores"
        except Exception as error:  # noqa: BLE001  (scores are published on time, whatever this engine does)
            wrong = f"{type(error).__name__}: {error}"
        logger.warning(
            "Engine %s failed in the middle (%s); lightgbm scores this batch.", self.name, wrong
        )
        return LightGbmEngine(self._model).raw(matrix)


def choose_engine(model: TrainedModel, choice: EngineChoice) -> Engine:
    """Return the accelerated engine if spec, proof and golden rows allow it, else the reference.

    Never an error: a demand for the accelerated engine that cannot be met is logged as one, and
    LightGBM gives the same scores later.

    Args:
        model: A loaded version, with its stored proof.
        choice: ``scoring.engine`` of the spec.
    """
    if choice == "lightgbm":
        return LightGbmEngine(model)
    objection = objection_to_proof(model.engine_proof)
    if objection is None:
        try:
            return AcceleratedEngine(model)
        except Exception as error:  # noqa: BLE001  (as in ``raw``)
            objection = f"{type(error).__name__}: {error}"
    level = logging.INFO if choice == "auto" else logging.ERROR
    logger.log(
        level,
        "Engine lightgbm scores %s though scoring.engine is %s. %s: %s.",
        model.model,
        choice,
        ACCELERATED,
        objection,
    )
    return LightGbmEngine(model)
