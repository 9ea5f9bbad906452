"""Check a text model before LightGBM sees it: a truncated file or a wrong index ends the whole process there.

Source: LightGBM issues 7357 and 7437.
"""

from __future__ import annotations

from nightshift.errors import NightshiftError

_END_OF_TREES = "end of trees\n"
_HEADER = {"num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "feature_names", "feature_infos"}


class ModelTextError(NightshiftError):
    """A text model is truncated, inconsistent, or reads other features."""

    code = "NS-MODEL-003"


def check_model_text(text: str, names: list[str] | None = None) -> None:
    """Refuse a model whose parts do not fit together.

    Args:
        text: A text model of LightGBM's version 4 format.
        names: The feature names it must have, in order; None skips that check.

    Raises:
        ModelTextError: The first thing that is wrong.
    """
    header, trees = _header(text)
    own_names = header["feature_names"].split(" ")
    if names is not None and own_names != names:
        raise _refused("its features are not those of the signature", " ".join(names), " ".join(own_names))
    sizes = _integers(header.get("tree_sizes", ""), "tree_sizes")
    body = trees.encode()
    if not body[sum(sizes) :].startswith(_END_OF_TREES.encode()):
        raise _refused("its trees are not as long as its header says", f"{sum(sizes)} bytes", "another length")
    if not text.rstrip().endswith("pandas_categorical:null") and "pandas_categorical" in text:
        raise _refused("it carries raw category values", "pandas_categorical:null", "values")
    start = 0
    for number, size in enumerate(sizes):
        _check_tree(number, body[start : start + size].decode(), len(own_names))
        start += size


def _header(text: str) -> tuple[dict[str, str], str]:
    head, mark, rest = text.partition("\n\nTree=0\n")
    if not text.startswith("tree\nversion=v4\n") or not mark or "\nend of parameters" not in text:
        raise _refused("it is no complete text model", "a header, trees and parameters", f"{len(text)} characters")
    fields = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    if missing := sorted(_HEADER - fields.keys()):
        raise _refused("its header lacks lines", ", ".join(sorted(_HEADER)), f"no {', '.join(missing)}")
    return fields, f"Tree=0\n{rest}"


def _check_tree(number: int, text: str, n_features: int) -> None:
    """Refuse a tree in which some node or leaf is not reached exactly once."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    n_leaves = _integers(fields.get("num_leaves", ""), f"tree {number}")[0]
    if fields.get("Tree") != str(number) or n_leaves < 1 or len(fields.get("leaf_value", "").split()) != n_leaves:
        raise _refused(f"tree {number} has other leaves than it says", str(n_leaves), "another number")
    if n_leaves == 1:
        return
    children = [_integers(fields.get(side, ""), f"tree {number}") for side in ("left_child", "right_child")]
    features = _integers(fields.get("split_feature", ""), f"tree {number}")
    reached = sorted(children[0] + children[1])
    # Leaf i is written as -i - 1, the root is node 0 and nobody's child.
    if reached != [*range(-n_leaves, 0), *range(1, n_leaves - 1)] or not _go_down(children, n_leaves):
        raise _refused(f"tree {number} does not reach each node and leaf once", f"{n_leaves} leaves", "other children")
    if len(features) != n_leaves - 1 or not 0 <= min(features) <= max(features) < n_features:
        raise _refused(f"tree {number} splits on a feature that does not exist", f"0 to {n_features - 1}", str(max(features, default=-1)))


def _go_down(children: list[list[int]], n_leaves: int) -> bool:
    """Return whether all inner nodes hang on the root: with each reached once, anything else is a cycle."""
    if any(len(side) != n_leaves - 1 for side in children):
        return False
    waiting, n_seen = [0], 0
    while waiting and n_seen < n_leaves:
        node = waiting.pop()
        n_seen += 1
        waiting += [side[node] for side in children if side[node] >= 0]
    return n_seen == n_leaves - 1


def _integers(text: str, where: str) -> list[int]:
    try:
        return [int(part) for part in text.split()]
    except ValueError:
        raise _refused(f"{where} holds something else than numbers", "whole numbers", text[:40]) from None


def _refused(what: str, expected: str, got: str) -> ModelTextError:
    return ModelTextError(
        f"The model file is refused: {what}.", expected=expected, got=got, todo="Load another version, or train again; never edit the file."
    )
