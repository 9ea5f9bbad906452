"""The accelerated engine: the leaf of a row is found without walking down its trees.

Each tree keeps a bit for each of its leaves, from left to right, 64 in a word. A node that a row
does not pass on the left takes away the bits of the leaves below its left side; when all nodes have
been asked, the lowest bit that is left is the row's leaf. The nodes of all trees are asked feature
by feature, in the order of their thresholds, until one is passed: no branch depends on a row, so
``LANES`` rows go through at once. Leaf values are added tree by tree, as LightGBM does: the same
bits. Source: Lucchese et al. (2015), QuickScorer; Lucchese et al. (2016), Exploiting CPU SIMD
extensions to speed-up document scoring with tree ensembles; docs/adr/0022-engines.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nightshift.kernels import in_threads, jit
from nightshift.models.model_format.trees import ALMOST_ZERO, UnsuitableTreesError, split_trees

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint64]
    _SetNode = tuple[npt.NDArray[np.bool_], int, int]

VERSION = "1"
"""Of what a proof is good for; another one needs new proofs."""
LANES = 128
"""Rows in one block."""
CHUNK_WORDS = 32
"""Words of leaves, for each lane, that are worked on at once: with ``LANES`` 32 KiB, which the
first cache level holds.
"""
MAX_LEAVES = 512
"""Work grows with all nodes of a tree, a walk with its depth: 512 leaves still take about half of a
walk's time.

