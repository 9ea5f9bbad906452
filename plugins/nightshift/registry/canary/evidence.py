"""What the matured nights say of a canary: its version on all entities, and its own rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.registry.streams.members import CANARY_ROWS
from nightshift.training.statistics.sequential_test import running_e_values
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.models.arrays import Vector
    from nightshift.registry.canary.record import Canary
    from nightshift.warehouse.connection import Connection

FEW_NIGHTS = 3
"""Fewer nights than this count as so many: one bad night must be so much worse to end a canary."""
TOLERATED = 0.1
"""Share of the champion's loss by which a canary's may exceed it, where the spec says nothing."""


@dataclass(frozen=True)
class CanaryEvidence:
    """The paired losses of a canary's matured nights.

    Attributes:
        loss: Name of the loss.
        gains: Of its version on all entities: the champion's loss minus its own; shape (nights,).
        own_gains: The same of the rows that it scored for readers; shape (own nights,).
        champion_loss: Mean loss of the champion on these rows; 0 without a night.
    """

    loss: str
    gains: Vector
    own_gains: Vector
    champion_loss: float

    @property
    def excess(self) -> float:
        """Return by how much its own rows lose against the champion, a night.

        Fewer nights than ``FEW_NIGHTS`` are divided as if they were so many.
        """
        return -float(self.own_gains.sum()) / max(self.own_gains.size, FEW_NIGHTS)

    def limit(self, spec: ModelSpec) -> float:
        """Return the excess from which on a canary is returned."""
        maximum = spec.promotion.canary.maximum_loss
        return TOLERATED * self.champion_loss if maximum is None else maximum

    @property
    def numbers(self) -> dict[str, Any]:
        """Return what is recorded with a decision."""
        own = self.own_gains
        return {
            "loss": self.loss,
            "nights": int(self.gains.size),
            "mean_gain": float(self.gains.mean()) if self.gains.size else None,
            "e_value_worse": e_value_worse(self.gains),
            "own_nights": int(own.size),
            "own_mean_gain": float(own.mean()) if own.size else None,
            "own_e_value_worse": e_value_worse(own),
        }


def e_value_worse(gains: Vector) -> float:
    """Return the evidence of all nights that the mean gain is below 0; 1 is none."""
    # The test of a promotion, with the sides exchanged: it may be looked at every night too.
    return float(running_e_values(-gains)[-1]) if gains.size else 1.0


def read_canary_evidence(
    conn: Connection, spec: ModelSpec, canary: Canary, partition: Partition
) -> CanaryEvidence:
    """Return the evidence about a canary that a partition knows."""
    last = mature_window(spec, partition).last.day
    rows = conn.execute(
        """
        select distinct on (stream = %(own)s, partition_date)
            stream = %(own)s, partition_date, loss, champion_loss, challenger_loss
        from monitoring.stream_nights
        where model = %(model)s and challenger_version = %(version)s
            and champion_version = %(champion)s and partition_date <= %(last)s
        order by stream = %(own)s, partition_date, stream
        """,
        {
            "own": CANARY_ROWS,
            "model": spec.name,
            "version": canary.version,
            "champion": canary.champion_version,
            "last": last,
        },
    ).fetchall()
    # Its version may stand in two streams of a night: the scores are the same, and one counts.
    gains: list[float] = []
    own_gains: list[float] = []
    champion_losses: list[float] = []
    name = ""
    for is_own, _, loss, champion_loss, canary_loss in rows:
        # One loss for all nights: that of the task and the declared metric.
        name = loss
        gain = champion_loss - canary_loss
        if is_own:
            own_gains.append(gain)
            champion_losses.append(champion_loss)
        else:
            gains.append(gain)
    return CanaryEvidence(
        loss=name,
        gains=np.array(gains, dtype=np.float64),
        own_gains=np.array(own_gains, dtype=np.float64),
        champion_loss=float(np.mean(champion_losses)) if champion_losses else 0.0,
    )


def broken_nights(
    conn: Connection, model: str, first: dt.date, last: dt.date
) -> list[tuple[dt.date, int]]:
    """Return the partitions of a range whose verdict names broken input, with how many columns."""
    return conn.execute(
        """
        select partition_date, n_faults from monitoring.verdicts_published
        where model = %s and n_faults > 0 and partition_date between %s and %s
        order by partition_date
        """,
        [model, first, last],
    ).fetchall()
