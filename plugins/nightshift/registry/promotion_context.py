"""What the promotion gate reads: challenger, champion, and rows that neither has seen.

Everything is read once, when a check first needs it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nightshift.errors import NightshiftError
from nightshift.models.predictions import Predictions, labels_of, with_groups
from nightshift.registry.champions import (
    ChampionStatus,
    ModelVersion,
    load_model,
    try_champion,
)
from nightshift.registry.streams.paired_rows import stored_predictions
from nightshift.training.baselines import Baselines
from nightshift.training.splits import Split, rows_between, split_window
from nightshift.training.statistics.block_bootstrap import Days, Statistic, draw_days, statistic
from nightshift.training.statistics.confidence_intervals import (
    N_DRAWS,
    BoundedEstimate,
    estimate,
    gain_over,
)
from nightshift.training.training_set import TrainingSet, read_rows

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.streams.nights import StreamEvidence
    from nightshift.settings import Settings


class NoComparisonRowsError(NightshiftError):
    """There is no row on which a challenger can be evaluated."""

    code = "NS-REGISTRY-003"


@dataclass(frozen=True)
class PromotionContext:
    """A challenger, its champion and their rows.

    A property that cannot be read raises when a check needs it, and only that check is unknown.

    Attributes:
        settings: Warehouse and bucket.
        store: The bucket.
        spec: The model, with the limits.
        training_set: The challenger's.
        manifest: What the training set was built from, of ``ml.training_sets``.
        challenger: The version that wants to serve.
        champion: The version that serves; None for the first.
        evidence: What the challengers' stream has proved, and the partition that decides.
        stream_rows: Rows of stream nights, which are then compared instead of the hold-out's.
        n_draws: Number of draws of days.
    """

    settings: Settings
    store: ObjectStore
    spec: ModelSpec
    training_set: TrainingSet
    manifest: dict[str, Any]
    challenger: ModelVersion
    champion: ModelVersion | None
    evidence: StreamEvidence
    stream_rows: pa.Table | None = None
    n_draws: ClassVar[int] = N_DRAWS

    @cached_property
    def broadest(self) -> PromotionContext:
        """Return this promotion on the nights of the stream, once there are enough of them.

        Until then it is this promotion on the challenger's hold-out.
        """
        pairs = self.evidence.pairs
        if pairs is None or self.champion_model is None:
            return self
        stream = replace(self, stream_rows=pairs)
        # Models and rows that are read already are not read again.
        read = {
            "trained": self.trained,
            "_tried_champion": self._tried_champion,
            "all_rows": self.all_rows,
        }
        for name in ("served", "champion_served"):
            if name in vars(self):
                read[name] = getattr(self, name)
        vars(stream).update(read | {"broadest": stream})
        n_needed = self.spec.promotion.minimum_stream_days
        return stream if stream.days.n >= n_needed else self

    @property
    def is_stream(self) -> bool:
        """Return whether the compared rows are those of stream nights."""
        return self.stream_rows is not None

    @cached_property
    def served(self) -> TrainedModel:
        """Return the challenger's model that would serve, its files verified."""
        return load_model(self.store, self.challenger)

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's model that is evaluated: it never saw the hold-out."""
        if self.challenger.evaluated is None:
            return self.served
        return load_model(self.store, self.challenger.as_evaluated)

    @cached_property
    def champion_served(self) -> TrainedModel:
        """Return the champion's model that serves, whose scores the nights of a stream have."""
        assert self.champion is not None  # noqa: S101 - a stream is compared with a champion
        return load_model(self.store, self.champion)

    def model_of(self, source: str) -> TrainedModel:
        """Return the model whose predictions are compared: on a stream the one that served.

        Args:
            source: ``challenger`` or ``champion``; that one could be loaded.
        """
        if self.is_stream:
            return self.served if source == "challenger" else self.champion_served
        model = self.trained if source == "challenger" else self.champion_model
        assert model is not None  # noqa: S101 - the caller has asked
        return model

    @property
    def champion_model(self) -> TrainedModel | None:
        """Return the champion's evaluated model; None if nothing can be compared.

        ``champion_problem`` says why.
        """
        return self._tried_champion[0]

    @property
    def champion_problem(self) -> str:
        """Return why there is no champion to compare with, empty if there is one."""
        return self._tried_champion[1]

    @property
    def champion_status(self) -> ChampionStatus:
        """Return the champion's status; ``unreadable`` refuses every challenger."""
        return self._tried_champion[2]

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        """Load the champion and let it score a row; return model, problem and status.

        Raises:
            NightshiftError: An error that a retry may cure, such as a machine too busy to load a
                model: no decision without a comparison may rest on it.
        """
        if self.champion is None:
            return None, "there is no champion yet", "none"
        return try_champion(self.store, self.spec, self.champion, self.rows.slice(0, 1))

    @cached_property
    def split(self) -> Split:
        """Return how the challenger's window was split."""
        return split_window(self.training_set.window, self.spec.training)

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the challenger's complete training set, verified."""
        return read_rows(self.store, self.training_set)

    @cached_property
    def fit_rows(self) -> pa.Table:
        """Return the rows that the evaluated challenger was fitted, stopped and calibrated on."""
        fit_end = self.challenger.as_evaluated.fit_end
        return rows_between(self.all_rows, self.split.train.first.day, fit_end)

    @property
    def first_day(self) -> dt.date:
        """Return the first hold-out day that neither evaluated challenger nor champion has seen."""
        versions = [self.challenger, self.champion] if self.champion else [self.challenger]
        last_seen = max(version.as_evaluated.fit_end for version in versions)
        # The gap days may share labels and look-backs with the fit.
        gap = dt.timedelta(days=1 + self.spec.training.gap_days)
        return max(self.split.holdout.first.day, last_seen + gap)

    @cached_property
    def rows(self) -> pa.Table:
        """Return the rows of the comparison; possibly none."""
        if self.stream_rows is not None:
            return self.stream_rows
        return rows_between(self.all_rows, self.first_day, self.split.holdout.last.day)

    @property
    def n_rows(self) -> int:
        """Return the number of rows of the comparison; 0 where they cannot be read."""
        # The page of a refusal needs it too, also where the training set is damaged.
        try:
            return int(self.rows.num_rows)
        except NightshiftError:
            return 0

    @cached_property
    def label(self) -> npt.NDArray[np.float64]:
        """Return their labels, shape (n,).

        Raises:
            NoComparisonRowsError: There is no row.
        """
        if self.rows.num_rows == 0:
            raise NoComparisonRowsError(
                "No row is later than everything that champion and challenger were fitted on."
            )
        return labels_of(self.spec, self.rows)

    @cached_property
    def days(self) -> Days:
        """Return their days."""
        dates = self.rows.column("partition_date").to_numpy().astype("datetime64[D]")
        return Days.of(dates.astype(np.datetime64))

    @cached_property
    def draws(self) -> npt.NDArray[np.float64]:
        """Return how often each day is drawn, the same for every check; shape (draws, days)."""
        return draw_days(self.days.n, self.n_draws, self.seed)

    @property
    def seed(self) -> int:
        """Return the seed of the draws: the spec's."""
        return self.spec.training.seed % 2**32

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return the predictions of ``challenger``, and of ``champion`` where it can score."""
        if self.is_stream:
            return self._stored_predictions()
        predictions = {"challenger": self._predicted_by(self.trained)}
        # Both score the same rows, so that their errors are paired.
        if self.champion_model:
            predictions["champion"] = self._predicted_by(self.champion_model)
        return predictions

    def _predicted_by(self, model: TrainedModel) -> Predictions:
        return with_groups(self.spec, self.rows, model.predictions(self.rows))

    def _stored_predictions(self) -> dict[str, Predictions]:
        """Return what stream and champion said before the outcome was known."""
        return {
            source: stored_predictions(
                self.spec, self.rows, source, self.model_of(source).threshold
            )
            for source in ("challenger", "champion")
        }

    @cached_property
    def baselines(self) -> Baselines:
        """Return the baselines' predictions: ``prior``, ``rule``, ``linear``, ``tree``."""
        threshold = self.model_of("challenger").threshold
        return Baselines(self.spec, self.fit_rows, self.rows, threshold)

    @property
    def reference(self) -> str:
        """Return the source that slices and calibration are compared with: champion, else rule."""
        return "champion" if self.champion_model else "rule"

    @property
    def is_binary(self) -> bool:
        """Return whether labels are 0 or 1."""
        return self.spec.task == "binary"

    def of(self, source: str) -> Predictions:
        """Return the predictions of a model or a baseline for the rows of the comparison.

        Args:
            source: ``challenger``, ``champion``, ``prior``, ``rule``, ``linear`` or ``tree``.
        """
        is_model = source in ("challenger", "champion")
        return self.predictions[source] if is_model else self.baselines[source]

    def answered(self, source: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return outcome and prediction of a source, as ``Predictions.answered``; (n,) each."""
        return self.of(source).answered(self.label)

    def predicted(self, source: str) -> npt.NDArray[np.float64]:
        """Return the probability, or the value of a regression; shape (n,)."""
        return self.answered(source)[1]

    def gain(
        self,
        over: str,
        mask: npt.NDArray[np.bool_] | None = None,
        source: str = "challenger",
        metric: str | None = None,
    ) -> BoundedEstimate:
        """Estimate the gain of a source over another in a metric, blocked by day.

        Args:
            over: The source that is compared with.
            mask: Some of the rows, shape (n,); None for all.
            source: The source whose gain it is.
            metric: Name of the metric; None takes the primary one.

        Raises:
            NoEstimateError: There are too few days, or the rows do not define the metric.
        """
        # Both are drawn on the same days, so the noise of a day cancels.
        metric = metric or self.spec.promotion.metric
        first, second = self._metric(metric, source, mask), self._metric(metric, over, mask)
        return self.estimate(gain_over(metric, first, second))

    def estimate(self, value: Statistic) -> BoundedEstimate:
        """Estimate a statistic on the draws of this context, with the spec's confidence.

        Raises:
            NoEstimateError: There are too few days, or they do not define the statistic.
        """
        return estimate(value, self.draws, self.spec.promotion.confidence)

    def advantage(self, metric: str | None = None) -> float:
        """Return the gain of the champion over the prior, at least 0; it scales relative margins.

        Without a champion it is the gain of the challenger.

        Args:
            metric: Name of the metric; None takes the primary one.
        """
        source = "champion" if self.champion_model else "challenger"
        return max(0.0, self.gain("prior", source=source, metric=metric).value)

    def _metric(self, metric: str, source: str, mask: npt.NDArray[np.bool_] | None) -> Statistic:
        label, predictions, days = self.label, self.of(source), self.days
        if mask is not None:
            label, predictions, days = label[mask], predictions.at(mask), days.at(mask)
        return statistic(metric, label, predictions, days)
