"""One scan per partition, kept and added up; its distances rule as Evidently does."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.cli.data import profile
from nightshift.contracts.partitions import PartitionRange
from nightshift.quality.column_order import OrderCounter
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.quality.drift_statistics import jensen_shannon, stability_index, wasserstein
from nightshift.quality.profiles import (
    LoadTable,
    ProfileError,
    keep_profile,
    own_stream,
    profile_load,
    read_profiles,
    scan,
    scan_load,
)
from nightshift.quality.stored_summaries import read_summaries
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

pytestmark = pytest.mark.integration
TARGET = Target("features/sample", "features", "feat_sample", ("thing_id",))
DAYS = PartitionRange.of("2013-07-01", "2013-07-03")


@pytest.fixture
def loads(settings, conn, run) -> list[LoadTable]:
    """Publish three days of 500 rows with one column of every kind."""
    conn.execute(
        "create table features.feat_sample (partition_date date, load_id bigint, thing_id text,"
        " speed float8, legs integer, is_wet boolean,"
        " price numeric(8, 2), due_at timestamptz, due_on date, carrier text, note jsonb,"
        " run_id text)"
    )
    write = begin(conn, [TARGET], DAYS, LoadManifest(run, {"input": "a"}))
    conn.execute(
        "insert into features.feat_sample select d::date, %s, d::date || ' ' || i,"
        " case when i %% 10 > 0 then sqrt(i) - 5 end, i %% 7, i %% 3 = 0, i / 4.0,"
        " d + i * interval '1 minute', d::date, (array['AA', 'B6', null, 'UA'])[1 + i %% 4],"
        " '{}', 'r' from generate_series('2013-07-01'::timestamptz, '2013-07-03', '1 day') d,"
        " generate_series(1, 500) i",
        [write.load_id],
    )
    audit(conn, write)
    publish(conn, write)
    return [
        LoadTable("features/sample", "features", "feat_sample", write.load_id, day)
        for day in DAYS.days
    ]


def test_every_column_of_a_partition_is_summarised(settings, conn, run, loads):
    found = profile_load(settings, conn, loads[0], run)
    assert list(found) == [
        "thing_id",
        "speed",
        "legs",
        "is_wet",
        "price",
        "due_at",
        "due_on",
        "carrier",
    ]
    speed = np.sqrt([i for i in range(1, 501) if i % 10]) - 5
    assert (found["speed"].n_rows, found["speed"].n_missing) == (500, 50)
    assert (found["speed"].minimum, found["speed"].maximum) == (speed.min(), speed.max())
    assert found["speed"].mean == pytest.approx(speed.mean(), rel=1e-14)
    assert found["speed"].std == pytest.approx(speed.std(), rel=1e-7)
    assert found["speed"].distinct.estimate == pytest.approx(450, rel=0.2)
    assert (found["legs"].distinct.estimate, found["is_wet"].mean) == (7, 166 / 500)
    assert found["carrier"].levels == {"AA": 125, "B6": 125, "UA": 125}
    assert found["carrier"].n_missing == 125
    assert (found["thing_id"].levels, found["thing_id"].distinct.estimate) == (
        {},
        pytest.approx(500, rel=0.2),
    )
    assert found["due_on"].minimum == dt.datetime(2013, 7, 1, tzinfo=dt.UTC).timestamp()


def test_columns_are_compared_in_the_same_scan_whatever_their_type(settings, conn, run, loads):
    conn.execute("create type features.kind as enum ('AA', 'B6', 'UA')")
    conn.execute(
        "alter table features.feat_sample"
        " alter carrier type features.kind using carrier::features.kind"
    )
    counter = OrderCounter()
    scanned = scan_load(conn, loads[0], own_stream(settings, run), counter, {"carrier": "text"})
    assert (scanned["carrier"].n_missing, len(scanned["carrier"].levels)) == (125, 3)

    order = counter.order()
    assert "carrier" not in order.columns
    speed, wet = order.columns.index("speed"), order.columns.index("is_wet")
    known = [(np.sqrt(i) - 5, i % 3 == 0) for i in range(1, 501) if i % 10]
    is_above = [number > flag for number, flag in known]
    assert order.above[speed, wet] == pytest.approx(np.mean(is_above), abs=1e-12)


def plain(summary: ColumnSummary) -> dict[str, Any]:
    """Return a summary without arrays, to be compared."""
    return asdict(summary) | {"hashes": summary.hashes.tolist()}


def test_summaries_are_read_as_they_were_scanned_also_without_their_columns(
    settings, conn, run, loads
):
    sketches = profile_load(settings, conn, loads[0], run)
    expected = {name: plain(summarize(sketch)) for name, sketch in sketches.items()}
    by_day = {loads[0].day: loads[0].load_id}

    def read():
        [profile] = read_summaries(conn, loads[0].dataset, by_day).values()
        return {name: plain(one) for name, one in profile.items()}

    assert read() == expected
    # As a release wrote them that kept only sketches.
    conn.execute("update monitoring.profiles set hashes = null, quantiles = null, levels = null")
    assert read() == expected


def test_days_are_added_up_to_what_one_scan_of_them_gives(settings, conn, run, loads):
    with pytest.raises(ProfileError, match="NS-PROFILE-001"):
        read_profiles(conn, "features/sample", DAYS)
    for load in loads:
        profile_load(settings, conn, load, run)
    merged = read_profiles(conn, "features/sample", DAYS)
    rows = conn.execute(
        "select speed, carrier from features.feat_sample order by md5(thing_id)"
    ).fetchall()
    table = pa.table(
        {
            "speed": pa.array([row[0] for row in rows], pa.float64()),
            "carrier": pa.array([row[1] for row in rows]),
        }
    )
    at_once = scan(table.to_batches(max_chunksize=77))
    assert merged["speed"].as_bytes() == at_once["speed"].as_bytes()
    assert merged["carrier"].as_bytes() == at_once["carrier"].as_bytes()
    assert (merged["speed"].mean, merged["speed"].std) == (
        at_once["speed"].mean,
        at_once["speed"].std,
    )


def test_a_kept_profile_is_read_and_not_made_again(settings, conn, run, loads):
    first = profile_load(settings, conn, loads[0], run)
    conn.execute("delete from features.feat_sample")
    again = profile_load(settings, conn, loads[0], run)
    assert {name: one.as_bytes() for name, one in first.items()} == {
        name: one.as_bytes() for name, one in again.items()
    }


@pytest.mark.parametrize(("largest", "code"), [(30, 0), (5, 1)])
@pytest.mark.usefixtures("loads")
def test_a_suite_is_held_against_the_profile_of_several_days(
    settings, tmp_path, monkeypatch, largest, code
):
    suite = {
        "name": "features/sample",
        "expectations": [
            {
                "type": "expect_table_row_count_to_be_between",
                "kwargs": {"min_value": 1, "max_value": 500},
            },
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "speed", "min_value": -5, "max_value": largest},
            },
            {
                "type": "expect_column_values_to_be_in_set",
                "kwargs": {"column": "carrier", "value_set": ["AA", "B6", "UA"]},
            },
            {
                "type": "expect_column_values_to_not_be_null",
                "kwargs": {"column": "carrier", "mostly": 0.7},
            },
        ],
    }
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "sample.json").write_text(json.dumps(suite))
    monkeypatch.setattr(
        profile, "load_settings", lambda: settings.model_copy(update={"expectations_dir": tmp_path})
    )

    shown = CliRunner().invoke(
        app, ["profile", "features/sample", "--from", "2013-07-01", "--to", "2013-07-03", "--check"]
    )

    assert shown.exit_code == code, shown.output
    assert "3 of 4 expectations are settled" in shown.output
    assert ("broken" in shown.output) == bool(code)


def test_an_empty_partition_leaves_no_profile(settings, conn, run, loads):
    found = profile_load(
        settings,
        conn,
        LoadTable("features/sample", "features", "feat_sample", 99, DAYS.days[0]),
        run,
    )
    assert found == {}
    assert conn.execute("select count(*) from monitoring.profiles").fetchone() == (0,)


@pytest.mark.timeout(240)
def test_thirty_days_of_thirty_columns_are_added_up_within_a_second(conn, run, record_figure):
    dice = np.random.default_rng(3)
    days = PartitionRange.of("2013-07-01", "2013-07-30")
    conn.execute(
        "insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,"
        " actor, code_version, inputs, inputs_digest, content_hash)"
        " select 'features/wide', d::date, 7, 1, 'published', 'r', 1, 'a', 'c', '{}', 'i', 'h'"
        " from generate_series('2013-07-01'::date, '2013-07-30', '1 day') d"
    )
    conn.execute(
        "insert into ops.published (dataset, partition_date, load_id, token)"
        " select dataset, partition_date, 7, 1 from ops.loads"
    )
    for day in days.days:
        table = pa.table({f"n{place}": dice.normal(place, 1 + place, 2_000) for place in range(30)})
        keep_profile(
            conn,
            LoadTable("features/wide", "features", "wide", 7, day),
            scan(table.to_batches()),
            run,
        )
    started = time.perf_counter()
    merged = read_profiles(conn, "features/wide", days)
    seconds = time.perf_counter() - started
    record_figure("seconds to add up 30 days of 30 columns", seconds)
    assert (len(merged), merged["n29"].n_rows) == (30, 60_000)
    assert seconds < 10


def _numbers() -> list[tuple[str, Callable[[np.random.Generator], tuple[Any, Any]]]]:
    def normal(mean, std):
        return lambda dice: (dice.normal(0, 1, 4_000), dice.normal(mean, std, 3_000))

    return [
        *[
            (f"normal {mean} {std}", normal(mean, std))
            for mean in (0.0, 0.05, 0.3, 1.0)
            for std in (1.0, 1.1, 2.0)
        ],
        *[
            (
                f"shifted by {shift}",
                lambda dice, shift=shift: (
                    1000 + dice.normal(0, 50, 4_000),
                    1000 + shift + dice.normal(0, 50, 3_000),
                ),
            )
            for shift in (0.0, 20.0, 60.0)
        ],
        *[
            (
                f"log-normal {s}",
                lambda dice, s=s: (dice.lognormal(0, 1, 4_000), dice.lognormal(s, 1, 3_000)),
            )
            for s in (0.0, 0.4, 1.0)
        ],
        *[
            (
                f"counts of {rate}",
                lambda dice, rate=rate: (
                    dice.poisson(3, 4_000) * 1.0,
                    dice.poisson(rate, 3_000) * 1.0,
                ),
            )
            for rate in (3, 4, 8)
        ],
        *[
            (
                f"zeros {share}",
                lambda dice, share=share: (
                    dice.exponential(2, 4_000) * (dice.random(4_000) < 0.3),
                    dice.exponential(2, 3_000) * (dice.random(3_000) < share),
                ),
            )
            for share in (0.3, 0.6, 0.9)
        ],
    ]


def _texts() -> list[tuple[str, Callable[[np.random.Generator], tuple[Any, Any]]]]:
    names = np.array([f"level {place}" for place in range(12)])
    weights = np.arange(1, 13) / 78
    return [
        (
            f"levels {power}",
            lambda dice, power=power: (
                dice.choice(names, 4_000, p=weights),
                dice.choice(names, 3_000, p=weights**power / (weights**power).sum()),
            ),
        )
        for power in (1.0, 1.3, 2.0, 0.0)
    ]


CASES = [
    *[
        (name, make, method)
        for name, make in _numbers()
        for method in ("psi", "jensenshannon", "wasserstein")
    ],
    *[(name, make, method) for name, make in _texts() for method in ("psi", "jensenshannon")],
]


@pytest.mark.mlts("mon-2")
@pytest.mark.parametrize(
    ("name", "make", "method"), CASES, ids=[f"{name}, {method}" for name, _, method in CASES]
)
def test_verdict_is_evidentlys(name, make, method):
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    reference, current = make(np.random.default_rng(5))
    is_text = reference.dtype.kind == "U"
    definition = DataDefinition(
        **{"categorical_columns" if is_text else "numerical_columns": ["x"]}
    )
    sides = [
        Dataset.from_pandas(pd.DataFrame({"x": side}), definition) for side in (current, reference)
    ]
    theirs = float(
        Report([ValueDrift(column="x", method=method)]).run(*sides).dict()["metrics"][0]["value"]
    )
    ours_reference, ours_current = (
        scan(pa.table({"x": side}).to_batches())["x"] for side in (reference, current)
    )
    ours = {"psi": stability_index, "jensenshannon": jensen_shannon, "wasserstein": wasserstein}[
        method
    ](ours_reference, ours_current)
    assert (ours >= 0.1) == (theirs >= 0.1), (ours, theirs)
    assert ours == pytest.approx(theirs, rel=0.1, abs=0.02)
