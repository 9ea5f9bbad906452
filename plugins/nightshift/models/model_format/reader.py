"""Parse and check a text model before LightGBM sees it: a damaged file can end the process.

The parser knows the format that LightGBM 4 writes and accepts nothing else: each line once, in
its order, each number in its form. Source: LightGBM issues 7357, 7437 and 7438;
docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import re

from nightshift.models.model_format.tokens import (
    parse_fields,
    parse_integers,
    parse_numbers,
    refused,
)
from nightshift.models.model_format.trees import Tree, read_tree

MAX_TREES = 20_000
MAX_SCORE = 1e12
"""Largest absolute raw score that the leaves may add up to: beyond any log-odds or label of ours,
and far below infinity.
"""
_START = "tree\nversion=v4\n"
_AFTER_TREES = "end of trees\n\nfeature_importances:\n"
# Codes of levels come from the signature, so a model of ours has no raw category values.
_END = "\nend of parameters\n\npandas_categorical:null\n"
MAX_CLASSES = 100
_SCORES_PER_ROW = ("num_class", "num_tree_per_iteration")
_MONOTONE = "monotone_constraints"
_HEADER_LINES = [
    *_SCORES_PER_ROW,
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "tree_sizes",
]
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"
# A column that is constant in the training rows is written as none.
_FEATURE_INFO = re.compile(rf"none|\[{_NUMBER}:{_NUMBER}\]|-?\d+(?::-?\d+)*", re.ASCII)
_OBJECTIVES = [
    "binary",
    "cross_entropy",
    "regression",
    "regression_l1",
    "huber",
    "fair",
    "poisson",
    "quantile",
    "mape",
    "gamma",
    "tweedie",
    "lambdarank",
]
_OBJECTIVE = re.compile(
    rf"(?:{'|'.join(_OBJECTIVES)})(?: (?:sqrt|[a-z_]+:{_NUMBER}))*",
    re.ASCII,
)
_CLASSES_OBJECTIVE = "multiclass num_class:{}"
_PARAMETER = re.compile(r"\[[a-z_0-9]+: [\w.,+\-\[\] ]*\]", re.ASCII)


def read_model(
    text: str, names: list[str] | None = None, n_scores: int | None = None
) -> list[Tree]:
    """Return the trees of a text model, at least one; refuse it if its parts do not fit together.

    Args:
        text: A text model of LightGBM's version 4 format. One with several scores per row, of
            classes, has a tree of each class in each round.
        names: The feature names it must have, in order; None skips that check.
        n_scores: The raw scores per row that it must have; None skips that check.

    Raises:
        ModelTextError: The first thing that is wrong.
    """
    # tree_sizes counts bytes: in ASCII text they are characters.
    if not text.isascii() or not text.startswith(_START):
        raise refused(
            "it is not a text model of version 4",
            "plain ASCII that begins with tree, version=v4",
            repr(text[:20]),
        )
    content = text.removeprefix(_START)
    header_text, separator, rest = content.partition("\n\nTree=0\n")
    if not separator:
        raise refused(
            "it has no trees",
            "a header and Tree=0",
            f"{len(text)} characters",
        )
    header = _read_header(header_text.split("\n"))
    n_classes = _read_scores(header, n_scores)
    own_names = _read_names(header, names)
    # The length of each tree, from ``Tree=`` to the next.
    sizes = parse_integers(header["tree_sizes"], "tree_sizes")
    # A size below 1 would let the parser read backwards.
    if not 1 <= len(sizes) <= MAX_TREES or min(sizes) < 1:
        raise refused(
            "its trees have impossible sizes",
            f"1 to {MAX_TREES} trees",
            f"{len(sizes)} trees",
        )
    # A round that lacks a class would give its trees to other classes.
    if len(sizes) % n_classes:
        raise refused(
            "its last round is not complete",
            f"a multiple of {n_classes} trees",
            f"{len(sizes)} trees",
        )
    body = f"Tree=0\n{rest}"
    # The end first: a truncated file is refused before all its trees are parsed.
    end = body[sum(sizes) :]
    _check_after_trees(end, own_names)
    return _read_trees(body, sizes, len(own_names))


def _read_header(lines: list[str]) -> dict[str, str]:
    line_names = list(_HEADER_LINES)
    # LightGBM writes this line only for a model with such constraints.
    if any(line.startswith(_MONOTONE) for line in lines):
        line_names.insert(-2, _MONOTONE)
    header = parse_fields(lines, line_names, "its header")
    if header["label_index"] != "0":
        raise refused(
            "its label is another column",
            "label_index=0",
            header["label_index"],
        )
    return header


def _read_scores(header: dict[str, str], expected: int | None) -> int:
    """Return the number of raw scores per row after a check of the objective.

    Args:
        header: All header lines by name.
        expected: The number that it must be; None allows any that a model of ours can have.
    """
    counts = []
    for name in _SCORES_PER_ROW:
        [count] = parse_integers(header[name], name, 1)
        counts.append(count)
    # A round has one tree for each score, or LightGBM would add trees to the wrong one.
    n_scores, n_trees = counts
    is_possible = n_scores == n_trees and 1 <= n_scores <= MAX_CLASSES
    is_expected = expected in (None, n_scores)
    if not is_possible or not is_expected:
        allowed = expected or f"1 to {MAX_CLASSES}"
        raise refused(
            "it gives another number of scores per row",
            f"{allowed}, and as many trees a round",
            f"num_class={n_scores}, num_tree_per_iteration={n_trees}",
        )
    objective = header["objective"]
    if n_scores > 1:
        of_classes = _CLASSES_OBJECTIVE.format(n_scores)
        is_known = objective == of_classes
    else:
        is_known = _OBJECTIVE.fullmatch(objective) is not None
    if not is_known:
        known = ", ".join(_OBJECTIVES)
        raise refused(
            "it has an unknown objective",
            f"{known}, multiclass",
            objective,
        )
    return n_scores


def _read_names(header: dict[str, str], expected: list[str] | None) -> list[str]:
    """Return the feature names after a check of all header lines about features."""
    names = header["feature_names"].split(" ")
    if expected is not None and names != expected:
        raise refused(
            "its features are not those of the signature",
            " ".join(expected),
            " ".join(names),
        )
    n_features = len(names)
    infos = header["feature_infos"].split(" ")
    is_distinct = len(set(names)) == n_features and all(names)
    # By this index LightGBM reserves memory for each thread's row.
    has_index = header["max_feature_idx"] == str(n_features - 1)
    if not (is_distinct and has_index and len(infos) == n_features):
        raise refused(
            "its header counts other features than it names",
            f"{n_features} different features",
            f"{len(infos)} infos",
        )
    if not all(map(_FEATURE_INFO.fullmatch, infos)):
        raise refused(
            "its header describes features in an unknown form",
            "none, [minimum:maximum] or levels",
            header["feature_infos"],
        )
    if _MONOTONE in header:
        parse_integers(header[_MONOTONE], _MONOTONE, n_features)
    return names


def _read_trees(body: str, sizes: list[int], n_features: int) -> list[Tree]:
    trees = []
    start = 0
    largest_score = 0.0
    for number, size in enumerate(sizes):
        end = start + size
        tree = read_tree(number, body[start:end], n_features)
        trees.append(tree)
        largest_score += max(map(abs, tree.leaf_values))
        start = end
    if largest_score > MAX_SCORE:
        raise refused(
            "its leaves add up to an impossible score",
            f"at most {MAX_SCORE:g}",
            f"{largest_score:g}",
        )
    return trees


def _check_after_trees(text: str, names: list[str]) -> None:
    """Refuse anything after the trees but importances, parameters and the last line."""
    if not text.startswith(_AFTER_TREES) or not text.endswith(_END):
        raise refused(
            "its trees or its end are not where they must be",
            "end of trees, no raw category values",
            text[:20],
        )
    content = text.removeprefix(_AFTER_TREES).removesuffix(_END)
    importances, separator, parameters = content.partition("\nparameters:\n")
    if not separator:
        raise refused(
            "it has no parameters",
            "parameters:",
            "none",
        )
    _check_importances(importances, names)
    _check_parameters(parameters)


def _check_importances(text: str, names: list[str]) -> None:
    """Refuse importances of features that the model does not have, and anything but a number."""
    unseen = set(names)
    # An empty line ends the block.
    *lines, _ = text.split("\n")
    for line in lines:
        name, _, value = line.partition("=")
        # A feature without a split has no line, but none has two.
        if name not in unseen:
            raise refused(
                "it names importances of other features",
                ", ".join(names),
                name,
            )
        unseen.remove(name)
        parse_numbers(value, f"importance of {name}", 1)


def _check_parameters(text: str) -> None:
    """Refuse parameters in another form: LightGBM's reader of parameters trusts it too."""
    *lines, last = text.split("\n")
    names = {line.partition(":")[0] for line in lines}
    is_unique = len(names) == len(lines)
    is_written = all(map(_PARAMETER.fullmatch, lines))
    # The block ends with an empty line.
    if last or not is_unique or not is_written:
        raise refused(
            "its parameters are not written as LightGBM writes them",
            "[name: value], each once",
            "other lines",
        )
