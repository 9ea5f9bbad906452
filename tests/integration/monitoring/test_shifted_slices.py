"""The slice that carries a shift, from the published rows to the sentence of the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg import sql
from tests.integration.monitoring.conftest import TRAINED_ON

from nightshift.monitoring.columns.column_drift import Drift
from nightshift.monitoring.context import MonitoringContext
from nightshift.monitoring.segments import shift_segment, shifted_slice, slice_means

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_report")]
TONIGHT = TRAINED_ON.shift(1)


def change(world, column: str, value: str, where: str = "true") -> None:
    """Change rows of tonight, as SQL says."""
    statement = sql.SQL(
        "update features.feat_parcel set {} = {} where partition_date = {} and {}"
    ).format(
        sql.Identifier(column),
        sql.SQL(value),
        sql.Literal(TONIGHT.day),
        sql.SQL(where),
    )
    assert world.conn.execute(statement).rowcount > 0


def context_of(world) -> MonitoringContext:
    return MonitoringContext(world.settings, world.spec, world.conn, TONIGHT, world.run, {})


def drift_of(context: MonitoringContext, column: str) -> Drift:
    [drift] = [one for one in context.columns.measure().features if one.feature == column]
    assert drift.is_drifted
    return drift


@pytest.mark.parametrize(
    ("column", "value", "statistic"),
    [
        ("wind", "wind + 4", None),
        ("wind", "wind - 4", None),
        ("wind", "null", "missing_share"),
        ("is_fragile", "true", "mean"),
        ("weight", "weight * 9", None),
    ],
)
def test_slice_whose_rows_shifted_is_named(world, column, value, statistic) -> None:
    world.add_night(TONIGHT.key)
    change(world, column, value, "carrier = 'A'")
    context = context_of(world)
    drift = drift_of(context, column)
    assert statistic in (None, drift.statistic)
    named = shift_segment([drift], lambda of: slice_means(context, of))
    assert named is not None
    assert named.startswith("carrier=A: ")
    assert named.endswith(f"; {column}: {drift.statistic} at {drift.distance:.1f} usual variations")


@pytest.mark.parametrize(("column", "value"), [("wind", "wind + 4"), ("wind", "null")])
def test_no_slice_is_named_when_all_rows_shifted(world, column, value) -> None:
    world.add_night(TONIGHT.key)
    change(world, column, value, "right(parcel_id, 1) in ('0', '1', '2', '3', '4', '5')")
    context = context_of(world)
    slices = slice_means(context, drift_of(context, column))
    assert {part.name for part in slices} == {"all", "carrier"}
    assert shifted_slice(slices) is None


def test_slice_is_named_in_a_column_with_nulls(world) -> None:
    world.add_night(TONIGHT.key)
    change(world, "wind", "null", "parcel_id like '%7'")
    change(world, "wind", "wind + 4", "carrier = 'B'")
    context = context_of(world)
    # Missing rows carry nothing of a mean's shift, and are no rows of it.
    drift = replace(drift_of(context, "wind"), statistic="mean")
    slices = slice_means(context, drift)
    n_rows = {part.level: part.n_rows for part in slices}
    assert n_rows[""] == n_rows["A"] + n_rows["B"] + n_rows["C"] == 108
    named = shifted_slice(slices)
    assert named is not None
    assert named.startswith("carrier=B: ")


def test_only_training_loads_tell_what_is_usual_of_a_slice(world) -> None:
    world.add_night(TONIGHT.key)
    change(world, "wind", "wind + 4", "carrier = 'A'")
    context = context_of(world)
    before = slice_means(context, drift_of(context, "wind"))
    # A load of each night that no reader sees is no reference.
    world.conn.execute(
        "insert into features.feat_parcel select partition_date, 5, parcel_id, event_timestamp,"
        " as_of, wind + 4, weight, is_fragile, late_rate_7d, carrier from features.feat_parcel"
    )
    after = slice_means(context, drift_of(context, "wind"))
    assert after == before


def test_column_that_is_no_feature_has_no_slices(world) -> None:
    world.add_night(TONIGHT.key)
    change(world, "wind", "wind + 4", "carrier = 'A'")
    context = context_of(world)
    wind = drift_of(context, "wind")
    assert slice_means(context, wind)
    score = replace(wind, feature="score")
    levels = replace(wind, statistic="total_variation")
    assert slice_means(context, score) == []
    assert slice_means(context, levels) == []