Source: docs/adr/0022-engines.md.
"""
MAX_SET_BYTES = 64 << 20
_WORD = 64
_ALL = (1 << _WORD) - 1
_IS_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_ZERO_IS_MISSING = 1
_SIGNIFICANT = 0x03F79D71B4CB0A89
"""A de Bruijn number: multiplied by a power of two, its six highest bits are another number for
each. Source: Leiserson et al. (1998).
"""


@dataclass(frozen=True)
class LeafMasks:
    """All nodes of all trees, by chunk of trees, feature and threshold.

    Attributes:
        feature: Column that each group of numeric nodes asks for; a group shares that and what
            happens to missing values.
        missing: LightGBM's bits of each group: missing goes left, what counts as missing.
        first_node: Where the nodes of each chunk's groups begin, and the number of nodes; shape
            (chunks * groups + 1,).
        threshold: Largest value that passes a node, rising within a chunk's group; like the next
            two of shape (nodes,).
        word: Place of the word that a node changes, within its chunk.
        mask: The leaves that stay when a row does not pass.
        set_feature: Column of each categorical feature; shape (sets,).
        n_levels: Levels that are told apart; any other and missing ones are the one behind.
        first_set: Where the tables of each chunk's categorical features begin; shape (chunks * sets
            + 1,).
        set_word: Place of the word that a table changes, within its chunk.
        set_start: Where a table begins in ``set_mask``.
        set_mask: For each level the leaves that stay.
        first_tree: First tree of each chunk, and the number of trees; shape (chunks + 1,).
        first_word: First word of each tree, and the number of words; shape (trees + 1,).
        leaf_value: Values of each word's leaves, each in the place that ``_SIGNIFICANT`` gives its
            bit; shape (words, 64).
    """

    feature: Integers
    missing: Integers
    first_node: Integers
    threshold: Doubles
    word: Integers
    mask: Words
    set_feature: Integers
    n_levels: Integers
    first_set: Integers
    set_word: Integers
    set_start: Integers
    set_mask: Words
    first_tree: Integers
    first_word: Integers
    leaf_value: Doubles


class QuickScorer:
    """A text model, ready to score.

    Args:
        text: A text model that ``check_model_text`` has taken.

    Raises:
        UnsuitableTreesError: Its trees or its sets of levels are too large.
    """

    def __init__(self, text: str) -> None:
        self._arrays = tuple(vars(leaf_masks(text)).values())
        self._kernel = jit(add_leaves)

    def raw(self, matrix: Doubles) -> Doubles:
        """Return raw scores, shape (n,), of a matrix of ``TrainedModel.encode``, shape (n, k)."""
        total = np.empty(len(matrix))
        in_threads(lambda rows: self._kernel(matrix[rows], total[rows], *self._arrays), len(matrix))
        return total


@dataclass
class _Tree:
    """A tree's nodes as changes of its words.

    Attributes:
        values: Leaf values from left to right.
        numeric: Feature, bits about missing values, threshold, and the leaves below the left side,
            first and behind the last.
        sets: By feature which levels pass, and the same leaves.
    """

    values: list[float]
    numeric: list[tuple[int, int, float, int, int]] = field(default_factory=list)
    sets: dict[int, list[_SetNode]] = field(default_factory=lambda: defaultdict(list))


def leaf_masks(text: str) -> LeafMasks:
    """Turn a text model that ``check_model_text`` has taken into tables.

    Raises:
        UnsuitableTreesError: Its trees or its sets of levels are too large.
    """
    trees = [_read_tree(fields) for fields in split_trees(text)]
    n_words = [-(-len(tree.values) // _WORD) for tree in trees]
    first_word, first_tree = np.cumsum([0, *n_words]), _chunks(n_words)
    groups = sorted({node[:2] for tree in trees for node in tree.numeric})
    features = sorted({feature for tree in trees for feature in tree.sets})
    n_levels = [
        max(len(levels) for tree in trees for levels, _, _ in tree.sets.get(f, ()))
        for f in features
    ]
    nodes: list[tuple[float, int, int]] = []
    tables: list[tuple[int, Words]] = []
    first_node, first_set, n_bytes = [0], [0], 0
    for first, end in pairwise(first_tree):
        placed = [
            (tree, int(start - first_word[first]))
            for tree, start in zip(trees[first:end], first_word[first:end], strict=True)
        ]
        by_group: dict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
        for tree, start in placed:
            for f, missing, threshold, low, high in tree.numeric:
                by_group[f, missing] += [
                    (threshold, start + word, mask) for word, mask in _without(low, high)
                ]
        for group in groups:
            nodes += sorted(by_group[group])
            first_node.append(len(nodes))
        for f, n in zip(features, n_levels, strict=True):
            for tree, start in placed:
                made = _by_level(tree.sets.get(f, ()), n)
                tables += [(start + word, masks) for word, masks in made]
                n_bytes += sum(masks.nbytes for _, masks in made)
            first_set.append(len(tables))
            if n_bytes > MAX_SET_BYTES:
                raise UnsuitableTreesError(
                    f"its sets of levels take more than {MAX_SET_BYTES >> 20} MB"
                )
    return LeafMasks(
        feature=_integers(f for f, _ in groups),
        missing=_integers(missing for _, missing in groups),
        first_node=_integers(first_node),
        threshold=np.fromiter((threshold for threshold, _, _ in nodes), np.float64),
        word=_integers(word for _, word, _ in nodes),
        mask=np.fromiter((mask for _, _, mask in nodes), np.uint64),
        set_feature=_integers(features),
        n_levels=_integers(n_levels),
        first_set=_integers(first_set),
        set_word=_integers(word for word, _ in tables),
        set_start=np.cumsum([0, *(len(masks) for _, masks in tables)])[:-1],
        set_mask=np.concatenate([np.zeros(0, np.uint64), *(masks for _, masks in tables)]),
        first_tree=_integers(first_tree),
        first_word=first_word,
        leaf_value=_leaf_values(trees),
    )


def _read_tree(fields: dict[str, str]) -> _Tree:
    values = [float(value) for value in fields["leaf_value"].split()]
    if len(values) > MAX_LEAVES:
        raise UnsuitableTreesError(f"it has a tree of {len(values)} leaves, more than {MAX_LEAVES}")
    features, left, right, decisions = (
        list(map(int, fields[name].split()))
        for name in ("split_feature", "left_child", "right_child", "decision_type")
    )
    thresholds = list(map(float, fields["threshold"].split()))
    bounds, words = (
        list(map(int, fields.get(name, "").split())) for name in ("cat_boundaries", "cat_threshold")
    )
    if not features:
        return _Tree(values)
    order, spans = _leaves_in_order(left, right)
    tree = _Tree([values[leaf] for leaf in order])
    for node, feature in enumerate(features):
        low, high = spans[node]
        if decisions[node] & _IS_CATEGORICAL:
            own = words[slice(*bounds[int(thresholds[node]) :][:2])]
            passes = np.unpackbits(np.array(own, "<u4").view(np.uint8), bitorder="little").astype(
                np.bool_
            )
            tree.sets[feature].append((passes, low, high))
        else:
            tree.numeric.append((feature, decisions[node], thresholds[node], low, high))
    return tree


def _leaves_in_order(
    left: Sequence[int], right: Sequence[int]
) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """Return the leaves from left to right, and for each node which of them are below its left side: the first, and behind the last."""
    order: list[int] = []
    spans: dict[int, tuple[int, int]] = {}
    waiting: list[tuple[int, bool]] = [(0, False)]
    begun: dict[int, int] = {}
    while waiting:
        node, is_left_done = waiting.pop()
        if node < 0:
            order.append(~node)
        elif is_left_done:
            spans[node] = (begun[node], len(order))
            waiting.append((right[node], False))
        else:
            begun[node] = len(order)
            waiting += [(node, True), (left[node], False)]
    return order, spans


def _without(low: int, high: int) -> list[tuple[int, int]]:
    """Return each word that holds some of these leaves, and its mask without them."""
    parts = []
    for word in range(low // _WORD, (high - 1) // _WORD + 1):
        first, end = max(low - word * _WORD, 0), min(high - word * _WORD, _WORD)
        parts.append((word, _ALL & ~(((1 << (end - first)) - 1) << first)))
    return parts


def _by_level(nodes: Iterable[_SetNode], n_levels: int) -> list[tuple[int, Words]]:
    """Return each word of a tree that the nodes of a categorical feature change, with its mask for each level and for any other."""
    masks: dict[int, Words] = {}
    for passes, low, high in nodes:
        stops = np.ones(n_levels + 1, np.bool_)
        stops[: len(passes)] = ~passes
        for word, mask in _without(low, high):
            masks.setdefault(word, np.full(n_levels + 1, _ALL, np.uint64))[stops] &= np.uint64(mask)
    return sorted(masks.items())


def _chunks(n_words: Sequence[int]) -> list[int]:
    """Return the first tree of each chunk, and the number of trees; a chunk has whole trees, of ``CHUNK_WORDS`` words at most."""
    firsts, filled = [0], 0
    for tree, n in enumerate(n_words):
        if filled + n > CHUNK_WORDS:
            firsts.append(tree)
            filled = 0
        filled += n
    return [*firsts, len(n_words)]


def _leaf_values(trees: Sequence[_Tree]) -> Doubles:
    """Return the values of each word's leaves, in the order in which ``_SIGNIFICANT`` numbers bits."""
    place = [((_SIGNIFICANT << bit) & _ALL) >> (_WORD - 6) for bit in range(_WORD)]
    rows = []
    for tree in trees:
        for start in range(0, len(tree.values), _WORD):
            row = np.zeros(_WORD)
            part = tree.values[start : start + _WORD]
            row[place[: len(part)]] = part
            rows.append(row)
    return np.array(rows).reshape(-1, _WORD)


