"""Apply a trained model to feature rows: check the signature, predict, explain, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.tasks.classes import CLASS_COLUMN, RAW_COLUMN, class_columns
from nightshift.errors import NightshiftError, stack_of
from nightshift.models.class_scores import of_rows
from nightshift.models.engines.engine import choose_engine
from nightshift.models.shapley.shap_values import Contributions
from nightshift.scoring.interval.night_interval import interval_columns
from nightshift.scoring.reasons import sums_by_cause, top_reasons

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.scoring_spec import Cause, EngineChoice
    from nightshift.models.arrays import Integers, Matrix
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.scoring.interval.night_interval import NightInterval

    Vector = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

BATCH_ROWS = 65_536
"""Rows that are scored at once: bounds the memory, and more are not faster.

Source: docs/adr/0008-scoring.md.
"""
TOLERANCE = 1e-6
"""Allowed relative difference between a raw score and the sum of its contributions."""


class ChampionBrokenError(NightshiftError):
    """The champion cannot score: its files, its signature or its scores are wrong."""

    code = "NS-SCORE-002"


class Scorer:
    """Scores batches of Arrow rows with one model.

    The engine and the method of the reasons are chosen once.

    Args:
        model: The model.
        n_reasons: Number of top reasons per row; without any, contributions are not loaded.
        engine: ``scoring.engine`` of the spec.
        causes: ``analytics.causes`` of the spec.
    """

    def __init__(
        self,
        model: TrainedModel,
        n_reasons: int,
        engine: EngineChoice = "auto",
        causes: Sequence[Cause] = (),
    ) -> None:
        self._model, self._n_reasons, self._causes = model, n_reasons, causes
        self.engine = choose_engine(model, engine)
        self.contributions = Contributions(model) if n_reasons or causes else None

    @property
    def feature_names(self) -> list[str]:
        """Return the columns that the model reads, in its order."""
        return self._model.signature.names

    def raw(self, rows: pa.Table) -> Matrix:
        """Return the raw scores of rows by the engine that also scores: (n,), or (n, classes).

        Raises:
            SignatureError: The rows do not fit the model's signature.
        """
        return self.engine.raw(self._model.encode(rows))

    def score(self, rows: pa.RecordBatch | pa.Table, shift: Vector | float = 0.0) -> pa.Table:
        """Return ``score, probability, decile, is_positive, reasons`` for rows of the feature view.

        Args:
            rows: At least the model's columns, in any order; shape (n, any).
            shift: The level of their night, of all rows or of each; shape (n,). It is part of the
                base that contributions add up from, so no reason holds any of it.

        Returns:
            Shape (n, 5), in the order of the rows; probability is null for a regression, and
                is_positive unless the model is binary. With causes a column ``causes``; null where
                they fail. Of classes also the predicted one, its raw score, and the probability of
                each; reasons and causes then add up to that raw score.

        Raises:
            SignatureError: The rows do not fit the model's signature.
            ChampionBrokenError: A score is not finite.
        """
        import pyarrow as pa

        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        matrix = self._model.encode(table)
        raw = self.engine.raw(matrix)
        predicted = self._model.from_raw(raw, shift)
        _refuse_unusable(predicted.score, predicted.probability)
        probability = pa.nulls(table.num_rows, pa.float64())
        is_positive = pa.nulls(table.num_rows, pa.bool_())
        if predicted.probability is not None:
            probability = pa.array(predicted.probability)
            if predicted.classes is None:
                is_positive = pa.array(predicted.probability >= predicted.threshold)
        which = None if predicted.classes is None else predicted.predicted_class
        # The edges are those of scores without a level, so a decile keeps its meaning.
        is_moved = predicted.probability is None
        deciles = self._model.deciles(raw if is_moved else predicted.score)
        # Without reasons nothing is explained, and any matrix will do.
        added = self.contributions.of(matrix, which) if self.contributions else matrix
        names = self._model.signature.names
        reasons = top_reasons(
            added,
            names,
            table,
            self._n_reasons,
        )
        columns = {
            "score": pa.array(predicted.score),
            "probability": probability,
            "decile": pa.array(deciles),
            "is_positive": is_positive,
            "reasons": reasons,
        }
        if which is not None:
            columns |= self._class_columns(raw, predicted, which)
        if self._causes:
            columns["causes"] = self._sums_by_cause(added)
        return pa.table(columns)

    def _class_columns(
        self, raw: Matrix, predicted: Predictions, which: Integers
    ) -> dict[str, pa.Array]:
        """Return the columns that only predictions of classes have."""
        import pyarrow as pa

        assert predicted.classes is not None  # noqa: S101 - the caller has asked
        names = pa.array(self._model.classes, pa.string())
        probabilities = zip(
            class_columns(self._model.classes).values(), predicted.classes.T, strict=True
        )
        return {
            CLASS_COLUMN: names.take(pa.array(which)),
            RAW_COLUMN: pa.array(of_rows(raw, which)),
            **{name: pa.array(of_class) for name, of_class in probabilities},
        }

    def _sums_by_cause(self, contributions: Matrix) -> pa.Array:
        import numpy as np
        import pyarrow as pa

        # An explanation is no reason to publish an older model's scores, or none.
        try:
            if np.isfinite(contributions).all():
                return sums_by_cause(
                    contributions,
                    self._model.signature.names,
                    self._causes,
                )
            logger.warning("Some contributions are not finite: these rows have no causes.")
        except Exception as error:  # noqa: BLE001
            logger.warning("These rows have no causes:\n%s", stack_of(error))
        return pa.nulls(len(contributions), pa.string())


def score_rows(
    model: TrainedModel,
    rows: pa.Table,
    n_reasons: int,
    engine: EngineChoice = "auto",
    shift: Vector | None = None,
    intervals: Sequence[NightInterval | None] | None = None,
) -> pa.Table:
    """Score rows that are in memory, ``BATCH_ROWS`` at a time; as ``Scorer.score``.

    Args:
        model: The model.
        rows: Shape (n, any).
        n_reasons: As for ``Scorer``.
        engine: As for ``Scorer``.
        shift: The level of each row's night, shape (n,); None adds nothing.
        intervals: The interval of each row's night, for its columns; None adds none.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite.
    """
    import numpy as np
    import pyarrow as pa

    scorer = Scorer(model, n_reasons, engine)
    # No rows make one empty batch, which gives the columns their types.
    parts = []
    for start in range(
        0,
        max(rows.num_rows, 1),
        BATCH_ROWS,
    ):
        of_batch = 0.0 if shift is None else shift[start : start + BATCH_ROWS]
        parts.append(scorer.score(rows.slice(start, BATCH_ROWS), of_batch))
    scored = pa.concat_tables(parts)
    if intervals is not None:
        columns = interval_columns(
            intervals,
            np.arange(rows.num_rows),
            scored,
        )
        for name, column in columns.items():
            scored = scored.append_column(name, column)
    return scored


def _refuse_unusable(score: Vector, probability: Vector | None) -> None:
    import numpy as np

    is_unusable = ~np.isfinite(score)
    n_unusable = int(is_unusable.sum())
    if probability is not None:
        # Written so that NaN counts as outside.
        is_inside = (probability >= 0) & (probability <= 1)
        n_unusable += int((~is_inside).sum())
    if n_unusable:
        raise ChampionBrokenError(
            f"The champion gave {n_unusable} unusable score(s).",
            expected="finite scores, probabilities from 0 to 1",
            todo="Roll the champion back.",
        )


def try_model(
    model: TrainedModel,
    rows: pa.Table,
    n_reasons: int,
    engine: EngineChoice = "auto",
    causes: Sequence[Cause] = (),
) -> None:
    """Score a sample of rows to prove that the model works, before a shard relies on it.

    Raises:
        SignatureError: The rows do not fit the model's signature.
        ChampionBrokenError: A score is not finite, or its contributions do not add up to it.
    """
    import numpy as np

    scorer = Scorer(model, n_reasons, engine, causes)
    scorer.score(rows)
    if scorer.contributions is None:
        return
    # Raw score minus contributions is the model's base value: the same for every row.
    matrix = model.encode(rows)
    raw, which = scorer.engine.raw(matrix), None
    first = np.zeros(len(raw), np.int64)
    if model.classes:
        # Each class has a base of its own: that of its first row.
        which = model.from_raw(raw).predicted_class
        raw = of_rows(raw, which)
        _, rows_of_classes, of_row = np.unique(which, return_index=True, return_inverse=True)
        first = rows_of_classes[of_row]
    base = raw - scorer.contributions.of(matrix, which).sum(axis=1)
    if rows.num_rows and not np.allclose(
        base,
        base[first],
        rtol=TOLERANCE,
        atol=TOLERANCE,
    ):
        raise ChampionBrokenError(
            "The champion's contributions do not add up to its scores.",
            todo="Roll the champion back.",
        )
