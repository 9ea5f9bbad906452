"""Parse one tree of a text model and check every line, index and number of it.

LightGBM's reader trusts counts and indexes: wrong ones end the process or make it run for ever.
Source: LightGBM issues 7357, 7437 and 7438.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from nightshift.models.model_format.tokens import (
    ModelTextError,
    parse_fields,
    parse_integers,
    parse_numbers,
    refused,
)

MAX_LEAVES = 131_072
"""Source: LightGBM's documentation of ``num_leaves``."""
MAX_DEPTH = 500
"""Exact contributions walk a tree recursively; their time grows with the square of its depth."""
ALMOST_ZERO = 1.0000000180025095e-35
"""LightGBM's ``kZeroThreshold``: values up to it count as zero. It is a single-precision number."""

# Bits of ``decision_type``: categorical, default left, and from the third on what is missing.
IS_CATEGORICAL = 1
DEFAULT_LEFT = 2
MISSING_SHIFT = 2
NOTHING_MISSING, ZERO_MISSING, NAN_MISSING = range(3)

_NODE_LINES = [
    "num_leaves",
    "num_cat",
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "leaf_value",
    "leaf_weight",
    "leaf_count",
    "internal_value",
    "internal_weight",
    "internal_count",
]
_LEVEL_LINES = ["cat_boundaries", "cat_threshold"]
_LAST_LINES = ["is_linear", "shrinkage"]
_WORD_BITS = 32
_WORD = re.compile(r"\d{1,10}", re.ASCII)
_INFINITY = "inf"


Integers = list[int]
Doubles = list[float]


class UnsuitableTreesError(ValueError):
    """Trees are too large for an accelerated computation: it would be slow, or fill the memory."""


@dataclass(frozen=True)
class Tree:
    """A checked tree as plain lists.

    A child is the number of an inner node, or ``~leaf`` for a leaf; the root is node 0. A tree of
    one leaf has no nodes, and may have no counts.

    Attributes:
        features: Feature index of each inner node; like the next four of length (nodes,).
        thresholds: Largest value that goes left; for a categorical node the number of its level
            set.
        decisions: Bits of each decision: ``IS_CATEGORICAL``, ``DEFAULT_LEFT``, what is missing.
        left: Left child.
        right: Right child.
        node_counts: Training rows that reach each node; length (nodes,).
        leaf_counts: Training rows of each leaf; length (leaves,).
        leaf_values: Raw score of each leaf; length (leaves,).
        set_bounds: First word of each level set, then the number of words.
        set_words: Bit masks of the level sets: 32 levels in each word; set bits go left.
    """

    features: Integers
    thresholds: Doubles
    decisions: Integers
    left: Integers
    right: Integers
    node_counts: Integers
    leaf_counts: Integers
    leaf_values: Doubles
    set_bounds: Integers
    set_words: Integers

    def is_categorical(self, node: int) -> bool:
        """Return whether a node tests for a set of levels."""
        return bool(self.decisions[node] & IS_CATEGORICAL)

    def level_words(self, node: int) -> tuple[int, int]:
        """Return the first word of a categorical node's level set, and the end."""
        number = int(self.thresholds[node])
        return self.set_bounds[number], self.set_bounds[number + 1]


