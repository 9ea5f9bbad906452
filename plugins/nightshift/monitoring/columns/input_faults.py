"""Input faults: columns of a partition that a broken feed explains better than the world does.

Each kind is a statement that a person can check. What is only far from usual is drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from nightshift.monitoring.columns import fault_limits as limits
from nightshift.monitoring.columns.compared_night import ComparedNight
from nightshift.monitoring.columns.faults import InputFault
from nightshift.monitoring.columns.night_series import (
    LOCATIONS,
    QUANTILE_NAMES,
    Profile,
    Series,
    SeriesTable,
)
from nightshift.monitoring.columns.order_relations import MIN_NIGHTS, broken_pairs
from nightshift.monitoring.columns.usual_variation import UsualStep, robust_scale
from nightshift.monitoring.columns.value_grid import ValueGrid, agreed_grid

if TYPE_CHECKING:
    import datetime as dt

    import numpy.typing as npt

    from nightshift.quality.column_order import ColumnOrder
    from nightshift.quality.column_summary import ColumnSummary

    Doubles = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class NightCheck(ComparedNight):
    """The checks of one partition.

    Attributes:
        orders: Pairs of columns of which the first was never above the second.
        grids: Grids of the columns that were asked for.
    """

    orders: frozenset[tuple[str, str]]
    grids: dict[str, ValueGrid | None] = field(default_factory=dict)

    def missing(self) -> Iterator[InputFault]:
        """Find columns with more missing values than ever."""
        for column, summary in self.columns:
            usual = self.reference(column, "missing_share")
            excess = summary.missing_share - usual.max(initial=0.0)
            # A column that varies may vary a little more.
            needed = max(limits.NEW_MISSING, 0.25 * np.ptp(usual) if usual.size else 0.0)
            if excess >= needed:
                detail = f"{summary.missing_share:.1%} missing, at most {usual.max():.1%} before"
                distance = self.step(column, "missing_share")
                yield InputFault(column, "missing values", distance, detail)

    def frozen(self) -> Iterator[InputFault]:
        """Find columns whose values are those of the night before."""
        for column, summary in self.columns:
            repeated = self.value(column, "repeated_share")
            earlier = self.before.get(column) if self.before else None
            if not repeated >= limits.REPEATED or earlier is None:
                continue
            usual = self.reference(column, "repeated_share")
            means = self.reference(column, "mean")
            if usual.size < MIN_NIGHTS or means.size <= usual.size or summary.mean is None:
                continue
            was_repeated = (usual >= limits.REPEATED) & self._had_as_many(
                column, summary, usual.size
            )
            # A few stations may have the values of yesterday by chance, in another order.
            is_often = was_repeated.mean() > limits.OFTEN
            [spread] = robust_scale(means[:, np.newaxis] - np.median(means))
            still = limits.STILL * spread
            was_still = was_repeated & (np.abs(np.diff(means))[-usual.size :] <= still)
            is_still = abs(summary.mean - (earlier.mean or 0.0)) <= still
            if was_repeated.mean() <= limits.RARE or (
                is_still and not is_often and not was_still.any()
            ):
                detail = f"{repeated:.0%} of its values are those of the night before"
                distance = self.step(column, "repeated_share")
                yield InputFault(column, "frozen", distance, detail)

    def _had_as_many(self, column: str, summary: ColumnSummary, n_nights: int) -> Mask:
        """Return which of the last training partitions had as many values; shape (n_nights,).

        One value of many repeats itself by chance, three of them at once hardly do. Of a column
        with few values at all every partition counts.
        """
        n_distinct = self.reference(column, "n_distinct")[-n_nights:]
        if self.n_known_values(column) < limits.MANY_VALUES * summary.n_distinct:
            return np.ones(n_nights, np.bool_)
        return n_distinct >= summary.n_distinct

    def constant(self) -> Iterator[InputFault]:
        """Find columns of zeros, and columns with one value that always had several."""
        for column, summary in self.columns:
            zero_share = self.value(column, "zero_share")
            zeros = self.reference(column, "zero_share")
            if zeros.size and zero_share > max(limits.MOST_ZEROS, 1.05 * zeros.max()):
                detail = f"{zero_share:.0%} zeros, at most {zeros.max():.0%} before"
                yield InputFault(column, "zeros", self.step(column, "zero_share"), detail)
            elif summary.n_distinct == 1:
                usual = self.reference(column, "n_distinct")
                if (
                    usual.size
                    and np.mean(usual <= 1) <= limits.RARE
                    and np.median(usual) > limits.FEW_VALUES
                ):
                    detail = f"one value, usually {np.median(usual):.0f}"
                    yield InputFault(
                        column,
                        "constant",
                        self.step(column, "n_distinct"),
                        detail,
                    )

    def levels(self) -> Iterator[InputFault]:
        """Find levels that vanished, and levels of many rows that never were."""
        for column, shares in self.table.shares.items():
            summary = self.profile.get(column)
            if summary is None or not summary.n_rows:
                continue
            distance = self.step(
                column,
                "total_variation",
            )
            gone = [level for level in self._constant_levels(column) if level not in summary.levels]
            if gone:
                share = sum(shares[level] for level in gone)
                detail = f"{len(gone)} level(s) of {share:.1%} of the rows are gone"
                yield InputFault(
                    column,
                    "vanished level",
                    distance,
                    detail,
                )
            new = self.value(column, "other_share")
            if new >= limits.NEW_LEVEL_SHARE:
                detail = f"{new:.1%} of the rows have a level that never was"
                yield InputFault(
                    column,
                    "new level",
                    distance,
                    detail,
                )

    def _constant_levels(self, column: str) -> list[str]:
        """Return the levels that every partition had, with enough rows to be no chance."""
        table = self.table
        by_partition = [profile[column].levels for profile in table.profiles if column in profile]
        if not by_partition:
            return []
        always = set(by_partition[0]).intersection(*by_partition[1:])
        fewest = {level: min(levels[level] for levels in by_partition) for level in always}
        return sorted(level for level, n_rows in fewest.items() if n_rows >= limits.MIN_LEVEL_ROWS)

    def changed_units(self) -> Iterator[InputFault]:
        """Find columns that are as usual once the ratio of two units is undone."""
        suspects = {*self.jumped(LOCATIONS), *self._out_of_range()}
        for column in sorted(suspects - set(self.table.shares)):
            best = min(
                limits.UNITS,
                key=lambda unit: self._undone(column, unit[1])[0],
            )
            distance, ratio = self._undone(column, best[1])
            # Numbers of another unit lie on another grid.
            grid = self.grid(column)
            is_own_unit = grid is not None and grid.holds(self.profile[column])
            if distance <= limits.UNDONE_LIMIT and not is_own_unit:
                detail = f"usual if divided by {ratio:.3g}, as between {best[0]}"
                yield InputFault(
                    column,
                    "unit changed",
                    self.largest(column),
                    detail,
                )

    def _undone(self, column: str, factor: float) -> tuple[float, float]:
        """Return how far a column is from usual once a ratio is undone, and which way round."""
        was, now, scale = self.locations(column)
        tries = []
        for ratio in (factor, 1 / factor):
            steps = np.abs(now / ratio - was) / scale
            tries.append(
                (
                    float(
                        np.nan_to_num(
                            np.max(steps, initial=0.0),
                            nan=np.inf,
                        )
                    ),
                    ratio,
                )
            )
        return min(tries)

    def _out_of_range(self) -> Iterator[str]:
        """Return the columns of numbers with a range whose mean is far outside of it."""
        for column, summary in self.columns:
            means = self.reference(column, "mean")
            if summary.mean is None or not means.size:
                continue
            low, middle, high = means.min(), float(np.median(means)), means.max()
            lowest, highest = limits.BOUNDED
            is_not_lower = lowest * middle <= low
            has_range = is_not_lower and high <= highest * middle
            # A rate that falls slowly leaves its range too, but not from one night to the next.
            expected = self.expected(column, "mean")
            ends = (
                min(low, expected) / limits.FAR_OUTSIDE,
                max(high, expected) * limits.FAR_OUTSIDE,
            )
            if has_range and expected > 0 and not ends[0] <= summary.mean <= ends[1]:
                yield column

    def swapped(self) -> Iterator[InputFault]:
        """Find pairs of columns of which each looks as the other one usually does."""
        suspects = self.jumped((*LOCATIONS, "n_distinct"))
        numbers = [column for column in suspects if column not in self.table.shares]
        for first, second in combinations(numbers, 2):
            crossed = max(
                self._as_if(first, second),
                self._as_if(second, first),
            )
            if crossed <= limits.UNDONE_LIMIT:
                for column, other in ((first, second), (second, first)):
                    detail = f"its values are those that {other} usually has"
                    yield InputFault(
                        column,
                        "swapped",
                        self.largest(column),
                        detail,
                    )

    def _as_if(self, column: str, other: str) -> float:
        """Return how far a column is from what another one usually is, in steps of that one."""
        index, usual = self.table.index, self.usual
        expected = usual.expected(self.day.weekday())
        distances = []
        for statistic in ("mean", *QUANTILE_NAMES, "n_distinct"):
            own, theirs = index[Series(column, statistic)], index[Series(other, statistic)]
            distances.append(abs(self.values[own] - expected[theirs]) / usual.scale[theirs])
        return float(
            np.nan_to_num(
                np.max(distances),
                nan=np.inf,
            )
        )

    def broken_orders(self, order: ColumnOrder | None) -> Iterator[InputFault]:
        """Find columns that are on the wrong side of another one."""
        for first, second, share in broken_pairs(self.orders, order):
            for column in (first, second):
                detail = f"{first} above {second} in {share:.0%} of the rows, never before"
                yield InputFault(
                    column,
                    "inconsistent",
                    self.largest(column),
                    detail,
                )

    def unknown_values(self) -> Iterator[InputFault]:
        """Find columns with numbers that are not on their grid, or that never were."""
        for column, summary in self.columns:
            grid = self.grid(column)
            detail = ""
            if grid is not None:
                if not grid.holds(summary):
                    detail = f"its ends are not on the grid of {grid.step:.4g} that they always had"
            # Without a grid the values themselves are compared, where they are few.
            elif not summary.is_text and summary.hashes.size:
                tonight, usual = self.seen_shares(column, summary)
                if usual.size >= MIN_NIGHTS and tonight <= limits.UNSEEN < usual.min():
                    detail = f"{1 - tonight:.0%} of its distinct values never were"
            if detail:
                yield InputFault(column, "unknown values", self.largest(column), detail)

    def grid(self, column: str) -> ValueGrid | None:
        """Return the grid on which a column's smallest and largest values always were."""
        if column not in self.grids:
            ends = [self.reference(column, end) for end in ("minimum", "maximum")]
            is_known = ends[0].size >= MIN_NIGHTS
            self.grids[column] = agreed_grid(np.column_stack(ends)) if is_known else None
        return self.grids[column]

    def shifted(self) -> Iterator[InputFault]:
        """Find columns that jump further than any step before."""
        for column in self.jumped((*LOCATIONS, "zero_share", "n_distinct", "total_variation")):
            hours = self._hours(column)
            kind = "time zone" if hours else "shifted"
            detail = f"{self.largest(column):.1f} usual steps from what was expected"
            if hours:
                detail = f"usual if {hours:+d} hours are undone"
            yield InputFault(
                column,
                kind,
                self.largest(column),
                detail,
            )

    def _hours(self, column: str) -> int:
        """Return by how many whole hours the minutes of a day are shifted; 0 for none."""
        highest = self.reference(column, "maximum").max(initial=0.0)
        lowest = self.reference(column, "minimum").min(initial=0.0)
        if lowest < 0 or not limits.MINUTES_A_DAY / 2 < highest <= limits.MINUTES_A_DAY:
            return 0
        was, now, scale = self.locations(column)
        hours = round(float(np.median(now - was)) / limits.MINUTES_AN_HOUR)
        rest = np.abs(now - was - hours * limits.MINUTES_AN_HOUR) / scale
        return hours if np.max(rest) <= limits.UNDONE_LIMIT else 0


