"""How many labels of a partition's predictions are known: immature, maturing or mature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

Maturity = Literal["immature", "maturing", "mature"]


@dataclass(frozen=True)
class LabelCount:
    """The known labels of one partition's predictions.

    Attributes:
        n_predictions: Published predictions.
        n_labels: Of these, with a label.
        n_never: Of these, known never to get one: the label row exists, and its label is null.
    """

    n_predictions: int = 0
    n_labels: int = 0
    n_never: int = 0

    @property
    def share(self) -> float | None:
        """Return the share of known labels among those that can exist, 1 is best; None of none."""
        possible = self.n_predictions - self.n_never
        return self.n_labels / possible if possible else None

    def maturity(self, spec: ModelSpec) -> Maturity:
        """Return ``mature`` from the spec's minimum share on, ``immature`` without any label."""
        if not self.n_labels:
            return "immature"
        is_mature = (self.share or 0.0) >= spec.monitoring.minimum_label_share
        return "mature" if is_mature else "maturing"
