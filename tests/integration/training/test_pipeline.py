from __future__ import annotations

import json
from contextlib import ExitStack
from hashlib import sha256

import psycopg
import pytest
from tests.integration.training.conftest import train_once

from nightshift.contracts.partitions import Partition
from nightshift.contracts.training_spec import Weekday
from nightshift.lake.object_store import ObjectStore
from nightshift.models.booster import contributions
from nightshift.registry.model_versions import load_model, register
from nightshift.registry.promotion import decide
from nightshift.training.pipeline import train
from nightshift.training.schedule import is_due
from nightshift.training.training_set import build_training_set, read_rows
from nightshift.training.trees import boosting
from nightshift.warehouse.control_tables.retrain_requests import (
    close_request,
    open_request,
    open_requests,
)

pytestmark = pytest.mark.integration


_VERSION_OF_ANOTHER_NIGHT = b"""
    insert into ml.model_versions
    select (jsonb_populate_record(v, jsonb_build_object(
        'version', 2, 'digest', 'another', 'partition_date', %s::date))).*
    from ml.model_versions v
"""


class Killed(BaseException):
    """Stands for a kill -9: nothing catches it."""


@pytest.fixture
def training_set(world):
    return build_training_set(world.settings, world.spec, world.night, world.run)


@pytest.fixture
def candidate(world, training_set):
    return train_once(world, world.spec, training_set)


def test_model_beats_rule_baseline_when_features_tell(candidate):
    assert candidate.metrics["challenger"]["roc_auc"] > 0.8
    assert candidate.metrics["baseline"]["roc_auc"] == 0.5
    assert candidate.metrics["challenger"]["log_loss"] < candidate.metrics["baseline"]["log_loss"]


def test_files_are_named_by_their_digests(world, candidate):
    store = ObjectStore.open(world.settings)
    shas = [
        sha256(store.get(key)).hexdigest() for key in (candidate.model_key, candidate.metadata_key)
    ]
    assert shas == [candidate.model_sha256, candidate.metadata_sha256]
    assert candidate.model_key == f"models/parcel_late/{candidate.digest}/model.lgb"
    assert candidate.digest == sha256("".join(shas).encode()).hexdigest()
    assert sorted(candidate.figures) == [
        "backtest.png",
        "curves.png",
        "importance.png",
        "reliability.png",
    ]
    assert store.get(candidate.figures["curves.png"]).startswith(b"\x89PNG")


@pytest.mark.promise("R6")
@pytest.mark.mlts("infra-1")
def test_same_digest_when_trained_twice_with_other_thread_counts(world, training_set, monkeypatch):
    digests = set()
    for n_threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
        digests.add(train(world.settings, world.spec, training_set.key, world.run).digest)
    assert len(digests) == 1


def test_no_second_version_when_registered_twice(world, training_set, candidate, monkeypatch):
    first = register(world.settings, candidate, world.run)
    recorded = world.conn.execute("select feature, share from ml.importances").fetchall()
    assert dict(recorded) == pytest.approx(candidate.importance)
    assert sum(candidate.importance.values()) == pytest.approx(1.0)
    monkeypatch.setattr(boosting, "fit_trees", None)
    again = train(world.settings, world.spec, training_set.key, world.run)
    assert (again.digest, again.figures, again.metrics) == (
        candidate.digest,
        candidate.figures,
        candidate.metrics,
    )
    assert again.importance == pytest.approx(candidate.importance)
    assert register(world.settings, again, world.run) == first
    assert world.conn.execute(
        "select count(*), max(version) from ml.model_versions"
    ).fetchone() == (1, 1)


def test_other_version_when_spec_changes(world, training_set, candidate):
    other = world.spec_with(training={**world.spec.training.model_dump(), "seed": 7})
    assert train(world.settings, other, training_set.key, world.run).digest != candidate.digest


