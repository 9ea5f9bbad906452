"""Split a raw score into what each feature adds to it: exact Shapley values, for every row.

The kernel computes what LightGBM's ``pred_contrib`` does, some dozens of times as fast; LightGBM
stays as the fallback. Source: docs/adr/0023-exact-reasons.md.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from nightshift.models import booster
from nightshift.models.golden import CONTRIBUTION_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightshift.models.arrays import Matrix
    from nightshift.models.model_format.trees import Tree
    from nightshift.models.trained_model import TrainedModel


logger = logging.getLogger(__name__)

METHOD = "shapley/1"
"""How reasons are computed. It is an input of every load: other reasons for the same model and
features are then no conflict.
"""


class Contributions:
    """What each feature adds to a model's raw scores: by the kernel, else by LightGBM.

    Args:
        model: The champion.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._model = model
        self._explain: Callable[[Matrix], Matrix] | None = None
        try:
            self._explain = _checked_kernel(model)
        # Whatever a compiler or a full disk does, the partition is published.
        except Exception as error:  # noqa: BLE001
            logger.warning(
                "LightGBM computes the reasons, many times slower: %s: %s",
                type(error).__name__,
                error,
            )

    @property
    def is_accelerated(self) -> bool:
        """Return whether the kernel computes them."""
        return self._explain is not None

    def of(self, matrix: Matrix) -> Matrix:
        """Return what each feature adds to the raw score, shape (n, k).

        Args:
            matrix: Of ``TrainedModel.encode``, shape (n, k).
        """
        if not len(matrix):
            return matrix  # LightGBM refuses an empty matrix
        added = self._of_trees(matrix)
        # The Shapley values of a sum are the sums of its members' Shapley values.
        if self._model.linear is not None:
            added = added + self._model.linear.contributions(matrix)
        return added

    def _of_trees(self, matrix: Matrix) -> Matrix:
        if self._explain is not None:
            return self._explain(matrix)
        return booster.contributions(self._model.booster, matrix)[:, :-1]


def _checked_kernel(model: TrainedModel) -> Callable[[Matrix], Matrix]:
    """Return the kernel over a model's trees, after it has given the golden contributions.

    Raises:
        ValueError: It gives other contributions, or the trees are too large.
    """
    import numpy as np

    explain = shapley_kernel(model.trees)
    if model.golden is not None:
        expected = np.array(model.golden.contributions)[:, :-1]
        difference = np.abs(explain(model.golden.matrix) - expected).max()
        scale = max(1.0, float(np.abs(expected).max()))
        # Written so that a NaN is refused too.
        if not difference <= CONTRIBUTION_TOLERANCE * scale:
            raise ValueError("the kernel does not give the model's golden contributions")
    return explain


def shapley_kernel(trees: list[Tree]) -> Callable[[Matrix], Matrix]:
    """Return a function from a matrix, shape (n, k), to contributions of the same shape.

    Raises:
        UnsuitableTreesError: The trees are too large.
    """
    from nightshift.kernels import jit
    from nightshift.models.shapley.kernel import explain
    from nightshift.models.shapley.tree_arrays import build_tree_arrays

    return partial(_explain, partial(jit(explain), **build_tree_arrays(trees)))


def _explain(kernel: Callable[..., None], matrix: Matrix) -> Matrix:
    """Explain all rows in threads; a row's values do not depend on how rows are divided."""
    import numpy as np

    from nightshift.kernels import run_in_threads

    matrix = np.ascontiguousarray(matrix)
    added = np.empty_like(matrix)
    run_in_threads(lambda rows: kernel(matrix[rows], added[rows]), len(matrix))
    return added
