"""How far the labels of a night's predictions are: immature, maturing or mature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

Maturity = Literal["immature", "maturing", "mature"]


@dataclass(frozen=True)
class LabelCount:
    """What was known of the labels of one night's predictions.

    Attributes:
        n_predictions: Published predictions.
        n_labels: Of these, with a label.
        n_never: Of these, known never to get one (the label row is there, its label is null).
    """

    n_predictions: int = 0
    n_labels: int = 0
    n_never: int = 0

    @property
    def share(self) -> float | None:
        """Return the share of the predictions that can get a label whose label was known, 1 is best; None if none can."""
        possible = self.n_predictions - self.n_never
        return self.n_labels / possible if possible else None

    def maturity(self, spec: ModelSpec) -> Maturity:
        """Return ``immature`` without any label, ``mature`` from the spec's minimum share on; the maturity days have passed."""
        if not self.n_labels:
            return "immature"
        return (
            "mature" if (self.share or 0.0) >= spec.monitoring.minimum_label_share else "maturing"
        )