class _TreeLines:
    """The lines of one tree by name; errors name the tree and the line."""

    def __init__(self, number: int, text: str) -> None:
        self.where = f"tree {number}"
        begins = text.startswith(f"Tree={number}\nnum_leaves=")
        if not begins or not text.endswith("\n\n\n"):
            raise self.error(
                "does not begin and end where the header says",
                f"Tree={number} and two empty lines",
                text[:20],
            )
        # Two more lines exist exactly if some node tests for a set of levels.
        lines = text[:-3].split("\n")[1:]
        names = [*_NODE_LINES, *_LAST_LINES]
        self.has_level_sets = len(lines) > len(names)
        if self.has_level_sets:
            names = [*_NODE_LINES, *_LEVEL_LINES, *_LAST_LINES]
        self._fields = parse_fields(lines, names, self.where)
        self.n_leaves = self.count("num_leaves", 1)
        self.n_nodes = self.n_leaves - 1

    def __getitem__(self, name: str) -> str:
        return self._fields[name]

    def integers(self, name: str, n: int | None) -> Integers:
        return parse_integers(self[name], f"{self.where}, {name}", n)

    def numbers(self, name: str, n: int | None) -> Doubles:
        return parse_numbers(self[name], f"{self.where}, {name}", n)

    def count(self, name: str, minimum: int) -> int:
        [count] = self.integers(name, 1)
        # Checked before anything of this length is made.
        if not minimum <= count <= MAX_LEAVES:
            raise refused(
                f"{self.where}, {name} is out of range",
                f"{minimum} to {MAX_LEAVES}",
                str(count),
            )
        return count

    def error(self, problem: str, expected: str, got: str) -> ModelTextError:
        return refused(f"{self.where} {problem}", expected, got)


def read_tree(number: int, text: str, n_features: int) -> Tree:
    """Parse and check one tree.

    Args:
        number: Index of the tree, from 0.
        text: From ``Tree=`` to the two empty lines after it.
        n_features: Columns of the model's matrix.

    Raises:
        ModelTextError: The first thing that is wrong.
    """
    lines = _TreeLines(number, text)
    node_counts, leaf_counts = _read_statistics(lines)
    left, right = _read_children(lines)
    features = _read_features(lines, n_features)
    decisions = _read_decisions(lines)
    thresholds = _read_thresholds(lines, decisions)
    set_numbers = [
        threshold
        for threshold, decision in zip(thresholds, decisions, strict=True)
        if decision & IS_CATEGORICAL
    ]
    set_bounds, set_words = _read_level_sets(lines, set_numbers)
    return Tree(
        features=features,
        thresholds=thresholds,
        decisions=decisions,
        left=left,
        right=right,
        node_counts=node_counts,
        leaf_counts=leaf_counts,
        leaf_values=lines.numbers("leaf_value", lines.n_leaves),
        set_bounds=set_bounds,
        set_words=set_words,
    )


def _read_statistics(lines: _TreeLines) -> tuple[Integers, Integers]:
    """Return the rows of nodes and leaves after a check of all training statistics."""
    n_nodes = lines.n_nodes
    for name in ("split_gain", "internal_value", "internal_weight"):
        lines.numbers(name, n_nodes)
    # A tree of one leaf has no weight, and only newer versions write its count.
    n_leaf_values = lines.n_leaves if n_nodes else None
    lines.numbers("leaf_weight", n_leaf_values)
    leaf_counts = lines.integers("leaf_count", n_leaf_values)
    node_counts = lines.integers("internal_count", n_nodes)
    # Contributions divide by these counts.
    smallest = min(leaf_counts + node_counts, default=1)
    if n_nodes and smallest < 1:
        raise lines.error("has a node without rows", "counts of 1 or more", str(smallest))
    is_linear = lines["is_linear"]
    if is_linear != "0":
        raise lines.error("has linear leaves", "is_linear=0", f"is_linear={is_linear}")
    lines.numbers("shrinkage", 1)
    return node_counts, leaf_counts


def _read_children(lines: _TreeLines) -> tuple[Integers, Integers]:
    """Return left and right children; each node and leaf must be reached exactly once."""
    n_nodes = lines.n_nodes
    left = lines.integers("left_child", n_nodes)
    right = lines.integers("right_child", n_nodes)
    if not n_nodes:
        return left, right
    # Leaf i is written as -i - 1, the root is node 0 and nobody's child.
    expected = [*range(-lines.n_leaves, 0), *range(1, n_nodes)]
    if sorted(left + right) != expected:
        raise lines.error(
            "does not reach each node and leaf once",
            f"{lines.n_leaves} leaves",
            "other children",
        )
    _check_depth(lines, left, right)
    return left, right


