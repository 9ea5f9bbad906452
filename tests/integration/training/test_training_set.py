from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift.lake.object_store import ObjectStore
from nightshift.models.signature import SignatureError
from nightshift.training.training_set import TrainingSetError, build_training_set, read_rows
from nightshift.warehouse.damage import DamagedInputError

pytestmark = pytest.mark.integration


def build(world, spec=None, night=None):
    return build_training_set(world.settings, spec or world.spec, night or world.night, world.run)


def rows_of(world, training_set):
    return read_rows(ObjectStore.open(world.settings), training_set)


def test_rows_are_labelled_mature_and_totally_ordered(world):
    training_set = build(world)
    rows = rows_of(world, training_set)
    keys = list(zip(rows["partition_date"].to_pylist(), rows["parcel_id"].to_pylist(), strict=True))
    assert str(training_set.window) == "2020-01-01..2020-01-30"
    assert keys == sorted(keys)
    assert len(keys) == 30 * 57
    assert rows["is_late"].null_count == 0
    assert "load_id" not in rows.column_names


@pytest.mark.promise("R6")
def test_same_key_when_built_twice_and_when_rows_lie_in_another_order(world):
    first = build(world)
    world.conn.execute(
        "create table features.copy as select * from features.feat_parcel order by wind"
    )
    world.conn.execute("truncate features.feat_parcel")
    world.conn.execute("insert into features.feat_parcel select * from features.copy")
    assert build(world).key == first.key
    assert world.conn.execute("select count(*) from ml.training_sets").fetchone() == (1,)


@pytest.mark.mlts("model-1")
def test_manifest_names_query_partitions_and_code(world):
    training_set = build(world)
    manifest = world.conn.execute(
        "select manifest from ml.training_sets where training_set = %s", [training_set.key]
    ).fetchone()[0]
    assert manifest["partitions"][0] == {
        "partition": "2020-01-01",
        "load_id": 1,
        "content_hash": "hash",
    }
    assert len(manifest["partitions"]) == 30
    assert manifest["features"] == ["wind", "weight", "is_fragile", "carrier"]
    assert manifest["as_of"] == "2020-02-02T05:30:00+00:00"
    assert (manifest["code_version"], manifest["spec_digest"], manifest["label"]) == (
        "test",
        world.spec.digest,
        "is_late",
    )
    assert "features" in manifest["query"]


def test_unpublished_load_is_not_read(world):
    before = build(world)
    world.conn.execute(
        "insert into features.feat_parcel"
        " select partition_date, 2, parcel_id || 'x' from features.feat_parcel"
    )
    world.conn.execute(
        "insert into marts.fct_parcel_labels select partition_date, 2, parcel_id, event_timestamp,"
        " known_at, superseded_at, not is_late, 0"
        " from marts.fct_parcel_labels"
    )
    assert build(world).key == before.key


@pytest.mark.promise("R7")
@pytest.mark.parametrize(
    ("known_at", "counts"), [("2020-02-02 05:30+00", True), ("2020-02-02 05:31+00", False)]
)
def test_correction_counts_only_when_known_at_as_of(world, known_at, counts):
    parcel = "2020-01-05-001"
    before = label_of(world, parcel)
    where = {"parcel": parcel, "known_at": known_at}
    world.conn.execute(
        "update marts.fct_parcel_labels set superseded_at = %(known_at)s"
        " where parcel_id = %(parcel)s",
        where,
    )
    world.conn.execute(
        "insert into marts.fct_parcel_labels"
        " select partition_date, load_id, parcel_id, event_timestamp, %(known_at)s, null,"
        " not is_late, 0"
        " from marts.fct_parcel_labels where parcel_id = %(parcel)s",
        where,
    )
    assert label_of(world, parcel) is (not before if counts else before)


def label_of(world, parcel):
    rows = rows_of(world, build(world))
    return rows.filter(pc.equal(rows["parcel_id"], parcel))["is_late"].to_pylist()[0]


@pytest.mark.promise("R7")
def test_future_labels_change_nothing(world):
    before = build(world)
    world.add_day("2020-02-02")
    world.add_day("2020-02-03")
    assert build(world).key == before.key


@pytest.mark.parametrize("day", ["2020-01-10", "2020-01-30"])
def test_refused_when_a_day_is_not_published(world, day):
    world.conn.execute(
        "delete from ops.published where dataset = 'features/parcel' and partition_date = %s", [day]
    )
    with pytest.raises(TrainingSetError) as refusal:
        build(world)
    assert refusal.value.code == "NS-TRAIN-002"
    assert day in refusal.value.what


def test_refused_when_days_are_too_few(world):
    with pytest.raises(TrainingSetError) as refusal:
        build(world, night=world.night.shift(-11))
    assert (refusal.value.code, refusal.value.expected, refusal.value.got) == (
        "NS-TRAIN-001",
        "at least 20 (training.minimum_days)",
        "19",
    )


def test_history_may_start_within_the_window(world):
    assert str(build(world, night=world.night.shift(-10)).window) == "2020-01-01..2020-01-20"


