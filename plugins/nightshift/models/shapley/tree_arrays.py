"""Lay the trees of a model out as flat arrays, with the constants by which the kernel walks them.

A tree's value with some features known is a sum over its leaves: the leaf's value, times 1 or 0 for
each known feature of its path (does the row go that way), times the share of training rows that go
that way for each unknown one. With every feature known to a degree t, one feature stands in the
product with ``t * goes + (1 - t) * share``; its Shapley value is the integral over t from 0 to 1 of
the difference that this feature makes. That is a polynomial in t of a degree less than the number
of distinct features on the path. Source: Owen (1972), Multilinear extensions of games; Lundberg et
al. (2020), From local explanations to global understanding; docs/adr/0023-exact-reasons.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.model_format.trees import UnsuitableTreesError
from nightshift.models.shapley.quadrature import gauss_legendre
from nightshift.models.shapley.tree_walk import WalkedNode, walk_down

if TYPE_CHECKING:
    from nightshift.models.arrays import Arrays, Vector
    from nightshift.models.model_format.trees import Tree


N_CONSTANTS = 9
"""Per node and point of the quadrature; ``_constants`` names them."""
MAX_CONSTANTS_BYTES = 512 << 20
_LEVELS_PER_WORD = 32
_NODE = np.dtype(
    [
        ("feature", np.int64),
        ("threshold", np.float64),
        ("decision", np.int64),
        ("left", np.int64),
        ("right", np.int64),
        ("same_feature_above", np.int64),
        ("side_above", np.int64),
        ("first_word", np.int64),
        ("n_levels", np.int64),
    ]
)


def build_tree_arrays(trees: list[Tree]) -> Arrays:
    """Return the arrays of ``kernel.explain`` by name; trees without a split add nothing.

    Raises:
        UnsuitableTreesError: The constants would take more than ``MAX_CONSTANTS_BYTES``.
    """
    rows: list[tuple[float, ...]] = []
    words: list[int] = []
    starts = [0]
    constants: list[Vector] = []
    n_bytes = 0
    for tree in trees:
        if not tree.features:
            continue
        walked = walk_down(tree)
        rows += _node_rows(tree, walked, len(words))
        words += tree.set_words
        starts.append(len(rows))
        # The integrand's degree is below the number of distinct features on the path.
        max_features = max(node.n_features for node in walked)
        n_points = (max_features + 1) // 2
        # Checked before the constants are made, so that a refused model never takes the memory.
        n_bytes += 8 * N_CONSTANTS * n_points * len(walked)
        if n_bytes > MAX_CONSTANTS_BYTES:
            raise UnsuitableTreesError(
                f"the constants of its trees take more than {MAX_CONSTANTS_BYTES >> 20} MB"
            )
        shares = np.array([node.shares for node in walked])
        constants.append(_constants(shares, n_points))
    nodes = np.array(rows, _NODE)
    sizes = [part.size for part in constants]
    return {
        # The kernel is compiled for contiguous arrays.
        **{name: np.ascontiguousarray(nodes[name]) for name in _NODE.names or ()},
        "words": np.array(words or [0], np.int64),
        "tree_start": np.array(starts, np.int64),
        "constants": np.concatenate([np.zeros(0), *map(np.ravel, constants)]),
        "constants_start": np.cumsum([0, *sizes], dtype=np.int64)[:-1],
        "n_points": np.array([len(part) for part in constants], np.int64),
    }


def _node_rows(tree: Tree, walked: list[WalkedNode], first_word: int) -> list[tuple[float, ...]]:
    """Return the rows of ``_NODE`` of one tree, whose level sets begin at a word."""
    n_nodes = len(walked)
    indexes = {node.number: index for index, node in enumerate(walked)}
    rows: list[tuple[float, ...]] = []
    for node, above, side_above, *_ in walked:
        start = end = 0
        if tree.is_categorical(node):
            start, end = tree.level_words(node)
        n_levels = _LEVELS_PER_WORD * (end - start)
        # Leaves are not in the index: they get the number of nodes.
        left = indexes.get(tree.left[node], n_nodes)
        right = indexes.get(tree.right[node], n_nodes)
        test = (tree.features[node], tree.thresholds[node], tree.decisions[node])
        rows.append((*test, left, right, above, side_above, first_word + start, n_levels))
    return rows


def _constants(shares: Vector, n_points: int) -> Vector:
    """Return the constants of a tree's nodes.

    Args:
        shares: Of each node, as ``WalkedNode`` has them; shape (nodes, 6).
        n_points: Points of the quadrature.

    Returns:
        Shape (n_points, nodes, 9). First the factors of the left child's product, each times the
        leaf's weight: if the row goes left, if it leaves the path at this node, if it left before;
        then the same of the right child. The last three are what the feature's factor is worth at
        the point: for the left child if the row goes left, for the right child if it goes right,
        and for either if it leaves the path at this node.
    """
    points, weights = gauss_legendre(n_points)
    t = points[:, None]
    off = 1 - t
    w = weights[:, None]
    was_tested, before, share_right, weight_right, share_left, weight_left = shares.T[:, None, :]
    # Each factor is divided by its share, which the leaf's weight holds: a path that was left
    # before needs no factor then.
    on_before = np.where(was_tested, t / before + off, 1.0)
    worth_before = np.where(was_tested, (1 / before - 1) / on_before, 0.0)
    factors = []
    worths = []
    for share, weight in ((share_left, weight_left), (share_right, weight_right)):
        on = t / share + off
        factors.append(on / on_before * weight)
        factors.append(off / on_before * weight)
        factors.append(np.broadcast_to(weight, on.shape))
        worth = (1 / share - 1) / on - worth_before
        worths.append(w * worth)
    worths.append(w * (-1 / off - worth_before))
    constants = np.stack(factors + worths, axis=-1)
    return np.ascontiguousarray(constants)
