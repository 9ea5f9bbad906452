"""The accelerated engine: QuickScorer turns trees into bit masks and scores by them.

A row's leaves are found without a walk down any tree, and their values are added tree by tree, as
LightGBM does: the same bits. Source: Lucchese et al. (2015), QuickScorer; docs/adr/0022-engines.md.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nightshift.kernels import jit, run_in_threads
from nightshift.models.engines.leaf_masks import build_leaf_masks
from nightshift.models.engines.quickscorer_kernel import add_leaves

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix
    from nightshift.models.model_format.trees import Tree

VERSION = "1"
"""Proofs of equivalence name it: a changed engine gets another version, and needs new proofs."""


class QuickScorer:
    """The trees of a model, ready to score.

    Args:
        trees: At least one of each raw score.
        n_scores: Raw scores of a row. The trees of a round are of the first, the second …

    Raises:
        UnsuitableTreesError: A tree or the tables of level sets are too large.
    """

    def __init__(self, trees: list[Tree], n_scores: int = 1) -> None:
        self._n_scores = n_scores
        # The trees of one class are added in their order, as LightGBM does.
        self._add_leaves = [
            partial(jit(add_leaves), **build_leaf_masks(trees[score::n_scores]))
            for score in range(n_scores)
        ]

    def raw(self, matrix: Matrix) -> Matrix:
        """Return raw scores, shape (n,), of a matrix of ``TrainedModel.encode``, shape (n, k).

        Those of classes have the shape (n, classes).
        """
        totals = np.empty((self._n_scores, len(matrix)))

        # Each thread writes the scores of its own rows.
        def score(rows: slice) -> None:
            for add_leaves_of, total in zip(self._add_leaves, totals, strict=True):
                add_leaves_of(matrix[rows], total[rows])

        run_in_threads(score, len(matrix))
        return totals[0] if self._n_scores == 1 else np.ascontiguousarray(totals.T)
