"""A poisoned champion, also with a matching digest: the partition is published without it."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from tests.chaos.poisoned_models.mutators import with_true_sizes
from tests.chaos.poisoned_models.sweep import files_of
from tests.integration.scoring.conftest import (
    DAY,
    Registry,
    parcel_templates,
    publish_features,
    registry,
    scoring_settings,
    settings,
    spec,
    tiny_model,
    warehouse,
)
from tests.raw_bucket import overwrite

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.errors import ObjectStoreError
from nightshift.registry.model_loader import MAX_FILE_BYTES, ModelSizeError
from nightshift.registry.model_versions import ModelVersion, find_version, load_model, register
from nightshift.scoring.pipeline import score
from nightshift.training.candidate import Provenance, store_candidate

__all__ = [
    "parcel_templates",
    "registry",
    "scoring_settings",
    "settings",
    "spec",
    "warehouse",
]
pytestmark = [pytest.mark.integration, pytest.mark.promise("R8"), pytest.mark.mlts("infra-4")]


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def ring(text: str) -> str:
    left = next(line for line in text.split("\n") if line.startswith("left_child="))
    return with_true_sizes(
        text.replace(left, "left_child=" + " ".join(["0"] * len(left.split(" "))), 1)
    )


def other_leaf(text: str) -> str:
    values = next(line for line in text.split("\n") if line.startswith("leaf_value="))
    words = values.removeprefix("leaf_value=").split(" ")
    return with_true_sizes(
        text.replace(
            values, "leaf_value=" + " ".join([f"{float(word) + 0.25}" for word in words]), 1
        )
    )


def infinite_leaf(text: str) -> str:
    values = next(line for line in text.split("\n") if line.startswith("leaf_value="))
    return with_true_sizes(text.replace(values, values.rsplit(" ", 1)[0] + " inf", 1))


DAMAGES = [truncated, ring, other_leaf, infinite_leaf]


def promote_poisoned(registry: Registry, effective: str, damage) -> ModelVersion:
    """Make a version champion whose poisoned files are the very ones that the warehouse names."""
    model = tiny_model(registry.spec, 7)
    day = Partition.parse(effective).shift(-1)
    sound = store_candidate(
        registry.store,
        model,
        Provenance("training/1", day, day.day, registry.spec.digest, "test"),
        [],
        {},
    )
    files = dict(zip(("model.lgb", "model.json"), files_of(damage(model.text), model), strict=True))
    keys = {
        name: f"models/poisoned/{sha256(content).hexdigest()}/{name}"
        for name, content in files.items()
    }
    shas = {name: registry.store.put(keys[name], content) for name, content in files.items()}
    candidate = replace(
        sound,
        digest=shas["model.lgb"],
        model_key=keys["model.lgb"],
        model_sha256=shas["model.lgb"],
        model_bytes=len(files["model.lgb"]),
        metadata_key=keys["model.json"],
        metadata_sha256=shas["model.json"],
        metadata_bytes=len(files["model.json"]),
    )
    version = register(registry.settings, candidate, RunContext("train/poison", 1, "test"))
    registry.conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date,"
        " effective_partition, reasons, numbers, run_id, actor)"
        " values (%s, %s, 'promoted', %s, %s, '{}', '{}', 'r', 'test')",
        [registry.spec.name, version.version, day.day, effective],
    )
    return version


def assert_whole_without(conn, version: ModelVersion) -> None:
    rows = conn.execute(
        "select score, score_source, score_source_reason, model_version"
        " from analytics.parcel_late_current"
        " where partition_date = '2013-07-01'"
    ).fetchall()
    assert len(rows) == 50
    assert all(0 <= score <= 1 for score, *_ in rows)
    assert version.version not in {served for *_, served in rows}
    assert "champion" not in {source for _, source, *_ in rows}
    assert all(reason for *_, reason, _ in rows)


@pytest.mark.parametrize("damage", DAMAGES)
def test_last_good_model_scores_when_the_warehouse_names_a_poisoned_champion(
    registry, warehouse, scoring_settings, spec, run, damage
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    poisoned = promote_poisoned(registry, "2013-07-01", damage)
    score(scoring_settings, spec, DAY, run)
    assert_whole_without(warehouse, poisoned)


def test_last_good_model_scores_when_the_champion_is_poisoned_in_the_bucket(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01", seed=1)
    champion = registry.promote("2013-07-01", seed=2)
    text = registry.store.get(champion.model_key).decode()
    for damage in DAMAGES:
        overwrite(scoring_settings, champion.model_key, damage(text).encode())
        with pytest.raises(ObjectStoreError) as refusal:
            load_model(registry.store, champion)
        assert refusal.value.code == "NS-LAKE-004"
    score(scoring_settings, spec, DAY, run)
    assert_whole_without(warehouse, champion)


def test_nothing_is_read_when_the_bucket_holds_more_than_the_warehouse_names(registry, monkeypatch):
    champion = registry.promote("2013-07-01")
    overwrite(registry.settings, champion.model_key, b"x" * (champion.model_bytes + 1))
    monkeypatch.setattr(
        "nightshift.lake.object_store.receive", lambda *_, **__: pytest.fail("read")
    )
    with pytest.raises(ObjectStoreError, match=f"{champion.model_bytes} bytes"):
        load_model(registry.store, champion)


@pytest.mark.parametrize(
    ("n_bytes", "what"), [(None, "without golden predictions"), (MAX_FILE_BYTES + 1, "too large")]
)
def test_version_is_refused_before_anything_is_asked_for_when_its_size_is_unfit(
    registry, n_bytes, what
):
    champion = registry.promote("2013-07-01")
    with pytest.raises(ModelSizeError, match=what) as refusal:
        load_model(registry.store, replace(champion, model_bytes=n_bytes, model_key="not/there"))
    assert refusal.value.code == "NS-MODEL-006"


def test_recorded_sizes_are_those_of_the_files(registry, conn):
    version = find_version(conn, "parcel_late", registry.promote("2013-07-01").version)
    assert version.model_bytes == len(registry.store.get(version.model_key))
    assert version.metadata_bytes == len(registry.store.get(version.metadata_key))
