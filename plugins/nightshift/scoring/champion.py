"""Find the champion of a partition, and let it prove that it can score before anybody relies on it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.model_versions import find_version, load_model
from nightshift.registry.promotion import champion_for
from nightshift.scoring.engine import ChampionBrokenError, try_model
from nightshift.scoring.feature_rows import Feature, read_sample

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.training.trained_model import TrainedModel
    from nightshift.warehouse.connection import Connection

NO_CHAMPION = "no champion is promoted for this partition"


@dataclass(frozen=True)
class Choice:
    """Who scores a partition.

    Attributes:
        version: The champion's version; None under the fallback rule.
        digest: The champion's identity, or the reason without one.
    """

    version: int | None
    digest: str

    @property
    def reason(self) -> str | None:
        """Return why there is no champion, None if there is one."""
        return None if self.version is not None else self.digest


@dataclass
class Champions:
    """Choose champions for the partitions of one run; each version is loaded and tried once.

    Attributes:
        settings: Warehouse and bucket.
        spec: The model.
        conn: A connection to the warehouse.
    """

    settings: Settings
    spec: ModelSpec
    conn: Connection
    _tried: dict[int, Choice] = field(default_factory=dict)

    def choose(self, partition: Partition, features: Feature) -> Choice:
        """Return who scores the partition.

        The version that made the published predictions stays: a rerun gives the same. Whatever is wrong with the registry, the bucket
        or the model leads to the fallback rule; only the warehouse itself is needed.
        """
        try:
            version = self._pinned_version(partition.day) or self._promoted_version(partition)
        except NightshiftError as error:
            return Choice(None, f"the champion cannot be found ({error.code})")
        if version is None:
            return Choice(None, NO_CHAMPION)
        if version not in self._tried:
            self._tried[version] = self._try(version, features)
        return self._tried[version]

    def _promoted_version(self, partition: Partition) -> int | None:
        champion = champion_for(self.conn, self.spec.name, partition)
        return champion.version if champion else None

    def _pinned_version(self, day: dt.date) -> int | None:
        """Return the version of the published predictions; they were made by one version, so any row tells."""
        from psycopg import sql

        query = sql.SQL(
            "select t.model_version from {} t join ops.published p using (partition_date, load_id)"
            " where p.dataset = %s and p.partition_date = %s limit 1"
        ).format(sql.Identifier("predictions", self.spec.name))
        row = self.conn.execute(query, [self.spec.predictions_dataset, day]).fetchone()
        return row[0] if row else None

    def _try(self, version: int, features: Feature) -> Choice:
        try:
            model = load_version(self.settings, self.conn, self.spec, version)
            try_model(model, read_sample(self.settings, self.spec, features, model.signature.names))
            digest = find_version(self.conn, self.spec.name, version).digest
        except NightshiftError as error:
            return Choice(None, f"version {version} cannot score ({error.code})")
        except Exception as error:  # noqa: BLE001  (a model may break in any way; the night is published all the same)
            return Choice(None, f"version {version} cannot score ({type(error).__name__})")
        return Choice(version, digest)


def load_version(settings: Settings, conn: Connection, spec: ModelSpec, version: int) -> TrainedModel:
    """Load a version of the model, its files verified.

    Raises:
        RegistryError: There is no such version.
        ObjectStoreError: A file is missing or was changed.
        ModelTextError: The trees are refused.
        ChampionBrokenError: The file holds another model.
    """
    model = load_model(ObjectStore.open(settings), find_version(conn, spec.name, version))
    if (model.model, model.task) != (spec.name, spec.task):
        raise ChampionBrokenError(
            "The champion's file holds another model.", expected=f"{spec.name}, {spec.task}", got=f"{model.model}, {model.task}"
        )
    return model
