"""Prove, when a model is made, which accelerated engines give its predictions in every bit; the proof is stored with the version."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from nightshift.training.booster import predict_raw
from nightshift.training.lignum_trees import installed_version, raw_in_child
from nightshift.training.tree_text import UnsuitableTreesError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.training.trained_model import TrainedModel

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

Accelerated = Literal["quickscorer", "lignum"]
ACCELERATED: tuple[Accelerated, ...] = ("quickscorer", "lignum")
"""The faster one first."""


def prove_engines(model: TrainedModel, rows: pa.Table) -> dict[str, Any]:
    """Score the evaluation rows with every engine and say of each accelerated one whether every bit is LightGBM's.

    Whatever an accelerated engine does wrong is an answer, not an error: such a model is scored by another one.

    Args:
        model: The candidate.
        rows: Its hold-out, shape (n, any).

    Returns:
        ``n_rows``, ``raw_sha256`` of LightGBM's raw scores, and ``engines``: of each its ``version`` and ``objection`` (None when equal).
    """
    matrix = model.encode(rows)
    raw = predict_raw(model.booster, matrix)
    engines = {name: {"version": version_of(name), "objection": _compare(name, model.text, matrix, raw)} for name in ACCELERATED}
    return {"n_rows": len(raw), "raw_sha256": sha256(raw.tobytes()).hexdigest(), "engines": engines}


def version_of(engine: Accelerated) -> str | None:
    """Return the version of an engine as it is here, None where it is not installed."""
    if engine == "lignum":
        return installed_version()
    from nightshift.training.quickscorer import VERSION

    return VERSION


def _compare(engine: Accelerated, text: str, matrix: Matrix, expected: Vector) -> str | None:
    if not len(expected):
        return "there is no evaluation row"
    try:
        raw = raw_in_child(text, matrix) if engine == "lignum" else _quick_raw(text, matrix)
    except UnsuitableTreesError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (an accelerated engine must not stop a training)
        return f"it cannot score the model ({type(error).__name__})"
    if raw.tobytes() == expected.tobytes():
        return None
    return f"{int((raw != expected).sum()) if raw.shape == expected.shape else len(expected)} of {len(expected)} raw scores differ"


def _quick_raw(text: str, matrix: Matrix) -> Vector:
    from nightshift.training.quickscorer import QuickScorer

    return QuickScorer(text).raw(matrix)


def objection_to(engine: Accelerated, proof: dict[str, Any] | None) -> str | None:
    """Return why a stored proof does not allow an accelerated engine here and now, None if it does."""
    if proof is None:
        return "the version was registered without a proof"
    # Versions from before have the proof of one engine.
    engines = proof.get("engines") or {proof["engine"]: proof}
    if engine not in engines:
        return "the version was registered without its proof"
    version, objection = engines[engine]["version"], engines[engine]["objection"]
    if objection is not None:
        return f"it was not proved equal: {objection}"
    if version != version_of(engine):
        return f"it was proved with version {version}, installed is {version_of(engine) or 'none'}"
    return None
