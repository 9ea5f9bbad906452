"""Walk down a tree once and collect what its Shapley values need of the training rows.

``tree_arrays`` explains the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nightshift.models.model_format.trees import Tree

LEFT, RIGHT = 1, 2
"""Sides of a node."""


class WalkedNode(NamedTuple):
    """A node, in an order of parents first.

    A share is the part of the training rows that go along the path, as far as the node's feature
    decides it. The weight of a leaf is its value times the part of all rows that reach it.

    Attributes:
        number: LightGBM's number of the node.
        same_feature_above: Index of the last node above that tests the same feature; -1 for none.
        side_above: The side on which the path leaves that node; 0 for none.
        n_features: Number of distinct features on the path, with this node's.
        shares: 1 if there is a node above that tests the same feature, else 0; the share at the
            node; of the right and then of the left child its share, and its weight if it is a
            leaf, else 1.
    """

    number: int
    same_feature_above: int
    side_above: int
    n_features: int
    shares: tuple[float, ...]


class _Step(NamedTuple):
    """One node on the way down.

    Attributes:
        node: LightGBM's number.
        splits: Feature to (index, side, share) of the path's last node that tests it.
        cover_ratio: Part of all rows that arrive at the node.
    """

    node: int
    splits: dict[int, tuple[int, int, float]]
    cover_ratio: float


def walk_down(tree: Tree) -> list[WalkedNode]:
    """Return the nodes of a tree that has at least one."""
    nodes: list[WalkedNode] = []
    stack = [_Step(0, {}, 1.0)]
    while stack:
        node, splits, cover_ratio = stack.pop()
        index = len(nodes)
        feature = tree.features[node]
        above, side_above, before = splits.get(feature, (-1, 0, 1.0))
        shares = [float(above >= 0), before]
        # The left child is pushed last, so that it comes next: parents first, from left to right.
        children = {
            RIGHT: tree.right[node],
            LEFT: tree.left[node],
        }
        for side, child in children.items():
            # LightGBM numbers leaves below 0.
            is_node = child >= 0
            n_rows = tree.node_counts[child] if is_node else tree.leaf_counts[~child]
            # No count is 0: the parser refuses such a tree.
            part = n_rows / tree.node_counts[node]
            share = before * part
            child_ratio = cover_ratio * part
            weight = 1.0
            if is_node:
                # Nodes below that test this feature again start from this share.
                child_splits = {**splits, feature: (index, side, share)}
                stack.append(_Step(child, child_splits, child_ratio))
            else:
                weight = child_ratio * tree.leaf_values[~child]
            shares += [share, weight]
        n_features = len({*splits, feature})
        walked = WalkedNode(
            number=node,
            same_feature_above=above,
            side_above=side_above,
            n_features=n_features,
            shares=tuple(shares),
        )
        nodes.append(walked)
    return nodes
