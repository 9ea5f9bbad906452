"""Drift: how far a partition's columns are from the partitions that the champion was trained on.

Each distance is in usual variations from night to night, so the figures of all columns mean the
same, and one limit decides. Source: docs/adr/0045-the-night-is-the-unit.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from nightshift.monitoring.columns.night_series import DRIFT_STATISTICS, Profile, SeriesTable
from nightshift.monitoring.columns.usual_variation import UsualVariation
from nightshift.stage_times import stage

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.monitoring.columns.slow_change import SlowChange
    from nightshift.quality.column_summary import ColumnSummary

    Doubles = npt.NDArray[np.float64]

Kind = Literal["numeric", "categorical", "score"]


@dataclass(frozen=True)
class Drift:
    """The distance of one column of a partition from the training partitions.

    Attributes:
        feature: Column; ``score`` for the model's own output.
        kind: Type of the column.
        distance: Of the statistic that is furthest from usual, in usual variations; 0 is best.
        statistic: Its name; None without a statistic to compare.
        value: Its value, and the ``usual`` one, the median of the training partitions.
        usual_variation: Its standard deviation from night to night.
        n_nights: Independent nights that the training partitions are worth.
        missing_share: Share of null rows, 0 to 1; with that of the training partitions.
        mean: Mean of the numbers; with that of the training partitions.
        n_rows: Rows of the partition.
        is_drifted: Whether the distance exceeds the limit.
        slow_evidence: What the nights since the training add up to, in units of what is no chance;
            None if that is unknown.
        slow_statistic: Of that; with the mean deviation ``slow_shift`` in usual variations.
        slow_since: First night of a slow change; None without one.
        is_slow: Whether there is a slow change.
    """

    feature: str
    kind: Kind
    distance: float
    statistic: str | None
    value: float | None
    usual: float | None
    usual_variation: float | None
    n_nights: float | None
    missing_share: float
    reference_missing_share: float
    mean: float | None
    reference_mean: float | None
    n_rows: int
    is_drifted: bool
    slow_evidence: float | None = None
    slow_statistic: str | None = None
    slow_shift: float | None = None
    slow_since: dt.date | None = None
    is_slow: bool = False

    @property
    def has_changed(self) -> bool:
        """Return whether the column is far from usual tonight, or has moved away slowly."""
        return self.is_drifted or self.is_slow

    def with_slow_change(self, change: SlowChange | None) -> Drift:
        """Return the same with what the nights since the training add up to."""
        if change is None:
            return self
        return replace(
            self,
            slow_evidence=change.evidence,
            slow_statistic=change.statistic,
            slow_shift=change.shift,
            slow_since=change.since if change.is_told else None,
            is_slow=change.is_told,
        )

    @property
    def slow_change(self) -> str:
        """Return the slow change, for people."""
        shift = self.slow_shift or 0.0
        side = "above" if shift > 0 else "below"
        return (
            f"{self.feature}: {self.slow_statistic}"
            f" {abs(shift):.1f} usual variations {side} the usual, a night,"
            f" since {self.slow_since}"
        )


@dataclass(frozen=True)
class ColumnDistances:
    """Compares partitions with the training partitions.

    Attributes:
        table: The training partitions.
        limit: Distance above which a column has drifted.
    """

    table: SeriesTable
    limit: float

    @cached_property
    def usual(self) -> UsualVariation:
        """Return how the series usually vary."""
        return UsualVariation.of(
            self.table.values,
            self.table.weekdays,
            self.table.floors,
        )

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        """Return where the statistics that show drift stand, by column."""
        positions: dict[str, list[int]] = {}
        for position, (column, statistic) in enumerate(self.table.names):
            known = positions.setdefault(column, [])
            if statistic in DRIFT_STATISTICS:
                known.append(position)
        return positions

    @stage("drift")
    def measure(self, day: dt.date, profile: Profile, kind: Kind | None = None) -> list[Drift]:
        """Compare the columns of a partition, by name.

        Args:
            day: The partition.
            profile: Its columns.
            kind: Of all columns; None tells numbers from strings.
        """
        row = self.table.row(
            profile,
            None,
        )
        values = np.array(
            row,
            np.float64,
        )
        # No partition before is needed: repeated values tell faults only.
        distances = self.usual.distances(
            values,
            day.weekday(),
        )
        # A series without any training value cannot be far from usual.
        sizes = np.nan_to_num(
            np.abs(distances),
            posinf=np.finfo(np.float64).max,
        )
        drifts = []
        for column, positions in sorted(self._positions.items()):
            # A column that vanished from the view stops the features, not only the monitor.
            if column not in profile:
                continue
            furthest = max(
                positions,
                key=lambda position: sizes[position],
            )
            drifts.append(
                self._drift(
                    column,
                    kind,
                    profile[column],
                    furthest,
                    sizes,
                    values,
                )
            )
        return drifts

    def _drift(
        self,
        column: str,
        kind: Kind | None,
        summary: ColumnSummary,
        furthest: int,
        sizes: Doubles,
        values: Doubles,
    ) -> Drift:
        usual = self.usual
        # Levels are known for columns of strings alone.
        is_text = column in self.table.shares
        distance = float(sizes[furthest])
        is_known = bool(np.isfinite(usual.center[furthest]))
        reference = [profile[column] for profile in self.table.profiles if column in profile]
        missing = [known.missing_share for known in reference]
        means = [known.mean for known in reference if known.mean is not None]
        return Drift(
            feature=column,
            kind=kind or ("categorical" if is_text else "numeric"),
            distance=distance,
            statistic=self.table.names[furthest].statistic if is_known else None,
            value=_finite(values[furthest]),
            usual=_finite(usual.center[furthest]),
            usual_variation=_finite(usual.scale[furthest]),
            n_nights=_finite(usual.n_effective[furthest]) if is_known else None,
            missing_share=summary.missing_share,
            reference_missing_share=float(np.mean(missing)),
            mean=summary.mean,
            reference_mean=float(np.mean(means)) if means else None,
            n_rows=summary.n_rows,
            is_drifted=distance > self.limit,
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
