from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.lake.object_store import ObjectStore
from nightshift.quality import gates
from nightshift.quality.gate_errors import GateError
from nightshift.quality.gates import run_gate
from nightshift.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration

DAY = PartitionRange.of("2013-03-10")
YEAR = PartitionRange.of("2013-01-01", "2013-12-31")
CAME = {"known_at": "'2013-03-11 04:31Z'", "source_row": "n"}
FLIGHT = {"flight_number": "n", "carrier": "'UA'", "origin": "'EWR'", "destination": "'ORD'"}
GROUPS = [
    "all",
    "carrier",
    "route",
    "destination",
    "aircraft",
    "origin_hour",
    "origin",
    "flight_number",
    "carrier_hour",
    "carrier_origin",
]
RATES = [f"{what}_delay_rate_{days}d" for what in GROUPS for days in (1, 7, 28)]
GOOD = {
    "raw/flight_schedules": (
        5,
        CAME | FLIGHT,
        {
            "flight_date": "day + 1",
            "tail_number": "'N123UA'",
            "scheduled_departure_at": "day + interval '30 hours'",
            "scheduled_arrival_hhmm": "1430",
            "distance_miles": "719",
        },
    ),
    "raw/flight_outcomes": (
        5,
        CAME | FLIGHT | {"known_at": "day + interval '29 hours'"},
        {
            "flight_date": "day",
            "scheduled_departure_at": "day + interval '15 hours'",
            "status": "case n when 1 then 'cancelled' else 'arrived' end",
            "departure_delay_minutes": "nullif(n, 1)",
            "arrival_delay_minutes": "nullif(n, 1)",
            "air_time_minutes": "120",
            "outcome_at": "day + interval '18 hours'",
        },
    ),
    "raw/weather": (
        24,
        CAME | {"known_at": "day + interval '29 hours'"},
        {
            "origin": "'JFK'",
            "observed_at": "day + n * interval '1 hour'",
            "temperature_f": "40",
            "humidity_pct": "60",
            "wind_direction_deg": "360",
            "precipitation_in": "0",
            "visibility_miles": "10",
        },
    ),
    "raw/airports": (
        120,
        CAME,
        {
            "airport": "chr(65 + n / 26) || chr(65 + mod(n, 26)) || 'X'",
            "airport_name": "'x'",
            "latitude_deg": "40",
            "longitude_deg": "-74",
            "altitude_ft": "12",
        },
    ),
    "raw/planes": (
        120,
        CAME,
        {
            "tail_number": "'N' || n",
            "manufactured_year": "2001",
            "aircraft_type": "'jet'",
            "manufacturer": "'B'",
            "model": "'7'",
            "n_engines": "2",
            "n_seats": "150",
            "engine": "'fan'",
        },
    ),
    "raw/carriers": (6, CAME, {"carrier": "'A' || n", "carrier_name": "'x'"}),
    "features/flight": (
        5,
        FLIGHT,
        {
            "flight_id": "to_char(day + 1, 'YYYY-MM-DD') || '_UA_' || n || '_EWR'",
            "event_timestamp": "(day + interval '38 hours') at time zone 'UTC'",
            "as_of": "(day + interval '29 hours') at time zone 'UTC'",
            "departure_minute_of_day": "600",
            "arrival_minute_of_day": "700",
            "day_of_week": "1",
            "days_to_holiday": "14",
            "distance_miles": "719",
            "aircraft_age_years": "7",
            "aircraft_seats": "150",
            "aircraft_legs_before_count": "0",
            "origin_hour_flights_count": "20",
            "origin_day_flights_count": "300",
            "destination_hour_flights_count": "5",
            **dict.fromkeys(RATES, "0.2::float8"),
            **{
                f"{what}_arrival_delay_mean_28d": "6.5"
                for what in ("origin_hour", "carrier", "route", "aircraft", "flight_number")
            },
            **dict.fromkeys(
                [
                    "all_not_arrived_rate_1d",
                    "all_not_arrived_rate_7d",
                    "origin_evening_delay_rate_1d",
                ],
                "0.1",
            ),
            "scheduled_block_minutes": "140",
            "temperature_f_last": "40",
            "dew_point_f_last": "30",
            "humidity_pct_last": "60",
            "wind_speed_mph_last": "8",
            "wind_direction_deg_last": "270",
            "precipitation_in_last": "0",
            "pressure_mb_last": "1012",
            "visibility_miles_last": "10",
            "aircraft_minutes_since_previous_leg": "90",
            "route_air_time_mean_28d": "115",
            "all_arrival_delay_mean_1d": "4",
            **{
                f"{what}_arrivals_count_28d": "25"
                for what in ("flight_number", "route", "aircraft")
            },
            "aircraft_arrival_delay_last_3d": "-5",
            "temperature_f_change_6h": "3",
            "pressure_mb_change_6h": "-1",
            "wind_speed_mph_max_6h": "12",
            "visibility_miles_min_6h": "9",
            "precipitation_in_sum_24h": "0.1",
        },
    ),
}
for _model, _probability in (
    ("flight_delayed", "0.2::float8"),
    ("arrival_delay_minutes", "null::float8"),
):
    GOOD[f"predictions/{_model}"] = (
        5,
        {},
        {
            "flight_id": "day || '_UA_' || n || '_EWR'",
            "event_timestamp": "now()",
            "score": "0.2::float8",
            "probability": _probability,
            "decile": "n",
            "reasons": "'[]'::jsonb",
            "model_version": "case when n > 1 then 3 end",
            "features_as_of": "now()",
            "score_source": "case when n > 1 then 'champion' else 'fallback_rule' end",
            "score_source_reason": "case when n = 1 then 'no champion' end",
            "run_id": "'test'",
        },
    )
