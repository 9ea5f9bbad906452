"""The evidence of a policy's challengers: the newest model every night next to the serving one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import Partition
from nightshift.models.signature import numbers
from nightshift.registry.streams.context_reading import MAXIMUM_STREAM_DAYS
from nightshift.registry.streams.members import TRAINED
from nightshift.registry.streams.nights import StreamEvidence
from nightshift.registry.streams.paired_rows import proper_loss, row_losses
from nightshift.training.statistics.sequential_test import sequential_result
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policies import PolicyRun
    from nightshift.models.arrays import Vector


@dataclass(frozen=True)
class PairedNight:
    """One night that two models score.

    Attributes:
        day: The partition.
        champion: The model that serves it, by the day that trained it.
        challenger: The newest model then, likewise.
    """

    day: dt.date
    champion: dt.date
    challenger: dt.date


class StreamReplay:
    """The paired losses of a policy's nights, computed once per model and night.

    Args:
        models: The models of the backtest.
        first: The first scored partition.
    """

    def __init__(self, models: NightlyModels, first: dt.date) -> None:
        self._models = models
        self._first = first
        self._gains: dict[PairedNight, float] = {}

    def evidence(self, day: dt.date, champion: dt.date, run: PolicyRun) -> StreamEvidence:
        """Return what the stream has proved on a night, as ``read_evidence`` does.

        Args:
            day: The partition that decides.
            champion: The model that serves it.
            run: What the policy did so far.
        """
        partition = Partition(day)
        promotion = self._models.spec.promotion
        since = self._first
        # A proof restarts the test, a refresh does not.
        if run.proved:
            since = run.proved[-1] + dt.timedelta(days=1)
        pairs = self._matured_nights(run, since, partition)
        own_pairs = [pair for pair in pairs if pair.champion == champion]
        own_gains = self._gains_of(own_pairs)
        gains = self._gains_of(pairs)
        return StreamEvidence(
            partition=partition,
            stream=TRAINED,
            since=since,
            result=sequential_result(gains, promotion.superiority_probability),
            champion_nights=len(own_pairs),
            champion_gain=float(own_gains.mean()) if own_pairs else 0.0,
            pairs=self._paired_rows(own_pairs),
        )

    def _matured_nights(
        self,
        run: PolicyRun,
        since: dt.date,
        partition: Partition,
    ) -> list[PairedNight]:
        """Return the nights that count for a decision of a partition."""
        last = mature_window(self._models.spec, partition).last.day
        pairs = []
        for day, champion in run.served.items():
            if not since <= day <= last:
                continue
            earlier = [trained for trained in run.trained if trained < day]
            # Before the first training after the champion there is nothing to compare.
            if not earlier or earlier[-1] <= champion:
                continue
            if self._models.rows_on(day).num_rows:
                pairs.append(PairedNight(day, champion, earlier[-1]))
        return pairs

    def _gains_of(self, pairs: list[PairedNight]) -> Vector:
        """Return the gain of each night, shape (nights,)."""
        for pair in pairs:
            # A night counts in the evidence of all later ones.
            if pair not in self._gains:
                champion_loss = self._loss(pair.champion, pair.day)
                challenger_loss = self._loss(pair.challenger, pair.day)
                self._gains[pair] = champion_loss - challenger_loss
        gains = [self._gains[pair] for pair in pairs]
        return np.array(gains, dtype=np.float64)

    def _loss(self, trained_on: dt.date, day: dt.date) -> float:
        """Return the mean proper loss of one day's model on a night."""
        spec = self._models.spec
        rows = self._models.rows_on(day)
        label = numbers(rows, spec.label.column)
        predictions = self._models.predictions(trained_on, day)
        predicted = predictions.score
        if predictions.probability is not None:
            predicted = predictions.probability
        losses = row_losses(proper_loss(spec), label, predicted)
        return float(losses.mean())

    def _paired_rows(self, pairs: list[PairedNight]) -> pa.Table | None:
        """Return labelled rows with both predictions, as ``read_pairs`` does; None of too few."""
        import pyarrow as pa

        if len(pairs) < self._models.spec.promotion.minimum_stream_days:
            return None
        newest = pairs[-MAXIMUM_STREAM_DAYS:]
        tables = [self._rows_of(pair) for pair in newest]
        return pa.concat_tables(tables)

    def _rows_of(self, pair: PairedNight) -> pa.Table:
        import pyarrow as pa

        rows = self._models.rows_on(pair.day)
        for source in ("champion", "challenger"):
            trained_on = getattr(pair, source)
            predictions = self._models.predictions(trained_on, pair.day)
            columns = {"score": predictions.score}
            # A regression has no probability.
            if predictions.probability is not None:
                columns["probability"] = predictions.probability
            for name, values in columns.items():
                rows = rows.append_column(f"{source}_{name}", pa.array(values))
        return rows
