"""A line of `nightshift status` says what is known of a model, and nothing of what is not."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from nightshift.cli.services.status import model_row
from nightshift.incidents.overview import ModelOverview

DAY = dt.date(2024, 3, 4)
NEW = ModelOverview("m", "team", "healthy", None, None, None, 3, None, None, None, None, None)


def test_a_model_that_has_published_nothing_has_a_champion_without_an_age():
    assert model_row(NEW) == ("m", "healthy", "nothing", "-", "-", "-", "version 3", "-")


def test_a_model_without_a_champion_says_so():
    assert model_row(replace(NEW, champion=None))[6] == "none"


def test_days_whose_deadline_is_over_stand_beside_the_newest_one():
    model = replace(NEW, published=DAY, champion_age_days=9, late=(DAY + dt.timedelta(days=1),))
    row = model_row(model)
    assert row[2] == "2024-03-04, late: 2024-03-05"
    assert row[6] == "version 3, 9 days old"