BROKEN = [
    (
        "raw/flight_schedules",
        "flight_date = partition_date",
        "expect_column_pair_values_a_to_be_greater_than_b(flight_date, partition_date)",
    ),
    (
        "raw/flight_outcomes",
        "arrival_delay_minutes = null",
        "expect_column_values_to_not_be_null(arrival_delay_minutes)",
    ),
    ("raw/weather", "temperature_f = 900", "expect_column_values_to_be_between(temperature_f)"),
    ("raw/airports", "latitude_deg = 91", "expect_column_values_to_be_between(latitude_deg)"),
    ("raw/planes", "n_seats = null", "expect_column_values_to_not_be_null(n_seats)"),
    (
        "raw/carriers",
        "carrier = 'AA'",
        "expect_compound_columns_to_be_unique(partition_date, carrier)",
    ),
    (
        "predictions/flight_delayed",
        "probability = 1.01",
        "expect_column_values_to_be_between(probability)",
    ),
    (
        "predictions/arrival_delay_minutes",
        "model_version = null",
        "expect_column_values_to_not_be_null(model_version)",
    ),
    (
        "predictions/arrival_delay_minutes",
        "score_source = 'carried_over', score_source_reason = null",
        "expect_column_values_to_not_be_null(score_source_reason)",
    ),
    (
        "predictions/flight_delayed",
        "score_source = 'previous_champion', score_source_reason = 'why', model_version = null",
        "expect_column_values_to_not_be_null(model_version)",
    ),
    (
        "features/flight",
        "route_delay_rate_7d = 'NaN'",
        "expect_column_values_to_be_between(route_delay_rate_7d)",
    ),
]


def stage(
    conn: Connection, dataset: str, partitions: PartitionRange, load_id: int = 7
) -> tuple[str, str]:
    """Stage the good batch of a dataset for each day of a range; returns schema and table."""
    n, came, columns = GOOD[dataset]
    schema, name = dataset.split("/")
    table = f"{schema}.feat_{name}" if schema == "features" else f"{schema}.{name}"
    values = {"partition_date": "day", "load_id": str(load_id)} | came | columns
    rows = (
        f"select {', '.join(f'{value} as {column}' for column, value in values.items())} from rows"
    )
    source = (
        "with rows as (select d::date as day, n"
        f" from unnest(%s::date[]) d, generate_series(1, {n}) n)"
    )
    if schema == "raw":
        conn.execute(
            f"insert into {table} ({', '.join(values)}) {source} {rows}".encode(), [partitions.days]
        )
    else:
        days = ", ".join(f"'{day}'" for day in partitions.days)
        conn.execute(
            f"create table {table} as {source.replace('%s', f'array[{days}]')} {rows}".encode()
        )
    return schema, table.split(".")[1]


