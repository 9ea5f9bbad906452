"""The rows of a shard that a canary scores, within its time; whatever fails is its own fault."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from nightshift.errors import cause_of, stack_of
from nightshift.registry.canary.membership import in_canary
from nightshift.registry.canary.record import CANARY
from nightshift.scoring.canary.time_limit import run_within
from nightshift.scoring.model_loading import load_scorer, load_version
from nightshift.scoring.plan import level_shifts
from nightshift.scoring.scorer import ChampionBrokenError
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.models.trained_model import TrainedModel
    from nightshift.scoring.plan import DayPlan
    from nightshift.scoring.scorer import Scorer
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


def days_by_canary(days: Sequence[DayPlan]) -> list[list[DayPlan]]:
    """Return the days of each canary, and of none; each scores with one share."""
    groups: dict[tuple[int, float] | None, list[DayPlan]] = {}
    for day in days:
        canary = day.scored_canary
        key = (canary.version, canary.share) if canary else None
        groups.setdefault(key, []).append(day)
    return list(groups.values())


def open_canary(
    settings: Settings, spec: ModelSpec, days: Sequence[DayPlan], run: RunContext
) -> CanaryRows | None:
    """Load the canary of some days; None if they have none.

    Loading and scoring share one limit, so a shard is held up by it once at most.

    Raises:
        ChampionBrokenError: It cannot be loaded, or takes too long.
    """
    canary = days[0].scored_canary
    if canary is None:
        return None

    def load() -> Scorer:
        # Of its own: the shard goes on with its connection when this one is given up.
        with connect(settings, run.application_name) as conn:
            model = load_version(settings, conn, spec, canary.version)
        return load_scorer(spec, model)

    clock = _Clock(canary.version, spec.promotion.canary.maximum_seconds)
    return CanaryRows(spec, canary.share, _steps(days), clock.run(load), clock)


@dataclass
class _Clock:
    """The time that is left of a canary's.

    Attributes:
        version: The canary's version.
        seconds_left: Of its time in this shard.
    """

    version: int
    seconds_left: float

    def run(self, call: Callable[[], T]) -> T:
        """Return what a call returns, within the time that is left.

        Raises:
            ChampionBrokenError: It fails, in whatever way, or takes longer.
        """
        started = time.monotonic()
        try:
            return run_within(self.seconds_left, f"version {self.version}", call)
        except Exception as error:  # noqa: BLE001
            logger.warning("Version %s fails as a canary:\n%s", self.version, stack_of(error))
            cause = cause_of(error)
        finally:
            self.seconds_left -= time.monotonic() - started
        # Without its cause: a lack of memory, or of a connection, would be taken for the shard's
        # own. ``publish`` reads the version, and plans without it.
        raise ChampionBrokenError(
            f"version {self.version} cannot score ({cause})",
            todo="Nothing: the champion scores every row, and the canary is returned.",
        )


@dataclass(frozen=True)
class CanaryRows:
    """A canary that is loaded in a shard.

    Attributes:
        spec: The model.
        share: Its share of the entities.
        steps: Its days, as plans of its own rows.
        scorer: Its model.
        clock: The time that is left.
    """

    spec: ModelSpec
    share: float
    steps: list[DayPlan]
    scorer: Scorer
    clock: _Clock

    def names_beside(self, champion: TrainedModel) -> list[str]:
        """Return the features that it reads and the champion does not.

        One query reads the rows for both.
        """
        return [name for name in self.scorer.feature_names if name not in champion.signature.names]

    def split(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Return the champion's rows of a batch, and its own."""
        import pyarrow as pa

        keys = rows.column(self.spec.entity.key).to_pylist()
        is_own = in_canary(self.spec.name, self.share, keys)
        return rows.filter(pa.array(~is_own)), rows.filter(pa.array(is_own))

    def score(self, rows: pa.RecordBatch) -> pa.Table:
        """Return the scores of its rows, with their own level and reasons.

        Raises:
            ChampionBrokenError: It cannot score them, or takes too long.
        """
        shifts = level_shifts(self.steps, rows)
        return self.clock.run(lambda: self.scorer.score(rows, shifts))


def _steps(days: Sequence[DayPlan]) -> list[DayPlan]:
    """Return the plans of the canary's own rows.

    They differ from the champion's in everything that a row says of its maker.

    Args:
        days: Plans of days with the same canary.
    """
    steps = []
    for day in days:
        if canary := day.scored_canary:
            step = {
                "model_version": canary.version,
                "score_source": CANARY,
                "score_source_reason": canary.reason,
                "level_shift": canary.level_shift,
                "interval": canary.interval,
            }
            steps.append(day.model_copy(update=step))
    return steps
