"""The cron of ``ingest`` starts one run per local day, whatever the clocks of a zone do."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import PROJECT_ROOT

pytestmark = pytest.mark.promise("R9")

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/St_Johns",
]
N_DAYS = 366 + 365 + 365


def runs(zone: str):
    """Yield the scheduler's runs from 2012 on, one after the other."""
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.trigger import CronPartitionTimetable

    timetable = CronPartitionTimetable(
        "0 0 * * *", timezone=zone, run_offset=-1, key_format="%Y-%m-%d"
    )
    start = dt.datetime(2012, 1, 1, 12, tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)
    restriction, last = TimeRestriction(start, None, True), None
    while last := timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction):
        yield last


@pytest.mark.parametrize("zone", ZONES)
def test_each_local_day_of_three_years_has_one_run_right_after_its_end(zone):
    found = list(islice(runs(zone), N_DAYS))
    days = PartitionRange(
        Partition(dt.date(2012, 1, 1), zone), Partition(dt.date(2014, 12, 31), zone)
    )

    assert [run.partition_key for run in found] == [str(day) for day in days]
    assert set(Counter(run.partition_key for run in found).values()) == {1}
    assert [run.run_after for run in found] == [day.end for day in days]
    assert all(before.run_after < after.run_after for before, after in pairwise(found))


def test_ingest_has_this_timetable_in_the_operating_timezone(parsed):
    source = (PROJECT_ROOT / "dags" / "ingest.py").read_text(encoding="utf-8")

    assert parsed["dags"]["ingest"]["timetable"] == "CronPartitionTimetable"
    timetable = (
        'CronPartitionTimetable("0 0 * * *", timezone=operating_timezone(), run_offset=-1,'
        ' key_format="%Y-%m-%d")'
    )
    # The formatter may break the call into several lines.
    assert "".join(timetable.split()) in "".join(source.split())