def _integers(numbers: Iterable[int]) -> Integers:
    return np.fromiter(numbers, np.int64)


def add_leaves(  # noqa: C901, D417, PLR0912, PLR0913, PLR0915, PLR0917  (one loop nest over plain arrays is what numba makes fast)
    matrix: Doubles,
    total: Doubles,
    feature: Integers,
    missing: Integers,
    first_node: Integers,
    threshold: Doubles,
    word: Integers,
    mask: Words,
    set_feature: Integers,
    n_levels: Integers,
    first_set: Integers,
    set_word: Integers,
    set_start: Integers,
    set_mask: Words,
    first_tree: Integers,
    first_word: Integers,
    leaf_value: Doubles,
) -> None:
    """Write the sum of each row's leaves.

    Indexes of inner loops are unsigned: a negative one would count from the end, which needs a test
    each time.

    Args:
        matrix: The model's matrix, shape (n, k).
        total: Receives the result, shape (n,).
        feature: This and all that follow: the arrays of a ``LeafMasks``, in its order.
    """
    n_rows, n_groups, n_sets = len(matrix), len(feature), len(set_feature)
    lanes, nothing, one, shift, number = (
        np.uint64(LANES),
        np.uint64(0),
        np.uint64(1),
        np.uint64(58),
        np.uint64(_SIGNIFICANT),
    )
    everything = ~nothing
    # Vectors that begin in one line of the cache and end in the next one are half as fast.
    words = np.empty(CHUNK_WORDS * LANES + 8, np.uint64)
    words = words[(-words.ctypes.data % 64) // 8 :]
    value = np.empty(n_groups * LANES + 8)
    value = value[(-value.ctypes.data % 64) // 8 :]
    level = np.empty(n_sets * LANES, np.uint64)
    most = np.empty(n_groups)
    place = np.empty(LANES, np.uint64)
    leaf = np.empty(LANES)
    score = np.empty(LANES)
    for first in range(0, n_rows, LANES):
        end = min(first + LANES, n_rows)
        # The last block is filled up with its last row, so that every loop has the same length.
        for group in range(n_groups):
            kind = missing[group] >> 2
            largest = -np.inf
            for lane in range(LANES):
                asked = matrix[min(first + lane, end - 1), feature[group]]
                # LightGBM takes rows in as sparse ones: what is almost zero is zero.
                if asked >= -ALMOST_ZERO and asked <= ALMOST_ZERO:
                    asked = 0.0
                if asked != asked or (kind == _ZERO_IS_MISSING and asked == 0.0):  # noqa: PLR0124
                    # The least number passes every node, no number none.
                    default = -np.inf if missing[group] & _DEFAULT_LEFT else np.nan
                    asked = 0.0 if kind == 0 else default
                value[group * LANES + lane] = asked
                if asked > largest or asked != asked:  # noqa: PLR0124
                    largest = asked
            most[group] = largest
        for group in range(n_sets):
            other = n_levels[group]
            for lane in range(LANES):
                asked = matrix[min(first + lane, end - 1), set_feature[group]]
                level[group * LANES + lane] = (
                    np.uint64(asked) if asked > -1.0 and asked < other else np.uint64(other)
                )
        score[:] = 0.0
        for chunk in range(len(first_tree) - 1):
            words[:] = everything
            for group in range(n_groups):
                here = np.uint64(group * LANES)
                largest = most[group]
                node = np.uint64(first_node[chunk * n_groups + group])
                behind = np.uint64(first_node[chunk * n_groups + group + 1])
                while node < behind:
                    limit = threshold[node]
                    if limit >= largest:
                        break
                    kept, at = mask[node], np.uint64(word[node]) * lanes
                    for lane in range(lanes):
                        words[at + lane] &= everything if value[here + lane] <= limit else kept
                    node += one
            for group in range(n_sets):
                here = np.uint64(group * LANES)
                for table in range(
                    first_set[chunk * n_sets + group], first_set[chunk * n_sets + group + 1]
                ):
                    at, start = np.uint64(set_word[table]) * lanes, np.uint64(set_start[table])
                    for lane in range(lanes):
                        words[at + lane] &= set_mask[start + level[here + lane]]
            base = first_word[first_tree[chunk]]
            for tree in range(first_tree[chunk], first_tree[chunk + 1]):
                # The leaf is the lowest bit of the first word that has one: later words come first,
                # so that it has the last say.
                for w in range(first_word[tree + 1] - 1, first_word[tree] - 1, -1):
                    at, row = np.uint64(w - base) * lanes, np.uint64(w)
                    for lane in range(lanes):
                        left = words[at + lane]
                        place[lane] = ((left & (~left + one)) * number) >> shift
                    if w == first_word[tree + 1] - 1:
                        for lane in range(lanes):
                            leaf[lane] = leaf_value[row, place[lane]]
                    else:
                        for lane in range(lanes):
                            if words[at + lane] != nothing:
                                leaf[lane] = leaf_value[row, place[lane]]
                for lane in range(lanes):
                    score[lane] += leaf[lane]
        for lane in range(end - first):
            total[first + lane] = score[lane]
