"""Exact Shapley values of trees: per point of the quadrature one pass down and one up each tree.

Written for numba: loops over ``LANES`` rows at once become vector instructions. Only sums and
products in a fixed order, never fused or re-ordered: a row's values are the same bits with any
number of threads and in any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.model_format.trees import (
    ALMOST_ZERO,
    DEFAULT_LEFT,
    IS_CATEGORICAL,
    MISSING_SHIFT,
    NAN_MISSING,
    ZERO_MISSING,
)
from nightshift.models.shapley.tree_arrays import N_CONSTANTS
from nightshift.models.shapley.tree_walk import LEFT, RIGHT

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Matrix, Vector


LANES = 64
"""Rows in one block: what one tree needs of them fits the second cache level.

Source: benchmarks/exact_reasons.py.
"""
_OFF_PATH = 0
"""Instead of a side: a node above that tests the same feature has led the row off the path."""


# One loop nest over plain arrays is what numba makes fast.
def explain(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917
    matrix: Matrix,
    added: Matrix,
    feature: Integers,
    threshold: Vector,
    decision: Integers,
    left: Integers,
    right: Integers,
    same_feature_above: Integers,
    side_above: Integers,
    first_word: Integers,
    n_levels: Integers,
    words: Integers,
    tree_start: Integers,
    constants: Vector,
    constants_start: Integers,
    n_points: Integers,
) -> None:
    """Write what each feature adds to the raw score of each row.

    Args:
        matrix: The model's matrix, shape (n, k).
        added: Receives the result, shape (n, k).
        feature: Column that each inner node tests; like the next eight of shape (nodes,). Within a
            tree a node comes before its children.
        threshold: Largest value that goes left.
        decision: LightGBM's bits: categorical, missing goes left, what counts as missing.
        left: Index of the left child within its tree; for a leaf the tree's number of nodes.
        right: The same of the right child.
        same_feature_above: Index within its tree of the last node above that tests the same
            feature; -1 for none.
        side_above: The side on which the path leaves that node: ``LEFT`` or ``RIGHT``.
        first_word: First word of a categorical node's level set in ``words``.
        n_levels: Levels that this set has bits for.
        words: 32 levels in each; shape (words,).
        tree_start: First node of each tree, and the number of nodes; shape (trees + 1,).
        constants: Of each tree ``n_points`` by nodes by ``N_CONSTANTS``, one after another; see
            ``tree_arrays``.
        constants_start: Where each tree's constants begin; shape (trees,).
        n_points: Points of the quadrature of each tree; shape (trees,).
    """
    n_rows, n_features = matrix.shape
    n_trees, max_nodes = len(n_points), 1
    for tree in range(n_trees):
        max_nodes = max(max_nodes, tree_start[tree + 1] - tree_start[tree])
    value = np.empty((n_features, LANES))
    total = np.empty((n_features, LANES))
    side_taken = np.empty((max_nodes, LANES), np.int64)
    path = np.empty((max_nodes, LANES))
    for first in range(0, n_rows, LANES):
        end = min(first + LANES, n_rows)
        for f in range(n_features):
            for lane in range(LANES):
                # The last block is filled up with its last row: every loop has the same length,
                # so the compiler needs no code for a rest.
                raw = matrix[min(first + lane, end - 1), f]
                # LightGBM reads rows as sparse ones: a value that is almost zero is zero.
                value[f, lane] = 0.0 if raw >= -ALMOST_ZERO and raw <= ALMOST_ZERO else raw
                total[f, lane] = 0.0
        for tree in range(n_trees):
            start = tree_start[tree]
            n_nodes = tree_start[tree + 1] - start
            # First the side that each row takes at each node: the same for all points, so it is
            # found once. Loops below only select between constants by it, without a branch.
            for node in range(n_nodes):
                at = start + node
                f, bits, limit = feature[at], decision[at], threshold[at]
                if bits & IS_CATEGORICAL:
                    word, end_level = first_word[at], n_levels[at]
                    for lane in range(LANES):
                        x = value[f, lane]
                        goes = RIGHT
                        if x > -1.0 and x < end_level:
                            level = int(x)
                            if (words[word + (level >> 5)] >> (level & 31)) & 1:
                                goes = LEFT
                        side_taken[node, lane] = goes
                else:
                    default = LEFT if bits & DEFAULT_LEFT else RIGHT
                    missing = bits >> MISSING_SHIFT
                    if missing == ZERO_MISSING:
                        for lane in range(LANES):
                            x = value[f, lane]
                            is_missing = x != x or x == 0.0  # noqa: PLR0124
                            goes = LEFT if x <= limit else RIGHT
                            side_taken[node, lane] = default if is_missing else goes
                    else:
                        # Where nothing counts as missing, LightGBM reads NaN as zero.
                        if missing != NAN_MISSING:
                            default = LEFT if limit >= 0.0 else RIGHT
                        for lane in range(LANES):
                            x = value[f, lane]
                            is_missing = x != x  # noqa: PLR0124
                            goes = LEFT if x <= limit else RIGHT
                            side_taken[node, lane] = default if is_missing else goes
                above = same_feature_above[at]
                if above >= 0:
                    side = side_above[at]
                    for lane in range(LANES):
                        goes = side_taken[node, lane]
                        is_on_path = side_taken[above, lane] == side
                        side_taken[node, lane] = goes if is_on_path else _OFF_PATH
            for point in range(n_points[tree]):
                known = constants_start[tree] + point * n_nodes * N_CONSTANTS
                for lane in range(LANES):
                    path[0, lane] = 1.0
                # Down: the product of the factors along the path to each node. Parents come before
                # children, so one forward loop needs no stack.
                for node in range(n_nodes):
                    for side in (LEFT, RIGHT):
                        child = left[start + node] if side == LEFT else right[start + node]
                        if child < n_nodes:
                            # A side has three constants; the third is of leaves only.
                            c = known + node * N_CONSTANTS + 3 * (side - LEFT)
                            on, off = constants[c], constants[c + 1]
                            for lane in range(LANES):
                                goes = side_taken[node, lane]
                                other = 1.0 if goes == _OFF_PATH else off
                                factor = on if goes == side else other
                                path[child, lane] = path[node, lane] * factor
                # Up: the sum over the leaves below each node replaces the product, and adds to the
                # total of the node's feature. The four cases (which children are leaves) are
                # written out: one loop that serves all four took 1.4 times as long.
                for node in range(n_nodes - 1, -1, -1):
                    c = known + node * N_CONSTANTS
                    f = feature[start + node]
                    left_node, right_node = left[start + node], right[start + node]
                    on_l, off_l, gone_l = constants[c], constants[c + 1], constants[c + 2]
                    on_r, off_r, gone_r = constants[c + 3], constants[c + 4], constants[c + 5]
                    worth_l, worth_r = constants[c + 6], constants[c + 7]
                    worth_out = constants[c + 8]
                    if left_node < n_nodes and right_node < n_nodes:
                        for lane in range(LANES):
                            goes = side_taken[node, lane]
                            sum_l, sum_r = path[left_node, lane], path[right_node, lane]
                            path[node, lane] = sum_l + sum_r
                            out_l = worth_out if goes == RIGHT else 0.0
                            out_r = worth_out if goes == LEFT else 0.0
                            gain_l = worth_l if goes == LEFT else out_l
                            gain_r = worth_r if goes == RIGHT else out_r
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    elif left_node < n_nodes:
                        for lane in range(LANES):
                            goes = side_taken[node, lane]
                            sum_l = path[left_node, lane]
                            other = off_r if goes == LEFT else gone_r
                            factor = on_r if goes == RIGHT else other
                            sum_r = path[node, lane] * factor
                            path[node, lane] = sum_l + sum_r
                            out_l = worth_out if goes == RIGHT else 0.0
                            out_r = worth_out if goes == LEFT else 0.0
                            gain_l = worth_l if goes == LEFT else out_l
                            gain_r = worth_r if goes == RIGHT else out_r
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    elif right_node < n_nodes:
                        for lane in range(LANES):
                            goes = side_taken[node, lane]
                            other = off_l if goes == RIGHT else gone_l
                            factor = on_l if goes == LEFT else other
                            sum_l = path[node, lane] * factor
                            sum_r = path[right_node, lane]
                            path[node, lane] = sum_l + sum_r
                            out_l = worth_out if goes == RIGHT else 0.0
                            out_r = worth_out if goes == LEFT else 0.0
                            gain_l = worth_l if goes == LEFT else out_l
                            gain_r = worth_r if goes == RIGHT else out_r
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    else:
                        # Two leaves: their sums depend on the side only, not on the lane.
                        both_l, both_r, both_gone = on_l + off_r, off_l + on_r, gone_l + gone_r
                        gain_l = on_l * worth_l + off_r * worth_out
                        gain_r = off_l * worth_out + on_r * worth_r
                        for lane in range(LANES):
                            goes = side_taken[node, lane]
                            product = path[node, lane]
                            other = both_r if goes == RIGHT else both_gone
                            factor = both_l if goes == LEFT else other
                            path[node, lane] = product * factor
                            out = gain_r if goes == RIGHT else 0.0
                            gain = gain_l if goes == LEFT else out
                            total[f, lane] += product * gain
        for lane in range(end - first):
            for f in range(n_features):
                added[first + lane, f] = total[f, lane]
