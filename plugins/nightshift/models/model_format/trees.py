"""One tree of a text model: every line, every index and every number of it.

Source: LightGBM issues 7357, 7437 and 7438: its reader trusts counts and indexes, and ends the
process or runs for ever on wrong ones.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from nightshift.models.model_format.tokens import fields_of, integers, numbers, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LEAVES = 131_072
"""Source: LightGBM's documentation of ``num_leaves``."""
MAX_DEPTH = 500
"""Exact contributions walk a tree recursively, in time that grows with the square of its depth."""
_BITS_PER_WORD = 32
_WORD = re.compile(r"\d{1,10}", re.ASCII)
_IS_CATEGORICAL = 1
_SET_BY_DEFAULT = 3
"""Bits of a node that asks for a level and has a default side, which none has."""
_N_MISSING_TYPES, _NAN_IS_MISSING = 3, 2
_INFINITE = "inf"
ALMOST_ZERO = 1.0000000180025095e-35
"""LightGBM's ``kZeroThreshold``, a single-precision number."""
_LINES = (
    *(
        "num_leaves",
        "num_cat",
        "split_feature",
        "split_gain",
        "threshold",
        "decision_type",
        "left_child",
        "right_child",
    ),
    *(
        "leaf_value",
        "leaf_weight",
        "leaf_count",
        "internal_value",
        "internal_weight",
        "internal_count",
    ),
)
_CATEGORICAL_LINES = ("cat_boundaries", "cat_threshold")
_LAST_LINES = ("is_linear", "shrinkage")


class UnsuitableTreesError(ValueError):
    """An accelerated engine would be slower with these trees than by a walk, or take too much memory."""


@dataclass(frozen=True)
class Tree:
    """What a checked tree asks and answers.

    Attributes:
        features: Position of the feature that each inner node asks for.
        thresholds: Its threshold; for a categorical feature the number of its set of levels.
        is_categorical: Whether a node asks for a level.
        leaf_values: The answers.
    """

    features: list[int]
    thresholds: list[float]
    is_categorical: list[bool]
    leaf_values: list[float]


def split_trees(text: str) -> Iterator[dict[str, str]]:
    """Yield the lines of each tree by name, of a text model that ``check_model_text`` has taken."""
    for part in text.partition("\nend of trees")[0].split("\nTree=")[1:]:
        yield dict(line.split("=", 1) for line in part.split("\n")[1:] if line)


def read_tree(number: int, text: str, n_features: int) -> Tree:
    """Check one tree and return it.

    Args:
        number: Its place among the trees, from 0.
        text: From ``Tree=`` to the two empty lines behind it.
        n_features: Columns of the model's matrix.

    Raises:
        ModelTextError: The first thing that is wrong.
    """
    where = f"tree {number}"
    if not text.startswith(f"Tree={number}\nnum_leaves=") or not text.endswith("\n\n\n"):
        raise refused(
            f"{where} does not begin and end where the header says",
            f"Tree={number} and two empty lines",
            text[:20],
        )
    lines = text[:-3].split("\n")[1:]
    has_sets = len(lines) > len(_LINES) + len(_LAST_LINES)
    fields = fields_of(
        lines, [*_LINES, *(_CATEGORICAL_LINES if has_sets else ()), *_LAST_LINES], where
    )
    n_leaves = _count(fields["num_leaves"], f"{where}, num_leaves", 1, MAX_LEAVES)
    _check_statistics(fields, where, n_leaves)
    _check_children(fields, where, n_leaves)
    features = integers(fields["split_feature"], f"{where}, split_feature", n_leaves - 1)
    if features and not 0 <= min(features) <= max(features) < n_features:
        raise refused(
            f"{where} splits on a feature that does not exist",
            f"0 to {n_features - 1}",
            f"{min(features)} to {max(features)}",
        )
    decisions = _decisions(fields, where, n_leaves - 1)
    is_categorical = [bool(decision & _IS_CATEGORICAL) for decision in decisions]
    thresholds = _thresholds(fields["threshold"], where, decisions)
    _check_sets(
        fields,
        where,
        [
            threshold
            for threshold, has_set in zip(thresholds, is_categorical, strict=True)
            if has_set
        ],
    )
    return Tree(
        features,
        thresholds,
        is_categorical,
        numbers(fields["leaf_value"], f"{where}, leaf_value", n_leaves),
    )


def _count(text: str, where: str, least: int, most: int) -> int:
    count = integers(text, where, 1)[0]
    if not least <= count <= most:
        raise refused(f"{where} is out of range", f"{least} to {most}", str(count))
    return count


