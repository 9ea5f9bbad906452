"""Load and read a LightGBM model: scores, contributions, importance, digest.

With ``training.trees``, which fits, the only module that knows LightGBM.
"""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.kernels import thread_count
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import ModelTextError

if TYPE_CHECKING:
    import lightgbm as lgb

    from nightshift.models.arrays import Matrix

_PORTABLE_PARAMETERS = {
    "num_threads": "1",
    "local_listen_port": "12400",
    "machines": "",
}


def load_booster(text: str, names: list[str] | None = None) -> lgb.Booster:
    """Load a model from text after checks, since LightGBM ends the process on a bad one.

    Args:
        text: A text model.
        names: The feature names it must have, in order; None skips that check.

    Raises:
        ModelTextError: The text is truncated, inconsistent or of other features.
    """
    read_model(text, names)
    return load_checked(text)


def load_checked(text: str) -> lgb.Booster:
    """Load a text that ``read_model`` has accepted.

    Raises:
        ModelTextError: LightGBM refuses it nevertheless.
    """
    import lightgbm as lgb

    try:
        return lgb.Booster(model_str=text)
    # ValueError: the package reads the parameters as JSON, which the library does not check.
    except (lgb.basic.LightGBMError, ValueError) as error:
        raise ModelTextError(
            "LightGBM refuses the model file.",
            got=str(error),
            todo="Load another version, or train again.",
        ) from None


def library_path() -> Path:
    """Return LightGBM's shared library, for a process that loads it without the package."""
    spec = find_spec("lightgbm")  # imports nothing
    if spec is None or spec.origin is None:
        raise ModelTextError("LightGBM is not installed.", todo="Install the requirements again.")
    return Path(spec.origin).parent / "lib" / "lib_lightgbm.so"


def predict_raw(booster: lgb.Booster, matrix: Matrix, n_rounds: int = -1) -> Matrix:
    """Return raw scores (log-odds, or the label's unit), shape (n,), of a matrix of ``encode``.

    Those of classes have the shape (n, classes).

    Args:
        booster: The trees.
        matrix: Shape (n, k).
        n_rounds: Number of rounds that count, from the first; -1 for all. A round has one tree, or
            one of each class.
    """
    return _predict(booster, matrix, raw_score=True, num_iteration=n_rounds)


def contributions(booster: lgb.Booster, matrix: Matrix) -> Matrix:
    """Return what each feature adds to the raw score, and the base value; shape (n, k + 1).

    Those of classes stand one after the other: shape (n, classes * (k + 1)).

    About 300 times slower than ``predict_raw``. Source: Lundberg & Lee (2017), A unified approach
    to interpreting model predictions.
    """
    return _predict(booster, matrix, pred_contrib=True)


def leaf_numbers(booster: lgb.Booster, matrix: Matrix) -> Matrix:
    """Return the number of the leaf that each row reaches in each tree; shape (n, trees).

    A tree counts the rows of a leaf when it is grown, so the same rows give the same counts.
    """
    leaves = _predict(booster, matrix, pred_leaf=True)
    return leaves.reshape(matrix.shape[0], -1)


def _predict(booster: lgb.Booster, matrix: Matrix, **output: bool | int) -> Matrix:
    import numpy as np

    # The number of threads changes no bit: LightGBM adds the trees of each row in one thread.
    values = booster.predict(matrix, num_threads=thread_count(), **output)
    return np.asarray(values, dtype=np.float64)


def importance(booster: lgb.Booster) -> dict[str, float]:
    """Return the share of the total gain of each feature, 0 to 1, the largest first."""
    gains = booster.feature_importance("gain").tolist()
    # A model without a split has no gain at all.
    total = sum(gains) or 1.0
    shares = {}
    for name, gain in zip(booster.feature_name(), gains, strict=True):
        shares[name] = gain / total
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return dict(ranked)


def trees_digest(text: str) -> str:
    """Return the SHA-256, hex, of a text model without its ``parameters:`` block."""
    # Parameters hold threads and paths of the machine, which change no score.
    trees = re.sub(r"\nparameters:.*?end of parameters\n", "\n", text, flags=re.DOTALL)
    return sha256(trees.encode()).hexdigest()


def portable(text: str) -> str:
    """Return the text without the machine's threads, addresses and ports in its parameters."""
    for name, value in _PORTABLE_PARAMETERS.items():
        line = re.compile(rf"^\[{name}: [^\]\n]*\]$", re.MULTILINE)
        text = line.sub(f"[{name}: {value}]", text)
    return text
