"""Prove, when a model is made, that the accelerated engine gives its predictions in every bit; the proof is stored with the version."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.training.booster import predict_raw
from nightshift.training.lignum_trees import installed_version, raw_in_child

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.training.trained_model import TrainedModel


def prove_engine(model: TrainedModel, rows: pa.Table) -> dict[str, Any]:
    """Score the evaluation rows with both engines and say whether every bit is the same.

    Whatever the accelerated engine does wrong is an answer, not an error: such a model is scored by the reference.

    Args:
        model: The candidate.
        rows: Its hold-out, shape (n, any).

    Returns:
        ``engine``, its ``version``, ``n_rows``, ``is_equal``, ``objection`` (None when equal), ``raw_sha256`` of LightGBM's raw scores.
    """
    matrix = model.encode(rows)
    raw = predict_raw(model.booster, matrix)
    objection = None
    try:
        other = raw_in_child(model.text, matrix)
        if other.tobytes() != raw.tobytes():
            objection = f"{int((other != raw).sum()) if other.shape == raw.shape else len(raw)} of {len(raw)} raw scores differ"
    except Exception as error:  # noqa: BLE001  (an optional engine must not stop a training)
        objection = f"it cannot score the model ({type(error).__name__})"
    if not len(raw):
        objection = "there is no evaluation row"
    return {
        "engine": "lignum",
        "version": installed_version(),
        "n_rows": len(raw),
        "is_equal": objection is None,
        "objection": objection,
        "raw_sha256": sha256(raw.tobytes()).hexdigest(),
    }


def objection_to(proof: dict[str, Any] | None) -> str | None:
    """Return why a stored proof does not allow the accelerated engine here and now, None if it does."""
    if proof is None:
        return "the version was registered without a proof"
    if proof["is_equal"] is not True:
        return f"it was not proved equal: {proof['objection']}"
    if proof["version"] != installed_version():
        return f"it was proved with version {proof['version']}, installed is {installed_version() or 'none'}"
    return None