def _check_statistics(fields: dict[str, str], where: str, n_leaves: int) -> None:
    """Refuse numbers about the training rows that are missing or impossible; contributions divide by them."""
    n_nodes = n_leaves - 1
    for name in ("split_gain", "internal_value", "internal_weight"):
        numbers(fields[name], f"{where}, {name}", n_nodes)
    # A tree of one leaf has no weight, and a count only in newer versions.
    numbers(fields["leaf_weight"], f"{where}, leaf_weight", n_leaves if n_nodes else None)
    counts = integers(fields["leaf_count"], f"{where}, leaf_count", n_leaves if n_nodes else None)
    counts += integers(fields["internal_count"], f"{where}, internal_count", n_nodes)
    if n_nodes and min(counts) < 1:
        raise refused(f"{where} has a node without rows", "counts of 1 or more", str(min(counts)))
    if fields["is_linear"] != "0":
        raise refused(
            f"{where} has linear leaves", "is_linear=0", f"is_linear={fields['is_linear']}"
        )
    numbers(fields["shrinkage"], f"{where}, shrinkage", 1)


def _check_children(fields: dict[str, str], where: str, n_leaves: int) -> None:
    """Refuse a tree in which some node or leaf is not reached exactly once."""
    children = [
        integers(fields[side], f"{where}, {side}", n_leaves - 1)
        for side in ("left_child", "right_child")
    ]
    if n_leaves == 1:
        return
    reached = sorted(children[0] + children[1])
    # Leaf i is written as -i - 1, the root is node 0 and nobody's child.
    if reached != [*range(-n_leaves, 0), *range(1, n_leaves - 1)]:
        raise refused(
            f"{where} does not reach each node and leaf once",
            f"{n_leaves} leaves",
            "other children",
        )
    _check_way_down(children, where, n_leaves - 1)


def _check_way_down(children: list[list[int]], where: str, n_nodes: int) -> None:
    """Refuse inner nodes that do not hang on the root (with each reached once, that is a cycle), and a way that is too long."""
    waiting, n_seen = [(0, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        n_seen += 1
        if depth > MAX_DEPTH:
            raise refused(f"{where} is too deep", f"at most {MAX_DEPTH} splits on a way", "more")
        waiting += [(side[node], depth + 1) for side in children if side[node] >= 0]
    if n_seen != n_nodes:
        raise refused(f"{where} has nodes that its root does not reach", str(n_nodes), str(n_seen))


def _decisions(fields: dict[str, str], where: str, n_nodes: int) -> list[int]:
    """Return how each node decides.

    The first bit says whether it asks for a level, the second where missing values go, the two
    above what counts as missing: nothing, zero, or NaN.
    """
    decisions = integers(fields["decision_type"], f"{where}, decision_type", n_nodes)
    for decision in decisions:
        if (
            decision < 0
            or decision >> 2 >= _N_MISSING_TYPES
            or decision & _SET_BY_DEFAULT == _SET_BY_DEFAULT
        ):
            raise refused(
                f"{where} decides in a way that does not exist", "a decision type", str(decision)
            )
    return decisions


def _thresholds(text: str, where: str, decisions: list[int]) -> list[float]:
    """Return the thresholds; an infinite one, of a node that tells only missing values from all others, is LightGBM's own."""
    words = text.split(" ") if text else []
    found = numbers(
        " ".join("0" if word == _INFINITE else word for word in words),
        f"{where}, threshold",
        len(decisions),
    )
    for place, (word, decision) in enumerate(zip(words, decisions, strict=True)):
        if word == _INFINITE:
            if decision >> 2 != _NAN_IS_MISSING or decision & _IS_CATEGORICAL:
                raise refused(
                    f"{where} has an infinite threshold where nothing is missing",
                    "a finite number",
                    f"decision type {decision}",
                )
            found[place] = math.inf
    return found


def _check_sets(fields: dict[str, str], where: str, numbers_of_sets: list[float]) -> None:
    """Refuse sets of levels that are not as many, as long or numbered as the nodes that ask for them."""
    n_sets = _count(fields["num_cat"], f"{where}, num_cat", 0, MAX_LEAVES)
    if numbers_of_sets != list(range(n_sets)) or bool(n_sets) != ("cat_boundaries" in fields):
        raise refused(
            f"{where} has other sets of levels than its nodes ask for",
            f"{len(numbers_of_sets)}, numbered from 0",
            f"{n_sets} sets",
        )
    if not n_sets:
        return
    bounds = integers(fields["cat_boundaries"], f"{where}, cat_boundaries", n_sets + 1)
    if bounds[0] != 0 or any(later <= earlier for earlier, later in pairwise(bounds)):
        raise refused(
            f"{where} has sets of levels without a length",
            "rising boundaries from 0",
            fields["cat_boundaries"],
        )
    words = fields["cat_threshold"].split(" ")
    # A word is 32 bits without a sign: too large for ``integers``.
    if len(words) != bounds[-1] or not all(
        _WORD.fullmatch(word) and int(word) < 2**_BITS_PER_WORD for word in words
    ):
        raise refused(
            f"{where} has sets of levels of another length",
            f"{bounds[-1]} words of {_BITS_PER_WORD} bits",
            f"{len(words)} words",
        )
