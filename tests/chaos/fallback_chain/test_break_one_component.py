"""Break one component at a stage of the night.

A complete, valid partition stands all the same, and its rows say how it was made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.integration.scoring.conftest import DAY, Registry
from tests.integration.scoring.test_deadline_fallback import features_of_list

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.scoring.deadline_fallback import publish_by_deadline
from nightshift.scoring.pipeline import score

pytestmark = [pytest.mark.integration, pytest.mark.promise("R18"), pytest.mark.mlts("infra-4")]
NIGHT = Partition(dt.date(2013, 7, 1))
BEFORE = PartitionRange.of("2013-06-30")
N = 20


@dataclass
class World:
    """Two champions, a good night, and tonight's list.

    Tonight's features are published unless a break keeps them away.
    """

    registry: Registry
    settings: object
    spec: object
    conn: object
    monkeypatch: pytest.MonkeyPatch
    versions: list
    has_list: bool = True
    has_features: bool = True

    def s3_is_down(self) -> None:
        self.settings = self.settings.model_copy(
            update={"s3_endpoint_url": "http://127.0.0.1:9", "s3_request_attempts": 1}
        )

    def corrupt(self, *numbers: int) -> None:
        for number in numbers:
            self.registry.corrupt(self.versions[number - 1])

    def empty_registry(self) -> None:
        for table in (
            "ml.promotions",
            "ml.feature_references",
            "ml.version_explanations",
            "ml.model_versions",
        ):
            self.conn.execute(f"alter table {table} disable trigger user")
            self.conn.execute(f"delete from {table}")

    def gx_cannot_be_imported(self) -> None:
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "great_expectations"]:
            self.monkeypatch.delitem(sys.modules, name)
        self.monkeypatch.setitem(sys.modules, "great_expectations", None)

    def gx_evaluates(self, results: Callable[..., object]) -> None:
        self.monkeypatch.setattr("nightshift.quality.gates.evaluate_by_great_expectations", results)

    def lose_suite(self) -> None:
        (self.settings.expectations_dir / "predictions" / "parcel_late.json").unlink()


def _raise(*_: object, **__: object) -> None:
    raise RuntimeError("broken on purpose")


def _no_features(world: World) -> None:
    world.has_features = False


def _no_drop(world: World) -> None:
    world.has_features = world.has_list = False


CHAMPION, PREVIOUS, OLD, RULE = "champion", "previous_champion", "carried_over", "fallback_rule"
BREAKS: dict[str, tuple[Callable[[World], object], set[str]]] = {
    "nothing": (lambda _: None, {CHAMPION}),
    "source: no drop": (_no_drop, {OLD}),
    "source: corrupt drop, refused at ingest": (_no_drop, {OLD}),
    "source: only the list came": (_no_features, {OLD}),
    "dbt: a model raises": (_no_features, {OLD}),
    "GX: crashes on the features": (_no_features, {OLD}),
    "GX: cannot be imported": (World.gx_cannot_be_imported, {OLD}),
    "GX: crashes on the predictions": (lambda w: w.gx_evaluates(_raise), {OLD}),
    "GX: the suite is missing": (World.lose_suite, {OLD}),
    "GX: an empty result": (lambda w: w.gx_evaluates(lambda *_: []), {OLD}),
    "GX: half a result": (lambda w: w.gx_evaluates(lambda *_: [{"success": True}]), {OLD}),
    "training: never ran, the registry is empty": (World.empty_registry, {OLD}),
    "registry: its tables are gone": (
        lambda w: w.conn.execute("drop table ml.promotions cascade"),
        {OLD},
    ),
    "S3: down": (World.s3_is_down, {OLD}),
    "champion: its file is corrupt": (lambda w: w.corrupt(2), {PREVIOUS}),
    "champion and the one before: corrupt": (lambda w: w.corrupt(1, 2), {OLD}),
}
SHORT = {
    "source: no drop",
    "source: only the list came",
    "GX: cannot be imported",
    "training: never ran, the registry is empty",
    "S3: down",
}
"""The others are variants that the tests of scoring and gates cover one by one."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name not in SHORT else []) for name in BREAKS],
)
def test_a_complete_partition_stands_and_says_how_when_one_component_is_broken(  # noqa: PLR0917
    registry, warehouse, lists, scoring_settings, listed_spec, run, monkeypatch, name
):
    world = good_night(
        World(registry, scoring_settings, listed_spec, warehouse, monkeypatch, []), lists, run
    )
    breaks, expected = BREAKS[name]
    breaks(world)
    tonight(world, lists)
    n_scored = try_to_score(world)
    found = publish_by_deadline(
        world.settings, world.spec, NIGHT, RunContext("rescue/night", 1, "test")
    )

    assert found.outcome == ("in time" if n_scored else "rescued")
    assert sources(world) == expected
    assert is_complete(world)


