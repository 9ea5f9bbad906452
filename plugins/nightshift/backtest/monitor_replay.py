"""Replay the monitor over partitions that a policy served, by the product's own code."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.backtest.replayed_context import ReplayedContext
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.monitoring.monitor import decide_retrain, make_verdict, measure

if TYPE_CHECKING:
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policies import PolicyRun
    from nightshift.monitoring.champion import Champion
    from nightshift.monitoring.columns.faults import PublishedFault
    from nightshift.monitoring.verdict import Verdict
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass
class MonitorReplay:
    """The monitor of one policy.

    Attributes:
        settings: The backtest's own warehouse.
        conn: A connection to it.
        models: The models.
        verdicts: By partition, in order.
        faults: By partition, the columns that a broken feed explains.
    """

    settings: Settings
    conn: Connection
    models: NightlyModels
    verdicts: dict[dt.date, Verdict] = field(default_factory=dict)
    faults: dict[dt.date, list[PublishedFault]] = field(default_factory=dict)
    _champions: dict[int, Champion] = field(default_factory=dict)

    def has_triggered(self, day: dt.date, run: PolicyRun) -> bool:
        """Return whether the monitor of a partition requests a retrain."""
        context = ReplayedContext(
            settings=self.settings,
            spec=self.models.spec,
            conn=self.conn,
            partition=Partition(day),
            run=RunContext(f"backtest/{day}"),
            champions=self._champions,
            models=self.models,
            served=run.served,
            triggered=tuple(run.triggered),
            verdicts=self.verdicts,
            faults=self.faults,
        )
        # As ``monitor_partition``, without its lock, its request and its writes: one process
        # replays one policy, and nothing of it is published.
        measurement = measure(context)
        decision = decide_retrain(context, measurement, context.retrain_history())
        verdict = make_verdict(context, measurement, decision)
        self.verdicts[day] = verdict
        self.faults[day] = measurement.columns.faults
        return verdict.has_triggered
