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

    from nightshift.models.arrays import Integers, Matrix
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
        self._explain: list[Callable[[Matrix], Matrix]] = []
        try:
            for score in range(model.n_scores):
                kernel = _checked_kernel(model, score)
                self._explain.append(kernel)
        # Whatever a compiler or a full disk does, the partition is published.
        except Exception as error:  # noqa: BLE001
            self._explain.clear()
            logger.warning(
                "LightGBM computes the reasons, many times slower: %s: %s",
                type(error).__name__,
                error,
            )

    @property
    def is_accelerated(self) -> bool:
        """Return whether the kernel computes them."""
        return bool(self._explain)

    def of(self, matrix: Matrix, which: Integers | None = None) -> Matrix:
        """Return what each feature adds to the raw score, shape (n, k).

        Args:
            matrix: Of ``TrainedModel.encode``, shape (n, k).
            which: The number of each row's raw score that is explained: of its predicted class;
                shape (n,). None without classes.
        """
        if not len(matrix):
            return matrix  # LightGBM refuses an empty matrix
        if which is None:
            added = self._of_trees(matrix)
        else:
            added = self._of_scores(matrix, which)
        # The Shapley values of a sum are the sums of its members' Shapley values.
        if self._model.linear is not None:
            added = added + self._model.linear.contributions(matrix)
        return added

    def _of_trees(self, matrix: Matrix, score: int = 0) -> Matrix:
        if self._explain:
            return self._explain[score](matrix)
        added = booster.contributions(self._model.booster, matrix)
        # One score after the other, each with its base last.
        width = matrix.shape[1] + 1
        start = score * width
        end = start + width - 1
        return added[:, start:end]

    def _of_scores(self, matrix: Matrix, which: Integers) -> Matrix:
        """Explain each row's own raw score: the rows of each class at once."""
        import numpy as np

        added = np.empty_like(matrix)
        for score in np.unique(which):
            is_own = which == score
            own_rows = matrix[is_own]
            added[is_own] = self._of_trees(
                own_rows,
                int(score),
            )
        return added


def _checked_kernel(model: TrainedModel, score: int) -> Callable[[Matrix], Matrix]:
    """Return the kernel over the trees of one raw score, after its golden contributions.

    Raises:
        ValueError: It gives other contributions, or the trees are too large.
    """
    import numpy as np

    # The trees of a round are of the first score, the second …
    trees = model.trees[score :: model.n_scores]
    explain = shapley_kernel(trees)
    if model.golden is not None:
        expected = model.golden.contributions_of(score)[:, :-1]
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

    arrays = build_tree_arrays(trees)
    kernel = partial(
        jit(explain),
        **arrays,
    )
    return partial(_explain, kernel)


def _explain(kernel: Callable[..., None], matrix: Matrix) -> Matrix:
    """Explain all rows in threads; a row's values do not depend on how rows are divided."""
    import numpy as np

    from nightshift.kernels import run_in_threads

    matrix = np.ascontiguousarray(matrix)
    added = np.empty_like(matrix)
    run_in_threads(
        lambda rows: kernel(
            matrix[rows],
            added[rows],
        ),
        len(matrix),
    )
    return added
