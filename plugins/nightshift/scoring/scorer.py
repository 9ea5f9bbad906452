"""Apply a trained model to rows: batch by batch, signature first, every number finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.models.engines.engine import choose_engine
from nightshift.models.shapley.shap_values import Contributions
from nightshift.scoring.reasons import top_reasons

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.scoring_spec import EngineChoice
    from nightshift.models.trained_model import TrainedModel

    Vector = npt.NDArray[np.float64]

BATCH_ROWS = 65_536
"""Rows scored at once: bounds the memory, and more are not faster. Source:
docs/adr/0008-scoring.md.
"""
TOLERANCE = 1e-6
"""Allowed relative difference between a raw score and the sum of its contributions."""


class ChampionBrokenError(NightshiftError):
    """The champion cannot score: its files, its signature or its answers are wrong."""

    code = "NS-SCORE-002"


class Scorer:
    """A model with its engine and its way to reasons, both chosen once; then batches of Arrow in, batches of Arrow out.

    Args:
        model: The champion.
        n_reasons: Number of top reasons per row.
        engine: ``scoring.engine`` of the spec.
    """

    def __init__(self, model: TrainedModel, n_reasons: int, engine: EngineChoice = "auto") -> None:
        self._model, self._n_reasons = model, n_reasons
        self.engine = choose_engine(model, engine)
        self.contributions = Contributions(model) if n_reasons else None

    def stream(self, batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[pa.Table]:
        """Score batches in their order; holds one at a time, and splits those of more than ``BATCH_ROWS``.

        Raises:
            SignatureError: The rows do not fit the model's signature.
            ChampionBrokenError: A score is not finite.
        """
        for batch in batches:
            for start in range(0, max(batch.num_rows, 1), BATCH_ROWS):
                yield self.score(batch.slice(start, BATCH_ROWS))

    def score(self, rows: pa.RecordBatch | pa.Table) -> pa.Table:
        """Return ``score, probability, decile, is_positive, reasons`` for rows of the feature view.

        Args:
            rows: At least the model's columns, in any order; shape (n, any).

        Returns:
            Shape (n, 5), in the order of the rows; probability and is_positive are null unless the
                model is binary.

        Raises:
            SignatureError: The rows do not fit the model's signature.
            ChampionBrokenError: A score is not finite.
        """
        import pyarrow as pa

        model, table = (
            self._model,
            rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows]),
        )
        matrix = model.encode(table)
        predicted = model.from_raw(self.engine.raw(matrix))
        _refuse_unusable(predicted.score, predicted.probability)
        chance, n_rows = predicted.probability, table.num_rows
        added = self.contributions.of(matrix) if self.contributions else matrix
        return pa.table(
            {
                "score": pa.array(predicted.score),
                "probability": pa.nulls(n_rows, pa.float64())
                if chance is None
                else pa.array(chance),
                "decile": pa.array(model.deciles(predicted.score)),
                "is_positive": pa.nulls(n_rows, pa.bool_())
                if chance is None
                else pa.array(chance >= predicted.threshold),
                "reasons": top_reasons(added, model.signature.names, table, self._n_reasons),
            }
        )


def score_rows(
    model: TrainedModel, rows: pa.Table, n_reasons: int, engine: EngineChoice = "auto"
) -> pa.Table:
    """Score rows that are in memory; as ``Scorer``.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite.
    """
    import pyarrow as pa

    return pa.concat_tables(Scorer(model, n_reasons, engine).stream([rows]))


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


def try_model(
    model: TrainedModel, rows: pa.Table, n_reasons: int, engine: EngineChoice = "auto"
) -> None:
    """Let the model show on some rows of tonight that it works, before any shard relies on it.

    Args:
        model: The champion.
        rows: Rows of the feature view.
        n_reasons: Of the spec; without any, nobody asks for contributions, and their kernel is not
            even loaded.
        engine: ``scoring.engine`` of the spec.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite, or its contributions do not add up to it.
    """
    import numpy as np

    scorer = Scorer(model, n_reasons, engine)
    scorer.score(rows)
    if scorer.contributions is None:
        return
    matrix = model.encode(rows)
    base = scorer.engine.raw(matrix) - scorer.contributions.of(matrix).sum(axis=1)
    if rows.num_rows and not np.allclose(base, base[0], rtol=TOLERANCE, atol=TOLERANCE):
        raise ChampionBrokenError(
            "The champion's contributions do not add up to its scores.",
            todo="Roll the champion back.",
        )
