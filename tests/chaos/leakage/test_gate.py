"""The promotion gate makes a challenger's feature rows again, whatever its training said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from tests.chaos.leakage.conftest import RandomHistory
from tests.chaos.leakage.test_two_clocks import planted, spec_of, stage_features
from tests.integration.transformation.conftest import World

from nightshift.registry.checks import CriterionVerdict
from nightshift.registry.leaks.point_in_time import group_of, point_in_time
from nightshift.registry.promotion_context import PromotionContext
from nightshift.warehouse.partition_write import publish

__all__ = ["planted"]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_dbt"),
]


def context_of(world: World, view: str, load_id: int) -> PromotionContext:
    """Return what the check reads of a promotion: the training rows with invented labels."""
    spec = spec_of(view)
    rows = world.conn.execute(
        f"select partition_date, flight_id, happened, delivered from features.feat_{view}"
        " where load_id = %s order by 1, 2".encode(),
        [load_id],
    ).fetchall()
    names = ["partition_date", "flight_id", "happened", "delivered"]
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns[spec.label.column] = [float(number % 2) for number in range(len(rows))]
    days = sorted({row[0] for row in rows})
    context = SimpleNamespace(
        settings=world.settings,
        spec=spec,
        all_rows=pa.table({name: list(values) for name, values in columns.items()}),
        challenger=SimpleNamespace(model=spec.name, version=1, digest="d1"),
        manifest={"partitions": [{"partition": str(day), "load_id": load_id} for day in days]},
    )
    return cast("PromotionContext", context)


def test_the_gate_refuses_a_leak_by_name_and_passes_an_honest_challenger(planted: World) -> None:
    history = RandomHistory(planted, 5, 0, seed=9)
    write = stage_features(planted, history.days, ["feat_honest", "feat_tiny"])
    publish(planted.conn, write)

    [passed] = point_in_time(context_of(planted, "honest", write.load_id))
    assert (passed.name, passed.verdict) == ("point_in_time", CriterionVerdict.PASSED)
    assert passed.facts["n_rows"] > 0
    assert passed.facts["n_later"] > 0

    [failed] = point_in_time(context_of(planted, "tiny", write.load_id))
    assert (failed.name, failed.verdict) == ("point_in_time[happened]", CriterionVerdict.FAILED)
    assert "raw/flight_outcomes happened later" in failed.reason
    assert "happened alone separates the labels by" in failed.reason
    assert failed.facts["columns"] == ["happened"]


def test_a_group_is_the_first_word_of_a_feature() -> None:
    assert group_of("carrier_delay_rate_28d") == "carrier"
    assert group_of("rows") == "rows"
