"""Split a score into what each feature adds to it: exact Shapley values, for every row.

``forest`` and ``shapley_kernel`` compute what LightGBM's ``pred_contrib`` does, some dozens of
times as fast; it stays as the fallback. Source: docs/adr/0023-exact-reasons.md.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from nightshift.models import booster
from nightshift.models.golden import CONTRIBUTION_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from nightshift.models.shapley.tree_arrays import Forest
    from nightshift.models.trained_model import TrainedModel

    Matrix = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

METHOD = "shapley/1"
"""How reasons are made, an input of every load: other reasons for the same model and features
are then no conflict.
"""


class Contributions:
    """What each feature adds to the raw scores of a model: by the kernel, or by LightGBM where that fails.

    Args:
        model: The champion.

    Attributes:
        is_accelerated: Whether the kernel computes them.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._model = model
        self._explain: Callable[[Matrix, Matrix], None] | None = None
        try:
            self._explain = _kernel_of(model)
        except Exception as error:  # noqa: BLE001  (whatever a compiler or a full disk does, the night is published all the same)
            logger.warning(
                "Reasons are computed by LightGBM, many times slower: %s: %s",
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
        if self._explain is None:
            return (
                booster.contributions(self._model.booster, matrix)[:, :-1]
                if len(matrix)
                else matrix
            )
        return _in_threads(self._explain, matrix)


def _kernel_of(model: TrainedModel) -> Callable[[Matrix, Matrix], None]:
    """Return the kernel over a model's trees, after it has given the model's golden contributions.

    Raises:
        ValueError: It gives others, or the trees are too large.
    """
    import numpy as np

    from nightshift.kernels import jit
    from nightshift.models.shapley.kernel import explain as loops
    from nightshift.models.shapley.tree_arrays import read_forest

    explain = partial(_explain, jit(loops), read_forest(model.text))
    if model.golden is not None:
        expected = np.array(model.golden.contributions)[:, :-1]
        added = np.empty_like(expected)
        explain(model.golden.matrix, added)
        scale = max(1.0, float(np.abs(expected).max()))
        if not np.abs(added - expected).max() <= CONTRIBUTION_TOLERANCE * scale:
            raise ValueError("the kernel does not give the model's golden contributions")
    return explain


def _explain(kernel: Callable[..., None], forest: Forest, matrix: Matrix, added: Matrix) -> None:
    kernel(matrix, added, *vars(forest).values())


def _in_threads(explain: Callable[[Matrix, Matrix], None], matrix: Matrix) -> Matrix:
    """Explain all rows in as many threads as the process may use; each row's values are the same in any."""
    import numpy as np

    from nightshift.kernels import in_threads

    matrix = np.ascontiguousarray(matrix)
    added = np.empty_like(matrix)
    in_threads(lambda rows: explain(matrix[rows], added[rows]), len(matrix))
    return added
