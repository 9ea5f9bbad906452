"""Lay trees out as QuickScorer reads them: for each node the leaves that it rules out, as bits.

Each tree has a bit for each of its leaves, from left to right, 64 in a word. A node that a row does
not pass clears the bits of the leaves below its left side; when all nodes have been tested, the
lowest bit that is left is the row's leaf. The nodes of all trees are tested feature by feature, in
the order of their thresholds, until one is passed. Source: Lucchese et al. (2015), QuickScorer;
docs/adr/0022-engines.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nightshift.models.engines.quickscorer_kernel import CHUNK_WORDS, DE_BRUIJN
from nightshift.models.model_format.trees import UnsuitableTreesError

if TYPE_CHECKING:
    from nightshift.models.arrays import Arrays, Mask, Vector
    from nightshift.models.model_format.trees import Tree

MAX_LEAVES = 512
"""Work grows with all nodes of a tree, a walk's with its depth: 512 leaves still take about half of
a walk's time. Source: docs/adr/0022-engines.md.
"""
MAX_SET_BYTES = 64 << 20
"""Of all tables of level sets."""
_WORD_BITS = 64
_LEVELS_PER_WORD = 32
"""LightGBM's words of a level set."""
_ALL_LEAVES = (1 << _WORD_BITS) - 1
_DECISION_BITS = 4
"""LightGBM's decision of a node fits into so many bits."""
_NODE = np.dtype(
    [
        ("chunk", np.int64),
        ("group", np.int64),
        ("threshold", np.float64),
        ("word", np.int64),
        ("mask", np.uint64),
    ]
)
"""One word that a numeric node changes. The nodes of a group test the same feature and treat
missing values alike.
"""


def build_leaf_masks(trees: list[Tree]) -> Arrays:
    """Return the arrays of ``quickscorer_kernel.add_leaves`` by name.

    Raises:
        UnsuitableTreesError: A tree or the tables of level sets are too large.
    """
    n_words = [_count_words(tree) for tree in trees]
    first_word = np.cumsum([0, *n_words])
    first_tree = _divide_into_chunks(n_words)
    n_chunks = len(first_tree) - 1
    nodes: list[tuple[float, ...]] = []
    level_nodes: list[_LevelNode] = []
    leaf_values: list[Vector] = []
    for number, tree in enumerate(trees):
        chunk = bisect_right(first_tree, number) - 1
        # Words are numbered within the chunk that the kernel works on at once.
        start = int(first_word[number] - first_word[first_tree[chunk]])
        leaves, spans = _order_leaves(tree)
        values = [tree.leaf_values[leaf] for leaf in leaves]
        leaf_values += _leaf_value_rows(values)
        for node, span in spans.items():
            feature = tree.features[node]
            group = feature << _DECISION_BITS | tree.decisions[node]
            threshold = tree.thresholds[node]
            for word, mask in _masks_without(*span):
                if tree.is_categorical(node):
                    position = (chunk, feature, start + word)
                    level_nodes.append(_LevelNode(position, mask, tree, node))
                else:
                    nodes.append((chunk, group, threshold, start + word, mask))
    return {
        **_numeric_arrays(nodes, n_chunks),
        **_level_arrays(level_nodes, n_chunks),
        "first_tree": np.array(first_tree),
        "first_word": first_word,
        "leaf_value": np.array(leaf_values),
    }


def _numeric_arrays(nodes: list[tuple[float, ...]], n_chunks: int) -> Arrays:
    """Return the arrays about numeric features."""
    table = np.array(nodes, _NODE)
    # The kernel leaves a group at the first threshold that every row of the block passes.
    order = np.lexsort((table["threshold"], table["group"], table["chunk"]))
    table = table[order]
    groups, position = np.unique(table["group"], return_inverse=True)
    n_groups = len(groups)
    keys = table["chunk"] * n_groups + position
    return {
        "feature": groups >> _DECISION_BITS,
        "missing": groups & (1 << _DECISION_BITS) - 1,
        "first_node": np.searchsorted(keys, np.arange(n_chunks * n_groups + 1)),
        # The kernel is compiled for contiguous arrays.
        "threshold": table["threshold"].copy(),
        "word": table["word"].copy(),
        "mask": table["mask"].copy(),
    }


class _LevelNode(NamedTuple):
    """One word that a categorical node changes.

    Attributes:
        position: Chunk, feature and word.
        mask: The leaves that stay when a row's level does not pass.
        tree: The node's tree.
        node: Its number.
    """

    position: tuple[int, int, int]
    mask: int
    tree: Tree
    node: int


