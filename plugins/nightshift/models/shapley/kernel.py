"""Exact Shapley values of trees: for each point of the quadrature one pass down and one up each tree, for ``LANES`` rows at once.

Written for numba, in loops over lanes that become vector instructions. Only sums and products in a
fixed order, never fused or re-ordered: a row's values are the same bits with any number of threads
and in any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.model_format.trees import ALMOST_ZERO

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

LANES = 64
"""Rows in one block; what one tree keeps of them fits the second cache level. Source:
benchmarks/exact_reasons.py.
"""
_LEFT, _RIGHT, _LEFT_PATH_BEFORE = 1, 2, 0
_NAN, _ZERO = 2, 1


def explain(  # noqa: C901, D417, PLR0912, PLR0913, PLR0915, PLR0917  (one loop nest over plain arrays is what numba makes fast)
    matrix: Doubles,
    added: Doubles,
    feature: Integers,
    threshold: Doubles,
    decision: Integers,
    left: Integers,
    right: Integers,
    asked_before: Integers,
    from_side: Integers,
    first_word: Integers,
    n_levels: Integers,
    words: Integers,
    tree_start: Integers,
    constants: Doubles,
    constants_start: Integers,
    n_points: Integers,
) -> None:
    """Write what each feature adds to the raw score of each row.

    Args:
        matrix: The model's matrix, shape (n, k).
        added: Receives the result, shape (n, k).
        feature: This and all that follow: the arrays of a ``Forest``, in its order.
    """
    n_rows, n_features = matrix.shape
    n_trees, most_nodes = len(n_points), 1
    for tree in range(n_trees):
        most_nodes = max(most_nodes, tree_start[tree + 1] - tree_start[tree])
    value = np.empty((n_features, LANES))
    total = np.empty((n_features, LANES))
    way = np.empty((most_nodes, LANES), np.int64)
    path = np.empty((most_nodes, LANES))
    for first in range(0, n_rows, LANES):
        end = min(first + LANES, n_rows)
        for f in range(n_features):
            for lane in range(LANES):
                # The last block is filled up with its last row, so that every loop has the same
                # length.
                given = matrix[min(first + lane, end - 1), f]
                # LightGBM takes rows in as sparse ones: what is almost zero is zero.
                value[f, lane] = 0.0 if given >= -ALMOST_ZERO and given <= ALMOST_ZERO else given
                total[f, lane] = 0.0
        for tree in range(n_trees):
            start = tree_start[tree]
            n_nodes = tree_start[tree + 1] - start
            # Which way each row goes at each node: left, right, or 0 when this feature has led it
            # off the path before.
            for node in range(n_nodes):
                at = start + node
                f, bits, limit = feature[at], decision[at], threshold[at]
                if bits & 1:
                    word, most = first_word[at], n_levels[at]
                    for lane in range(LANES):
                        asked = value[f, lane]
                        goes = _RIGHT
                        if asked > -1.0 and asked < most:
                            level = int(asked)
                            if (words[word + (level >> 5)] >> (level & 31)) & 1:
                                goes = _LEFT
                        way[node, lane] = goes
                else:
                    default = _LEFT if bits & 2 else _RIGHT
                    kind = bits >> 2
                    if kind == _ZERO:
                        for lane in range(LANES):
                            asked = value[f, lane]
                            is_missing = asked != asked or asked == 0.0  # noqa: PLR0124
                            way[node, lane] = (
                                default if is_missing else (_LEFT if asked <= limit else _RIGHT)
                            )
                    else:
                        if kind != _NAN:
                            default = _LEFT if limit >= 0.0 else _RIGHT
                        for lane in range(LANES):
                            asked = value[f, lane]
                            way[node, lane] = (
                                default if asked != asked else (_LEFT if asked <= limit else _RIGHT)  # noqa: PLR0124
                            )
                above = asked_before[at]
                if above >= 0:
                    side = from_side[at]
                    for lane in range(LANES):
                        way[node, lane] = (
                            way[node, lane] if way[above, lane] == side else _LEFT_PATH_BEFORE
                        )
            for point in range(n_points[tree]):
                known = constants_start[tree] + point * n_nodes * 9
                for lane in range(LANES):
                    path[0, lane] = 1.0
                # Down: the product of the factors of each node's path.
                for node in range(n_nodes):
                    c = known + node * 9
                    child, other = left[start + node], right[start + node]
                    if child < n_nodes:
                        on, off = constants[c], constants[c + 1]
                        for lane in range(LANES):
                            goes = way[node, lane]
                            path[child, lane] = path[node, lane] * (
                                on if goes == _LEFT else (off if goes == _RIGHT else 1.0)
                            )
                    if other < n_nodes:
                        on, off = constants[c + 3], constants[c + 4]
                        for lane in range(LANES):
                            goes = way[node, lane]
                            path[other, lane] = path[node, lane] * (
                                on if goes == _RIGHT else (off if goes == _LEFT else 1.0)
                            )
                # Up: the sum over the leaves below each node, in the place of the product, and what
                # it says about the node's feature.
                for node in range(n_nodes - 1, -1, -1):
                    c = known + node * 9
                    f, child, other = feature[start + node], left[start + node], right[start + node]
                    on_l, off_l, gone_l = constants[c], constants[c + 1], constants[c + 2]
                    on_r, off_r, gone_r = constants[c + 3], constants[c + 4], constants[c + 5]
                    worth_l, worth_r, worth_off = (
                        constants[c + 6],
                        constants[c + 7],
                        constants[c + 8],
                    )
                    if child < n_nodes and other < n_nodes:
                        for lane in range(LANES):
                            goes = way[node, lane]
                            sum_l, sum_r = path[child, lane], path[other, lane]
                            path[node, lane] = sum_l + sum_r
                            gain_l = (
                                worth_l if goes == _LEFT else (worth_off if goes == _RIGHT else 0.0)
                            )
                            gain_r = (
                                worth_r if goes == _RIGHT else (worth_off if goes == _LEFT else 0.0)
                            )
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    elif child < n_nodes:
                        for lane in range(LANES):
                            goes = way[node, lane]
                            sum_l = path[child, lane]
                            sum_r = path[node, lane] * (
                                on_r if goes == _RIGHT else (off_r if goes == _LEFT else gone_r)
                            )
                            path[node, lane] = sum_l + sum_r
                            gain_l = (
                                worth_l if goes == _LEFT else (worth_off if goes == _RIGHT else 0.0)
                            )
                            gain_r = (
                                worth_r if goes == _RIGHT else (worth_off if goes == _LEFT else 0.0)
                            )
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    elif other < n_nodes:
                        for lane in range(LANES):
                            goes = way[node, lane]
                            sum_l = path[node, lane] * (
                                on_l if goes == _LEFT else (off_l if goes == _RIGHT else gone_l)
                            )
                            sum_r = path[other, lane]
                            path[node, lane] = sum_l + sum_r
                            gain_l = (
                                worth_l if goes == _LEFT else (worth_off if goes == _RIGHT else 0.0)
                            )
                            gain_r = (
                                worth_r if goes == _RIGHT else (worth_off if goes == _LEFT else 0.0)
                            )
                            total[f, lane] += sum_l * gain_l + sum_r * gain_r
                    else:
                        both_l, both_r, both_gone = on_l + off_r, off_l + on_r, gone_l + gone_r
                        gain_l, gain_r = (
                            on_l * worth_l + off_r * worth_off,
                            off_l * worth_off + on_r * worth_r,
                        )
                        for lane in range(LANES):
                            goes = way[node, lane]
                            product = path[node, lane]
                            path[node, lane] = product * (
                                both_l
                                if goes == _LEFT
                                else (both_r if goes == _RIGHT else both_gone)
                            )
                            total[f, lane] += product * (
                                gain_l if goes == _LEFT else (gain_r if goes == _RIGHT else 0.0)
                            )
        for lane in range(end - first):
            for f in range(n_features):
                added[first + lane, f] = total[f, lane]
