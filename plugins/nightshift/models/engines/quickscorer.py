"""The accelerated engine: QuickScorer turns trees into bit masks and scores by them.

Each tree has a bit for each of its leaves, from left to right, 64 in a word. A node that a row does
not pass clears the bits of the leaves below its left side; when all nodes have been tested, the
lowest bit that is left is the row's leaf. The nodes of all trees are tested feature by feature, in
the order of their thresholds, until one is passed. Leaf values are added tree by tree, as LightGBM
does: the same bits. Source: Lucchese et al. (2015), QuickScorer; docs/adr/0022-engines.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nightshift.kernels import jit, run_in_threads
from nightshift.models.engines.quickscorer_kernel import CHUNK_WORDS, DE_BRUIJN, add_leaves
from nightshift.models.model_format.trees import UnsuitableTreesError

if TYPE_CHECKING:
    from nightshift.models.arrays import Arrays, Integers, Mask, Matrix, Vector, Words
    from nightshift.models.model_format.trees import Tree


VERSION = "1"
"""Proofs of equivalence name it: a changed engine gets another version, and needs new proofs."""
MAX_LEAVES = 512
"""Work grows with all nodes of a tree, a walk's with its depth: 512 leaves still take about half of
a walk's time. Source: docs/adr/0022-engines.md.
"""
MAX_SET_BYTES = 64 << 20
"""Of all tables of level sets."""
_WORD_BITS = 64
_ALL_LEAVES = (1 << _WORD_BITS) - 1


class QuickScorer:
    """The trees of a model, ready to score.

    Args:
        trees: At least one.

    Raises:
        UnsuitableTreesError: A tree or the tables of level sets are too large.
    """

    def __init__(self, trees: list[Tree]) -> None:
        self._add_leaves = partial(jit(add_leaves), **build_leaf_masks(trees))

    def raw(self, matrix: Matrix) -> Vector:
        """Return raw scores, shape (n,), of a matrix of ``TrainedModel.encode``, shape (n, k)."""
        total = np.empty(len(matrix))
        run_in_threads(lambda rows: self._add_leaves(matrix[rows], total[rows]), len(matrix))
        return total


def build_leaf_masks(trees: list[Tree]) -> Arrays:
    """Return the arrays of ``quickscorer_kernel.add_leaves`` by name.

    Raises:
        UnsuitableTreesError: A tree or the tables of level sets are too large.
    """
    n_words = [_count_words(tree) for tree in trees]
    first_word, first_tree = np.cumsum([0, *n_words]), _divide_into_chunks(n_words)
    nodes: list[_NumericNode] = []
    tables = _LevelTables(_count_levels(trees))
    leaf_values: list[Vector] = []
    for number, tree in enumerate(trees):
        chunk = bisect_right(first_tree, number) - 1
        # Words are numbered within the chunk that the kernel works on at once.
        start = int(first_word[number] - first_word[first_tree[chunk]])
        leaves, spans = _order_leaves(tree)
        leaf_values += _leaf_value_rows([tree.leaf_values[leaf] for leaf in leaves])
        for node, (low, high) in spans.items():
            feature = tree.features[node]
            for word, mask in _masks_without(low, high):
                position = (chunk, feature, start + word)
                if tree.is_categorical(node):
                    tables.clear_leaves(position, _levels_that_pass(tree, node), mask)
                else:
                    test = (tree.decisions[node], tree.thresholds[node])
                    nodes.append(_NumericNode(chunk, feature, *test, start + word, mask))
    chunks = range(len(first_tree) - 1)
    return {
        **_numeric_arrays(nodes, chunks),
        **tables.arrays(chunks),
        "first_tree": _integers(first_tree),
        "first_word": first_word,
        "leaf_value": np.array(leaf_values),
    }


class _NumericNode(NamedTuple):
    """One word that a numeric node changes; its fields are in the order of sorting."""

    chunk: int
    feature: int
    missing: int
    threshold: float
    word: int
    mask: int


def _numeric_arrays(nodes: list[_NumericNode], chunks: range) -> Arrays:
    nodes = sorted(nodes)
    groups = sorted({(node.feature, node.missing) for node in nodes})
    all_keys = [(chunk, *group) for chunk, group in product(chunks, groups)]
    return {
        "feature": _integers([feature for feature, _ in groups]),
        "missing": _integers([missing for _, missing in groups]),
        "first_node": _starts([node[:3] for node in nodes], all_keys),
        "threshold": np.array([node.threshold for node in nodes], np.float64),
        "word": _integers([node.word for node in nodes]),
        "mask": np.array([node.mask for node in nodes], np.uint64),
    }


class _LevelTables:
    """Masks by level of each word that a categorical feature changes.

    Args:
        n_levels: By feature, in order.
    """

    def __init__(self, n_levels: dict[int, int]) -> None:
        self._n_levels = n_levels
        self._n_bytes = 0
        self._masks: dict[tuple[int, int, int], Words] = {}  # by chunk, feature and word

    def clear_leaves(self, position: tuple[int, int, int], passes: Mask, mask: int) -> None:
        """Clear the leaves outside a mask for each level that does not pass, known or unknown."""
        n_masks = self._n_levels[position[1]] + 1
        if position not in self._masks:
            self._masks[position] = np.full(n_masks, _ALL_LEAVES, np.uint64)
            # Counted while they are made, so that a refused model never fills the memory.
            self._n_bytes += self._masks[position].nbytes
            if self._n_bytes > MAX_SET_BYTES:
                raise UnsuitableTreesError(
                    f"its sets of levels take more than {MAX_SET_BYTES >> 20} MB"
                )
        # The last mask stands for every level without bits, and for a missing value.
        stops = np.ones(n_masks, np.bool_)
        stops[: len(passes)] = ~passes
        self._masks[position][stops] &= np.uint64(mask)

    def arrays(self, chunks: range) -> Arrays:
        """Return the arrays about categorical features."""
        positions = sorted(self._masks)
        masks = [self._masks[position] for position in positions]
        all_keys = list(product(chunks, self._n_levels))
        return {
            "set_feature": _integers(list(self._n_levels)),
            "n_levels": _integers(list(self._n_levels.values())),
            "first_set": _starts([position[:2] for position in positions], all_keys),
            "set_word": _integers([word for _, _, word in positions]),
            "set_start": np.cumsum([0, *map(len, masks)])[:-1],
            "set_mask": np.concatenate([np.zeros(0, np.uint64), *masks]),
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
    first_trees, n_filled = [0], 0
    for tree, n in enumerate(n_words):
        if n_filled + n > CHUNK_WORDS:
            first_trees.append(tree)
            n_filled = 0
        n_filled += n
    return [*first_trees, len(n_words)]


def _count_levels(trees: list[Tree]) -> dict[int, int]:
    """Return for each categorical feature, in order, the most levels that a node has bits for."""
    n_levels: Counter[int] = Counter()
    for tree in trees:
        for node, feature in enumerate(tree.features):
            if tree.is_categorical(node):
                n_levels[feature] = max(n_levels[feature], len(_levels_that_pass(tree, node)))
    return dict(sorted(n_levels.items()))


def _levels_that_pass(tree: Tree, node: int) -> Mask:
    start, end = tree.level_words(node)
    words = np.array(tree.set_words[start:end], "<u4")
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)


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
        first = max(low - word * _WORD_BITS, 0)
        end = min(high - word * _WORD_BITS, _WORD_BITS)
        yield word, _ALL_LEAVES & ~(((1 << (end - first)) - 1) << first)


def _leaf_value_rows(values: list[float]) -> Iterator[Vector]:
    """Yield the values of each word's leaves, in the order in which ``DE_BRUIJN`` numbers bits."""
    slots = [((DE_BRUIJN << bit) & _ALL_LEAVES) >> (_WORD_BITS - 6) for bit in range(_WORD_BITS)]
    for start in range(0, len(values), _WORD_BITS):
        row = np.zeros(_WORD_BITS)
        part = values[start : start + _WORD_BITS]
        row[slots[: len(part)]] = part
        yield row


def _starts(sorted_keys: Sequence[Hashable], all_keys: Sequence[Hashable]) -> Integers:
    """Return where the entries of each key begin, and the number of entries."""
    counts = Counter(sorted_keys)
    return np.cumsum([0, *(counts[key] for key in all_keys)])


def _integers(numbers: Sequence[int]) -> Integers:
    return np.array(numbers, np.int64)
