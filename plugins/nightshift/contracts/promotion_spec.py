"""When a challenger becomes champion: the declared limits of the promotion gate.

Source of the defaults: docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from nightshift.contracts.yaml_document import (
    Days,
    Frozen,
    Identifier,
    PositiveDays,
    PositiveInt,
    Ratio,
)

Margin = Annotated[float, Field(ge=0)]


class Slice(Frozen):
    """A declared part of the rows that is measured on its own.

    Attributes:
        column: Categorical column of the feature view; one slice per level.
        minimum_rows: Smaller slices are shown, never checked.
    """

    column: Identifier
    minimum_rows: PositiveInt = 300


class Fairness(Frozen):
    """A declared group that the model must treat alike; binary only.

    Attributes:
        column: Column of the feature view; one group per level.
        minimum_rows: Smaller groups are shown, never checked.
        minimum_selection_ratio: Lowest share of rows called positive in a group over the highest.
            Source: the four-fifths rule, 29 CFR 1607.4(D).
        maximum_calibration_gap: Largest difference between two groups in mean probability minus
            positive rate.
    """

    column: Identifier
    minimum_rows: PositiveInt = 300
    minimum_selection_ratio: Ratio = 0.8
    maximum_calibration_gap: Ratio = 0.1


class CanarySpec(Frozen):
    """A share of the entities that gets a challenger's predictions before anything is proved.

    Source: docs/adr/0055-canary.md.

    Attributes:
        share: Share of the entities, by a hash of their key; 0 switches canaries off.
        after_nights: Matured nights that a stream has against the champion, without being worse by
            point estimate, before its newest sound challenger gets the share. After a return they
            are counted anew.
        maximum_nights: Nights after which a canary that nothing has decided about is returned.
        maximum_loss: By how much the canary's mean loss on its own rows may exceed the champion's
            on the same rows, in the unit of the loss; None takes a tenth of the champion's loss.
        maximum_seconds: Seconds that loading and trying the challenger may take, and again its rows
            in each shard; beyond, the champion scores all rows.
    """

    share: float = Field(default=0.0, ge=0, le=0.5)
    after_nights: PositiveDays = 7
    maximum_nights: PositiveDays = 28
    maximum_loss: Margin | None = None
    maximum_seconds: float = Field(default=60.0, gt=0)


class Promotion(Frozen):
    """When a challenger becomes champion.

    A check that crashes, or has no number, counts as failed.

    Attributes:
        metric: Primary metric, a name of ``nightshift.contracts.metrics`` that fits the task and
            has a better side.
        confidence: Of every one-sided bound; intervals have it on either side.
        non_inferiority_margin: How much worse than the champion the gain's lower bound may be, in
            the metric's unit; None takes a tenth of what the champion gains on the prior.
        superiority_probability: Confidence of the proof that the challengers' stream is better than
            what served, on all nights together: proved from an e-value of ``1 / (1 - probability)``
            on.
        shadow_versions: Versions that score every night in the shadow, each as a stream of its own;
            the newest sound challenger always does.
        canary: The share of the entities that gets the challenger first; off by default.
        stale_after_days: A champion trained so many days before the decision is refreshed by a
            challenger that is not inferior and not worse by point estimate; None demands a proof
            for ever.
        minimum_stream_days: Matured nights of the champion's stream from which calibration, slices,
            fairness, churn and non-inferiority stand on the stream instead of the hold-out.
        minimum_gain_over_baseline: How much better than each baseline it must be at least, in the
            metric's unit. One that is compared with no champion must be so much better than prior
            and rule by point estimate. Otherwise it must not be proved to gain less. So one that is
            proved worse than its linear baseline is refused by default. A negative number declares
            how much worse than a baseline is accepted.
        minimum_evidence_days: Days that the comparison stands on at least.
        minimum_evidence_rows: The same in rows.
        maximum_gap_days: Days in a row without a row that the training window may have.
        slices: Declared slices; refused when significantly worse than the champion (without one:
            than the rule), and by more than ``slice_margin``. On a stream, a slice is also refused
            whose scores are unrelated to the champion's.
        slice_margin: Allowed loss of the primary metric within a slice, in the metric's unit; None
            takes a quarter of what the champion (without one: the challenger) gains on the prior.
        maximum_calibration_error: A challenger above it is refused; None leaves the comparison with
            the champion.
        calibration_margin: Refused is a calibration error proved to exceed the champion's (without
            one: the rule's) by more, in the label's unit; on a stream the measured excess counts.
            None takes a twentieth of the label's standard deviation.
        minimum_calibration_slope: Refused is a slope of the outcome on the prediction proved to be
            lower; below 1 is over-confident.
        maximum_calibration_slope: The same for a higher one.
        fairness: Declared groups; none switches these checks off.
        maximum_decile_churn: Share of rows that may change their decile. Unrelated scores change
            0.9; the default is what normal scores with a rank correlation of 0.6 change (0.7: 0.77,
            0.9: 0.64). Source: docs/adr/0017-evidence-gate.md.
        minimum_rank_correlation: Spearman's correlation with the champion's scores.
        maximum_scoring_seconds: Processor seconds for 100,000 rows.
        maximum_model_bytes: Size of the model's files.
        maximum_feature_separation: How well one feature alone may separate the labels (AUC, or
            Spearman's correlation): more is a leak.
    """

    metric: str
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    non_inferiority_margin: Margin | None = None
    superiority_probability: float = Field(default=0.95, gt=0.5, lt=1)
    shadow_versions: tuple[PositiveInt, ...] = ()
    canary: CanarySpec = CanarySpec()
    stale_after_days: PositiveDays | None = 28
    minimum_stream_days: Days = Field(default=28, ge=14)
    minimum_gain_over_baseline: float = 0.0
    minimum_evidence_days: Days = Field(default=5, ge=2)
    minimum_evidence_rows: PositiveInt = 200
    maximum_gap_days: Days = 3
    slices: tuple[Slice, ...] = ()
    slice_margin: Margin | None = None
    maximum_calibration_error: Margin | None = None
    calibration_margin: Margin | None = None
    minimum_calibration_slope: float = 0.5
    maximum_calibration_slope: float = 2.0
    fairness: tuple[Fairness, ...] = ()
    maximum_decile_churn: Ratio = 0.8
    minimum_rank_correlation: float = Field(default=0.3, ge=-1, le=1)
    maximum_scoring_seconds: float = Field(default=60.0, gt=0)
    maximum_model_bytes: PositiveInt = 50_000_000
    maximum_feature_separation: Ratio = 0.95

    @model_validator(mode="after")
    def _slopes_rise(self) -> Promotion:
        if self.minimum_calibration_slope > self.maximum_calibration_slope:
            raise ValueError("minimum_calibration_slope <= maximum_calibration_slope")
        return self
