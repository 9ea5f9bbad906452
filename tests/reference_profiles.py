"""The summaries of a champion's training nights: its first verdict makes them, others read them.

A state that tests copy has them already: they take most of the time of a first verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.monitoring.champion import Champion
from nightshift.monitoring.columns.reference_reader import ReferenceReader
from nightshift.registry.model_versions import find_version

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def store_reference(
    settings: Settings, conn: Connection, spec: ModelSpec, partition: Partition, run: RunContext
) -> None:
    """Store what a verdict of the partition will ask for, for version 1."""
    champion = Champion.load(settings, conn, find_version(conn, spec.name, 1))
    reader = ReferenceReader(settings, conn, spec, run)
    trained = reader.training_loads(champion.version.training_set, champion.window)
    reader.summaries(trained | reader.recent_loads(partition))
    reader.scores(champion)
