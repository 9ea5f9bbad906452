"""Each stage after published rows were damaged: a rerun repairs, a reader refuses."""

from __future__ import annotations

import datetime as dt

import pytest
from examples.flights.upstream import deliver
from tests.chaos.damaged_rows.damages import DAMAGES, DOUBLED, Partition
from tests.integration.scoring.conftest import DAY, publish_features

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import TableShapeError
from nightshift.ingestion import large_drop
from nightshift.ingestion.load import ingest
from nightshift.scoring.deadline_fallback import publish_by_deadline
from nightshift.scoring.pipeline import begin, publish, score, score_shard
from nightshift.warehouse.damage import DamagedInputError
from nightshift.warehouse.migrate import ensure_raw_table

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R1"),
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("quick_gate"),
]
NIGHT = dt.date(2013, 7, 1)
PREDICTIONS = Partition(
    "predictions/parcel_late", ("predictions", "parcel_late"), NIGHT, "parcel_id", "score"
)
FEATURES = Partition(
    "features/parcel", ("features", "feat_parcel"), NIGHT, "parcel_id", "weight_kg"
)
DOUBLE = "insert into {table} select t.* from {table} t where {seen} order by {key} limit 1"
WEATHER = PartitionRange.of("2013-03-10")
RAW = Partition(
    "raw/weather", ("raw", "weather"), WEATHER.first.day, "observed_at", "temperature_f"
)


@pytest.mark.parametrize("is_large", [False, True], ids=["usual", "large"])
def test_ingest_reads_a_drop_again_when_its_published_rows_are_damaged(
    settings, conn, run, tmp_path, monkeypatch, is_large
):
    settings = settings.model_copy(update={"home": tmp_path})
    monkeypatch.setattr(large_drop, "LARGE_ROWS", 1 if is_large else 10**9)
    deliver(settings, WEATHER, (), datasets=("weather",))
    first = ingest(settings, "weather", WEATHER, run)
    right = RAW.content(conn)
    for number, (name, statement) in enumerate({**DAMAGES, DOUBLED: DOUBLE}.items(), start=1):
        assert RAW.execute(conn, statement) > 0

        second = ingest(settings, "weather", WEATHER, run)

        assert RAW.content(conn) == right, name
        assert second.n_rows == first.n_rows == len(right)
        assert len(RAW.repairs(conn)) == number, name
    known_at = "select distinct known_at from ops.raw_versions where dataset = 'raw/weather'"
    assert len(conn.execute(known_at).fetchall()) == 1  # what was known when stays what it was
    assert not ingest(settings, "weather", WEATHER, run).is_new


SHAPES = {
    "the table dropped": "drop table {table} cascade",
    "the table renamed": "alter table {table} rename to gone",
    "a column dropped": "alter table {table} drop column {value} cascade",
    "the type of a column changed": "alter table {table} alter column {value} type text",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_ingest_is_no_success_when_its_table_is_another_one(settings, conn, run, tmp_path, shape):
    """Rows are compared by the columns that are there: without one of them they looked complete."""
    settings = settings.model_copy(update={"home": tmp_path})
    deliver(settings, WEATHER, (), datasets=("weather",))
    first = ingest(settings, "weather", WEATHER, run)
    right = RAW.content(conn)
    RAW.execute(conn, SHAPES[shape])

    with pytest.raises(TableShapeError, match=r"raw\.weather") as caught:
        ingest(settings, "weather", WEATHER, run)

    assert not caught.value.is_retryable
    if shape == "the type of a column changed":  # `migrate` names it and changes nothing
        RAW.execute(conn, "alter table {table} alter {value} type float8 using {value}::float8")
    ensure_raw_table(conn, load_contract(settings.datasets_dir, "weather"))
    second = ingest(settings, "weather", WEATHER, run)
    assert second.n_rows == first.n_rows
    assert sorted(RAW.content(conn)) == sorted(right)


def test_scoring_has_a_code_when_a_column_of_its_table_is_gone(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    score(scoring_settings, spec, DAY, run)
    warehouse.execute("alter table predictions.parcel_late rename column score to other")

    with pytest.raises(TableShapeError, match=r"no score|is not there"):
        score(scoring_settings, spec, DAY, run)


def test_scoring_publishes_a_repair_when_its_published_rows_are_damaged(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    (first,) = score(scoring_settings, spec, DAY, run)
    right = PREDICTIONS.content(warehouse)
    for number, name in enumerate(
        ("some rows deleted", "all rows deleted", "a value altered", "the pointer lost"), start=1
    ):
        assert PREDICTIONS.execute(warehouse, DAMAGES[name]) > 0

        (second,) = score(scoring_settings, spec, DAY, run)

        assert PREDICTIONS.content(warehouse) == right, name
        assert (second.n_rows, second.content_hash, second.is_new) == (50, first.content_hash, True)
        assert len(PREDICTIONS.repairs(warehouse)) == number


def test_scoring_refuses_damaged_features_and_publishes_when_they_are_built_again(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    score(scoring_settings, spec, DAY, run)
    right = PREDICTIONS.content(warehouse)
    for name, statement in {**DAMAGES, DOUBLED: DOUBLE}.items():
        if name == "the pointer lost":
            continue
        assert FEATURES.execute(warehouse, statement) > 0

        with pytest.raises(DamagedInputError, match="features/parcel"):
            begin(scoring_settings, spec, DAY, run)

        (built,) = publish_features(warehouse)
        assert built.is_new, name
    (published,) = score(scoring_settings, spec, DAY, run)
    assert (published.n_rows, published.is_new) == (50, False)
    assert PREDICTIONS.content(warehouse) == right


def test_nothing_is_published_when_features_vanish_while_they_are_scored(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    plan = begin(scoring_settings, spec, DAY, run)
    FEATURES.execute(warehouse, DAMAGES["some rows deleted"])
    for shard in plan.shards:
        score_shard(scoring_settings, spec, plan, shard, run)

    with pytest.raises(DamagedInputError, match="features/parcel"):
        publish(scoring_settings, spec, plan, run)

    assert warehouse.execute(
        "select count(*) from ops.published where dataset like 'predictions/%'"
    ).fetchone() == (0,)


def test_the_rescue_takes_the_list_when_the_features_are_damaged(
    warehouse, scoring_settings, listed_spec, lists, run
):
    publish_features(warehouse)
    FEATURES.execute(warehouse, DAMAGES["some rows deleted"])
    lists("2013-07-01")

    rescued = publish_by_deadline(scoring_settings, listed_spec, DAY.first, run)

    assert rescued.outcome == "rescued"
    assert rescued.reason.startswith("scoring failed (NS-WRITE-007: ")
    source = warehouse.execute("select entities_from from ops.rescues").fetchall()
    assert source == [("list",)]
