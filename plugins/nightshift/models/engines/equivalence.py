"""Prove at training time that the accelerated engine gives LightGBM's scores in every bit.

The proof is stored with the version. Source: docs/adr/0022-engines.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.models.booster import predict_raw
from nightshift.models.model_format.trees import UnsuitableTreesError

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.arrays import Matrix
    from nightshift.models.trained_model import TrainedModel


ACCELERATED = "quickscorer"
"""The accelerated engine's name in specs, proofs and logs."""


def prove_engines(model: TrainedModel, rows: pa.Table) -> dict[str, Any]:
    """Score evaluation rows with both engines and record whether every bit is LightGBM's.

    A failure of the accelerated engine is recorded, not raised: LightGBM scores then.

    Args:
        model: The candidate.
        rows: Its hold-out, shape (n, any).

    Returns:
        ``n_rows``, ``raw_sha256`` of LightGBM's raw scores, and ``engines``: by name the
        ``version`` and ``objection`` (None when equal).
    """
    from nightshift.models.engines.quickscorer import VERSION

    matrix = model.encode(rows)
    raw = predict_raw(model.booster, matrix)
    proof = {
        "version": VERSION,
        "objection": _compare(model, matrix, raw),
    }
    return {
        "n_rows": len(raw),
        "raw_sha256": sha256(raw.tobytes()).hexdigest(),
        "engines": {ACCELERATED: proof},
    }


def _compare(model: TrainedModel, matrix: Matrix, expected: Matrix) -> str | None:
    """Return why the accelerated engine may not score a model; None if every bit is equal."""
    from nightshift.models.engines.quickscorer import QuickScorer

    if not len(expected):
        return "there is no evaluation row"
    try:
        raw = QuickScorer(model.trees, model.n_scores).raw(matrix)
    except UnsuitableTreesError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (an accelerated engine must not stop a training)
        return f"it cannot score the model ({type(error).__name__})"
    # Bytes: a comparison of values would take -0.0 for 0.0.
    if raw.tobytes() == expected.tobytes():
        return None
    n_different = len(expected)
    if raw.shape == expected.shape:
        n_different = int((raw != expected).sum())
    return f"{n_different} of {len(expected)} raw scores differ"


def objection_to_proof(proof: dict[str, Any] | None) -> str | None:
    """Return why a stored proof does not allow the accelerated engine; None if it does."""
    from nightshift.models.engines.quickscorer import VERSION

    if proof is None:
        return "the version was registered without a proof"
    # A version of before migration 0015 has the proof of an engine that is gone.
    engine = proof.get("engines", {}).get(ACCELERATED)
    if engine is None:
        return "the version was registered without its proof"
    if engine["objection"] is not None:
        return f"it was not proved equal: {engine['objection']}"
    # A fix of the engine may change its scores.
    if engine["version"] != VERSION:
        return f"it was proved with version {engine['version']}, installed is {VERSION}"
    return None