@dataclass(frozen=True)
class InputChecks:
    """Checks of a partition against the partitions before it.

    Attributes:
        table: Training partitions, and those since.
        orders: Pairs of columns of which the first was never above the second.
    """

    table: SeriesTable
    orders: frozenset[tuple[str, str]]

    @cached_property
    def usual(self) -> UsualStep:
        """Return the usual steps of all series."""
        table = self.table
        return UsualStep.of(
            table.values,
            table.weekdays,
            table.floors,
            table.n_reference,
        )

    def find(
        self, day: dt.date, profile: Profile, before: Profile | None, order: ColumnOrder | None
    ) -> list[InputFault]:
        """Return the faults of a partition, at most one a column, by column.

        Args:
            day: The partition.
            profile: Its columns.
            before: Those of the partition before.
            order: How its columns compare row by row.
        """
        if self.table.n_reference < MIN_NIGHTS:
            return []
        values = np.array(
            self.table.row(profile, before),
            np.float64,
        )
        check = NightCheck(
            self.table,
            self.usual,
            day,
            profile,
            before,
            values,
            self.orders,
        )
        faults: dict[str, InputFault] = {}
        checks = (
            check.missing,
            check.frozen,
            check.constant,
            check.levels,
            check.swapped,
            check.changed_units,
            lambda: check.broken_orders(order),
            check.unknown_values,
            check.shifted,
        )
        for find_faults in checks:
            for fault in find_faults():
                # The first kind that explains a column names it.
                faults.setdefault(
                    fault.column,
                    fault,
                )
        return [faults[column] for column in sorted(faults)]
