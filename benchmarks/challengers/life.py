"""The life of one challenger in one world: its hold-out, its nights, its last verdict."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from benchmarks.challengers.world import LATE, ON, PROOF_ONLY, SPEC

from nightshift.models.signature import numbers
from nightshift.registry.checks import run_checks
from nightshift.registry.model_versions import ModelVersion
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.promotion_gate import CHECKS, conclude
from nightshift.registry.streams.nightly_decision import is_due
from nightshift.registry.streams.nights import RECENT_NIGHTS, StreamEvidence
from nightshift.registry.streams.paired_rows import row_losses
from nightshift.training.baselines import Baselines
from nightshift.training.splits import rows_between, split_window
from nightshift.training.statistics.sequential_test import sequential_result
from nightshift.training.training_set import TrainingSet

if TYPE_CHECKING:
    from benchmarks.challengers.kinds import Kind
    from benchmarks.challengers.world import World

    from nightshift.contracts.partitions import Partition
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.champions import ChampionStatus

WITHOUT_FILES = ("provenance", "point_in_time", "feature_agreement")
KEPT = {name: check for name, check in CHECKS.items() if name not in WITHOUT_FILES}


@dataclass(frozen=True, kw_only=True)
class JudgedPromotion(PromotionContext):
    """A promotion in a world: models and rows are in memory, all else is the gate's.

    Attributes:
        world: The world.
        model: The challenger's model.
    """

    world: World
    model: Any

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's model."""
        return self.model  # type: ignore[no-any-return]

    @cached_property
    def served(self) -> TrainedModel:
        """Return the same."""
        return self.model  # type: ignore[no-any-return]

    @cached_property
    def champion_served(self) -> TrainedModel:
        """Return the champion."""
        return self.world.champion

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        return self.world.champion, "", "compared"

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the training set."""
        return self.world.history

    @cached_property
    def baselines(self) -> Baselines:
        """Return the baselines; they are the same for all challengers of a world."""
        known = self.world.baselines
        # A stream has other rows each night.
        key = (self.is_stream, self.rows.num_rows, self.rows["row"][-1].as_py())
        if key not in known:
            known[key] = Baselines(SPEC, self.fit_rows, self.rows, 0.5)
        return known[key]


def version(number: int, fit_end: dt.date) -> ModelVersion:
    """Return a version as the registry has it; 1 is the champion."""
    day = ON.shift(-1).day if number == 1 else ON.day
    return ModelVersion(
        SPEC.name, number, f"d{number}", "k", "s", 1, "k", "s", 1, "t", day, fit_end, {}, {}
    )


@dataclass
class Life:
    """The decisions about one challenger in one world."""

    world: World
    case: Kind

    def __post_init__(self) -> None:
        self.model = self.case.make(self.world)
        end = split_window(self.world.window, SPEC.training).validation.last.day
        self.champion, self.challenger = version(1, end), version(2, end)
        # A better one must be proved so; all other ones may also come in for an old champion.
        self.spec = PROOF_ONLY if self.case.expected == "better" else SPEC

    @cached_property
    def pairs(self) -> pa.Table:
        """Return the rows of all nights that both have scored, with their outcome."""
        first = ON.shift(1).day
        rows = rows_between(self.world.rows, first, self.world.rows["partition_date"][-1].as_py())
        if self.case.is_scored is not None:
            rows = rows.filter(pa.array(self.case.is_scored(self.world, rows)))
        for source, model in (("champion", self.world.champion), ("challenger", self.model)):
            predicted = model.predictions(rows)
            rows = rows.append_column(f"{source}_score", pa.array(predicted.score))
            rows = rows.append_column(f"{source}_probability", pa.array(predicted.probability))
        return rows

    @cached_property
    def gains(self) -> dict[dt.date, float]:
        """Return the gain of each night that the stream has."""
        label = numbers(self.pairs, "is_late")
        losses = {}
        for source in ("champion", "challenger"):
            predicted = numbers(self.pairs, f"{source}_probability")
            losses[source] = row_losses("log_loss", label, predicted)
        gain = losses["champion"] - losses["challenger"]
        days = self.pairs["partition_date"].to_numpy().astype("datetime64[D]")
        return {day.item(): float(gain[days == day].mean()) for day in np.unique(days)}

    def evidence(self, on: Partition) -> StreamEvidence:
        """Return what the stream has proved for a decision of a partition."""
        last = on.shift(-LATE).day
        known = {day: gain for day, gain in self.gains.items() if day <= last}
        gains = np.array(list(known.values()), np.float64)
        pairs = None
        if len(known) >= SPEC.promotion.minimum_stream_days:
            pairs = rows_between(self.pairs, ON.shift(1).day, last)
        return StreamEvidence(
            partition=on,
            stream="trained",
            since=ON.shift(1).day,
            result=sequential_result(gains, SPEC.promotion.superiority_probability),
            champion_nights=len(known),
            champion_gain=float(gains.mean()) if known else 0.0,
            pairs=pairs,
            n_unscored=self.n_unscored(last) if known else 0,
        )

    def n_unscored(self, last: dt.date) -> int:
        """Return how many of the newest nights the stream does not have."""
        first = max(ON.shift(1).day, last - dt.timedelta(days=RECENT_NIGHTS - 1))
        days = {first + dt.timedelta(days=n) for n in range((last - first).days + 1)}
        return len(days - self.gains.keys())

    def judge(self, on: Partition) -> tuple[str, list[str]]:
        """Run the gate on a night; return the verdict and the checks that refuse."""
        evidence = self.evidence(on)
        training_set = TrainingSet("", "", 0, ON, self.world.window, ON.cutoff)
        context = JudgedPromotion(
            settings=None,  # type: ignore[arg-type]
            store=None,  # type: ignore[arg-type]
            spec=self.spec,
            training_set=training_set,
            manifest={},
            challenger=self.challenger,
            champion=self.champion,
            evidence=evidence,
            world=self.world,
            model=self.model,
        )
        criteria = run_checks(context, KEPT)
        refused = [criterion.name for criterion in criteria if criterion.is_refusal]
        return conclude(context, criteria, refused)[0], refused

    def end(self) -> tuple[str, int, list[str]]:
        """Return the last verdict, the night on which it was made, and the refusing checks."""
        verdict, refused = self.judge(ON)
        number = 0
        while verdict == "shadowed" and number < self.world.n_nights:
            number += 1
            on = ON.shift(number)
            if is_due(self.spec, on, self.champion, self.evidence(on)):
                verdict, refused = self.judge(on)
        return verdict, number, refused
