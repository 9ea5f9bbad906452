"""The measured model version, with its training set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.columns.night_series import SCORE
from nightshift.monitoring.columns.reference_reader import score_sketches
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import find_version, load_model
from nightshift.training.training_set import find_training_set, read_rows

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition, PartitionRange
    from nightshift.models.trained_model import TrainedModel
    from nightshift.monitoring.columns.reference import ColumnReference
    from nightshift.quality.sketches.number_sketch import NumberSketch
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass
class Champion:
    """A model version, loaded.

    Attributes:
        version: The version.
        trained: The model.
        window: The partitions of its training set.
        read_rows: Reads the rows of its training set, which few partitions need.
        reference: What is usual of its columns; made when first needed.
    """

    version: ModelVersion
    trained: TrainedModel
    window: PartitionRange
    read_rows: Callable[[], pa.Table]
    reference: ColumnReference | None = field(default=None)

    @classmethod
    def load(cls, settings: Settings, conn: Connection, version: ModelVersion) -> Champion:
        """Read the model from the lake."""
        store = ObjectStore.open(settings)
        training_set = find_training_set(conn, version.training_set)
        return cls(
            version,
            load_model(store, version),
            training_set.window,
            lambda: read_rows(store, training_set),
        )

    @cached_property
    def rows(self) -> pa.Table:
        """Return the rows of the training set."""
        return self.read_rows()

    def training_scores(self) -> dict[dt.date, NumberSketch]:
        """Return the sketches of the version's scores of its training rows, by day."""
        return score_sketches(self.rows, self.trained.predictions(self.rows).score)

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


def holdout_metric(
    conn: Connection, spec: ModelSpec, version: int, source: str = "challenger"
) -> float | None:
    """Return the watched metric of a version, or of the rule, on the version's hold-out."""
    metrics = find_version(conn, spec.name, version).metrics.get(source, {})
    return metrics.get(spec.monitoring.metric)