@pytest.fixture(params=["query by query", "one scan"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Evaluate small batches as large ones too."""
    if request.param == "one scan":
        monkeypatch.setattr(gates, "ONE_SCAN_ROWS", 0)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dataset", GOOD)
@pytest.mark.parametrize("partitions", [DAY, YEAR], ids=["one partition", "a year"])
def test_gate_passes_when_batch_is_good(
    settings: Settings, conn: Connection, run: RunContext, dataset: str, partitions: PartitionRange
) -> None:
    conn.execute("set timezone to 'UTC'")
    schema, table = stage(conn, dataset, partitions)
    result = run_gate(settings, dataset, schema, table, 7, partitions, run)
    suite = json.loads((PROJECT_ROOT / "expectations" / f"{dataset}.json").read_text())
    assert (result.dataset, result.passed, result.failed) == (dataset, True, [])
    assert result.n_expectations == len(suite["expectations"]) >= 5


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("dataset", "change", "expectation"), BROKEN)
def test_gate_stops_and_names_the_expectation_when_batch_is_bad(
    settings: Settings,
    conn: Connection,
    run: RunContext,
    dataset: str,
    change: str,
    expectation: str,
) -> None:
    schema, table = stage(conn, dataset, DAY)
    conn.execute(f"update {schema}.{table} set {change}".encode())
    with pytest.raises(GateError, match="rows unexpected") as caught:
        run_gate(settings, dataset, schema, table, 7, DAY, run)
    assert caught.value.code == "NS-GATE-001"
    assert caught.value.result is not None
    assert [check.expectation for check in caught.value.result.failed] == [expectation]


def test_great_expectations_is_not_asked_when_a_large_batch_is_good_and_is_when_it_is_not(
    settings: Settings, conn: Connection, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, table = stage(conn, "raw/weather", DAY)
    asked: list[str] = []
    evaluate = gates.evaluate_by_great_expectations
    monkeypatch.setattr(
        gates,
        "evaluate_by_great_expectations",
        lambda *given: asked.append(given[1].dataset) or evaluate(*given),
    )

    by_suite = run_gate(settings, "raw/weather", schema, table, 7, DAY, run)
    assert asked == ["raw/weather"]
    monkeypatch.setattr(gates, "ONE_SCAN_ROWS", 0)
    at_once = run_gate(settings, "raw/weather", schema, table, 7, DAY, run)
    assert asked == ["raw/weather"]
    assert (
        [check.expectation for check in at_once.failed]
        == [check.expectation for check in by_suite.failed]
        == []
    )
    assert at_once.n_expectations == by_suite.n_expectations

    conn.execute(b"update raw.weather set origin = null")
    with pytest.raises(GateError):
        run_gate(settings, "raw/weather", schema, table, 7, DAY, run)
    assert asked == ["raw/weather"] * 2


@pytest.mark.usefixtures("way")
def test_gate_stops_when_no_row_is_staged_under_the_load(
    settings: Settings, conn: Connection, run: RunContext
) -> None:
    stage(conn, "raw/weather", DAY, load_id=6)
    with pytest.raises(GateError, match="expect_table_row_count_to_be_between"):
        run_gate(settings, "raw/weather", "raw", "weather", 7, DAY, run)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ('{"name": "raw/weather", "expectations": []}', "is empty"),
        (
            '{"name": "raw/weather", "expectations": [{"type": "expect_nothing", "kwargs": {}}]}',
            "0 known of 1",
        ),
        (
            (
                '{"name": "raw/weather", "expectations":'
                ' [{"type": "expect_column_values_to_not_be_null", "kwargs": {}}]}'
            ),
            "column",
        ),
    ],
    ids=["missing", "no json", "empty", "unknown expectation", "argument missing"],
)
@pytest.mark.usefixtures("way")
def test_gate_refuses_when_suite_cannot_be_used(
    settings: Settings, run: RunContext, tmp_path: Path, content: str | None, reason: str
) -> None:
    (tmp_path / "raw").mkdir()
    if content is not None:
        (tmp_path / "raw" / "weather.json").write_text(content)
    with pytest.raises(GateError, match=reason) as caught:
        run_gate(
            settings.model_copy(update={"expectations_dir": tmp_path}),
            "raw/weather",
            "raw",
            "weather",
            7,
            DAY,
            run,
        )
    assert caught.value.code == "NS-GATE-002"


def test_gate_refuses_when_an_expectation_cannot_be_evaluated(
    settings: Settings, conn: Connection, run: RunContext
) -> None:
    stage(conn, "raw/weather", DAY)
    conn.execute("alter table raw.weather drop column humidity_pct")
    with pytest.raises(
        GateError, match=r"between\(humidity_pct\).*could not be evaluated.*humidity_pct"
    ) as caught:
        run_gate(settings, "raw/weather", "raw", "weather", 7, DAY, run)
    assert caught.value.code == "NS-GATE-003"


SECRET = 918273.5
"""Stands in one row only."""
AGGREGATES = [
    ("most_common_value_to_be_in_set", {"value_set": [1]}),
    ("min_to_be_between", {"min_value": 1, "max_value": 2}),
    ("max_to_be_between", {"min_value": 1, "max_value": 2}),
    ("median_to_be_between", {"min_value": 1, "max_value": 2}),
    ("mean_to_be_between", {"min_value": 1, "max_value": 2}),
    ("sum_to_be_between", {"min_value": 1, "max_value": 2}),
    ("stdev_to_be_between", {"min_value": 1, "max_value": 2}),
    (
        "quantile_values_to_be_between",
        {"quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[1, 2], [1, 2]]}},
    ),
    ("distinct_values_to_be_in_set", {"value_set": [1]}),
    ("distinct_values_to_contain_set", {"value_set": [1]}),
    ("distinct_values_to_equal_set", {"value_set": [1]}),
    ("unique_value_count_to_be_between", {"min_value": 7}),
    ("proportion_of_unique_values_to_be_between", {"min_value": 2}),
    ("value_z_scores_to_be_less_than", {"threshold": 0.1, "double_sided": True}),
    ("values_to_be_between", {"min_value": 1, "max_value": 2}),
    ("values_to_be_in_set", {"value_set": [1]}),
]
FORTY = {"min_value": 40, "max_value": 40}
MET = [
    ("most_common_value_to_be_in_set", {"value_set": [40]}),
    ("min_to_be_between", FORTY),
    ("max_to_be_between", FORTY),
    ("median_to_be_between", FORTY),
    ("mean_to_be_between", FORTY),
    (
        "quantile_values_to_be_between",
        {"quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[40, 40], [40, 40]]}},
    ),
    ("distinct_values_to_be_in_set", {"value_set": [40, 41]}),
    ("distinct_values_to_contain_set", {"value_set": [40]}),
    ("distinct_values_to_equal_set", {"value_set": [40]}),
    ("unique_value_count_to_be_between", {"min_value": 1, "max_value": 1}),
    ("values_to_be_in_set", {"value_set": [40]}),
]
"""Met by the good batch, in which every temperature is 40."""


def own_suite(
    settings: Settings, tmp_path: Path, kinds: list[tuple[str, dict[str, object]]]
) -> Settings:
    """Return settings with a suite about the temperature."""
    suite = [
        {"type": f"expect_column_{kind}", "kwargs": {"column": "temperature_f", **arguments}}
        for kind, arguments in kinds
    ]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "weather.json").write_text(
        json.dumps({"name": "raw/weather", "expectations": suite})
    )
    ObjectStore.open(settings).ensure_bucket()
    return settings.model_copy(update={"expectations_dir": tmp_path})


@pytest.mark.mlts("data-5")
def test_no_value_of_a_row_is_shown_whatever_the_expectation(
    settings: Settings,
    conn: Connection,
    run: RunContext,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    schema, table = stage(conn, "raw/weather", DAY)
    conn.execute("update raw.weather set temperature_f = %s, visibility_miles = 10", [SECRET])
    conn.execute(b"delete from raw.weather where source_row > 1")
    own = own_suite(settings, tmp_path, AGGREGATES)

    with pytest.raises(GateError) as caught:
        run_gate(own, "raw/weather", schema, table, 7, DAY, run)

    result = caught.value.result
    assert result is not None
    store = ObjectStore.open(settings)
    shown = [
        str(caught.value),
        caplog.text,
        repr(result),
        *(store.get(key).decode() for key in store.list("data_docs/")),
    ]
    assert len(shown) == 5
    assert "918273" not in "".join(shown)


COLUMN, TEXT = {"column": "temperature_f"}, {"column": "origin"}
PAIR = {"column_A": "temperature_f", "column_B": "humidity_pct"}
LIST = {"column_list": ["temperature_f", "humidity_pct"]}
NOT_MET = [
    *(
        (f"expect_column_{kind}", COLUMN | arguments)
        for kind, arguments in AGGREGATES
        if "z_scores" not in kind  # equal numbers have none
    ),
    ("expect_column_values_to_be_null", COLUMN),
    ("expect_column_values_to_be_unique", COLUMN),
    ("expect_column_values_to_not_be_in_set", COLUMN | {"value_set": [40]}),
    ("expect_column_proportion_of_non_null_values_to_be_between", COLUMN | {"max_value": 0.5}),
    ("expect_column_distinct_values_to_equal_set", TEXT | {"value_set": ["EWR"]}),
    ("expect_column_distinct_values_to_be_in_set", TEXT | {"value_set": ["EWR"]}),
    ("expect_column_distinct_values_to_contain_set", TEXT | {"value_set": ["EWR"]}),
    ("expect_column_most_common_value_to_be_in_set", TEXT | {"value_set": ["EWR"]}),
    ("expect_column_value_lengths_to_equal", TEXT | {"value": 4}),
    ("expect_column_value_lengths_to_be_between", TEXT | {"min_value": 4}),
    ("expect_column_values_to_match_regex", TEXT | {"regex": "^E"}),
    ("expect_column_values_to_not_match_regex", TEXT | {"regex": "^J"}),
    ("expect_column_values_to_match_regex_list", TEXT | {"regex_list": ["^E"]}),
    ("expect_column_values_to_not_match_regex_list", TEXT | {"regex_list": ["^J"]}),
    ("expect_column_values_to_match_like_pattern", TEXT | {"like_pattern": "E%"}),
    ("expect_column_values_to_not_match_like_pattern", TEXT | {"like_pattern": "J%"}),
    ("expect_column_to_exist", {"column": "no_such_column"}),
    ("expect_column_pair_values_to_be_equal", PAIR),
    ("expect_column_pair_values_a_to_be_greater_than_b", PAIR),
    ("expect_column_pair_values_to_be_in_set", PAIR | {"value_pairs_set": [[1, 2]]}),
    ("expect_multicolumn_sum_to_equal", LIST | {"sum_total": 7}),
    ("expect_compound_columns_to_be_unique", LIST),
    (
        "expect_select_column_values_to_be_unique_within_record",
        {"column_list": ["temperature_f", "temperature_f"]},
    ),
    ("expect_table_row_count_to_equal", {"value": 7}),
    ("expect_table_column_count_to_equal", {"value": 7}),
    ("expect_table_column_count_to_be_between", {"max_value": 7}),
    ("expect_table_columns_to_match_set", {"column_set": ["origin"]}),
    ("expect_table_columns_to_match_ordered_list", {"column_list": ["origin"]}),
]
"""Each is evaluated in a warehouse, and not met by the good batch."""


def test_an_unmet_expectation_of_any_type_is_a_refusal_and_no_crash(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> None:
    schema, table = stage(conn, "raw/weather", DAY)
    own = own_suite(settings, tmp_path, [])
    suite = [{"type": kind, "kwargs": arguments} for kind, arguments in NOT_MET]
    document = {"name": "raw/weather", "expectations": suite}
    (tmp_path / "raw" / "weather.json").write_text(json.dumps(document))

    with pytest.raises(GateError) as caught:
        run_gate(own, "raw/weather", schema, table, 7, DAY, run)

    result = caught.value.result
    assert result is not None
    assert [check.expectation for check in result.failed if check.has_crashed] == []
    assert len(result.failed) == result.n_expectations == len(NOT_MET)
    assert (caught.value.code, caught.value.is_retryable) == ("NS-GATE-001", False)


@pytest.mark.parametrize(
    "kind",
    [
        "values_to_be_increasing",
        "values_to_be_json_parseable",
        "values_to_be_of_type",
        "values_to_be_in_type_list",
    ],
)
def test_an_expectation_without_a_form_in_sql_is_refused_when_the_suite_is_read(
    settings: Settings, run: RunContext, tmp_path: Path, kind: str
) -> None:
    own = own_suite(settings, tmp_path, [(kind, {})])
    with pytest.raises(
        GateError, match=f"cannot be evaluated in a warehouse.*\n.*\n.*expect_column_{kind}"
    ) as caught:
        run_gate(own, "raw/weather", "raw", "weather", 7, DAY, run)
    assert caught.value.code == "NS-GATE-002"


def test_every_usable_expectation_passes_on_rows_that_meet_it(
    settings: Settings, conn: Connection, run: RunContext, tmp_path: Path
) -> None:
    schema, table = stage(conn, "raw/weather", DAY)
    own = own_suite(settings, tmp_path, MET)
    result = run_gate(own, "raw/weather", schema, table, 7, DAY, run)
    assert (result.passed, result.n_expectations, result.failed) == (True, len(MET), [])


@pytest.mark.parametrize(
    "dataset", ["raw/weather\n", "raw/Weather", "raw/../weather", "weather", "raw/weather/x"]
)
def test_what_is_no_name_of_a_dataset_is_refused(
    settings: Settings, run: RunContext, dataset: str
) -> None:
    with pytest.raises(GateError, match="Not a dataset name") as caught:
        run_gate(settings, dataset, "raw", "weather", 7, DAY, run)
    assert caught.value.code == "NS-GATE-002"


def test_gate_gives_no_verdict_and_no_password_when_warehouse_is_gone(
    settings: Settings, run: RunContext
) -> None:
    gone = settings.model_copy(update={"warehouse_port": 1})
    with pytest.raises(GateError) as caught:
        run_gate(gone, "raw/weather", "raw", "weather", 7, DAY, run)
    assert (caught.value.code, caught.value.is_retryable) == ("NS-GATE-003", True)
    assert settings.warehouse_password.get_secret_value() not in str(caught.value)


def test_warning_is_reported_when_batch_passes(
    settings: Settings, conn: Connection, run: RunContext
) -> None:
    stage(conn, "raw/weather", DAY)
    conn.execute("update raw.weather set temperature_f = null")
    result = run_gate(settings, "raw/weather", "raw", "weather", 7, DAY, run)
    assert [(check.expectation, check.severity) for check in result.failed] == [
        ("expect_column_values_to_not_be_null(temperature_f)", "warning")
    ]


def test_verdict_stands_when_bucket_is_gone(
    settings: Settings, conn: Connection, run: RunContext
) -> None:
    stage(conn, "raw/carriers", DAY)
    result = run_gate(
        settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}),
        "raw/carriers",
        "raw",
        "carriers",
        7,
        DAY,
        run,
    )
    assert (result.passed, result.docs_key) == (True, None)


def test_page_and_json_are_in_the_bucket_when_gate_ran(
    settings: Settings, conn: Connection, run: RunContext
) -> None:
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    stage(conn, "raw/carriers", DAY)
    conn.execute("update raw.carriers set carrier_name = 'Secret & Sons'")
    for _attempt in range(2):
        result = run_gate(settings, "raw/carriers", "raw", "carriers", 7, DAY, run)
        assert result.docs_key == "data_docs/raw/carriers/2013-03-10/7-1.html"
    page = store.get("data_docs/raw/carriers/2013-03-10/7-1.html").decode()
    assert "passed: 5 of 5 expectations met" in page
    evidence = store.get("data_docs/raw/carriers/2013-03-10/7-1.json").decode()
    assert (json.loads(evidence)["success"], len(json.loads(evidence)["results"])) == (True, 5)
    for text in (page, evidence):
        assert "Secret" not in text
        assert settings.warehouse_password.get_secret_value() not in text


def test_gate_leaves_no_file_and_no_connection_when_done(
    settings: Settings,
    conn: Connection,
    run: RunContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    stage(conn, "raw/carriers", DAY)
    run_gate(settings, "raw/carriers", "raw", "carriers", 7, DAY, run)
    assert list(tmp_path.iterdir()) == []
    assert conn.execute(
        "select count(*) from pg_stat_activity where application_name = %s", [run.application_name]
    ).fetchone() == (0,)
