"""A slow change as it is found, and how far back the nights are added up."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

MAX_SLOW_DAYS = 183
"""Nights since the training that are added up; older ones are left out."""


@dataclass(frozen=True)
class SlowChange:
    """What the nights since the training add up to, of the series of a column that tells most.

    Attributes:
        statistic: Its name.
        evidence: The larger one of its two sums, in units of the boundary; from 1 on it is told.
        since: The first night of the change, by the sum's last turn.
        shift: Mean deviation from then on, in usual variations from night to night.
    """

    statistic: str
    evidence: float
    since: dt.date
    shift: float

    @property
    def is_told(self) -> bool:
        """Return whether the change is no chance."""
        return self.evidence >= 1
