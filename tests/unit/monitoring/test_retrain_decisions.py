"""The program that counts right retrain requests runs, and its limits can fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.retrain_decisions import FittedModels, Tally, result_of, watch
from benchmarks.simulated_years import KINDS, SPEC, YearType, simulate

from nightshift.models.predictions import labels_of
from nightshift.training.evaluation import measure

BY_NAME = {year.name: year for year in KINDS}
GOOD = {
    "stable": Tally(lost=[0.01, -0.01]),
    "sudden change": Tally(right=[0.1] * 9, n_needs=1, delays=[5]),
}


def models(year: YearType, n_rows: int, n_days: int) -> FittedModels:
    return FittedModels(SPEC, simulate(year, 1, n_rows, n_days).rows, Path())


def test_nights_of_the_smallest_year_are_decided_by_the_product():
    run, verdicts = watch(models(BY_NAME["stable"], 200, 4), 4)
    # Two nights until the first one has matured.
    losses = [verdict.loss for verdict in verdicts.values()]
    assert [loss is None for loss in losses] == [True, True, False, False]
    assert all(verdict.n_features == 7 for verdict in verdicts.values())
    assert run.triggered == []


def test_watched_loss_is_the_log_loss_of_the_library():
    simulated = models(BY_NAME["stable"], 200, 3)
    run, verdicts = watch(simulated, 3)
    day, *_, last = verdicts
    rows = simulated.rows_on(day)
    made = simulated.predictions(run.served[day], day)
    expected = measure(SPEC.task, labels_of(SPEC, rows), made)["log_loss"]
    assert verdicts[last].metric_value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "needs"),
    [("sudden change", [(120, 120)]), ("shock of three days", []), ("noise level changed", [])],
)
def test_change_is_needed_when_the_old_relation_costs_more_than_the_limit(name, needs):
    world = simulate(BY_NAME[name], 1, 200, 200)
    begins = world.rows.column("partition_date")[70 * 200].as_py()
    nights = [((need.begin - begins).days, (need.needed - begins).days) for need in world.needs]
    assert nights == needs


def test_slow_change_is_needed_after_it_began_and_before_it_ends():
    [need] = simulate(BY_NAME["slow change"], 1, 200, 200).needs
    assert 10 < (need.needed - need.begin).days < 60


def test_unit_changes_only_the_column_that_is_read():
    changed = simulate(BY_NAME["unit changed for ever"], 1, 200, 130)
    stable = simulate(BY_NAME["stable"], 1, 200, 130)
    ratio = np.divide(*(w.rows.column("distance").to_numpy() for w in (changed, stable)))
    assert np.unique(ratio.round(6)).tolist() == [1.0, 1.609]
    assert changed.rows.column("is_late").equals(stable.rows.column("is_late"))


def test_limits_are_met_by_a_good_monitor():
    assert whole(GOOD).is_good


@pytest.mark.parametrize(
    ("limit", "bad"),
    [
        ("precision", {"season": Tally(wrong=[0.0, 0.0])}),
        ("recall", {"two changes": Tally(n_needs=2, delays=[3])}),
        ("delay, longest", {"two changes": Tally(n_needs=1, delays=[8])}),
        ("requests in years of a fault", {"shock of three days": Tally(wrong=[0.2])}),
    ],
)
def test_limit_is_missed_when(limit, bad):
    result = whole(GOOD | bad)
    missed = {name for name, limited in result.limited.items() if not limited.is_met}
    assert limit in missed
    assert not result.is_good


def whole(tallies: dict[str, Tally]):
    return result_of({name: Tally() for name in BY_NAME} | tallies, "by hand")
