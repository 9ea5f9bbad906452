"""Split a score into what each feature added on the row's way through the trees.

At each split the expected value changes from the node's to the chosen child's; that change belongs to the feature that was asked. Summed
over all trees it gives the raw score less a constant. It costs about as much as a prediction, where exact Shapley values (LightGBM's
``pred_contrib``) cost some hundred times as much: 450 s for a year of flights. Source: Saabas (2014), Interpreting random forests;
docs/adr/0008-scoring.md compares both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightshift.training.booster import thread_count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.training.trained_model import TrainedModel

    Matrix = npt.NDArray[np.float64]

BLOCK_ROWS = 2_048
"""Rows whose contributions stay in the processor's cache while all trees are added."""


class TreeContributions:
    """What each leaf of each tree says about each feature, taken from a model once.

    Args:
        model: The champion.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._model = model
        trees = model.booster.dump_model()["tree_info"]
        self._tables = [_leaf_table(tree["tree_structure"], tree["num_leaves"], len(model.signature.names)) for tree in trees]

    def of(self, rows: pa.Table) -> Matrix:
        """Return what each feature adds to the raw score, shape (n, k), columns in the order of the signature.

        Raises:
            SignatureError: The rows do not fit the model's signature.
        """
        import numpy as np

        matrix = self._model.encode(rows)
        added = np.zeros(matrix.shape)
        if not rows.num_rows:
            return added
        leaves = np.asarray(self._model.booster.predict(matrix, pred_leaf=True, num_threads=thread_count()), dtype=np.int64)
        leaves = leaves.reshape(len(matrix), -1)
        for start in range(0, len(matrix), BLOCK_ROWS):
            block = added[start : start + BLOCK_ROWS]
            for place, table in enumerate(self._tables):
                block += table[leaves[start : start + BLOCK_ROWS, place]]
        return added


def _leaf_table(tree: dict[str, Any], n_leaves: int, n_features: int) -> Matrix:
    """Return what each feature adds on the way to each leaf; shape (n_leaves, n_features)."""
    import numpy as np

    table = np.zeros((n_leaves, n_features))
    pending = [(tree, np.zeros(n_features))]
    while pending:
        node, added = pending.pop()
        if "split_feature" not in node:
            table[node.get("leaf_index", 0)] = added
            continue
        here = _expected(node)[0]
        for child in (node["left_child"], node["right_child"]):
            further = added.copy()
            further[node["split_feature"]] += _expected(child)[0] - here
            pending.append((child, further))
    return table


def _expected(node: dict[str, Any]) -> tuple[float, float]:
    """Return the mean value and the number of the training rows below a node; kept in the node."""
    if "split_feature" not in node:
        return node["leaf_value"], node.get("leaf_count", 1)
    if "expected" not in node:
        (left, n_left), (right, n_right) = _expected(node["left_child"]), _expected(node["right_child"])
        node["expected"] = ((left * n_left + right * n_right) / (n_left + n_right), n_left + n_right)
    mean, n_rows = node["expected"]
    return mean, n_rows