@pytest.mark.promise("R4")
@pytest.mark.promise("R6")
def test_same_digest_when_killed_after_every_checkpoint(world, training_set, monkeypatch):
    rounds = {"early_stopping_rounds": 80, "num_boost_round": 150, "backtest_folds": 0}
    long_spec = world.spec_with(training={**world.spec.training.model_dump(), **rounds})
    undisturbed = train(world.settings, long_spec, training_set.key, world.run)
    save, n_kills = boosting.save_checkpoint, 0

    def save_and_die(checkpoint, state):
        save(checkpoint, state)
        if checkpoint is not None:
            raise Killed

    monkeypatch.setattr(boosting, "save_checkpoint", save_and_die)
    while True:
        try:
            resumed = train(world.settings, long_spec, training_set.key, world.run)
            break
        except Killed:
            n_kills += 1
            assert n_kills < 40
    # Two blocks, the evaluated and the served trees: each fit has a checkpoint of its own.
    assert n_kills >= 4
    assert resumed.digest == undisturbed.digest
    assert list((world.settings.home / "checkpoints").iterdir()) == []


def test_evidence_is_append_only_and_holds_slices(world, candidate):
    register(world.settings, candidate, world.run)
    found = world.conn.execute(
        "select distinct sample, source, slice_column, slice_level from ml.evaluations"
        " where metric = 'roc_auc' order by 1, 2, 3, 4"
    ).fetchall()
    levels = [("", ""), ("carrier", "A"), ("carrier", "B"), ("carrier", "C")]
    sources = [
        (sample, source)
        for sample in ("backtest-1", "holdout")
        for source in ("baseline", "challenger")
    ]
    assert found == [(*source, *level) for source in sources for level in levels]
    statements = [
        "update ml.evaluations set value = 1",
        "truncate ml.evaluations",
        "delete from ml.model_versions",
        "delete from ml.training_sets",
    ]
    for statement in statements:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            world.conn.execute(statement)


def test_loaded_model_scores_as_trained_and_reference_describes_fit_rows(
    world, training_set, candidate
):
    version = register(world.settings, candidate, world.run)
    store = ObjectStore.open(world.settings)
    model = load_model(store, version)
    rows = read_rows(store, training_set).slice(0, 5)
    predictions = model.predictions(rows)
    assert predictions.score.shape == (5,)
    assert ((predictions.probability > 0) & (predictions.probability < 1)).all()
    assert contributions(model.booster, model.encode(rows)).shape == (5, 5)
    assert set(model.deciles(predictions.score)) <= set(range(1, 11))
    document = json.loads(store.get(version.metadata_key))
    reference = document["reference"]
    assert sorted(reference) == ["categorical", "numeric", "score"]
    assert sorted(reference["categorical"]["carrier"]["shares"]) == ["A", "B", "C"]
    assert len(reference["numeric"]["wind"]["edges"]) + 1 == len(
        reference["numeric"]["wind"]["shares"]
    )
    assert reference["numeric"]["weight"]["missing_share"] == pytest.approx(3 / 57)
    assert sum(reference["score"]["shares"]) == pytest.approx(1)


def test_weekly_model_is_due_on_its_weekday_and_on_no_other_night_of_a_trained_week(
    world, candidate
):
    saturday = world.night
    register(world.settings, candidate, world.run)
    assert is_due(world.settings, world.spec, saturday.shift(1))
    assert not is_due(world.settings, world.spec, saturday.shift(-1))


def test_missed_weekly_training_is_due_until_one_night_has_trained(world, candidate):
    saturday = world.night
    missed = [saturday.shift(-days) for days in range(6)]
    assert all(is_due(world.settings, world.spec, night) for night in missed)
    register(world.settings, candidate, world.run)
    assert is_due(world.settings, world.spec, saturday), "a rerun answers as before"
    assert not any(is_due(world.settings, world.spec, night) for night in missed[1:])


@pytest.mark.parametrize("weekday", ["monday", "wednesday", "saturday"])
def test_training_missed_for_weeks_is_made_up_for_once(world, candidate, weekday):
    """The nights around the change to summer time are no exception."""
    changes = {"weekday": Weekday(weekday), "minimum_days": 1, "window_days": 90}
    spec = world.spec.model_copy(
        update={"training": world.spec.training.model_copy(update=changes)}
    )
    register(world.settings, candidate, world.run)
    nights = [Partition.parse("2020-03-05").shift(days) for days in range(7)]
    assert all(is_due(world.settings, spec, night) for night in nights)
    world.conn.execute(_VERSION_OF_ANOTHER_NIGHT, [nights[0].day])
    until_next = [night for night in nights[1:] if not is_due(world.settings, spec, night)]
    n_expected = (list(Weekday).index(Weekday(weekday)) - nights[1].day.weekday()) % 7
    assert until_next == nights[1:][:n_expected]


