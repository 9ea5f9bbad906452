"""Replay promotion on streams with the models of a backtest, by the product's own test and checks.

The newest model that a policy has trained scores every night next to the serving one. The checks
of stored files (provenance, size, agreement of features with the scorer's) hold by construction and
are left out.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from nightshift.backtest.stream_replay import StreamReplay
from nightshift.contracts.partitions import Partition
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import joined
from nightshift.registry.champions import ChampionStatus
from nightshift.registry.checks import Criterion, run_checks
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.promotion_gate import CHECKS, SHADOWED, conclude
from nightshift.training.training_set import TrainingSet, mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policies import PolicyRun
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.settings import Settings

# All checks must pass, so the first refusal decides: those that refuse most and cost least come
# first. The verdict of superiority and refresh is read when none has refused.
REPLAYED = (
    "evidence_rows",
    "scores",
    "non_inferiority",
    "calibration",
    "slice",
    "fairness",
    "churn",
    "baseline",
    "leakage",
    "superiority",
    "refresh",
)


@dataclass(frozen=True, kw_only=True)
class ReplayedPromotion(PromotionContext):
    """A promotion whose models and rows come from the backtest instead of the registry."""

    models: NightlyModels

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's evaluated model."""
        return self.models.of(self.challenger.partition_date).evaluated

    @cached_property
    def served(self) -> TrainedModel:
        """Return the challenger's model that would serve."""
        return self.models.of(self.challenger.partition_date).model

    @cached_property
    def champion_served(self) -> TrainedModel:
        """Return the champion's model that serves."""
        assert self.champion is not None  # noqa: S101 - a stream is compared with a champion
        return self.models.of(self.champion.partition_date).model

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        if self.champion is None:
            return None, "", "none"
        return self.models.of(self.champion.partition_date).evaluated, "", "compared"

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return the models' predictions; the backtest keeps them for all challengers."""
        if self.is_stream:
            return self._stored_predictions()
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


class PromotionReplay:
    """Decides about the challengers of one model's backtest.

    Args:
        settings: Warehouse and bucket of the backtest.
        models: The models.
        first: The first scored partition.
    """

    def __init__(self, settings: Settings, models: NightlyModels, first: dt.date) -> None:
        self._settings = settings
        self._models = models
        self._streams = StreamReplay(models, first)

    def verdict(self, day: dt.date, challenger: dt.date, run: PolicyRun) -> str:
        """Return the verdict of a night about the model of a day.

        The gate runs only where it could let the challenger serve: where its stream is proved
        better, or the champion is old.

        Raises:
            NightshiftError: A check needs something that may be back at a later try.
        """
        promotion = self._promotion(day, challenger, run)
        declared = self._models.spec.promotion
        needed = 1 / (1 - declared.superiority_probability)
        stale_after = declared.stale_after_days
        age = (day - run.served[day]).days
        is_old = stale_after is not None and age >= stale_after
        if promotion.evidence.result.e_value < needed and not is_old:
            return SHADOWED

        criteria: list[Criterion] = []
        for name in REPLAYED:
            criteria += run_checks(promotion, {name: CHECKS[name]})
            if any(criterion.is_refusal for criterion in criteria):
                return "refused"
        verdict, _ = conclude(promotion, criteria, [])
        return verdict

    def _promotion(self, day: dt.date, challenger: dt.date, run: PolicyRun) -> ReplayedPromotion:
        models = self._models
        champion = run.served[day]
        partition = Partition(challenger)
        window = mature_window(models.spec, partition)
        # Only what the checks read: no file stands behind this training set.
        training_set = TrainingSet("", "", 0, partition, window, partition.cutoff)
        return ReplayedPromotion(
            settings=self._settings,
            store=_store(self._settings),
            spec=models.spec,
            training_set=training_set,
            manifest={},
            challenger=models.version_of(challenger),
            champion=models.version_of(champion),
            evidence=self._streams.evidence(day, champion, run),
            models=models,
        )


@lru_cache(1)
def _store(settings: Settings) -> ObjectStore:
    # A client takes a third of a second to make, and a replay needs it hundreds of times.
    return ObjectStore.open(settings)
