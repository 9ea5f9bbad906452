"""QuickScorer's loops: a row's leaves are found and added up without a walk down any tree.

Written for numba: no branch depends on a row, so ``LANES`` rows go through at once as vector
instructions. Source: Lucchese et al. (2016), Exploiting CPU SIMD extensions to speed-up document
scoring with tree ensembles; docs/adr/0022-engines.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.model_format.trees import (
    ALMOST_ZERO,
    DEFAULT_LEFT,
    MISSING_SHIFT,
    NOTHING_MISSING,
    ZERO_MISSING,
)

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Matrix, Vector, Words


LANES = 128
"""Rows in one block."""
CHUNK_WORDS = 32
"""Words of leaves that are worked on at once, for each lane: with ``LANES`` 32 KiB, which the
first cache level holds.
"""
DE_BRUIJN = 0x03F79D71B4CB0A89
"""A de Bruijn number: multiplied by a power of two, its six highest bits are another number for
each. That finds a word's lowest bit by arithmetic only. Source: Leiserson et al. (1998).
"""


# One loop nest over plain arrays is what numba makes fast.
def add_leaves(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917
    matrix: Matrix,
    total: Vector,
    feature: Integers,
    missing: Integers,
    first_node: Integers,
    threshold: Vector,
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
    leaf_value: Vector,
) -> None:
    """Write the sum of each row's leaves.

    Args:
        matrix: The model's matrix, shape (n, k).
        total: Receives the result, shape (n,).
        feature: Column that each group of numeric nodes tests; the nodes of a group also treat
            missing values alike. All arrays from here on are about chunks of trees.
        missing: LightGBM's decision bits of each group.
        first_node: Where the nodes of each chunk's groups begin, and the number of nodes; shape
            (chunks * groups + 1,).
        threshold: Largest value that passes a node, rising within a chunk's group; like the next
            two of shape (nodes,).
        word: Index of the word that a node changes, within its chunk.
        mask: The leaves that stay when a row does not pass.
        set_feature: Column of each categorical feature; shape (sets,).
        n_levels: Levels with a mask of their own; unknown and missing ones have the mask after
            them.
        first_set: Where the tables of each chunk's categorical features begin; shape (chunks * sets
            + 1,).
        set_word: Index of the word that a table changes, within its chunk.
        set_start: Where a table begins in ``set_mask``.
        set_mask: For each level the leaves that stay.
        first_tree: First tree of each chunk, and the number of trees; shape (chunks + 1,).
        first_word: First word of each tree, and the number of words; shape (trees + 1,).
        leaf_value: Values of each word's leaves, each where ``DE_BRUIJN`` puts its bit; shape
            (words, 64).
    """
    n_rows, n_groups, n_sets = len(matrix), len(feature), len(set_feature)
    # Indexes of inner loops are unsigned: a negative one would count from the end, which costs a
    # test at every access.
    lanes, nothing, unit = np.uint64(LANES), np.uint64(0), np.uint64(1)
    shift, number = np.uint64(58), np.uint64(DE_BRUIJN)
    everything = ~nothing
    # Aligned to 64 bytes: vectors that cross a line of the cache are half as fast.
    words = np.empty(CHUNK_WORDS * LANES + 8, np.uint64)
    words = words[(-words.ctypes.data % 64) // 8 :]
    value = np.empty(n_groups * LANES + 8)
    value = value[(-value.ctypes.data % 64) // 8 :]
    level = np.empty(n_sets * LANES, np.uint64)
    largest_value = np.empty(n_groups)
    slot = np.empty(LANES, np.uint64)
    leaf = np.empty(LANES)
    score = np.empty(LANES)
    for first in range(0, n_rows, LANES):
        end = min(first + LANES, n_rows)
        # The last block is filled up with its last row: every loop has the same length, so the
        # compiler needs no code for a rest.
        for group in range(n_groups):
            missing_type = missing[group] >> MISSING_SHIFT
            largest = -np.inf
            for lane in range(LANES):
                x = matrix[min(first + lane, end - 1), feature[group]]
                # LightGBM reads rows as sparse ones: a value that is almost zero is zero.
                if x >= -ALMOST_ZERO and x <= ALMOST_ZERO:
                    x = 0.0
                if x != x or (missing_type == ZERO_MISSING and x == 0.0):  # noqa: PLR0124
                    # Minus infinity passes every node, NaN passes none.
                    default = -np.inf if missing[group] & DEFAULT_LEFT else np.nan
                    x = 0.0 if missing_type == NOTHING_MISSING else default
                value[group * LANES + lane] = x
                if x > largest or x != x:  # noqa: PLR0124
                    largest = x
            largest_value[group] = largest
        for group in range(n_sets):
            unknown = n_levels[group]
            for lane in range(LANES):
                x = matrix[min(first + lane, end - 1), set_feature[group]]
                level[group * LANES + lane] = (
                    np.uint64(x) if x > -1.0 and x < unknown else np.uint64(unknown)
                )
        score[:] = 0.0
        for chunk in range(len(first_tree) - 1):
            words[:] = everything
            for group in range(n_groups):
                offset = np.uint64(group * LANES)
                largest = largest_value[group]
                node = np.uint64(first_node[chunk * n_groups + group])
                end_node = np.uint64(first_node[chunk * n_groups + group + 1])
                while node < end_node:
                    limit = threshold[node]
                    # Thresholds rise: every row of the block passes this node and all later ones.
                    if limit >= largest:
                        break
                    kept_leaves, at = mask[node], np.uint64(word[node]) * lanes
                    for lane in range(lanes):
                        passes = value[offset + lane] <= limit
                        words[at + lane] &= everything if passes else kept_leaves
                    node += unit
            for group in range(n_sets):
                offset = np.uint64(group * LANES)
                for table in range(
                    first_set[chunk * n_sets + group], first_set[chunk * n_sets + group + 1]
                ):
                    at, start = np.uint64(set_word[table]) * lanes, np.uint64(set_start[table])
                    for lane in range(lanes):
                        words[at + lane] &= set_mask[start + level[offset + lane]]
            base = first_word[first_tree[chunk]]
            for tree in range(first_tree[chunk], first_tree[chunk + 1]):
                # The leaf is the lowest bit of the first word that has one. The loop goes from the
                # last word to the first and overwrites, instead of a branch that stops it.
                for w in range(first_word[tree + 1] - 1, first_word[tree] - 1, -1):
                    at, row = np.uint64(w - base) * lanes, np.uint64(w)
                    for lane in range(lanes):
                        word_bits = words[at + lane]
                        slot[lane] = ((word_bits & (~word_bits + unit)) * number) >> shift
                    if w == first_word[tree + 1] - 1:
                        for lane in range(lanes):
                            leaf[lane] = leaf_value[row, slot[lane]]
                    else:
                        for lane in range(lanes):
                            if words[at + lane] != nothing:
                                leaf[lane] = leaf_value[row, slot[lane]]
                # Tree by tree, in LightGBM's order: other orders round otherwise.
                for lane in range(lanes):
                    score[lane] += leaf[lane]
        for lane in range(end - first):
            total[first + lane] = score[lane]
