"""What groups of features, days, rows and columns are worth: fits without them, by draws of days.

Every fit is judged on the newest days, which no fit has seen. The budget is in seconds: what does
not fit in is named and left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.nightly_models import without_slices
from nightshift.contracts.model_spec import Features
from nightshift.models.predictions import with_groups
from nightshift.scoring.reasons import columns_by_cause
from nightshift.studies.findings import Finding, FindingType
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.statistics.confidence_intervals import NoEstimateError

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.comparison import Statistics
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange

JUDGED_DAYS = 28
SHARES_OF_DAYS = (0.25, 0.5)
SHARES_OF_ROWS = (0.25, 0.5)
SHARES_OF_FEATURES = (0.15, 0.5)


@dataclass
class BenefitStudy:
    """Fits of one model on the same days, judged on the same later days.

    Attributes:
        spec: The recipe.
        rows: Labelled rows of the window.
        window: Feature partitions.
        budget_seconds: No fit is begun after so many; a fit that runs is ended by nobody.
        left_out: Fits that were not begun.
    """

    spec: ModelSpec
    rows: pa.Table
    window: PartitionRange
    budget_seconds: float
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Split the window: the newest days judge."""
        n_judged = min(JUDGED_DAYS, max(len(self.window) // 4, 1))
        training = self.spec.training.model_copy(update={"holdout_days": n_judged})
        self.spec = without_slices(self.spec.model_copy(update={"training": training}))
        self._split = split_window(self.window, training)
        self._judged = rows_of(self.rows, self._split.holdout)
        self._comparison = Comparison.of(self.spec, self._judged)
        self._ends_at = time.monotonic() + self.budget_seconds

    @property
    def loss(self) -> str:
        """Return the metric: the proper loss of a probability, or the declared one."""
        return "log_loss" if self.spec.task.has_probability else self.spec.promotion.metric

    def findings(self, importance: Mapping[str, float]) -> Iterator[Finding]:
        """Yield benefits of causes, then learning curves, until the budget is used up.

        Args:
            importance: Of each feature: the most important ones make the curve of features.
        """
        train = rows_of(self.rows, self._split.train)
        validation = rows_of(self.rows, self._split.validation)
        # The complete is fitted even without a budget: it judges every smaller fit.
        complete = self._statistics(self.spec, train, validation)
        for name, finding, fit in self._smaller_fits(train, validation, importance):
            if time.monotonic() > self._ends_at:
                self.left_out.append(f"{finding} {name}")
                continue
            yield self._compare(finding, name, complete, fit())

    def _smaller_fits(
        self,
        train: pa.Table,
        validation: pa.Table,
        importance: Mapping[str, float],
    ) -> Iterator[tuple[str, FindingType, Callable[[], Statistics]]]:
        names = self.spec.features.names
        groups = columns_by_cause(names, self.spec.analytics.causes)
        for cause, columns in groups.items():
            dropped = {names[position] for position in columns}
            left = [name for name in names if name not in dropped]
            # Without a declared cause there is nothing to leave out.
            if left:
                spec = with_features(self.spec, left)
                yield cause, "benefit", partial(self._statistics, spec, train, validation)
        for share in SHARES_OF_DAYS:
            days = self._split.train
            n_days = max(int(len(days) * share), 1)
            # The newest days: a shorter window would have them.
            newest = days.last.shift(1 - n_days)
            part = rows_between(train, newest.day, days.last.day)
            fit = partial(self._statistics, self.spec, part, validation)
            yield f"{n_days} of {len(days)} days", "learning_days", fit
        for share in SHARES_OF_ROWS:
            dice = np.random.default_rng(self.spec.training.seed)
            part = train.filter(dice.random(train.num_rows) < share)
            fit = partial(self._statistics, self.spec, part, validation)
            yield f"{share:.0%} of rows", "learning_rows", fit
        # Without a champion no feature is more important than another.
        ranked = sorted(names, key=lambda name: -importance.get(name, 0.0))
        for share in SHARES_OF_FEATURES if importance else ():
            n_kept = max(int(len(names) * share), 1)
            kept = set(ranked[:n_kept])
            spec = with_features(self.spec, [name for name in names if name in kept])
            fit = partial(self._statistics, spec, train, validation)
            yield f"{n_kept} of {len(names)} features", "learning_features", fit

    def _statistics(self, spec: ModelSpec, train: pa.Table, validation: pa.Table) -> Statistics:
        model = fit_model(spec, train, validation)
        predictions = with_groups(self.spec, self._judged, model.predictions(self._judged))
        return self._comparison.statistics(predictions, [self.loss])

    def _compare(
        self,
        finding: FindingType,
        name: str,
        complete: Statistics,
        smaller: Statistics,
    ) -> Finding:
        """Return by how much the complete is better; positive: what is missing was worth it."""
        n_days = self._comparison.days.n
        try:
            gain = self._comparison.gains(complete, smaller)[self.loss]
        except NoEstimateError:
            each_day = np.ones((1, n_days))
            difference = smaller[self.loss](each_day) - complete[self.loss](each_day)
            return Finding(finding, name, float(difference[0]), note="too few days to judge")
        note = f"judged on {n_days} days"
        return Finding(finding, name, gain.value, low=gain.low, high=gain.high, note=note)


def with_features(spec: ModelSpec, names: list[str]) -> ModelSpec:
    """Return the spec with some of its features, in their order."""
    features = spec.features
    # The order of the spec is the order of the columns.
    numeric = [name for name in features.numeric if name in names]
    categorical = [part for part in features.categorical if part.name in names]
    kept = Features(numeric=tuple(numeric), categorical=tuple(categorical))
    return spec.model_copy(update={"features": kept})
