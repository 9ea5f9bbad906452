"""Compute raw scores: LightGBM is the reference, lignum the accelerated engine for models that were proved equal in every bit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from nightshift.training.booster import predict_raw
from nightshift.training.engine_proof import objection_to
from nightshift.training.lignum_trees import LignumTrees, compile_in_child, has_compiler, kept_library, library_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from nightshift.contracts.model_spec import EngineChoice
    from nightshift.training.trained_model import TrainedModel

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

COMPILE_ROWS = 2_000_000
"""A night of so many rows is worth 7 s of compiling in the first night, and saves a second a million rows in each."""
COMPARED_ROWS = 20_000


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

    def __init__(self, model: TrainedModel, trees: LignumTrees, *, is_compiled: bool) -> None:
        self._reference, self._trees, self.is_compiled = LightGbmEngine(model), trees, is_compiled

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


def compile_where_it_pays(model: TrainedModel, choice: EngineChoice, libraries: Path, n_rows: int) -> None:
    """Compile the trees of a model that is about to score very many rows, once on a machine; without a compiler they are interpreted.

    Args:
        model: A loaded version, with its stored proof and golden rows.
        choice: ``scoring.engine`` of the spec.
        libraries: Folder of compiled trees.
        n_rows: Rows of the night.
    """
    import numpy as np

    if choice == "lightgbm" or n_rows < COMPILE_ROWS or model.golden is None or objection_to(model.engine_proof) or not has_compiler():
        return
    if kept_library(libraries, model.text):
        return
    dice, golden = np.random.default_rng(0), model.golden.matrix
    mixed = np.column_stack([dice.choice(column, COMPARED_ROWS) for column in golden.T])
    try:
        compile_in_child(model.text, np.vstack([golden, mixed]), library_of(libraries, model.text))
    except Exception as error:  # noqa: BLE001  (scores are published on time, whatever a compiler does)
        logger.info("The trees of %s are interpreted: they could not be compiled (%s).", model.model, type(error).__name__)


def choose_engine(model: TrainedModel, choice: EngineChoice, libraries: Path | None = None) -> Engine:
    """Return the engine that the spec asks for, if the model's proof and golden rows allow it here, else the reference.

    Never an error: a demand for ``lignum`` that cannot be met is logged as one, and LightGBM gives the same scores later.

    Args:
        model: A loaded version, with its stored proof.
        choice: ``scoring.engine`` of the spec.
        libraries: Folder of compiled trees; what is there for this model is used.
    """
    if choice == "lightgbm":
        return LightGbmEngine(model)
    objection = objection_to(model.engine_proof)
    if objection is None:
        try:
            return _accelerated(model, libraries)
        except Exception as error:  # noqa: BLE001  (as in ``raw``)
            objection = f"{type(error).__name__}: {error}"
    level = logging.ERROR if choice == "lignum" else logging.INFO
    logger.log(level, "Engine lightgbm scores %s though scoring.engine is %s: %s.", model.model, choice, objection)
    return LightGbmEngine(model)


def _accelerated(model: TrainedModel, libraries: Path | None) -> LignumEngine:
    """Return the accelerated engine after it has given the golden scores; compiled trees that do not are deleted and interpreted.

    Raises:
        ValueError: It gives others, or there are none.
    """
    library = None if libraries is None else kept_library(libraries, model.text)
    if library is not None:
        try:
            return LignumEngine(model, _golden_trees(model, library), is_compiled=True)
        except Exception as error:  # noqa: BLE001  (the interpreter is there)
            logger.warning("Compiled trees of %s are dropped: %s: %s", model.model, type(error).__name__, error)
            library.unlink(missing_ok=True)
    return LignumEngine(model, _golden_trees(model, None), is_compiled=False)


def _golden_trees(model: TrainedModel, library: Path | None) -> LignumTrees:
    import numpy as np

    trees = LignumTrees(model.text, library)
    if model.golden is None or trees.raw(model.golden.matrix).tobytes() != np.array(model.golden.raw).tobytes():
        raise ValueError("it does not give the model's golden scores")
    return trees
