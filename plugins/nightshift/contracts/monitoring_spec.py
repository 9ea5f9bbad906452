"""When the evidence requests a retrain: limits of drift and loss, and the trigger rule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nightshift.contracts.yaml_document import Frozen, PositiveInt, Ratio


class WindowRule(Frozen):
    """A condition must hold in ``n`` of the last ``m`` operating days.

    Attributes:
        n: Days on which it holds.
        m: Days that are looked at.
    """

    n: PositiveInt
    m: PositiveInt

    @model_validator(mode="after")
    def _n_of_m(self) -> WindowRule:
        # Such a rule could never hold, and nobody would notice.
        if self.n > self.m:
            raise ValueError("n <= m")
        return self


class Triggers(Frozen):
    """Which evidence may open a decision. The normal rule: drift and matured loss together.

    Attributes:
        drift: What counts as drift: of the features, of the score, or either.
        may_act_on_drift_alone: Whether drift may also act while the matured loss is unknown; a loss
            that is ok always contradicts it.
        severe_loss_factor: Matured loss above so many times ``maximum_metric_loss`` acts without
            drift; null: never.
    """

    drift: tuple[Literal["drift", "score_drift"], ...] = ("drift", "score_drift")
    may_act_on_drift_alone: bool = False
    severe_loss_factor: float | None = Field(default=2.0, ge=1)


class RetrainBudget(Frozen):
    """At most so many decisions in so many days.

    Attributes:
        retrainings: Decisions.
        days: Operating days, the monitored one included.
    """

    retrainings: PositiveInt = 3
    days: PositiveInt = 28


class Monitoring(Frozen):
    """When the evidence says that the model must be retrained.

    Attributes:
        psi_threshold: Population stability index of one feature above which it drifts. Source: 0.2,
            Siddiqi, Credit Risk Scorecards (2006).
        minimum_effect: Effect size below which nothing counts as drift, score included: largest
            difference of the cumulated shares, total variation of levels, or change of the missing
            share.
        drifted_features_ratio: Share of features that must drift for a drifted day.
        score_psi_threshold: The same as ``psi_threshold``, for the score.
        metric: Performance metric that is watched.
        maximum_metric_loss: Allowed loss against the champion's hold-out, in the metric's unit.
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

    psi_threshold: float = Field(default=0.2, gt=0)
    minimum_effect: Ratio = 0.1
    drifted_features_ratio: Ratio = 0.3
    score_psi_threshold: float = Field(default=0.2, gt=0)
    metric: str
    maximum_metric_loss: float = Field(gt=0)
    windows: WindowRule
    cooldown_days: int = Field(default=7, ge=0)
    retrain_budget: RetrainBudget = RetrainBudget()
    triggers: Triggers = Triggers()
    minimum_labels: PositiveInt = 200
    minimum_label_share: float = Field(default=0.9, gt=0, le=1)
    report_rows: PositiveInt = 4000
