"""What a night's feature query reads does not grow with the history behind its look-back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.transformation.conftest import FIRST, World

from nightshift.contracts.partitions import Partition
from nightshift.warehouse.dbt.compiled_views import CompiledView, compile_view
from nightshift.warehouse.dbt.project import feature_views
from nightshift.warehouse.dbt.runner import ensure_relations

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("warm_dbt"),
]

DATASETS = ("flight_schedules", "flight_outcomes", "weather")
A_MONTH, THREE_YEARS = 35, 3 * 365
COPIES = 40
"""Flights of each day for each of the world's, so that a day is one on which a planner has a
choice.
"""
LARGEST_RATIO = 1.2
Plan = dict[str, Any]


def lengthen(conn: Connection, first: int, last: int) -> None:
    """Put older days behind the world's only one, from so many days back to so many."""
    for dataset in DATASETS:
        rows = conn.execute(
            "select attname, format_type(atttypid, null) from pg_attribute"
            " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
            [f"raw.{dataset}"],
        ).fetchall()
        number = {"date": "{} - k", "timestamp with time zone": "{} - k * interval '1 day'"}
        values = {name: number.get(kind, "{}").format(name) for name, kind in rows} | {
            "load_id": "1000000 + k"
        }
        copies = "0"
        if "flight_number" in values:
            values["flight_number"], copies = "flight_number + 10 * c", str(COPIES - 1)
        conn.execute(
            f"insert into raw.{dataset} ({', '.join(values)}) select {', '.join(values.values())}"
            f" from raw.{dataset},"
            f" generate_series({first}, {last}) k, generate_series(0, {copies}) c where load_id <"
            " 1000000".encode()
        )
        conn.execute(
            "insert into ops.loads (dataset, partition_date, load_id, token, state, run_id,"
            " attempt, actor, code_version, inputs,"
            " inputs_digest, known_at, n_rows, content_hash, published_at) select dataset,"
            " partition_date - k, 1000000 + k, token, state,"
            " run_id, attempt, actor, code_version, inputs, inputs_digest, known_at - k *"
            " interval '1 day', n_rows, k::text, published_at"
            " from ops.loads, generate_series(%s::int, %s) k where dataset = %s and load_id <"
            " 1000000",
            [first, last, f"raw/{dataset}"],
        )
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token) select dataset,"
            " partition_date - k, 1000000 + k, token"
            " from ops.published, generate_series(%s::int, %s) k where dataset = %s and load_id <"
            " 1000000",
            [first, last, f"raw/{dataset}"],
        )
        conn.execute(f"analyze raw.{dataset}".encode())
    conn.execute("analyze ops.loads")
    conn.execute("analyze ops.published")


def explained(conn: Connection, view: CompiledView) -> Plan:
    """Run a feature view's select for its one night, and return what PostgreSQL did."""
    names = {
        model.relation: f"pg_temp.{re.sub(r'[^a-z_0-9]', '', model.name)}" for model in view.models
    }
    for relation in names.values():
        conn.execute(f"drop view if exists {relation} cascade".encode())
    for model in view.models:
        text = model.sql
        for relation in sorted(names, key=len, reverse=True):
            text = text.replace(relation, names[relation])
        conn.execute(
            f"create temp view {names[model.relation].removeprefix('pg_temp.')} as {text}".encode()
        )
    for setting in (
        "enable_nestloop",
        "enable_mergejoin",
        "enable_sort",
        "jit",
    ):  # as the macro prefer_hashing has it
        conn.execute(f"set {setting} = off".encode())
    row = conn.execute(
        f"explain (analyze, format json) select * from {names[view.models[-1].relation]}".encode()
    ).fetchone()
    assert row is not None
    return dict(row[0][0])


def scans(plan: Plan) -> Iterator[Plan]:
    """Yield the nodes that read a table."""
    if "Relation Name" in plan:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def rows_read(plan: Plan) -> dict[str, float]:
    """Return how many rows were looked at, by table."""
    found: dict[str, float] = {}
    for node in scans(plan["Plan"]):
        thrown_away = node.get("Rows Removed by Filter", 0) + node.get(
            "Rows Removed by Index Recheck", 0
        )
        found[node["Relation Name"]] = (
            found.get(node["Relation Name"], 0)
            + (node["Actual Rows"] + thrown_away) * node["Actual Loops"]
        )
    return found


@pytest.mark.parametrize("table", ["feat_flight"])
def test_a_night_reads_no_more_rows_after_three_years_than_after_a_month(
    world: World, conn: Connection, table: str, record_figure
) -> None:
    ensure_relations(world.settings)
    assert table in {view.table for view in feature_views(world.settings)}
    world.deliver_day(FIRST, 1)
    lengthen(conn, 1, A_MONTH)
    night = Partition(FIRST)
    view = compile_view(
        world.settings, table, {"load_id": 0, "as_of": {night.key: night.cutoff.isoformat()}}
    )

    young = explained(conn, view)
    lengthen(conn, A_MONTH + 1, THREE_YEARS)
    old = explained(conn, view)

    before, after = rows_read(young), rows_read(old)
    assert before["flight_outcomes"] > 28 * 5 * COPIES
    raw = {name: (before[name], after[name]) for name in DATASETS if name in before}
    assert {name: pair for name, pair in raw.items() if pair[1] > LARGEST_RATIO * pair[0]} == {}
    assert [
        node["Relation Name"]
        for node in scans(old["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in DATASETS
    ] == []
    record_figure(
        "time of a night's feature query, after three years / after a month",
        old["Execution Time"] / young["Execution Time"],
    )
