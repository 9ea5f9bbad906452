"""Check a text model before LightGBM sees it: a truncated file or a wrong index ends the whole process there.

The check knows the format that LightGBM 4 writes and takes nothing else: each line once, in its
order, each number of its kind. Source: LightGBM issues 7357, 7437 and 7438;
docs/adr/0016-loading-a-model.md.
"""

from __future__ import annotations

import re

from nightshift.models.model_format.tokens import (
    ModelTextError,
    fields_of,
    integers,
    numbers,
    refused,
)
from nightshift.models.model_format.trees import Tree, read_tree

__all__ = ["ModelTextError", "check_model_text"]

MAX_TREES = 20_000
MAX_SCORE = 1e12
"""Largest raw score that the leaves may add up to; more is no log-odds and no label of ours, and
far more is infinite.
"""
_START = "tree\nversion=v4\n"
_END_OF_TREES = "end of trees\n\nfeature_importances:\n"
_HEADER = [
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
]
_MONOTONE = "monotone_constraints"
_END = "\nend of parameters\n\npandas_categorical:null\n"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"
_INFO = re.compile(rf"none|\[{_NUMBER}:{_NUMBER}\]|-?\d+(?::-?\d+)*", re.ASCII)
_OBJECTIVES = (
    "binary|cross_entropy|regression|regression_l1|huber|fair|poisson|quantile|mape|gamma|tweedie"
)
_OBJECTIVE = re.compile(rf"(?:{_OBJECTIVES})(?: (?:sqrt|[a-z_]+:{_NUMBER}))*", re.ASCII)
_PARAMETER = re.compile(r"\[[a-z_0-9]+: [\w.,+\-\[\] ]*\]", re.ASCII)


def read_model(text: str, names: list[str] | None = None) -> list[Tree]:
    """Refuse a model whose parts do not fit together.

    Args:
        text: A text model of LightGBM's version 4 format, one raw score a row.
        names: The feature names it must have, in order; None skips that check.

    Returns:
        Its trees, at least one.

    Raises:
        ModelTextError: The first thing that is wrong.
    """
    if not text.isascii() or not text.startswith(_START):
        raise refused(
            "it is no text model of version 4",
            "plain ASCII that begins with tree, version=v4",
            repr(text[:20]),
        )
    head, mark, rest = text[len(_START) :].partition("\n\nTree=0\n")
    if not mark:
        raise refused("it has no trees", "a header and Tree=0", f"{len(text)} characters")
    header = _header(head.split("\n"))
    own_names = _check_features(header, names)
    sizes = integers(header["tree_sizes"], "tree_sizes")
    if not 1 <= len(sizes) <= MAX_TREES or min(sizes) < 1:
        raise refused(
            "its trees have impossible sizes", f"1 to {MAX_TREES} trees", f"{len(sizes)} trees"
        )
    body = f"Tree=0\n{rest}"
    _check_behind_trees(body[sum(sizes) :], own_names)
    return _read_trees(body, sizes, len(own_names))


def _header(lines: list[str]) -> dict[str, str]:
    monotone = [_MONOTONE] if any(line.startswith(_MONOTONE) for line in lines) else []
    header = fields_of(lines, [*_HEADER, *monotone, "feature_infos", "tree_sizes"], "its header")
    if (header["num_class"], header["num_tree_per_iteration"], header["label_index"]) != (
        "1",
        "1",
        "0",
    ):
        raise refused(
            "it gives more than one score a row",
            "num_class=1, num_tree_per_iteration=1, label_index=0",
            "others",
        )
    if not _OBJECTIVE.fullmatch(header["objective"]):
        raise refused(
            "it has an unknown objective", _OBJECTIVES.replace("|", ", "), header["objective"]
        )
    return header


def _check_features(header: dict[str, str], names: list[str] | None) -> list[str]:
    own = header["feature_names"].split(" ")
    if names is not None and own != names:
        raise refused("its features are not those of the signature", " ".join(names), " ".join(own))
    infos = header["feature_infos"].split(" ")
    if (
        header["max_feature_idx"] != str(len(own) - 1)
        or len(infos) != len(own)
        or len({*own}) != len(own)
        or not all(own)
    ):
        raise refused(
            "its header counts other features than it names",
            f"{len(own)} different ones",
            f"{len(infos)} infos",
        )
    if not all(map(_INFO.fullmatch, infos)):
        raise refused(
            "its header describes features in an unknown way",
            "none, [least:most] or levels",
            header["feature_infos"],
        )
    if _MONOTONE in header:
        integers(header[_MONOTONE], _MONOTONE, len(own))
    return own


def _read_trees(body: str, sizes: list[int], n_features: int) -> list[Tree]:
    trees, start = [], 0
    for number, size in enumerate(sizes):
        trees.append(read_tree(number, body[start : start + size], n_features))
        start += size
    largest = sum(max(map(abs, tree.leaf_values)) for tree in trees)
    if largest > MAX_SCORE:
        raise refused(
            "its leaves add up to an impossible score", f"at most {MAX_SCORE:g}", f"{largest:g}"
        )
    return trees


def _check_behind_trees(text: str, names: list[str]) -> None:
    """Refuse anything but importances, parameters and the last line; LightGBM's reader of parameters trusts their form too."""
    if not text.startswith(_END_OF_TREES) or not text.endswith(_END):
        raise refused(
            "its trees or its end are not where they must be",
            "end of trees, no raw category values",
            text[:20],
        )
    importances, mark, parameters = text[len(_END_OF_TREES) : -len(_END)].partition(
        "\nparameters:\n"
    )
    if not mark:
        raise refused("it has no parameters", "parameters:", "none")
    listed = [line.partition("=") for line in importances.split("\n")[:-1]]
    if len({name for name, _, _ in listed} & {*names}) != len(listed):
        raise refused(
            "it names importances of other features",
            ", ".join(names),
            ", ".join(name for name, _, _ in listed),
        )
    for name, _, value in listed:
        numbers(value, f"importance of {name}", 1)
    lines = parameters.split("\n")
    names_there = {line.partition(":")[0] for line in lines[:-1]}
    if (
        len(names_there) != len(lines) - 1
        or lines[-1]
        or not all(map(_PARAMETER.fullmatch, lines[:-1]))
    ):
        raise refused(
            "its parameters are not written as LightGBM does",
            "[name: value], each once",
            "other lines",
        )
