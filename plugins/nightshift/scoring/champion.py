"""Find who scores a partition: the champion, else the one before it; each proves that it can score before anybody relies on it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of, stack_of
from nightshift.lake.object_store import ObjectStore
from nightshift.models.sandboxed_load import retry_starved
from nightshift.registry.champions import promoted_versions
from nightshift.registry.model_versions import find_version, open_model
from nightshift.scoring.feature_rows import FeatureLoad, read_sample
from nightshift.scoring.scorer import ChampionBrokenError, try_model

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.models.trained_model import TrainedModel
    from nightshift.scoring.plan import ScoreSource
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

NO_CHAMPION = "no champion is promoted for this partition"
N_CANDIDATES = 2
"""The champion and the one before it. Older ones were beaten twice; yesterday's scores come
next.
"""

LOADING_SECONDS = 240
"""How long a machine that is too busy to load a model is asked again before the next step takes
over.
"""


@dataclass(frozen=True)
class Choice:
    """Who scores a partition.

    Attributes:
        version: The version; None when no model can.
        digest: The version's identity; empty without one.
        source: The step of the ladder.
        reason: Why not a better step; None for a champion.
    """

    version: int | None
    digest: str
    source: ScoreSource
    reason: str | None


@dataclass(frozen=True)
class PinnedVersion:
    """A version that a person asks for by name, whoever is champion.

    Attributes:
        version: The version.
        actor: Who asks.
    """

    version: int
    actor: str


@dataclass(frozen=True)
class _Candidate:
    version: int
    source: ScoreSource
    reason: str | None = None


@dataclass(frozen=True)
class _Trial:
    digest: str
    objection: str | None


@dataclass
class Champions:
    """Choose versions for the partitions of one run; each is loaded and tried once.

    Attributes:
        settings: Warehouse and bucket.
        spec: The model.
        conn: A connection to the warehouse.
        broken: Versions that are not asked again, and why.
        only: The one version to ask, as the champion that it is about to become; None asks as
            promoted.
        named: The one version to ask, whoever is champion; every row says so.
    """

    settings: Settings
    spec: ModelSpec
    conn: Connection
    broken: Mapping[int, str] = field(default_factory=dict)
    only: int | None = None
    named: PinnedVersion | None = None
    _tried: dict[int, _Trial] = field(default_factory=dict)

    def choose(self, partition: Partition, features: FeatureLoad) -> Choice:
        """Return who scores the partition.

        The version whose predictions are published as the champion's, or as named, stays: a rerun
        gives the same. Whatever is wrong with the registry, the bucket or a model leads one step
        down; only the warehouse itself is needed.

        Raises:
            RegistryError: There is no version of the name that was given.
        """
        import psycopg

        try:
            candidates = self._candidates(partition)
        except (NightshiftError, psycopg.ProgrammingError) as error:
            if self.named is not None:
                raise
            self._require_warehouse()
            logger.warning("The champion cannot be found:\n%s", stack_of(error))
            return Choice(
                None, "", "fallback_rule", f"the champion cannot be found ({cause_of(error)})"
            )
        objections: list[str] = []
        for candidate in candidates:
            trial = self._trial(candidate.version, features)
            if trial.objection is None:
                return Choice(
                    candidate.version,
                    trial.digest,
                    candidate.source,
                    "; ".join(objections) or candidate.reason,
                )
            objections.append(trial.objection)
        return Choice(None, "", "fallback_rule", "; ".join(objections) or NO_CHAMPION)

    def _candidates(self, partition: Partition) -> list[_Candidate]:
        if self.only is not None:
            return [_Candidate(self.only, "champion")]
        promoted = promoted_versions(self.conn, self.spec.name, partition, N_CANDIDATES)
        if self.named is not None:
            is_champion = promoted[:1] == [self.named.version]
            return [
                _Candidate(self.named.version, "champion")
                if is_champion
                else self._named(self.named, partition)
            ]
        pinned = _published_choice(self.conn, self.spec, partition.day)
        if pinned and pinned.source == "champion":
            promoted = list(dict.fromkeys([pinned.version, *promoted]))[:N_CANDIDATES]
        steps = [
            _Candidate(version, "previous_champion" if place else "champion")
            for place, version in enumerate(promoted)
        ]
        return [pinned, *steps] if pinned and pinned.source != "champion" else steps

    def _named(self, named: PinnedVersion, partition: Partition) -> _Candidate:
        """Return the version with who named it, and whether it learned from what came after the night."""
        trained = find_version(self.conn, self.spec.name, named.version).partition_date
        ahead = f", and has learned from nights up to {trained}" if trained >= partition.day else ""
        return _Candidate(
            named.version,
            "named_version",
            f"version {named.version} was named by {named.actor}{ahead}",
        )

    def _trial(self, version: int, features: FeatureLoad) -> _Trial:
        if version in self.broken:
            return _Trial("", self.broken[version])
        if version not in self._tried:
            self._tried[version] = self._try(version, features)
        return self._tried[version]

    def _try(self, version: int, features: FeatureLoad) -> _Trial:
        try:
            model = load_version(self.settings, self.conn, self.spec, version)
            rows = read_sample(self.settings, self.spec, features, model.signature.names)
            retry_starved(
                lambda: try_model(model, rows, self.spec.scoring.reasons, self.spec.scoring.engine),
                LOADING_SECONDS,
            )
            digest = find_version(self.conn, self.spec.name, version).digest
        except Exception as error:  # noqa: BLE001  (a model may break in any way; the night is published all the same)
            self._require_warehouse()
            logger.warning("Version %s cannot score:\n%s", version, stack_of(error))
            return _Trial("", f"version {version} cannot score ({cause_of(error)})")
        return _Trial(digest, None)

    def _require_warehouse(self) -> None:
        """Let an error of the warehouse out: when that is away no model is to blame, and no step of the ladder would be published."""
        self.conn.execute("select 1")


def _published_choice(conn: Connection, spec: ModelSpec, day: dt.date) -> _Candidate | None:
    """Return the version whose predictions of that day are published as the champion's or as named; it made them all, so any row tells."""
    from psycopg import sql

    query = sql.SQL(
        "select t.model_version, t.score_source, t.score_source_reason from {} t join ops.published p using (partition_date, load_id)"
        " where p.dataset = %s and p.partition_date = %s and t.score_source in ('champion', 'named_version') limit 1"
    ).format(sql.Identifier("predictions", spec.name))
    row = conn.execute(query, [spec.predictions_dataset, day]).fetchone()
    return _Candidate(*row) if row else None


def load_version(
    settings: Settings, conn: Connection, spec: ModelSpec, version: int
) -> TrainedModel:
    """Read a version of the model, its files verified; its trees are tried by the engine that scores with them.

    Raises:
        RegistryError: There is no such version.
        ObjectStoreError: A file is missing or was changed.
        ModelTextError: The trees are refused.
        ChampionBrokenError: The file holds another model.
    """
    model = open_model(ObjectStore.open(settings), find_version(conn, spec.name, version))
    if (model.model, model.task) != (spec.name, spec.task):
        raise ChampionBrokenError(
            "The champion's file holds another model.",
            expected=f"{spec.name}, {spec.task}",
            got=f"{model.model}, {model.task}",
        )
    return model
