"""Replayed monitor and gate decide as the product's, on the same partitions and warehouse."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.databases import copied
from tests.integration.monitoring.conftest import (  # noqa: F401  (fixtures)
    TRAINED_ON,
    World,
    champion_state,
    history_state,
    no_report,
    open_world,
)

from nightshift.backtest import policy_backtest
from nightshift.backtest.monitor_replay import MonitorReplay
from nightshift.backtest.nightly_models import NightlyModels, SharedModels
from nightshift.backtest.policies import POLICIES, Policy, PolicyRun, Schedule
from nightshift.backtest.policy_backtest import (
    compare_policies,
    plan_work,
    train_models,
    training_days,
)
from nightshift.backtest.policy_results import PolicyResult
from nightshift.backtest.progress_log import ProgressLog
from nightshift.backtest.promotion_replay import PromotionReplay
from nightshift.backtest.walk_forward import labelled_set
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.object_store import ObjectStore
from nightshift.registry.model_versions import register
from nightshift.registry.promotion import decide
from nightshift.settings import Settings
from nightshift.training.pipeline import train
from nightshift.training.training_set import build_training_set, read_rows

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_figures")]

CHAMPION = TRAINED_ON.day
QUIET, STORMY = (2, 3, 4), (5, 6, 7, 8)
NIGHTS = [dt.date(2020, 2, day) for day in (*QUIET, *STORMY)]
SAME = (
    "drift_status",
    "score_drift_status",
    "performance_status",
    "severe_loss_status",
    "n_features",
    "n_drifted",
    "score_distance",
    "n_faults",
    "cause",
    "loss",
    "metric_value",
    "metric_baseline",
    "metric_expected",
    "n_labels",
    "breached_days",
    "in_cooldown",
    "is_over_budget",
    "has_triggered",
)


@pytest.fixture(scope="module")
def stormy_state(champion_state: Settings, tmp_path_factory) -> Iterator[Settings]:  # noqa: F811
    """Return a database of the world after three quiet nights and four windy ones with reversed
    outcomes, to be copied."""
    with copied(champion_state) as own:
        with open_world(own, tmp_path_factory.mktemp("stormy")) as world:
            for night in NIGHTS:
                world.add_night(
                    night.isoformat(),
                    wind=0.0 if night.day in QUIET else 0.65,
                    is_turned=night.day in STORMY,
                )
                world.score_night(night.isoformat())
        yield own


@pytest.fixture
def stormy(stormy_state: Settings, tmp_path: Path, no_report: None) -> Iterator[World]:  # noqa: F811
    with copied(stormy_state) as own, open_world(own, tmp_path) as world:
        yield world


def models_of(world: World, tmp_path: Path, *nights: dt.date) -> NightlyModels:
    rows = labelled_set(world.settings, world.spec, Partition(NIGHTS[-1]), world.run)
    made = NightlyModels(
        world.spec, read_rows(ObjectStore.open(world.settings), rows), tmp_path / "models"
    )
    list(made.train(nights, 1))
    return made


def test_verdicts_are_those_of_the_product_when_the_weather_changes(stormy: World, tmp_path: Path):
    monitor, run = (
        MonitorReplay(stormy.settings, stormy.conn, models_of(stormy, tmp_path, CHAMPION)),
        PolicyRun(Policy(Schedule.TRIGGERED)),
    )
    for night in NIGHTS:
        run.served[night] = CHAMPION
        if monitor.has_triggered(night, run):
            run.triggered.append(night)
    found = {
        night: {name: getattr(monitor.verdicts[night], name) for name in SAME} for night in NIGHTS
    }
    product = {night: stormy.measure(night.isoformat()) for night in NIGHTS}
    assert found == {
        night: {name: getattr(verdict, name) for name in SAME} for night, verdict in product.items()
    }
    assert run.triggered == [dt.date.fromisoformat(day) for day, _ in stormy.decisions()]
    assert run.triggered
    assert {monitor.verdicts[night].status.score_drift for night in NIGHTS} == {
        "ok",
        "breached",
    }
    assert {monitor.verdicts[night].status.performance for night in NIGHTS} == {
        "unknown",
        "ok",
        "breached",
    }


def test_verdict_of_another_champion_does_not_count_when_the_model_changed(
    stormy: World, tmp_path: Path
):
    models, changed = (
        models_of(stormy, tmp_path, CHAMPION, dt.date(2020, 2, 5)),
        PolicyRun(Policy(Schedule.TRIGGERED)),
    )
    monitor = MonitorReplay(stormy.settings, stormy.conn, models)
    for night in NIGHTS:
        changed.served[night] = CHAMPION if night <= dt.date(2020, 2, 5) else dt.date(2020, 2, 5)
        monitor.has_triggered(night, changed)
    sixth = monitor.verdicts[dt.date(2020, 2, 6)]
    assert sixth.model_version == dt.date(2020, 2, 5).toordinal()
    assert all(day >= "2020-02-06" for days in sixth.breached_days.values() for day in days)
    assert sixth.performance_status == "unknown"


@pytest.mark.parametrize("night", [dt.date(2020, 2, 4), dt.date(2020, 2, 8)])
def test_gate_decides_as_the_product_does(stormy: World, tmp_path: Path, night: dt.date):
    # A champion that is old at once: the gate runs in full, and may refresh, keep or refuse.
    promotion = stormy.spec.promotion.model_copy(update={"stale_after_days": 1})
    spec = stormy.spec.model_copy(update={"promotion": promotion})
    training_set = build_training_set(stormy.settings, spec, Partition(night), stormy.run)
    version = register(
        stormy.settings,
        train(stormy.settings, spec, training_set.key, stormy.run),
        stormy.run,
    )
    decision = decide(stormy.settings, spec, version.version, stormy.run)
    models = replace(models_of(stormy, tmp_path, CHAMPION, night), spec=spec)
    served = dict.fromkeys([NIGHTS[0], night], CHAMPION)
    run = PolicyRun(Policy(Schedule.NIGHTLY, is_gated=True), served=served)
    replay = PromotionReplay(stormy.settings, models, NIGHTS[0])
    assert replay.verdict(night, night, run) == decision.verdict, decision.reasons


def test_every_policy_takes_its_course_when_they_run_side_by_side(stormy: World, tmp_path: Path):
    nights = PartitionRange(Partition(NIGHTS[0]), Partition(NIGHTS[-1]))
    models = models_of(stormy, tmp_path, *training_days(nights))
    reported: list[PolicyResult] = []
    progress = ProgressLog(plan_work([models], nights), lambda _: None)
    train_models(models, nights, progress)
    found = compare_policies(stormy.settings, models, nights, progress, reported.append)
    shared = on_disk(models)
    alone = [
        policy_backtest.run_in_process(stormy.settings, shared, nights, policy, lambda _: None)
        for policy in POLICIES
    ]
    assert [result.policy for result in reported] == list(POLICIES)
    assert [result.run for result in found.results] == alone
    by_policy = {str(result.policy): result.run for result in found.results}
    assert set(by_policy["never"].served.values()) == {nights.first.shift(-1).day}
    assert by_policy["nightly"].promoted == NIGHTS
    assert by_policy["drift-triggered"].triggered
    assert progress.work["gate"].n_done >= len(NIGHTS)
    assert progress.work["monitoring"].n_done == 2 * len(NIGHTS)


def on_disk(models: NightlyModels) -> SharedModels:
    """Return the models with its rows in a file that stays."""
    with models.shared() as shared:
        kept = shared.rows.with_suffix(".kept")
        kept.write_bytes(shared.rows.read_bytes())
    return replace(shared, rows=kept)