def test_nightly_model_is_not_due_when_the_history_is_too_short(world):
    nightly = world.spec.training.model_copy(update={"schedule": "nightly"})
    spec = world.spec.model_copy(update={"training": nightly})
    assert is_due(world.settings, spec, world.night)
    assert not is_due(world.settings, spec, world.night.shift(-400))


@pytest.mark.promise("R16")
def test_order_of_the_monitor_makes_due_and_is_consumed_once(world, candidate):
    saturday = world.night
    version = register(world.settings, candidate, world.run)
    later = open_request(world.conn, "parcel_late", saturday.shift(1), ["later"], {}, world.run)
    order = open_request(
        world.conn, "parcel_late", saturday.shift(-1), ["drift"], {"psi": 0.4}, world.run
    )
    assert (
        open_request(world.conn, "parcel_late", saturday.shift(-1), ["again"], {}, world.run)
        == order
    )
    assert is_due(world.settings, world.spec, saturday)
    decide(world.settings, world.spec, version.version, world.run)
    assert [o.decision_id for o in open_requests(world.conn, "parcel_late")] == [later.decision_id]
    assert close_request(world.conn, order.decision_id, saturday, world.run, {}) is False
    assert is_due(world.settings, world.spec, saturday)
    assert not is_due(world.settings, world.spec, saturday.shift(-1))
    query = """
        select state, closed_partition, outcome->>'verdict' from monitoring.retrain_decisions
        where decision_id = %s
    """
    row = world.conn.execute(query, [order.decision_id])
    assert row.fetchone() == ("consumed", saturday.day, "first")


def test_regression_spec_trains_from_the_same_view(world):
    spec = world.spec_with(
        name="parcel_delay",
        task="regression",
        label={"relation": "fct_parcel_labels", "column": "delay_minutes"},
        # The delays are linear in the wind, so a linear model is proved better than trees.
        promotion={"metric": "rmse", "minimum_gain_over_baseline": -5},
        scoring={"fallback": {"feature": "late_rate_7d", "default": 3.0}},
        monitoring={"metric": "mae", "maximum_metric_loss": 5, "windows": {"n": 1, "m": 2}},
    )
    training_set = build_training_set(world.settings, spec, world.night, world.run)
    candidate = train(world.settings, spec, training_set.key, world.run)
    assert candidate.metrics["challenger"]["rmse"] < 12.5
    assert candidate.metrics["baseline"]["rmse"] > 14
    version = register(world.settings, candidate, world.run)
    assert decide(world.settings, spec, version.version, world.run).verdict == "first"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_cluster", [True, False])
def test_a_spec_that_asks_for_dask_gets_the_same_evidence_and_registry(
    world, candidate, is_cluster
):
    """A cluster that stands already, as in production; or workers beside the task."""
    from dask.distributed import LocalCluster

    training = world.spec.training.model_copy(update={"engine": "dask", "backtest_folds": 0})
    spec = world.spec_with(training=training.model_dump(mode="json"))
    training_set = build_training_set(world.settings, spec, world.night, world.run)
    with ExitStack() as cleanup:
        scheduler = ""
        if is_cluster:
            options = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
            scheduler = cleanup.enter_context(
                LocalCluster(n_workers=2, processes=True, **options)
            ).scheduler_address
        settings = world.settings.model_copy(update={"dask_scheduler": scheduler})
        on_dask = train(settings, spec, training_set.key, world.run)

    assert on_dask.metrics["challenger"]["roc_auc"] == pytest.approx(
        candidate.metrics["challenger"]["roc_auc"], abs=0.03
    )
    assert on_dask.metrics["baseline"] == candidate.metrics["baseline"]
    version = register(world.settings, on_dask, world.run)
    assert load_model(ObjectStore.open(world.settings), version).training["n_trees"] > 0
    assert decide(world.settings, spec, version.version, world.run).verdict == "first"
    assert train(world.settings, spec, training_set.key, world.run).digest == on_dask.digest