def test_refused_when_label_has_one_class(world):
    world.conn.execute("update marts.fct_parcel_labels set is_late = false where is_late")
    with pytest.raises(TrainingSetError) as refusal:
        build(world)
    assert refusal.value.code == "NS-TRAIN-003"


def test_refused_when_a_key_stands_for_the_outcomes_of_several_days(world):
    for relation in ("features.feat_parcel", "marts.fct_parcel_labels"):
        world.conn.execute(f"update {relation} set parcel_id = right(parcel_id, 3)")
    with pytest.raises(TrainingSetError) as refusal:
        build(world)
    assert (refusal.value.code, refusal.value.got) == (
        "NS-TRAIN-006",
        "'000' has feature rows and labels of several days",
    )
    assert refusal.value.what.startswith("60 value(s) of entity key 'parcel_id'")


def test_built_when_a_key_of_one_day_has_its_outcome_told_on_two(world):
    world.conn.execute(
        "insert into marts.fct_parcel_labels"
        " select partition_date + 1, load_id, parcel_id, event_timestamp, known_at, superseded_at,"
        " is_late, 0"
        " from marts.fct_parcel_labels where partition_date = '2020-01-05'"
    )
    assert build(world).n_rows == 30 * 57


def test_refused_with_difference_when_feature_is_missing(world):
    spec = world.spec_with(features={"numeric": ["wind", "humidity"]})
    with pytest.raises(SignatureError) as refusal:
        build(world, spec)
    assert refusal.value.code == "NS-MODEL-001"
    assert "1 feature column(s) are missing: humidity." in str(refusal.value)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"relation": "fct_nothing", "column": "is_late"}, "no such relation"),
        ({"relation": "fct_parcel_labels", "column": "was_late"}, "lacks was_late"),
    ],
)
def test_refused_when_label_is_unfit(world, label, words):
    with pytest.raises(TrainingSetError, match=words) as refusal:
        build(world, world.spec_with(label=label))
    assert refusal.value.code == "NS-TRAIN-004"


@pytest.mark.mlts("data-4")
def test_refused_when_answer_stands_in_the_feature_view(world):
    world.conn.execute("alter table features.feat_parcel add column is_late boolean")
    with pytest.raises(TrainingSetError, match="the model would read the answer"):
        build(world)


def test_as_of_is_that_of_the_nights_own_features(world):
    assert build(world).as_of == dt.datetime(2020, 2, 2, 5, 30, tzinfo=dt.UTC)
    world.conn.execute(
        "update features.feat_parcel set as_of = '2020-02-03 07:00+00'"
        " where partition_date = '2020-02-01'"
    )
    assert build(world).as_of == dt.datetime(2020, 2, 3, 7, tzinfo=dt.UTC)
    world.conn.execute(
        "delete from ops.published"
        " where dataset = 'features/parcel' and partition_date = '2020-02-01'"
    )
    assert build(world).as_of == dt.datetime(2020, 2, 2, 5, 30, tzinfo=dt.UTC)


def test_label_relation_may_be_a_view_without_a_pointer_of_its_own(world):
    before = build(world)
    world.conn.execute("delete from ops.published where dataset = 'marts/fct_parcel_labels'")
    world.conn.execute("update marts.fct_parcel_labels set load_id = 17")
    assert build(world).key == before.key


def with_maximum(world, n_rows):
    return world.spec.model_copy(
        update={"training": world.spec.training.model_copy(update={"maximum_rows": n_rows})}
    )


def test_a_large_window_is_sampled_by_key_and_the_manifest_says_so(world):
    whole = rows_of(world, build(world))
    training_set = build(world, with_maximum(world, 400))
    rows = rows_of(world, training_set)

    assert 300 < rows.num_rows < 500
    keys = set(rows["parcel_id"].to_pylist())
    assert rows.equals(whole.filter(pc.is_in(whole["parcel_id"], pa.array(sorted(keys)))))
    assert len(rows["partition_date"].unique()) == 30
    manifest = world.conn.execute(
        "select manifest from ml.training_sets where training_set = %s", [training_set.key]
    ).fetchone()[0]
    assert manifest["sampled_share"] == pytest.approx(400 / whole.num_rows, rel=0.1)
    assert build(world, with_maximum(world, 400)).key == training_set.key
    assert build(world, with_maximum(world, whole.num_rows + 200)).n_rows == whole.num_rows


def test_refused_when_published_feature_rows_have_vanished(world):
    counted = (
        "(select count(*) from features.feat_parcel f where f.partition_date = l.partition_date)"
    )
    world.conn.execute(f"update ops.loads l set n_rows = {counted}".encode())
    build(world)
    world.conn.execute(
        "delete from features.feat_parcel"
        " where partition_date = '2020-01-15' and parcel_id like '%-00_'"
    )
    with pytest.raises(DamagedInputError, match="not what was published, on 1 day") as caught:
        build(world)
    assert "2020-01-15" in caught.value.expected
