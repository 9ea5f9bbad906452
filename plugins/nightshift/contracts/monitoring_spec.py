"""When the evidence requests a retrain: limits of drift and loss, and the trigger rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from nightshift.contracts.yaml_document import Days, Frozen, PositiveDays, PositiveInt, Ratio

RETIRED_KEYS = frozenset(("psi_threshold", "minimum_effect", "score_psi_threshold"))
"""Keys of the index of stability, which ``drift_limit`` replaced; they decide nothing any more."""


class WindowRule(Frozen):
    """A condition must hold in ``n`` of the last ``m`` operating days.

    Attributes:
        n: Days on which it holds.
        m: Days that are looked at.
    """

    n: PositiveDays
    m: PositiveDays

    @model_validator(mode="after")
    def _n_of_m(self) -> WindowRule:
        # Such a rule could never hold, and nobody would notice.
        if self.n > self.m:
            raise ValueError("n <= m")
        return self


class Triggers(Frozen):
    """Which evidence may open a decision. The normal rule: a matured loss that lasts.

    Attributes:
        drift: What counts as drift: of the features, of the score, or either.
        may_act_on_drift_alone: Whether drift may also act while the matured loss is unknown; a loss
            that is ok always contradicts it.
        severe_loss_factor: Matured loss above so many times ``maximum_metric_loss`` is recorded as
            severe; null: never.
        shock_nights: A loss that held on at most so many nights is a shock, of which nothing is
            learnt alone: a model that has seen only it is worse afterwards.
    """

    drift: tuple[Literal["drift", "score_drift"], ...] = ("drift", "score_drift")
    may_act_on_drift_alone: bool = False
    severe_loss_factor: float | None = Field(default=2.0, ge=1)
    shock_nights: Days = 3


class RetrainBudget(Frozen):
    """At most so many decisions in so many days.

    Attributes:
        retrainings: Decisions.
        days: Operating days, the monitored one included.
    """

    retrainings: PositiveInt = 3
    days: PositiveDays = 28


class Monitoring(Frozen):
    """When the evidence says that the model must be retrained.

    Attributes:
        drift_limit: Distance of a column from the training nights, in its usual variations from
            night to night, above which it has drifted; the score included. At 4 a usual night
            exceeds it once in 16,000.
        drifted_features_ratio: Share of features that must drift for a drifted day.
        metric: Performance metric that is watched.
        maximum_metric_loss: By how much the champion's advantage over the rule on a night may fall
            short of that on its hold-out, in the metric's unit. The rule has the same day, so a
            day on which everything is late is no loss.
        windows: Days on which a condition must hold.
        cooldown_days: Operating days without another decision after one.
        retrain_budget: How many decisions are allowed in how many days, besides the cooldown.
        triggers: Which conditions must hold together.
        minimum_labels: Matured labels below which performance gives no verdict.
        minimum_label_share: Share of a partition's predictions, those that never get a label left
            out, whose label must be known for a mature partition; below it the partition is
            maturing and its metrics trigger nothing.
        report_rows: Rows of each sample in the Evidently report.
    """

    drift_limit: float = Field(default=4.0, gt=0)
    drifted_features_ratio: Ratio = 0.3
    metric: str
    maximum_metric_loss: float = Field(gt=0)
    windows: WindowRule
    cooldown_days: Days = 7
    retrain_budget: RetrainBudget = RetrainBudget()
    triggers: Triggers = Triggers()
    minimum_labels: PositiveInt = 200
    minimum_label_share: float = Field(default=0.9, gt=0, le=1)
    report_rows: PositiveInt = 4000

    @model_validator(mode="before")
    @classmethod
    def _without_retired_keys(cls, values: object) -> object:
        """Leave out keys of earlier releases, so that their specs stay valid."""
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if name not in RETIRED_KEYS}
        return values