@pytest.mark.parametrize("stage", ["before begin", "between the shards", "before publish"])
@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("champion: its file is corrupt", {PREVIOUS}),
        ("champion and the one before: corrupt", {OLD}),
        ("S3: down", {OLD}),
    ],
)
@pytest.mark.parametrize("wants_rescue", [False, True])
@pytest.mark.long
def test_a_complete_partition_stands_at_whatever_stage_it_breaks(  # noqa: PLR0917
    registry,
    warehouse,
    lists,
    scoring_settings,
    listed_spec,
    run,
    monkeypatch,
    stage,
    broken,
    expected,
    wants_rescue,
):
    from nightshift.scoring.pipeline import begin, publish, score_shard

    world = good_night(
        World(registry, scoring_settings, listed_spec, warehouse, monkeypatch, []), lists, run
    )
    tonight(world, lists)
    breaks = BREAKS[broken][0]
    second_try = RunContext("score/night", 2, "test")
    if stage == "before begin":
        breaks(world)
    plan = begin(world.settings, world.spec, DAY, second_try)
    score_shard(world.settings, world.spec, plan, 0, second_try)
    if stage == "between the shards":
        breaks(world)
    score_shard(world.settings, world.spec, plan, 1, second_try)
    if stage == "before publish":
        breaks(world)
    if not wants_rescue:
        publish(world.settings, world.spec, plan, second_try)
    publish_by_deadline(world.settings, world.spec, NIGHT, RunContext("rescue/night", 1, "test"))

    is_scored = stage == "before publish" and not wants_rescue
    assert sources(world) == ({CHAMPION} if is_scored else expected)
    assert is_complete(world)


def _training_raises(world: World) -> None:
    world.monkeypatch.setattr("lightgbm.train", _raise)
    with pytest.raises(RuntimeError, match="on purpose"):
        # A seed of no other test: models are fitted once a process.
        world.registry.promote("2013-06-25", seed=404)


def _mlflow_is_down(world: World) -> None:
    from pydantic import SecretStr

    world.settings = world.settings.model_copy(
        update={"mlflow_tracking_uri": SecretStr("http://127.0.0.1:9")}
    )


def _data_docs_raise(world: World) -> None:
    world.monkeypatch.setattr("nightshift.lake.object_store.ObjectStore.put", _raise)


@pytest.mark.parametrize("breaks", [_training_raises, _mlflow_is_down, _data_docs_raise])
def test_scoring_is_not_affected_when_an_optional_stage_fails(  # noqa: PLR0917
    registry, warehouse, lists, scoring_settings, listed_spec, run, monkeypatch, breaks
):
    world = good_night(
        World(registry, scoring_settings, listed_spec, warehouse, monkeypatch, []), lists, run
    )
    tonight(world, lists)
    breaks(world)
    score(world.settings, world.spec, DAY, run)

    assert sources(world) == {CHAMPION}
    assert is_complete(world)


def good_night(world: World, lists, run) -> World:
    """Promote two versions, and score the nights of a week ago and of yesterday."""
    lists("2013-06-24", n=N)
    lists("2013-06-30", n=N)
    world.versions = [
        world.registry.promote("2013-06-01", seed=1),
        world.registry.promote("2013-06-20", seed=2),
    ]
    features_of_list(world.conn, BEFORE)
    score(world.settings, world.spec, BEFORE, run)
    return world


def tonight(world: World, lists) -> None:
    if world.has_list:
        lists("2013-07-01", n=N)
    if world.has_features:
        features_of_list(world.conn, DAY)


def try_to_score(world: World) -> int:
    """Do what ``score__<model>`` does, three tries of it.

    Return the published rows, 0 after a loud failure.
    """
    for attempt in (1, 2, 3):
        try:
            return sum(
                load.n_rows
                for load in score(
                    world.settings, world.spec, DAY, RunContext("score/night", attempt, "test")
                )
            )
        except (NightshiftError, ImportError, RuntimeError):
            continue
    return 0


def sources(world: World) -> set[str]:
    rows = world.conn.execute(
        "select distinct score_source from analytics.parcel_late_current where partition_date ="
        " '2013-07-01'"
    )
    return {source for (source,) in rows}


def is_complete(world: World) -> bool:
    """Return whether readers see each of tonight's parcels once.

    With a score in its range and a reason below the champion.
    """
    row = world.conn.execute(
        "select count(*), count(distinct parcel_id), count(*) filter (where parcel_id ~"
        " '^2013-07-02_[0-9]+$'),"
        " bool_and(score between 0 and 1 and probability between 0 and 1 and decile between 1 and"
        " 10 and is_positive is not null),"
        " bool_and((score_source = 'champion') = (score_source_reason is null)),"
        " bool_and(event_timestamp::date = '2013-07-02')"
        " from analytics.parcel_late_current where partition_date = '2013-07-01'"
    ).fetchone()
    return row == (N, N, N, True, True, True)
