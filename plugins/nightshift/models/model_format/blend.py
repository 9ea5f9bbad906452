"""Average text models: one model with the trees of all, each with its share of the score.

A sum of trees stays a sum of trees: engines, Shapley values and the loader need to know nothing of
the members.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_TREE = re.compile(r"^Tree=\d+\n", re.MULTILINE)
_TREE_SIZES = "\ntree_sizes="
_END_OF_TREES = "end of trees\n\nfeature_importances:\n"
_PARAMETERS = "\nparameters:\n"


def blend_models(models: Sequence[str], share: float = 1.0) -> str:
    """Return one text model whose raw score is ``share`` times the mean raw score of several.

    Args:
        models: Text models of the same features and objective, at least one; each was accepted by
            ``read_model``.
        share: Of the mean score, 0 to 1.
    """
    factor = share / len(models)
    # One text keeps its bytes.
    if factor == 1:
        return models[0]
    trees: list[str] = []
    n_splits: Counter[str] = Counter()
    for text in models:
        parts = _TextParts.of(text)
        n_splits.update(parts.n_splits)
        for tree in parts.trees:
            number = len(trees)
            scaled = _scaled(tree, factor)
            trees.append(f"Tree={number}\n{scaled}")

    # Header and parameters of the first stand for all: they differ in seeds only.
    first = _TextParts.of(models[0])
    sizes = [str(len(tree)) for tree in trees]
    # LightGBM writes the feature with the most splits first.
    ranked = sorted(
        n_splits.items(),
        key=lambda item: -item[1],
    )
    importances = [f"{name}={n}\n" for name, n in ranked]
    return "".join(
        [
            first.header,
            _TREE_SIZES,
            " ".join(sizes),
            "\n\n",
            *trees,
            _END_OF_TREES,
            *importances,
            _PARAMETERS,
            first.parameters,
        ]
    )


@dataclass(frozen=True)
class _TextParts:
    """The parts of a text model.

    Attributes:
        header: Up to the sizes of the trees.
        trees: The lines of each tree after its number.
        n_splits: Number of splits by feature.
        parameters: What follows the parameters' head.
    """

    header: str
    trees: list[str]
    n_splits: Counter[str]
    parameters: str

    @classmethod
    def of(cls, text: str) -> _TextParts:
        """Take a text model apart.

        Args:
            text: Accepted by ``read_model``, so every part is where it belongs.
        """
        header, _, after_header = text.partition(_TREE_SIZES)
        _, _, after_sizes = after_header.partition("\n\n")
        body, _, rest = after_sizes.partition(_END_OF_TREES)
        importances, _, parameters = rest.partition(_PARAMETERS)
        n_splits: Counter[str] = Counter()
        for line in importances.splitlines():
            name, _, n = line.rpartition("=")
            n_splits[name] = int(n)
        # The text before the first number of a tree is empty.
        _, *trees = _TREE.split(body)
        return cls(
            header,
            trees,
            n_splits,
            parameters,
        )


def _scaled(tree: str, factor: float) -> str:
    """Return the lines of a tree with scaled leaves.

    Args:
        tree: Its lines after the number.
        factor: By which each leaf's value is multiplied.
    """
    lines = tree.split("\n")
    for position, line in enumerate(lines):
        name, _, words = line.partition("=")
        if name == "leaf_value":
            # 17 digits keep every bit of a double, and are the form that LightGBM writes.
            values = [f"{float(word) * factor:.17g}" for word in words.split(" ")]
            joined = " ".join(values)
            lines[position] = f"{name}={joined}"
    return "\n".join(lines)
