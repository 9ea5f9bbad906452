"""Apply a trained model to rows: batch by batch, signature first, every number finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.scoring.contributions import TreeContributions
from nightshift.scoring.reasons import top_reasons

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.training.trained_model import TrainedModel

    Vector = npt.NDArray[np.float64]

BATCH_ROWS = 65_536
"""Rows scored at once: bounds the memory, and more are not faster. Source: docs/adr/0008-scoring.md."""
TOLERANCE = 1e-6
"""Allowed relative difference between a raw score and the sum of its contributions."""


class ChampionBrokenError(NightshiftError):
    """The champion cannot score: its files, its signature or its answers are wrong."""

    code = "NS-SCORE-002"


def score_rows(model: TrainedModel, rows: pa.Table, n_reasons: int) -> pa.Table:
    """Return ``score, probability, decile, is_positive, reasons`` for rows of the feature view.

    Args:
        model: The champion.
        rows: At least the model's columns, in any order; shape (n, any).
        n_reasons: Number of top reasons per row.

    Returns:
        Shape (n, 5), in the order of the rows; probability and is_positive are null unless the model is binary.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite.
    """
    import pyarrow as pa

    contributions = TreeContributions(model) if n_reasons else None
    batches = [rows.slice(start, BATCH_ROWS) for start in range(0, max(rows.num_rows, 1), BATCH_ROWS)]
    return pa.concat_tables([_score_batch(model, contributions, batch, n_reasons) for batch in batches])


def _score_batch(model: TrainedModel, contributions: TreeContributions | None, rows: pa.Table, n_reasons: int) -> pa.Table:
    import pyarrow as pa

    predicted = model.predictions(rows)
    _refuse_unusable(predicted.score, predicted.probability)
    probability = pa.nulls(rows.num_rows, pa.float64()) if predicted.probability is None else pa.array(predicted.probability)
    is_positive = (
        pa.nulls(rows.num_rows, pa.bool_()) if predicted.probability is None else pa.array(predicted.probability >= predicted.threshold)
    )
    reasons = top_reasons(contributions.of(rows), model.signature.names, rows, n_reasons) if contributions else ["[]"] * rows.num_rows
    return pa.table(
        {
            "score": pa.array(predicted.score),
            "probability": probability,
            "decile": pa.array(model.deciles(predicted.score)),
            "is_positive": is_positive,
            "reasons": pa.array(reasons, pa.string()),
        }
    )


def _refuse_unusable(score: Vector, probability: Vector | None) -> None:
    import numpy as np

    n_bad = int((~np.isfinite(score)).sum())
    if probability is not None:
        n_bad += int((~((probability >= 0) & (probability <= 1))).sum())
    if n_bad:
        raise ChampionBrokenError(
            f"The champion gave {n_bad} unusable score(s).",
            expected="finite scores, probabilities from 0 to 1",
            todo="Roll the champion back.",
        )


def try_model(model: TrainedModel, rows: pa.Table) -> None:
    """Let the model show on some rows of tonight that it works, before any shard relies on it.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite, or its contributions do not add up to it.
    """
    import numpy as np

    score_rows(model, rows, n_reasons=1)
    raw, added = model.raw(rows), TreeContributions(model).of(rows).sum(axis=1)
    base = raw - added
    if rows.num_rows and not np.allclose(base, base[0], rtol=TOLERANCE, atol=TOLERANCE):
        raise ChampionBrokenError("The champion's contributions do not add up to its scores.", todo="Roll the champion back.")