def _check_depth(lines: _TreeLines, left: Integers, right: Integers) -> None:
    """Refuse a path that is too long, and nodes that the root does not reach."""
    stack = [(0, 1)]
    n_reached = 0
    while stack:
        node, depth = stack.pop()
        n_reached += 1
        if depth > MAX_DEPTH:
            raise lines.error("is too deep", f"at most {MAX_DEPTH} splits on a path", "more")
        children = (left[node], right[node])
        stack += [(child, depth + 1) for child in children if child >= 0]
    # Every node is some node's child, so one that the root does not reach is part of a cycle.
    if n_reached != len(left):
        raise lines.error("has nodes that its root does not reach", str(len(left)), str(n_reached))


def _read_features(lines: _TreeLines, n_features: int) -> Integers:
    features = lines.integers("split_feature", lines.n_nodes)
    for feature in features:
        if not 0 <= feature < n_features:
            raise lines.error(
                "splits on a feature that does not exist",
                f"0 to {n_features - 1}",
                str(feature),
            )
    return features


def _read_decisions(lines: _TreeLines) -> Integers:
    decisions = lines.integers("decision_type", lines.n_nodes)
    # A level set has no default side, so these two bits never come together.
    impossible = IS_CATEGORICAL | DEFAULT_LEFT
    for decision in decisions:
        is_known = 0 <= decision >> MISSING_SHIFT <= NAN_MISSING
        if not is_known or decision & impossible == impossible:
            raise lines.error("has an unknown decision type", "a decision type", str(decision))
    return decisions


def _read_thresholds(lines: _TreeLines, decisions: Integers) -> Doubles:
    """Return the thresholds.

    LightGBM writes ``inf`` for a node that only separates missing values from all others.
    """
    text = lines["threshold"]
    words = text.split(" ") if text else []
    finite_words = ["0" if word == _INFINITY else word for word in words]
    where = f"{lines.where}, threshold"
    thresholds = parse_numbers(" ".join(finite_words), where, len(decisions))
    for node, word in enumerate(words):
        if word != _INFINITY:
            continue
        # Equality refuses a categorical node too: its lowest bit is set.
        decision = decisions[node]
        if decision & ~DEFAULT_LEFT != NAN_MISSING << MISSING_SHIFT:
            raise lines.error(
                "has an infinite threshold at a node without missing values",
                "a finite number",
                f"decision type {decision}",
            )
        thresholds[node] = math.inf
    return thresholds


def _read_level_sets(lines: _TreeLines, set_numbers: Doubles) -> tuple[Integers, Integers]:
    """Return bounds and words of the level sets; categorical nodes number them from 0 in order."""
    n_sets = lines.count("num_cat", 0)
    is_numbered = set_numbers == list(range(n_sets))
    if not is_numbered or bool(n_sets) != lines.has_level_sets:
        raise lines.error(
            "has level sets that do not match its nodes",
            f"{len(set_numbers)}, numbered from 0",
            f"{n_sets} sets",
        )
    if not n_sets:
        return [], []
    bounds = lines.integers("cat_boundaries", n_sets + 1)
    # LightGBM never writes an empty set.
    is_rising = all(start < end for start, end in pairwise(bounds))
    if bounds[0] != 0 or not is_rising:
        raise lines.error(
            "has an empty level set",
            "rising boundaries from 0",
            lines["cat_boundaries"],
        )
    words = lines["cat_threshold"].split(" ")
    # These words are unsigned 32-bit integers, too large for ``parse_integers``.
    is_valid = all(_WORD.fullmatch(word) and int(word) < 2**_WORD_BITS for word in words)
    if len(words) != bounds[-1] or not is_valid:
        raise lines.error(
            "has level sets of the wrong length",
            f"{bounds[-1]} words of {_WORD_BITS} bits",
            f"{len(words)} words",
        )
    return bounds, [int(word) for word in words]
