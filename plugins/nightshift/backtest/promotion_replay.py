"""Replay the promotion gate on models of a backtest, by the product's own checks.

The checks of stored files (provenance, size, agreement of features with the scorer's) hold by
construction and are left out.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import joined
from nightshift.registry import fairness_checks, performance_checks, sanity_checks
from nightshift.registry.checks import Check, run_checks
from nightshift.registry.model_versions import ModelVersion
from nightshift.registry.promotion_context import ChampionStatus, PromotionContext
from nightshift.training.training_set import TrainingSet, mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings

# All checks must pass, so the first refusal decides: those that refuse most and cost least come
# first.
CHECKS: dict[str, Check] = {
    "evidence_rows": sanity_checks.evidence_rows,
    "superiority": performance_checks.superiority,
    "scores": sanity_checks.scores,
    "non_inferiority": performance_checks.non_inferiority,
    "calibration": performance_checks.calibration,
    "slice": performance_checks.slices,
    "fairness": fairness_checks.fairness,
    "churn": performance_checks.churn,
    "baseline": performance_checks.baselines,
    "leakage": sanity_checks.leakage,
}


@dataclass(frozen=True)
class ReplayedPromotion(PromotionContext):
    """A promotion whose models and rows come from the backtest instead of the registry."""

    models: NightlyModels

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's evaluated model."""
        return self.models.of(self.challenger.partition_date).evaluated

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        if self.champion is None:
            return None, "", "none"
        return self.models.of(self.champion.partition_date).evaluated, "", "compared"

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return the models' predictions; the backtest keeps them for all challengers."""
        days = [day.as_py() for day in self.rows.column("partition_date").unique()]
        versions = {"challenger": self.challenger}
        if self.champion:
            versions["champion"] = self.champion
        predictions = {}
        for name, version in versions.items():
            parts = [
                self.models.predictions(version.partition_date, day, is_evaluated=True)
                for day in days
            ]
            predictions[name] = joined(parts)
        return predictions

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the challenger's complete training set."""
        return self.models.window(self.challenger.partition_date)


def passes_gate(
    settings: Settings, models: NightlyModels, challenger: dt.date, champion: dt.date
) -> bool:
    """Return whether the model of one day may replace that of an earlier one.

    Raises:
        NightshiftError: A check needs something that may be back at a later try.
    """
    partition = Partition(challenger)
    window = mature_window(models.spec, partition)
    # Only what the checks read: no file stands behind this training set.
    training_set = TrainingSet("", "", 0, partition, window, partition.cutoff)
    promotion = ReplayedPromotion(
        settings,
        _store(settings),
        models.spec,
        training_set,
        {},
        version_of(models, challenger),
        version_of(models, champion),
        models,
    )
    for name, check in CHECKS.items():
        results = run_checks(promotion, {name: check})
        if any(result.is_refusal for result in results):
            return False
    return True


@lru_cache(1)
def _store(settings: Settings) -> ObjectStore:
    # A client takes a third of a second to make, and a replay needs it hundreds of times.
    return ObjectStore.open(settings)


def version_of(models: NightlyModels, day: dt.date) -> ModelVersion:
    """Return the registry's description of the model of a day, without its files."""
    split = models.split(day)
    is_refit = models.spec.training.recipe.refit
    return ModelVersion(
        model=models.spec.name,
        version=day.toordinal(),
        digest=str(day),
        model_key="",
        model_sha256="",
        model_bytes=None,
        metadata_key="",
        metadata_sha256="",
        metadata_bytes=None,
        training_set=str(day),
        partition_date=day,
        fit_end=split.holdout.last.day if is_refit else split.validation.last.day,
        metrics=models.of(day).model.metrics,
        figures={},
        evaluated={"fit_end": split.validation.last.key} if is_refit else None,
    )
