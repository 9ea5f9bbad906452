"""Compute raw scores by LightGBM, or by the accelerated engine where it was proved equal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from nightshift.models.booster import predict_raw
from nightshift.models.engines.equivalence import ACCELERATED, objection_to_proof

if TYPE_CHECKING:
    from nightshift.contracts.scoring_spec import EngineChoice
    from nightshift.models.arrays import Matrix
    from nightshift.models.trained_model import TrainedModel


logger = logging.getLogger(__name__)

N_SORTED_BY = 4
"""Features by whose quartiles rows are sorted. Source: docs/adr/0022-engines.md."""
MIN_SORTED_ROWS = 1_000
"""Rows from which sorting pays."""


class Engine(Protocol):
    """Something that scores one model."""

    @property
    def name(self) -> str:
        """Return the engine's name in specs and logs."""

    def raw(self, matrix: Matrix) -> Matrix:
        """Return raw scores, shape (n,), of a matrix of ``TrainedModel.encode``, shape (n, k).

        Those of classes have the shape (n, classes).

        The linear member's score is part of them.
        """


class LightGbmEngine:
    """LightGBM itself: the reference for every other engine."""

    name = "lightgbm"

    def __init__(self, model: TrainedModel) -> None:
        import numpy as np

        self._model = model
        self._booster = model.booster
        n_splits = self._booster.feature_importance("split")
        self._most_split = np.argsort(
            -n_splits,
            kind="stable",
        )[:N_SORTED_BY]

    def raw(self, matrix: Matrix) -> Matrix:
        """Return raw scores, shape (n,)."""
        return self._model.with_linear(
            matrix,
            self._trees(matrix),
        )

    def _trees(self, matrix: Matrix) -> Matrix:
        import numpy as np

        if len(matrix) < MIN_SORTED_ROWS:
            return predict_raw(self._booster, matrix)
        # Sorted by quartiles of the features with the most splits, neighbours take the same
        # branches, which the processor then predicts: a tenth less time for the same scores.
        cell = np.zeros(len(matrix), np.int16)
        for feature in self._most_split:
            values = np.nan_to_num(matrix[:, feature])
            # An eighth of the rows is enough to find them: the cells decide about time only.
            quartiles = np.quantile(
                values[::8],
                (0.25, 0.5, 0.75),
            )
            quarter = np.searchsorted(quartiles, values)
            cell = cell * 4 + quarter.astype(np.int16)
        order = np.argsort(cell, kind="stable")
        in_order = predict_raw(self._booster, matrix[order])
        raw = np.empty_like(in_order)
        raw[order] = in_order
        return raw


class AcceleratedEngine:
    """QuickScorer; LightGBM scores a batch that it cannot score, to the same bits."""

    name = ACCELERATED

    def __init__(self, model: TrainedModel) -> None:
        """Load the trees and compare their golden scores.

        Raises:
            ValueError: The golden scores differ, or there are none.
            UnsuitableTreesError: The trees are too large for this engine.
        """
        import numpy as np

        from nightshift.models.engines.quickscorer import QuickScorer

        self._model = model
        self._scorer = QuickScorer(model.trees, model.n_scores)
        if model.golden is None:
            raise ValueError("the model has no golden scores")
        # The proof was made on the machine that trained; these scores are compared on this one.
        golden_raw = self._scorer.raw(model.golden.matrix)
        expected = np.array(model.golden.raw)
        if golden_raw.tobytes() != expected.tobytes():
            raise ValueError("it does not give the model's golden scores")

    def raw(self, matrix: Matrix) -> Matrix:
        """Return raw scores, shape (n,)."""
        try:
            raw = self._scorer.raw(matrix)
            per_row = (self._model.n_scores,) if self._model.classes else ()
            if raw.shape == (len(matrix), *per_row):
                return self._model.with_linear(matrix, raw)
            problem = f"{raw.shape} scores"
        # Whatever this engine does, scores are published on time.
        except Exception as error:  # noqa: BLE001
            problem = f"{type(error).__name__}: {error}"
        logger.warning(
            "Engine %s failed while it scored (%s); lightgbm scores this batch.",
            self.name,
            problem,
        )
        return LightGbmEngine(self._model).raw(matrix)


def choose_engine(model: TrainedModel, choice: EngineChoice) -> Engine:
    """Return the accelerated engine if spec, proof and golden rows allow it, else LightGBM.

    Never an error: a spec that demands the accelerated engine gets LightGBM's equal scores later,
    and an error in the log.

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
