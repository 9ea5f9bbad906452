"""The trees of a model as flat arrays, with the constants by which ``shapley_kernel`` walks them.

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

from nightshift.models.model_format.trees import split_trees
from nightshift.models.shapley.quadrature import gauss_legendre

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

N_CONSTANTS = 9
"""Per node and point; ``_constants`` names them."""
MAX_CONSTANTS_BYTES = 512 << 20
_IS_CATEGORICAL = 1


class TooLargeForestError(ValueError):
    """The constants of a model's trees would take too much memory."""


@dataclass(frozen=True)
class Forest:
    """All inner nodes of all trees, each tree's in an order in which a node comes before its children.

    Attributes:
        feature: Column that each node asks for; like the next ones of shape (nodes,).
        threshold: Largest value that goes left.
        decision: LightGBM's bits: categorical, missing goes left, what counts as missing.
        left: Place of the left child within its tree; for a leaf the tree's number of nodes.
        right: The same of the right child.
        asked_before: Place within its tree of the node above that asks for the same feature last;
            -1 for none.
        from_side: The side on which the path leaves that node: 1 left, 2 right.
        first_word: Where a categorical node's set of levels begins in ``words``.
        n_levels: Levels that this set has bits for.
        words: 32 levels in each; shape (words,).
        tree_start: First node of each tree, and the number of nodes; shape (trees + 1,).
        constants: See ``_constants``; of each tree ``n_points`` by nodes by ``N_CONSTANTS``, one
            after another.
        constants_start: Where each tree's constants begin; shape (trees,).
        n_points: Points of the quadrature of each tree; shape (trees,).
    """

    feature: Integers
    threshold: Doubles
    decision: Integers
    left: Integers
    right: Integers
    asked_before: Integers
    from_side: Integers
    first_word: Integers
    n_levels: Integers
    words: Integers
    tree_start: Integers
    constants: Doubles
    constants_start: Integers
    n_points: Integers


