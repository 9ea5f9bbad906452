"""The challengers that score a partition in the shadow, loaded and tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, WarehouseError, stack_of
from nightshift.registry.canary.membership import in_canary
from nightshift.registry.model_versions import find_version
from nightshift.scoring.feature_rows import read_sample
from nightshift.scoring.level.level_finder import LevelFinder, LevelRecord
from nightshift.scoring.model_loading import load_scorer, load_version
from nightshift.scoring.shadow.members import CHAMPION_ROWS, find_members, level_beside_canary

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.scoring.scorer import Scorer
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

__all__ = ["Challenger", "ShadowError", "find_members", "load_challengers"]

logger = logging.getLogger(__name__)


class ShadowError(NightshiftError):
    """No challenger of a partition can score; the predictions are not affected."""

    code = "NS-SCORE-008"


@dataclass(frozen=True)
class Challenger:
    """A version that scores in the shadow.

    Attributes:
        stream: The stream that it scores for.
        version: The version.
        digest: Its identity.
        scorer: Without reasons, which nobody reads.
        level: The level of its scores, found as the champion's is.
        share: Share of the entities that it scores; below 1 those of a canary.
    """

    stream: str
    version: int
    digest: str
    scorer: Scorer
    level: LevelRecord
    share: float = 1.0

    @property
    def input(self) -> list[str]:
        """Return what determines its scores, except its level."""
        parts = [
            self.stream,
            self.digest,
        ]
        # Where there is no canary, the inputs are those of before there were any.
        if self.share < 1:
            parts.append(repr(self.share))
        return parts

    def rows_of(self, spec: ModelSpec, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of a batch that it scores: all, or those of a canary."""
        import pyarrow as pa

        if self.share == 1:
            return rows
        keys = rows.column(spec.entity.key).to_pylist()
        is_own = in_canary(spec.name, self.share, keys)
        return rows.filter(pa.array(is_own))


def load_challengers(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    members: Mapping[str, int],
    features: LoadRecord,
    application_name: str,
) -> list[Challenger]:
    """Return the challengers that can score a feature load.

    Raises:
        ShadowError: None can.
        NightshiftError: An error that a retry may cure.
    """
    dataset = spec.shadow_dataset
    finder = LevelFinder(
        settings,
        conn,
        spec,
        dataset,
        application_name,
        with_intervals=False,
    )
    challengers = []
    problems = []
    for stream, version in members.items():
        try:
            challenger = _load(finder, stream, version, features)
        except WarehouseError:
            raise
        # A model may break in any way, and the other streams are scored all the same.
        except Exception as error:
            # A busy machine, or a store that is away, may be better at the next try.
            if isinstance(error, NightshiftError) and error.is_retryable:
                raise
            logger.warning("Version %s cannot score in the shadow:\n%s", version, stack_of(error))
            problems.append(f"version {version} ({type(error).__name__})")
            continue
        challengers.append(challenger)
    if not challengers:
        raise ShadowError(
            f"No challenger of {spec.name} can score in the shadow: {', '.join(problems)}.",
            todo="The predictions are not affected. Train again; or take the version out of"
            " promotion.shadow_versions.",
        )
    return challengers


def _load(finder: LevelFinder, stream: str, number: int, features: LoadRecord) -> Challenger:
    """Load a version, let it score a sample of the rows, and find its level."""
    settings, conn, spec = finder.settings, finder.conn, finder.spec
    model = load_version(settings, conn, spec, number)
    scorer = load_scorer(spec, model, with_reasons=False)
    sample = read_sample(settings, spec, features, scorer.feature_names)
    # A score that is not finite is found here, before a stream stops in the middle.
    scorer.score(sample)
    version = find_version(conn, spec.name, number)
    if stream != CHAMPION_ROWS:
        level = finder.find(version, model, features)
        return Challenger(stream, number, version.digest, scorer, level)

    # What it would have published: its scores of the other entities have this level.
    level, share = level_beside_canary(conn, spec, features, version)
    return Challenger(
        stream,
        number,
        version.digest,
        scorer,
        level,
        share,
    )
