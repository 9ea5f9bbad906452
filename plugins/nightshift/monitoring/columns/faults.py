"""An input fault as it is found, and as it is published."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InputFault:
    """One broken column of a partition.

    Attributes:
        column: The column.
        kind: What is wrong with it.
        distance: How far it is from usual, in usual steps.
        detail: The numbers, for people; no value of a row.
    """

    column: str
    kind: str
    distance: float
    detail: str


@dataclass(frozen=True)
class PublishedFault:
    """A row of ``monitoring.column_faults``.

    Attributes:
        feature: The column.
        kind: What is wrong with it.
        distance: In usual steps.
        detail: The numbers, for people.
        since: First of the consecutive partitions on which it was broken.
        feeds: Raw datasets behind it.
    """

    feature: str
    kind: str
    distance: float
    detail: str
    since: dt.date
    feeds: Sequence[str]

    def __str__(self) -> str:
        """Return one line for people."""
        feeds = ", ".join(self.feeds) or "no raw dataset"
        return f"{self.feature} is {self.kind} since {self.since}: {self.detail} (feed: {feeds})"
