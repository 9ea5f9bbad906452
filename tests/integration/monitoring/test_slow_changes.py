"""A slow change from the published nights to the verdict."""

from __future__ import annotations

import datetime as dt

import pytest
from tests.integration.monitoring.conftest import TRAINED_ON

from nightshift.monitoring.columns import change_sums

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_report")]
SLIGHTLY = 0.2
N_NIGHTS = 16
LAST = TRAINED_ON.shift(N_NIGHTS)


def test_condition_of_drift_counts_slow_changes_too(world, monkeypatch) -> None:
    # The world's champion has 30 training nights.
    monkeypatch.setattr(change_sums, "MIN_NIGHTS", 28)
    for number in range(1, N_NIGHTS + 1):
        world.add_night(TRAINED_ON.shift(number).key, wind=SLIGHTLY)
    verdict = world.measure(LAST.key, drifted_features_ratio=0.25)
    assert (verdict.drift_status, verdict.cause) == ("breached", "covariate shift")
    rows = world.conn.execute(
        "select slow_since from monitoring.drift_published where is_slow"
    ).fetchall()
    assert rows
    assert isinstance(rows[0][0], dt.date)
    assert any(reason.startswith("slow change: ") for reason in verdict.reasons)
