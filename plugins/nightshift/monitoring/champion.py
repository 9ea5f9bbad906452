"""The measured model version with its training set, and the baseline of its drift."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.drift import SCORE
from nightshift.monitoring.drift_baseline import training_noise
from nightshift.registry.model_versions import load_model
from nightshift.training.training_set import find_training_set, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass
class Champion:
    """A model version, loaded, with the rows of its training set."""

    version: ModelVersion
    trained: TrainedModel
    rows: pa.Table

    @classmethod
    def load(cls, settings: Settings, conn: Connection, version: ModelVersion) -> Champion:
        """Read the model and its training set from the lake."""
        store = ObjectStore.open(settings)
        rows = read_rows(store, find_training_set(conn, version.training_set))
        return cls(version, load_model(store, version), rows)

    @cached_property
    def noise(self) -> dict[str, float]:
        """Return, by column, the drift that one in twenty training partitions exceeds."""
        return training_noise(self.trained, self.rows)

    @property
    def n_unseen(self) -> int:
        """Return the number of last rows, unseen in training, whose scores are the reference."""
        return int(self.trained.reference[SCORE]["n"])
