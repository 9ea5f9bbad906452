"""Choose the model version that scores a partition: the champion, else the one before it.

Each version scores a sample of the partition's rows before a shard relies on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError, WarehouseError, cause_of, stack_of
from nightshift.registry.champions import promoted_versions
from nightshift.registry.model_versions import find_version
from nightshift.scoring.feature_rows import published_features
from nightshift.scoring.model_loading import TriedVersion, try_version
from nightshift.scoring.plan import PinnedVersion, ScoreSource, VersionChoice
from nightshift.scoring.prediction_tables import model_query
from nightshift.scoring.scorer import ChampionBrokenError
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import LoadRecord

logger = logging.getLogger(__name__)

NO_CHAMPION = "no champion is promoted for this partition"
N_CANDIDATES = 2
"""The champion and the one before it. Older versions were beaten twice; last scores come next."""


@dataclass(frozen=True)
class _Candidate:
    version: int
    source: ScoreSource
    reason: str | None = None
    is_published: bool = False


@dataclass(frozen=True)
class _Trial:
    tried: TriedVersion | None = None
    objection: str = ""


@dataclass
class VersionChooser:
    """Chooses versions for the partitions of one run; each version is loaded and tried once.

    Attributes:
        broken: Versions that are not tried again, with the reason.
        only: The one candidate, as the champion that it is about to become; None takes the promoted
            versions.
        named: The one candidate, whichever is champion; every row names it.
        may_try_canary: Whether a partition that is not published may get a canary.
    """

    settings: Settings
    spec: ModelSpec
    conn: Connection
    broken: Mapping[int, str] = field(default_factory=dict)
    only: int | None = None
    named: PinnedVersion | None = None
    may_try_canary: bool = True
    _trials: dict[int, _Trial] = field(default_factory=dict)

    def choose_all(self, partitions: PartitionRange) -> list[VersionChoice]:
        """Return the choice for each partition, on its published features.

        Raises:
            FeaturesMissingError: The feature view is not published for a partition.
            DamagedInputError: Its rows differ from what was published.
            RegistryError: There is no version of the name that was given.
            WarehouseError: The warehouse refuses a query or a second connection.
            ChampionBrokenError: The named version cannot score.
        """
        loads = published_features(self.conn, self.spec, partitions)
        choices = [self._choose(features) for features in loads]
        for choice in choices:
            if self.named is not None and choice.version is None:
                raise ChampionBrokenError(
                    f"Version {self.named.version} of {self.spec.name} cannot score:"
                    f" {choice.reason}.",
                    expected="a version with complete files that scores the features of"
                    f" {partitions}",
                    todo="Nothing was published. Name another version: `nightshift models`.",
                )
        return choices

    def tried(self, version: int) -> TriedVersion:
        """Return a version that was chosen, which has scored a sample of the rows."""
        tried = self._trials[version].tried
        assert tried is not None  # noqa: S101 - only such versions are chosen
        return tried

    def _choose(self, features: LoadRecord) -> VersionChoice:
        """Return the best version that can score a partition's features.

        A version whose predictions are published as the champion's, or as named, stays: a rerun
        gives the same. Every problem of the registry, the bucket or a model leads to the next step;
        only the warehouse is needed.
        """
        import psycopg

        try:
            candidates = self._candidates(Partition(features.partition_date))
        except (NightshiftError, psycopg.ProgrammingError) as error:
            # A version that a person named has no next step.
            if self.named is not None:
                raise
            self._require_warehouse()
            logger.warning("The champion cannot be found:\n%s", stack_of(error))
            reason = f"the champion cannot be found ({cause_of(error)})"
            return VersionChoice(features, None, "", "fallback_rule", reason)

        objections: list[str] = []
        for candidate in candidates:
            trial = self._trial(candidate.version, features)
            if trial.tried is not None:
                return VersionChoice(
                    features,
                    candidate.version,
                    trial.tried.version.digest,
                    candidate.source,
                    reason="; ".join(objections) or candidate.reason,
                    is_published=candidate.is_published,
                )
            objections.append(trial.objection)
        reason = "; ".join(objections) or NO_CHAMPION
        return VersionChoice(features, None, "", "fallback_rule", reason)

    def _candidates(self, partition: Partition) -> list[_Candidate]:
        if self.only is not None:
            return [_Candidate(self.only, "champion")]
        promoted = promoted_versions(self.conn, self.spec.name, partition, N_CANDIDATES)
        if self.named is not None:
            # A named version that is the champion anyway gives a champion's rows.
            if promoted[:1] == [self.named.version]:
                return [_Candidate(self.named.version, "champion")]
            return [self._named_candidate(self.named, partition)]

        published = self._published_candidate(partition)
        if published and published.source == "champion":
            # It was the champion when the partition was scored, and stays it in a rerun.
            promoted = list(dict.fromkeys([published.version, *promoted]))[:N_CANDIDATES]
        candidates = [_Candidate(version, "previous_champion") for version in promoted]
        if promoted:
            is_published = published is not None and published.source == "champion"
            candidates[0] = _Candidate(promoted[0], "champion", is_published=is_published)
        if published and published.source == "named_version":
            candidates.insert(0, published)
        return candidates

    def _named_candidate(self, named: PinnedVersion, partition: Partition) -> _Candidate:
        """Return a named version; its reason names the person, and training data of the future."""
        trained = find_version(self.conn, self.spec.name, named.version).partition_date
        reason = f"version {named.version} was named by {named.actor}"
        if trained >= partition.day:
            reason += f", and has learned from nights up to {trained}"
        return _Candidate(named.version, "named_version", reason)

    def _published_candidate(self, partition: Partition) -> _Candidate | None:
        """Return the version that is published as the partition's champion or named version."""
        # One version made all rows of the partition, but those of a canary: any row tells which.
        query = model_query(
            self.spec,
            """
            select t.model_version, t.score_source, t.score_source_reason
            from {predictions} t {published}
            where t.partition_date = %s
                and t.score_source in ('champion', 'named_version', 'canary')
            limit 1
            """,
            published=join_published(self.spec.predictions_dataset, "t"),
        )
        row = self.conn.execute(query, [partition.day]).fetchone()
        if row and row[1] == "canary":
            # Its load names the champion alongside it.
            row = self.conn.execute(
                """
                select champion_version, 'champion' from ops.canary_nights
                where model = %s and partition_date = %s
                """,
                [self.spec.name, partition.day],
            ).fetchone()
        return _Candidate(*row) if row else None

    def _trial(self, version: int, features: LoadRecord) -> _Trial:
        if version in self.broken:
            return _Trial(objection=self.broken[version])
        # The days of a range share versions: each version is loaded once.
        if version not in self._trials:
            self._trials[version] = self._try(version, features)
        return self._trials[version]

    def _try(self, version: int, features: LoadRecord) -> _Trial:
        try:
            tried = try_version(self.settings, self.conn, self.spec, version, features)
        except WarehouseError:
            # The sample is read by a connection of its own. When the warehouse refuses it, no model
            # is to blame, and a lower step would replace the champion for nothing.
            raise
        # A model may break in any way; the partition is published all the same.
        except Exception as error:  # noqa: BLE001
            self._require_warehouse()
            logger.warning("Version %s cannot score:\n%s", version, stack_of(error))
            return _Trial(objection=f"version {version} cannot score ({cause_of(error)})")
        return _Trial(tried)

    def _require_warehouse(self) -> None:
        """Raise if the warehouse is away: no model is to blame, and no step could be published."""
        self.conn.execute("select 1")
