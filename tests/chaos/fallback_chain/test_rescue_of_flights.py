"""The shipped specs are rescued from the real staging views.

Tonight's schedule, and last week's when it is missing.
"""

from __future__ import annotations

import datetime as dt

import pytest
from tests.integration.transformation.conftest import world

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.scoring.deadline_fallback import publish_by_deadline
from nightshift.warehouse.dbt.runner import ensure_relations

__all__ = ["world"]
pytestmark = [pytest.mark.integration, pytest.mark.promise("R18"), pytest.mark.long]


@pytest.mark.parametrize("model", ["flight_delayed", "arrival_delay_minutes"])
def test_flights_are_predicted_for_when_dbt_builds_no_features(settings, conn, run, world, model):
    ensure_relations(settings)
    world.deliver_day(dt.date(2013, 3, 3), seed=1)
    spec = load_spec(settings.models_dir, model)
    repeated = publish_by_deadline(settings, spec, Partition(dt.date(2013, 3, 10)), run)
    world.deliver_day(dt.date(2013, 3, 11), seed=2, skip="flight_outcomes")
    listed = publish_by_deadline(settings, spec, Partition(dt.date(2013, 3, 11)), run)

    assert [found.outcome for found in (repeated, listed)] == ["rescued", "rescued"]
    rows = conn.execute(
        "select partition_date::text, min(flight_id), count(*), min(event_timestamp at time zone"
        " 'America/New_York')::text"
        f" from analytics.{model}_current group by 1 order by 1".encode()
    ).fetchall()
    # 2013-03-03 lists flights of the 4th at 12:15 EST; a week later the clocks are an hour ahead,
    # and the local time is the same.
    assert rows == [
        ("2013-03-10", "2013-03-11_B6_3_JFK", 5, "2013-03-11 12:15:00"),
        ("2013-03-11", "2013-03-12_B6_3_JFK", 5, "2013-03-12 13:15:00"),
    ]
