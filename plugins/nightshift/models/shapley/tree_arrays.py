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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.model_format.trees import UnsuitableTreesError
from nightshift.models.shapley.quadrature import gauss_legendre

if TYPE_CHECKING:
    from nightshift.models.arrays import Arrays, Vector
    from nightshift.models.model_format.trees import Tree


N_CONSTANTS = 9
"""Per node and point of the quadrature; ``_constants`` names them."""
MAX_CONSTANTS_BYTES = 512 << 20
LEFT, RIGHT = 1, 2
"""Sides of a node."""
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
        walk = _walk(tree)
        rows += _node_rows(tree, walk, len(words))
        words += tree.set_words
        starts.append(len(rows))
        n_points = (walk.max_features + 1) // 2
        # Checked before the constants are made, so that a refused model never takes the memory.
        n_bytes += 8 * N_CONSTANTS * n_points * len(walk.index)
        if n_bytes > MAX_CONSTANTS_BYTES:
            raise UnsuitableTreesError(
                f"the constants of its trees take more than {MAX_CONSTANTS_BYTES >> 20} MB"
            )
        constants.append(_constants(np.array(walk.shares), n_points))
    nodes = np.array(rows, _NODE)
    sizes = [part.size for part in constants]
    return {
        # The kernel is compiled for contiguous arrays.
        **{name: np.ascontiguousarray(nodes[name]) for name in _NODE.names or ()},
        "words": np.array(words or [0], np.int64),
        "tree_start": np.array(starts, np.int64),
        "constants": np.concatenate([np.zeros(0), *(part.ravel() for part in constants)]),
        "constants_start": np.cumsum([0, *sizes], dtype=np.int64)[:-1],
        "n_points": np.array([len(part) for part in constants], np.int64),
    }


@dataclass
class _Walk:
    """What a walk down one tree collects, node by node, in an order of parents first.

    Attributes:
        index: LightGBM's node number to the index in this order.
        above: Of each node (``same_feature_above``, ``side_above``).
        shares: Of each node the row that ``_constants`` reads.
        max_features: Largest number of distinct features on a path.
    """

    index: dict[int, int] = field(default_factory=dict)
    above: list[tuple[int, int]] = field(default_factory=list)
    shares: list[tuple[float, ...]] = field(default_factory=list)
    max_features: int = 0


@dataclass(frozen=True)
class _Step:
    """One node on the way down.

    Attributes:
        node: LightGBM's number.
        splits: Feature to (index, side, share of rows) of the path's last node that tests it.
        cover_ratio: Share of the rows that arrive at the node.
    """

    node: int
    splits: dict[int, tuple[int, int, float]]
    cover_ratio: float


def _walk(tree: Tree) -> _Walk:
    walk = _Walk()
    stack = [_Step(0, {}, 1.0)]
    while stack:
        step = stack.pop()
        node, feature = step.node, tree.features[step.node]
        index = walk.index[node] = len(walk.index)
        above, side_above, before = step.splits.get(feature, (-1, 0, 1.0))
        row = [float(above >= 0), before]
        for side, child in ((RIGHT, tree.right[node]), (LEFT, tree.left[node])):
            is_node = child >= 0
            n_rows = tree.node_counts[child] if is_node else tree.leaf_counts[~child]
            part = n_rows / tree.node_counts[node]
            share, cover_ratio = before * part, step.cover_ratio * part
            splits = {**step.splits, feature: (index, side, share)}
            walk.max_features = max(walk.max_features, len(splits))
            if is_node:
                stack.append(_Step(child, splits, cover_ratio))
            row += [share, 1.0 if is_node else cover_ratio * tree.leaf_values[~child]]
        walk.shares.append(tuple(row))
        walk.above.append((above, side_above))
    return walk


def _node_rows(tree: Tree, walk: _Walk, first_word: int) -> list[tuple[float, ...]]:
    """Return the rows of ``_NODE`` of one tree, whose level sets begin at a word."""
    n_nodes = len(walk.index)
    rows: list[tuple[float, ...]] = []
    for node, above in zip(walk.index, walk.above, strict=True):
        start, end = tree.level_words(node) if tree.is_categorical(node) else (0, 0)
        rows.append(
            (
                *(tree.features[node], tree.thresholds[node], tree.decisions[node]),
                # Leaves are not in the index: they get the number of nodes.
                walk.index.get(tree.left[node], n_nodes),
                walk.index.get(tree.right[node], n_nodes),
                *above,
                *(first_word + start, _LEVELS_PER_WORD * (end - start)),
            )
        )
    return rows


def _constants(shares: Vector, n_points: int) -> Vector:
    """Return the constants of a tree's nodes.

    Args:
        shares: Per node whether its feature was tested above, the share of rows along the path as
            far as that feature decides it, then for the right and the left child that share and
            the weight (value times cover_ratio) of a leaf, 1 for a node; shape (nodes, 6).
        n_points: Points of the quadrature.

    Returns:
        Shape (n_points, nodes, 9). First the factors of the left child's product, each times the
        leaf's weight: if the row goes left, if it leaves the path at this node, if it left before;
        then the same of the right child. The last three are what the feature's factor is worth at
        the point: for the left child if the row goes left, for the right child if it goes right,
        and for either if it leaves the path at this node.
    """
    points, weights = gauss_legendre(n_points)
    was_tested, before, share_right, weight_right, share_left, weight_left = shares.T[:, None, :]
    t, off, w = points[:, None], 1 - points[:, None], weights[:, None]
    # Each factor is divided by its share, which the leaf's weight holds: a path that was left
    # before needs no factor then.
    on_before = np.where(was_tested, t / before + off, 1.0)
    worth_before = np.where(was_tested, (1 / before - 1) / on_before, 0.0)
    factors, worths = [], []
    for share, weight in ((share_left, weight_left), (share_right, weight_right)):
        on = t / share + off
        factors += [on / on_before * weight, off / on_before * weight]
        factors.append(np.broadcast_to(weight, on.shape))
        worths.append(w * ((1 / share - 1) / on - worth_before))
    worths.append(w * (-1 / off - worth_before))
    return np.ascontiguousarray(np.stack(factors + worths, axis=-1))
