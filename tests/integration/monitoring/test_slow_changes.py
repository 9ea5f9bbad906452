"""A slow change from the published nights to the verdict, and its end by repaired nights."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from tests.integration.monitoring.conftest import TRAINED_ON

from nightshift.contracts.partitions import PartitionRange
from nightshift.incidents.rules.models import slow_changes

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_report")]
SLIGHTLY = 0.2
"""Two usual variations of the wind's mean: no night has drifted at it."""
N_NIGHTS = 16
LAST = TRAINED_ON.shift(N_NIGHTS)


def told(world) -> list[tuple]:
    return world.conn.execute(
        "select partition_date, feature, slow_statistic, slow_since, is_drifted"
        " from monitoring.drift_published where is_slow order by 1, 2"
    ).fetchall()


def incidents(world):
    # What a rule reads of its context; the world has no folder of specs.
    context = SimpleNamespace(
        conn=world.conn, specs={world.spec.name: world.spec}, owner_of=lambda _: "parcels"
    )
    return list(slow_changes(cast("EvaluationContext", context)))


@pytest.mark.promise("R6")
def test_slow_change_is_told_with_its_night_and_ends_when_the_nights_are_repaired(world) -> None:
    for number in range(1, N_NIGHTS + 1):
        world.add_night(TRAINED_ON.shift(number).key, wind=SLIGHTLY)
    verdict = world.measure(TRAINED_ON.shift(1).key, LAST.key)
    rows = told(world)
    # No night before enough of them had added up, and from then on each one.
    first = rows[0][0]
    assert TRAINED_ON.shift(4).day < first <= LAST.day
    assert {(feature, drifted) for _, feature, _, _, drifted in rows} == {("wind", False)}
    assert [day for day, *_ in rows] == [
        day for day in PartitionRange(TRAINED_ON.shift(1), LAST).days if day >= first
    ]
    since = rows[-1][3]
    assert abs((since - TRAINED_ON.shift(1).day).days) <= 4
    [reason] = [line for line in verdict.reasons if line.startswith("slow change: wind")]
    assert reason.endswith(f"above the usual, a night, since {since}")
    assert (verdict.n_drifted, verdict.has_triggered, verdict.n_faults) == (1, False, 0)

    [fact] = incidents(world)
    assert (fact.code, fact.severity, fact.partitions) == ("NS-MONITOR-011", "info", (LAST.day,))
    assert "1 column(s)" in fact.what
    assert "wind" in fact.what

    hashes = (
        "select dataset, partition_date, content_hash from ops.published"
        " join ops.loads using (dataset, partition_date, load_id)"
        " where dataset like 'monitoring%' order by 1, 2"
    )
    before = world.conn.execute(hashes).fetchall()
    assert world.measure(TRAINED_ON.shift(1).key, LAST.key) == verdict
    assert world.conn.execute(hashes).fetchall() == before

    # The feed delivers the nights again, as they were meant.
    for number in range(1, N_NIGHTS + 1):
        world.add_night(TRAINED_ON.shift(number).key, load_id=2_000_000)
    repaired = world.measure(TRAINED_ON.shift(1).key, LAST.key)
    assert told(world) == []
    assert incidents(world) == []
    assert not [line for line in repaired.reasons if "slow change" in line]


def test_condition_of_drift_counts_slow_changes_too(world) -> None:
    for number in range(1, N_NIGHTS + 1):
        world.add_night(TRAINED_ON.shift(number).key, wind=SLIGHTLY)
    verdict = world.measure(LAST.key, drifted_features_ratio=0.25)
    assert (verdict.drift_status, verdict.cause) == ("breached", "covariate shift")
    assert verdict.segment is not None
    assert verdict.segment.startswith("wind: ")
    assert isinstance(told(world)[0][0], dt.date)
