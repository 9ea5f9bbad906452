"""Rollbacks in a registry of their own: a month within a minute, and one that is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.integration.scoring.conftest import Registry, publish_features
from tests.integration.scoring.test_rollback import OLD, RUN, published, rolled_back

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.registry.rollback import RollbackRefusedError
from nightshift.scoring.pipeline import score
from nightshift.scoring.republish import plan_rollback, roll_back

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration]


def test_it_is_refused_when_the_version_is_the_champion(
    registry: Registry, spec: ModelSpec
) -> None:
    registry.promote(OLD, seed=1)
    with pytest.raises(RollbackRefusedError, match="is the champion"):
        rolled_back(registry.settings, spec, 1)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.promise("R19")
def test_thirty_partitions_are_repaired_from_kept_loads_within_a_minute(
    conn: Connection,
    registry: Registry,
    spec: ModelSpec,
    record_figure: Callable[[str, float], None],
) -> None:
    month = PartitionRange.of("2013-07-01", "2013-07-30")
    publish_features(conn, month, n_rows=900)
    registry.promote("2013-07-01", seed=1)
    score(registry.settings, spec, month, RUN)
    before = published(conn)
    registry.promote("2013-07-01", seed=2)
    rolled_back(registry.settings, spec, 2, "2013-07-01")
    started = time.monotonic()
    plan = plan_rollback(registry.settings, spec, 1, Partition.parse("2013-07-01"), RUN)
    assert len(plan.partition_runs[0].reusable_loads) == 30
    roll_back(registry.settings, spec, plan, "back", RUN)
    seconds = time.monotonic() - started
    record_figure("seconds for 30 partitions of 900 rows", round(seconds, 1))
    assert published(conn) == before
    assert seconds < 60
