"""The evidence gate on replayed models: every criterion about predictions, the product's own code, on the rows that the night would judge.

The criteria about stored files (provenance, size, agreement of features with the scorer's) hold by
construction here and are not asked.
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
from nightshift.training.splits import split_window
from nightshift.training.training_set import TrainingSet, mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import Fleet
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings

QUESTIONS: dict[str, Check] = {
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
"""Every family must agree, so the first refusal decides: the ones that refuse most and cost
least come first.
"""


@dataclass(frozen=True)
class ReplayedCase(PromotionContext):
    """A case whose models and rows come from the replay instead of the registry."""

    fleet: Fleet

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's model."""
        return self.fleet.of(self.challenger.partition_date).model

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        if self.champion is None:
            return None, "", "none"
        return self.fleet.of(self.champion.partition_date).model, "", "compared"

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return the models' predictions; those of a champion for a night are made once for all its challengers."""
        nights = [day.as_py() for day in self.rows.column("partition_date").unique()]
        models = {
            "challenger": self.challenger,
            **({"champion": self.champion} if self.champion else {}),
        }
        return {
            name: joined(
                [self.fleet.predictions(version.partition_date, night) for night in nights]
            )
            for name, version in models.items()
        }

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the challenger's whole training set."""
        return self.fleet.window(self.challenger.partition_date)


def passes(settings: Settings, fleet: Fleet, challenger: dt.date, champion: dt.date) -> bool:
    """Return whether the model of one night may replace that of an earlier one.

    Raises:
        NightshiftError: Something that a later try may have back.
    """
    window = mature_window(fleet.spec, Partition(challenger))
    training_set = TrainingSet(
        "", "", 0, Partition(challenger), window, Partition(challenger).cutoff
    )
    versions = (version_of(fleet, challenger), version_of(fleet, champion))
    case = ReplayedCase(settings, _store(settings), fleet.spec, training_set, {}, *versions, fleet)
    return all(
        not any(one.is_refusal for one in run_checks(case, {name: question}))
        for name, question in QUESTIONS.items()
    )


@lru_cache(1)
def _store(settings: Settings) -> ObjectStore:
    """Return the store; a client takes a third of a second to make, and a replay asks hundreds of times."""
    return ObjectStore.open(settings)


def version_of(fleet: Fleet, night: dt.date) -> ModelVersion:
    """Return how the registry would describe the model of a night, without its files."""
    model = fleet.of(night).model
    split = split_window(mature_window(fleet.spec, Partition(night)), fleet.spec.training)
    return ModelVersion(
        model=fleet.spec.name,
        version=night.toordinal(),
        digest=str(night),
        model_key="",
        model_sha256="",
        model_bytes=None,
        metadata_key="",
        metadata_sha256="",
        metadata_bytes=None,
        training_set=str(night),
        partition_date=night,
        fit_end=split.validation.last.day,
        metrics=model.metrics,
        figures={},
    )
