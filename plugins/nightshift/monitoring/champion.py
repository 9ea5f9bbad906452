"""The measured model version with its training set, and the baseline of its drift."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.drift import SCORE
from nightshift.monitoring.drift_baseline import training_noise
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import find_version, load_model
from nightshift.training.training_set import find_training_set, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
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
        training_set = find_training_set(conn, version.training_set)
        rows = read_rows(store, training_set)
        return cls(version, load_model(store, version), rows)

    @cached_property
    def noise(self) -> dict[str, float]:
        """Return, by column, the drift that one in twenty training partitions exceeds."""
        return training_noise(self.trained, self.rows)

    @property
    def n_unseen(self) -> int:
        """Return the number of last rows, unseen in training, whose scores are the reference."""
        # The validation and hold-out rows are the last ones of the training set.
        return int(self.trained.reference[SCORE]["n"])


def measured_version(
    conn: Connection, spec: ModelSpec, partition: Partition, scored_by: Sequence[int]
) -> ModelVersion | None:
    """Return the version that scored a partition, or else the one that serves it."""
    # The version that scored is measured, even if another one serves by now.
    if scored_by:
        return find_version(conn, spec.name, scored_by[0])
    return champion_for(conn, spec.name, partition)


def holdout_metric(conn: Connection, spec: ModelSpec, version: int) -> float | None:
    """Return the watched metric of a version on its hold-out."""
    metrics = find_version(conn, spec.name, version).metrics.get("challenger", {})
    return metrics.get(spec.monitoring.metric)