def _level_arrays(nodes: list[_LevelNode], n_chunks: int) -> Arrays:
    """Return the arrays about categorical features: for each word a table of masks by level.

    Raises:
        UnsuitableTreesError: The tables are too large.
    """
    # The tables of a feature are as long as the longest level set of its nodes.
    n_levels: dict[int, int] = {}
    for (_, feature, _), _, tree, node in nodes:
        start, end = tree.level_words(node)
        n_levels[feature] = max(n_levels.get(feature, 0), _LEVELS_PER_WORD * (end - start))
    features = sorted(n_levels)
    positions = sorted({node.position for node in nodes})
    keys = [chunk * len(features) + features.index(feature) for chunk, feature, _ in positions]
    # The last mask stands for every level without bits, and for a missing value.
    lengths = [n_levels[feature] + 1 for _, feature, _ in positions]
    starts = np.cumsum([0, *lengths])
    n_masks = int(starts[-1])
    # Checked before the masks are made, so that a refused model never fills the memory.
    if n_masks * _WORD_BITS // 8 > MAX_SET_BYTES:
        raise UnsuitableTreesError(f"its sets of levels take more than {MAX_SET_BYTES >> 20} MB")
    masks = np.full(n_masks, _ALL_LEAVES, np.uint64)
    tables = dict(zip(positions, np.split(masks, starts[1:-1]), strict=True)) if nodes else {}
    for position, mask, tree, node in nodes:
        passes = _levels_that_pass(tree, node)
        stops = np.ones(len(tables[position]), np.bool_)
        stops[: len(passes)] = ~passes
        tables[position][stops] &= np.uint64(mask)
    return {
        "set_feature": np.array(features, np.int64),
        "n_levels": np.array([n_levels[feature] for feature in features], np.int64),
        "first_set": np.searchsorted(keys, np.arange(n_chunks * len(features) + 1)),
        "set_word": np.array([word for _, _, word in positions], np.int64),
        "set_start": starts[:-1],
        "set_mask": masks,
    }


def _count_words(tree: Tree) -> int:
    n_leaves = len(tree.leaf_values)
    if n_leaves > MAX_LEAVES:
        raise UnsuitableTreesError(f"it has a tree of {n_leaves} leaves, more than {MAX_LEAVES}")
    return -(-n_leaves // _WORD_BITS)


def _divide_into_chunks(n_words: Sequence[int]) -> list[int]:
    """Return the first tree of each chunk, and the number of trees.

    A chunk has complete trees, of ``CHUNK_WORDS`` words at most.
    """
    first_trees = [0]
    n_filled = 0
    for tree, n in enumerate(n_words):
        if n_filled + n > CHUNK_WORDS:
            first_trees.append(tree)
            n_filled = 0
        n_filled += n
    return [*first_trees, len(n_words)]


def _levels_that_pass(tree: Tree, node: int) -> Mask:
    start, end = tree.level_words(node)
    # LightGBM writes words of 32 bits, the lowest level in the lowest bit.
    words = np.array(tree.set_words[start:end], "<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    return bits.astype(np.bool_)


def _order_leaves(tree: Tree) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """Return the leaves from left to right, and the span of leaves below each node's left side."""
    if not tree.features:
        return [0], {}
    leaves: list[int] = []
    first_leaf: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {}
    stack = [0]
    while stack:
        node = stack.pop()
        if node < 0:
            leaves.append(~node)
        elif node in first_leaf:
            # Seen before: the leaves of its left side are done.
            spans[node] = (first_leaf[node], len(leaves))
            stack.append(tree.right[node])
        else:
            first_leaf[node] = len(leaves)
            stack += [node, tree.left[node]]
    return leaves, spans


def _masks_without(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield each word that holds some of the leaves from low to high, and its mask without them."""
    for word in range(low // _WORD_BITS, (high - 1) // _WORD_BITS + 1):
        start = word * _WORD_BITS
        first = max(low - start, 0)
        end = min(high - start, _WORD_BITS)
        cleared = (1 << end) - (1 << first)
        yield word, _ALL_LEAVES & ~cleared


def _leaf_value_rows(values: list[float]) -> Iterator[Vector]:
    """Yield the values of each word's leaves, in the order in which ``DE_BRUIJN`` numbers bits."""
    slots = [((DE_BRUIJN << bit) & _ALL_LEAVES) >> (_WORD_BITS - 6) for bit in range(_WORD_BITS)]
    for start in range(0, len(values), _WORD_BITS):
        part = values[start : start + _WORD_BITS]
        row = np.zeros(_WORD_BITS)
        row[slots[: len(part)]] = part
        yield row
