"""A case before the gate: a challenger, the champion it would replace, and the rows that neither has seen. Everything is read once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from nightshift.contracts.metrics import METRICS, Metric, Task
from nightshift.errors import NightshiftError, ObjectStoreError
from nightshift.models.model_text import ModelTextError
from nightshift.models.signature import SignatureError, numbers
from nightshift.registry.model_versions import ModelVersion, load_model
from nightshift.training.baselines import Baselines
from nightshift.training.splits import Split, rows_between, split_window
from nightshift.training.statistics.block_bootstrap import Days, Statistic, draw_days, statistic
from nightshift.training.statistics.confidence_intervals import (
    N_DRAWS,
    Estimate,
    difference,
    estimate,
)
from nightshift.training.training_set import TrainingSet, read_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.object_store import ObjectStore
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

ChampionStatus = Literal["none", "compared", "outdated", "unreadable"]
"""``none``: the model never had one. ``outdated``: it reads columns that the spec has no more,
so nobody can be compared with it. ``unreadable``: its files are missing or damaged.
"""


class NoComparisonRowsError(NightshiftError):
    """There is no row on which a challenger can be judged."""

    code = "NS-REGISTRY-003"


@dataclass(frozen=True)
class PromotionContext:
    """What is judged.

    Attributes:
        settings: Warehouse and bucket.
        store: The bucket.
        spec: The model, with the limits.
        training_set: The challenger's.
        manifest: What the training set was built from, of ``ml.training_sets``.
        challenger: The version that wants to serve.
        champion: The version that serves; None for the first.
    """

    settings: Settings
    store: ObjectStore
    spec: ModelSpec
    training_set: TrainingSet
    manifest: dict[str, Any]
    challenger: ModelVersion
    champion: ModelVersion | None

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's model, its files verified."""
        return load_model(self.store, self.challenger)

    @cached_property
    def champion_model(self) -> TrainedModel | None:
        """Return the champion's model; None without a champion, or with one that cannot be compared with (``champion_problem``)."""
        return self._tried_champion[0]

    @property
    def champion_problem(self) -> str:
        """Return why there is no champion to compare with, empty if there is one."""
        return self._tried_champion[1]

    @property
    def champion_status(self) -> ChampionStatus:
        """Return what became of the champion; only an unreadable one keeps every challenger out."""
        return self._tried_champion[2]

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        """Load the champion and let it score a row.

        Raises:
            NightshiftError: Something that a later try may have back, such as a machine too busy to
                load a model: a decision without a comparison must not stand on it.
        """
        if self.champion is None:
            return None, "there is no champion yet", "none"
        version = self.champion.version
        try:
            model = load_model(self.store, self.champion)
        except (ObjectStoreError, ModelTextError) as error:
            if error.is_retryable:
                raise
            return None, f"champion version {version} cannot be loaded ({error.code})", "unreadable"
        if left := sorted({*model.signature.names} - {*self.spec.features.names}):
            return (
                None,
                f"champion version {version} reads {', '.join(left)}, which the spec has no more",
                "outdated",
            )
        try:
            model.predictions(self.rows.slice(0, 1))
        except SignatureError as error:
            return None, f"champion version {version} cannot score ({error.code})", "unreadable"
        return model, "", "compared"

    @cached_property
    def split(self) -> Split:
        """Return how the challenger's window was split."""
        return split_window(self.training_set.window, self.spec.training)

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the challenger's whole training set, verified."""
        return read_rows(self.store, self.training_set)

    @cached_property
    def fit_rows(self) -> pa.Table:
        """Return the rows that the challenger was fitted, stopped and calibrated on."""
        return rows_between(self.all_rows, self.split.train.first.day, self.challenger.fit_end)

    @property
    def first_day(self) -> dt.date:
        """Return the first day that is later, by the gap, than everything that challenger and champion have seen."""
        seen = max([self.challenger.fit_end, *([self.champion.fit_end] if self.champion else [])])
        return max(
            self.split.holdout.first.day, seen + dt.timedelta(days=1 + self.spec.training.gap_days)
        )

    @cached_property
    def rows(self) -> pa.Table:
        """Return the rows of the comparison; possibly none."""
        return rows_between(self.all_rows, self.first_day, self.split.holdout.last.day)

    @property
    def n_rows(self) -> int:
        """Return the number of rows of the comparison; 0 where they cannot be read."""
        try:
            return int(self.rows.num_rows)
        except NightshiftError:
            return 0

    @cached_property
    def label(self) -> Vector:
        """Return their labels, shape (n,).

        Raises:
            NoEvidenceError: There is no row.
        """
        if self.rows.num_rows == 0:
            raise NoComparisonRowsError(
                "No row is later than everything that champion and challenger were fitted on."
            )
        return numbers(self.rows, self.spec.label.column)

    @cached_property
    def days(self) -> Days:
        """Return their days."""
        import numpy as np

        return Days.of(
            self.rows.column("partition_date")
            .to_numpy()
            .astype("datetime64[D]")
            .astype(np.datetime64)
        )

    @cached_property
    def draws(self) -> Matrix:
        """Return how often each day is drawn, the same for every criterion; shape (draws, days)."""
        return draw_days(self.days.n, N_DRAWS, self.seed)

    @property
    def seed(self) -> int:
        """Return the seed of the draws: the spec's."""
        return self.spec.training.seed % 2**32

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return the models' predictions: ``challenger``, and ``champion`` where it can score."""
        models = {
            "challenger": self.trained,
            **({"champion": self.champion_model} if self.champion_model else {}),
        }
        return {name: model.predictions(self.rows) for name, model in models.items()}

    @cached_property
    def baselines(self) -> Baselines:
        """Return the baselines' predictions: ``prior``, ``rule``, ``linear``, ``tree``."""
        return Baselines(self.spec, self.fit_rows, self.rows, self.trained.threshold)

    @property
    def reference(self) -> str:
        """Return whom slices and calibration are compared with: the champion, else the rule."""
        return "champion" if self.champion_model else "rule"

    @property
    def metric(self) -> Metric:
        """Return the primary metric."""
        return METRICS[self.spec.promotion.metric]

    @property
    def is_binary(self) -> bool:
        """Return whether labels are 0 or 1."""
        return self.spec.task == Task.BINARY

    def of(self, source: str) -> Predictions:
        """Return the predictions of a model or a baseline."""
        return (
            self.predictions[source]
            if source in ("challenger", "champion")
            else self.baselines[source]
        )

    def predicted(self, source: str) -> Vector:
        """Return what is compared with the outcome: the probability, or the value; shape (n,)."""
        predictions = self.of(source)
        return predictions.score if predictions.probability is None else predictions.probability

    def primary(self, source: str, mask: Mask | None = None) -> Statistic:
        """Return the primary metric of a source, over all rows or some."""
        if mask is None:
            return statistic(self.spec.promotion.metric, self.label, self.of(source), self.days)
        return statistic(
            self.spec.promotion.metric,
            self.label[mask],
            self.of(source).at(mask),
            self.days.at(mask),
        )

    def gain(self, over: str, mask: Mask | None = None, source: str = "challenger") -> Estimate:
        """Estimate by how much a source is better than another, paired and blocked by day, in the metric's unit."""
        sign = 1.0 if self.metric.better == "higher" else -1.0
        return self.estimate(difference(self.primary(source, mask), self.primary(over, mask), sign))

    def estimate(self, value: Statistic) -> Estimate:
        """Estimate a statistic on the draws of this case."""
        return estimate(value, self.draws, self.spec.promotion.confidence)

    @cached_property
    def advantage(self) -> float:
        """Return what the champion (without one: the challenger) gains on the prior, at least 0: the scale of relative margins."""
        return max(
            0.0,
            self.gain("prior", source="champion" if self.champion_model else "challenger").value,
        )