@dataclass
class _Growing:
    """Columns of a forest while its trees are read."""

    rows: list[tuple[int, float, int, int, int, int, int, int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    constants: list[Doubles] = field(default_factory=list)
    n_bytes: int = 0


def read_forest(text: str) -> Forest:
    """Read a text model that ``check_model_text`` has taken; trees without a split add nothing and are left out.

    Raises:
        TooLargeForestError: Its constants would take more than ``MAX_CONSTANTS_BYTES``.
    """
    import numpy as np

    growing = _Growing()
    for fields in split_trees(text):
        if fields["num_leaves"] != "1":
            _add_tree(growing, fields)
    columns = list(zip(*growing.rows, strict=True)) or [()] * 9
    threshold = np.array(columns.pop(1), np.float64)
    feature, decision, left, right, *others = (np.array(column, np.int64) for column in columns)
    asked_before, from_side, first_word, n_levels = others
    sizes = [constants.size for constants in growing.constants]
    return Forest(
        feature=feature,
        threshold=threshold,
        decision=decision,
        left=left,
        right=right,
        asked_before=asked_before,
        from_side=from_side,
        first_word=first_word,
        n_levels=n_levels,
        words=np.array(growing.words or [0], np.int64),
        tree_start=np.array(growing.starts, np.int64),
        constants=np.concatenate(
            [constants.ravel() for constants in growing.constants] or [np.zeros(0)]
        ),
        constants_start=np.cumsum([0, *sizes], dtype=np.int64)[:-1],
        n_points=np.array([len(constants) for constants in growing.constants], np.int64),
    )


@dataclass(frozen=True)
class _Step:
    """One node on the way down.

    Attributes:
        node: LightGBM's number.
        asked: Feature to (place, side, share) of the last node of the path that asks for it.
        reach: Product of the shares on the path.
    """

    node: int
    asked: dict[int, tuple[int, int, float]]
    reach: float


def _add_tree(growing: _Growing, fields: dict[str, str]) -> None:
    import numpy as np

    features, left, right = (
        list(map(int, fields[name].split()))
        for name in ("split_feature", "left_child", "right_child")
    )
    thresholds, values = (
        list(map(float, fields[name].split())) for name in ("threshold", "leaf_value")
    )
    decisions, leaf_counts, counts = (
        list(map(int, fields[name].split()))
        for name in ("decision_type", "leaf_count", "internal_count")
    )
    bounds = list(map(int, fields.get("cat_boundaries", "").split()))
    place: dict[int, int] = {}
    way, shares, most_features = [], [], 0
    waiting = [_Step(0, {}, 1.0)]
    while waiting:
        step = waiting.pop()
        node, here = step.node, len(place)
        place[node] = here
        asked_before, from_side, before = step.asked.get(features[node], (-1, 0, 1.0))
        share = []
        for side, child in ((2, right[node]), (1, left[node])):
            part = (counts[child] if child >= 0 else leaf_counts[~child]) / counts[node]
            asked = {**step.asked, features[node]: (here, side, before * part)}
            most_features = max(most_features, len(asked))
            if child >= 0:
                waiting.append(_Step(child, asked, step.reach * part))
            share += [before * part, 1.0 if child >= 0 else step.reach * part * values[~child]]
        shares.append((float(asked_before >= 0), before, *share))
        way.append((asked_before, from_side))
    for node, (asked_before, from_side) in zip(place, way, strict=True):
        low, high = (
            bounds[int(thresholds[node]) :][:2] if decisions[node] & _IS_CATEGORICAL else (0, 0)
        )
        children = (place.get(left[node], len(place)), place.get(right[node], len(place)))
        levels = (len(growing.words) + low, 32 * (high - low))
        growing.rows.append(
            (
                features[node],
                thresholds[node],
                decisions[node],
                *children,
                asked_before,
                from_side,
                *levels,
            )
        )
    growing.words += map(int, fields.get("cat_threshold", "").split())
    growing.starts.append(len(growing.rows))
    n_points = (most_features + 1) // 2
    growing.n_bytes += 8 * N_CONSTANTS * n_points * len(place)
    if growing.n_bytes > MAX_CONSTANTS_BYTES:
        raise TooLargeForestError(
            f"the constants of its trees take more than {MAX_CONSTANTS_BYTES >> 20} MB"
        )
    growing.constants.append(_constants(np.array(shares), n_points))


def _constants(shares: Doubles, n_points: int) -> Doubles:
    """Return the constants of a tree's nodes.

    Args:
        shares: Per node whether its feature was asked for above, the share of rows along the path
            as far as that feature decides it, then for the right and the left child that share and
            the weight (value times reach) of a leaf, 1 for a node.
        n_points: Points of the quadrature.

    Returns:
        Shape (n_points, nodes, 9). Factors of the path's product, each times the leaf's weight:
            left child if the row goes left, if it
        leaves the path here, if it left before; the same of the right child. Then what the
            feature's factor is worth at the point: for
        the left child if the row goes left, the right child if it goes right, and either if it
            leaves the path here.
    """
    import numpy as np

    points, weights = gauss_legendre(n_points)
    was_asked, before, share_right, weight_right, share_left, weight_left = shares.T[:, None, :]
    t, off, w = points[:, None], 1 - points[:, None], weights[:, None]
    # Each factor is divided by its share, which the leaf's weight holds: a path that was left
    # before needs no factor then.
    on_before = np.where(was_asked, t / before + off, 1.0)
    worth_before = np.where(was_asked, (1 / before - 1) / on_before, 0.0)
    on_left, on_right = t / share_left + off, t / share_right + off
    parts = (
        *(
            on_left / on_before * weight_left,
            off / on_before * weight_left,
            np.broadcast_to(weight_left, on_left.shape),
        ),
        *(
            on_right / on_before * weight_right,
            off / on_before * weight_right,
            np.broadcast_to(weight_right, on_left.shape),
        ),
        w * ((1 / share_left - 1) / on_left - worth_before),
        w * ((1 / share_right - 1) / on_right - worth_before),
        w * (-1 / off - worth_before),
    )
    return np.ascontiguousarray(np.stack(parts, axis=-1))
