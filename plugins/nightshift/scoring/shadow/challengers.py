"""The challengers that score a partition in the shadow, loaded and tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, WarehouseError, stack_of
from nightshift.registry.model_versions import find_version
from nightshift.registry.streams.members import shadow_members
from nightshift.registry.streams.paired_rows import has_shadow_scores
from nightshift.scoring.feature_rows import read_sample
from nightshift.scoring.level.level_finder import LevelFinder, LevelRecord
from nightshift.scoring.model_loading import load_scorer, load_version
from nightshift.scoring.shadow.shadow_tables import shadow_query

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.scoring.scorer import Scorer
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

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
    """

    stream: str
    version: int
    digest: str
    scorer: Scorer
    level: LevelRecord


def find_members(conn: Connection, spec: ModelSpec, partition: Partition) -> dict[str, int]:
    """Return versions by stream: those that are published for the partition, else the current."""
    if has_shadow_scores(conn, spec):
        query = shadow_query(
            spec,
            """
            select distinct t.stream, t.model_version from {shadow} t {published}
            where t.partition_date = %s order by t.stream
            """,
        )
        # A rerun scores with the versions that scored, whatever was trained since.
        published: dict[str, int] = dict(conn.execute(query, [partition.day]).fetchall())
        if published:
            return published
    return shadow_members(conn, spec, partition)


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
    finder = LevelFinder(settings, conn, spec, dataset, application_name, with_intervals=False)
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
    level = finder.find(version, model, features)
    return Challenger(stream, number, version.digest, scorer, level)
