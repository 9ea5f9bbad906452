"""Drops to raw partitions with the real lake and warehouse: the promises of ingest, one by one."""

import datetime as dt
import json

import pytest
from tests.conftest import write_suite
from tests.faults import Fault, FaultType, deliver
from tests.quarantine_counts import count_rows

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import NightshiftError
from nightshift.ingestion.load import DropMissingError, ingest
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.contract_errors import (
    ColumnsError,
    ContractError,
    DigestError,
    RefusedRatioError,
    RowCountError,
    TypeChangedError,
)
from nightshift.quality.gate_errors import GateError, SuiteError
from nightshift.quality.quarantine import QuarantineState, list_rows
from nightshift.warehouse.migrate import migrate

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]

DAYS = PartitionRange.of("2013-03-09", "2013-03-11")
DAY = dt.date(2013, 3, 10)
HOURS = dt.timedelta(hours=1)


@pytest.fixture
def settings(settings, tmp_path):
    return settings.model_copy(update={"home": tmp_path})


def play(settings, *faults, dataset="weather", days=DAYS):
    return deliver(settings, days, faults, datasets=(dataset,))


def fault(kind, **kwargs):
    return Fault(kind, "weather", DAY, **kwargs)


def versions(conn, dataset="raw/weather"):
    query = (
        "select partition_date::text, n_rows, known_at, content_hash from "
        "ops.raw_versions where dataset = %s order by 1, 3"
    )
    return conn.execute(query, [dataset]).fetchall()


def visible(conn):
    """Return what readers of the pointer see, without how it came here."""
    return conn.execute(
        """
        select w.partition_date, w.known_at, w.origin, w.observed_at, w.temperature_f, w.pressure_mb
        from raw.weather w join ops.published p using (partition_date, load_id)
        where p.dataset = 'raw/weather' order by 1, 3, 4
        """
    ).fetchall()


def test_a_range_becomes_one_load_when_every_day_is_delivered(settings, conn, run):
    play(settings)

    result = ingest(settings, "weather", DAYS, run)

    assert [(p.day.day, p.n_rows, p.n_refused, p.is_new) for p in result.partitions] == [
        (9, 72, 0, True),
        (10, 69, 0, True),
        (11, 72, 0, True),
    ]
    assert len({p.load_id for p in result.partitions}) == 1
    assert (result.n_rows, result.is_new) == (213, True)
    known = [known_at for _, _, known_at, _ in versions(conn)]
    assert known == [
        dt.datetime(2013, 3, day, hour, 10, tzinfo=dt.UTC)
        for day, hour in ((10, 5), (11, 4), (12, 4))
    ]


def test_every_column_arrives_typed_when_a_row_is_loaded(settings, conn, run):
    play(settings, dataset="flight_outcomes", days=PartitionRange.of("2013-01-01"))
    ingest(settings, "flight_outcomes", PartitionRange.of("2013-01-01"), run)

    row = conn.execute(
        "select * from raw.flight_outcomes where carrier = 'UA' and flight_number = "
        "1545 and origin = 'EWR'"
    ).fetchone()
    source = conn.execute(
        "select source_uri from raw.ingested_drops where load_id = %s", [row[1]]
    ).fetchone()

    assert source == (
        f"s3://{settings.s3_bucket}/landing/flight_outcomes/dt=2013-01-01/flight_outcomes.csv",
    )
    assert row[0] == dt.date(2013, 1, 1)
    assert row[2] == dt.datetime(2013, 1, 2, 5, 5, tzinfo=dt.UTC)
    assert row[3:] == (
        1,
        dt.date(2013, 1, 1),
        "UA",
        1545,
        "N14228",
        "EWR",
        "IAH",
        dt.datetime(2013, 1, 1, 10, 15, tzinfo=dt.UTC),
        "arrived",
        2,
        11,
        227,
        dt.datetime(2013, 1, 1, 14, 30, tzinfo=dt.UTC),
    )


def test_both_hours_are_there_when_the_clock_was_set_back(settings, conn, run):
    day = PartitionRange.of("2013-11-03")
    play(settings, days=day)
    ingest(settings, "weather", day, run)

    hours = conn.execute(
        "select observed_at from raw.weather where origin = 'EWR' order by 1 limit 3"
    ).fetchall()

    assert [at for (at,) in hours] == [
        dt.datetime(2013, 11, 3, hour, tzinfo=dt.UTC) for hour in (5, 6, 7)
    ]


@pytest.mark.parametrize(
    "kind",
    [
        FaultType.TWICE,
        FaultType.RENAMED,
        FaultType.REORDERED_ROWS,
        FaultType.REORDERED_COLUMNS,
        FaultType.DUPLICATED_ROWS,
    ],
)
def test_the_rows_are_those_of_the_clean_file_when_it_comes_otherwise(settings, conn, run, kind):
    clean = settings.model_copy(update={"s3_bucket": f"{settings.s3_bucket}-clean"})
    play(clean)
    ingest(clean, "weather", DAYS, run)
    rows, known = visible(conn), versions(conn)

    play(settings, fault(kind, n_rows=5))
    result = ingest(settings, "weather", DAYS, run)

    assert visible(conn) == rows
    assert versions(conn) == known
    assert not result.is_new


def test_ingesting_again_changes_nothing_when_nothing_new_came(settings, conn, run):
    play(settings)
    first = ingest(settings, "weather", DAYS, run)
    n_loads = conn.execute("select count(*) from ops.loads").fetchone()

    again = ingest(settings, "weather", DAYS, run)

    assert [(p.day, p.load_id, p.n_rows) for p in again.partitions] == [
        (p.day, p.load_id, p.n_rows) for p in first.partitions
    ]
    assert not again.is_new
    assert conn.execute("select count(*) from ops.loads").fetchone() == n_loads


@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_correction_is_a_new_version_when_it_comes_later(settings, conn, run, in_one_call):
    correction = fault(
        FaultType.CORRECTION, column="temperature_f", value="55.5", n_rows=2, delay=30 * HOURS
    )
    if not in_one_call:
        play(settings)
        ingest(settings, "weather", DAYS, run)
    play(settings, correction)

    result = ingest(settings, "weather", DAYS, run)

    by_day = [(day, known_at) for day, _, known_at, _ in versions(conn)]
    at = dt.datetime(2013, 3, 11, 4, 10, tzinfo=dt.UTC)
    assert by_day[1:3] == [("2013-03-10", at), ("2013-03-10", at + 30 * HOURS)]
    assert len(by_day) == 4
    assert sum(row[4] == 55.5 for row in visible(conn)) == 2
    assert [p.is_new for p in result.partitions] == [in_one_call, True, in_one_call]


def test_an_older_drop_does_not_replace_a_newer_one_when_it_is_ingested_later(settings, conn, run):
    play(settings, fault(FaultType.LATE, delay=9 * HOURS))
    ingest(settings, "weather", DAYS, run)
    rows = visible(conn)
    play(
        settings,
        fault(FaultType.RENAMED),
        fault(FaultType.BAD_ROWS, column="temperature_f", value="11.5"),
    )

    ingest(settings, "weather", DAYS, run)

    assert visible(conn) == rows
    assert len(versions(conn)) == 4


def test_a_missing_day_is_named_when_it_is_due(settings, conn, run):
    play(settings, fault(FaultType.ABSENT))

    with pytest.raises(
        DropMissingError, match="1 of 3 days have no drop, the first is 2013-03-10"
    ) as caught:
        ingest(settings, "weather", DAYS, run)

    assert caught.value.code == "NS-INGEST-001"
    assert caught.value.is_retryable
    assert f"s3://{settings.s3_bucket}/landing/weather/dt=2013-03-10/" in str(caught.value)
    assert visible(conn) == []


def test_a_missing_day_is_no_error_when_the_dataset_comes_on_change(settings, run):
    play(settings, dataset="carriers", days=PartitionRange.of("2013-01-01"))

    assert ingest(settings, "carriers", DAYS, run).partitions == ()
    assert (
        ingest(settings, "carriers", PartitionRange.of("2013-01-01", "2013-01-05"), run).n_rows
        == 16
    )


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (fault(FaultType.TRUNCATED), RowCountError, "expected: 69 rows\n  got:      68 rows"),
        (fault(FaultType.CORRUPTED), DigestError, "corrupt or truncated"),
        (
            fault(FaultType.MISSING_COLUMN, column="pressure_mb", value=""),
            ColumnsError,
            "- pressure_mb  (missing)",
        ),
        (
            fault(FaultType.RENAMED_COLUMN, column="pressure_mb", value="pressure_mbar"),
            ColumnsError,
            "- pressure_mb  (missing)",
        ),
        (
            fault(FaultType.WRONG_TYPE, column="pressure_mb", value="high"),
            TypeChangedError,
            "expected number, 69 of 69 values",
        ),
        (
            fault(FaultType.WRONG_TYPE, column="humidity_pct", value="101"),
            RefusedRatioError,
            "0 good, 69 refused: 69 out_of_range",
        ),
    ],
)
def test_only_its_own_day_is_missing_when_a_file_breaks_its_contract(
    settings, conn, run, broken, error, says
):
    play(settings, broken)

    for _ in range(2):
        with pytest.raises(error) as caught:
            ingest(settings, "weather", DAYS, run)

    assert says in str(caught.value)
    assert [(day, n_rows) for day, n_rows, *_ in versions(conn)] == [
        ("2013-03-09", 72),
        ("2013-03-11", 72),
    ]
    kept = conn.execute("select partition_date, code from quarantine.refused_drops").fetchall()
    assert kept == [(DAY, caught.value.code)]


def test_a_broken_file_is_passed_over_when_upstream_delivered_it_again(settings, conn, run):
    play(settings, fault(FaultType.RENAMED, value="broken"), fault(FaultType.CORRUPTED))
    with pytest.raises(ContractError):
        ingest(settings, "weather", DAYS, run)
    play(settings, fault(FaultType.LATE, delay=3 * HOURS))

    result = ingest(settings, "weather", DAYS, run)

    assert [p.n_rows for p in result.partitions] == [72, 69, 72]
    assert versions(conn)[1][2] == dt.datetime(2013, 3, 11, 7, 10, tzinfo=dt.UTC)


def test_an_added_column_is_ignored_and_noted_when_it_comes(settings, conn, run):
    play(settings, fault(FaultType.ADDED_COLUMN, column="cloud_cover", value="8"))

    assert ingest(settings, "weather", DAYS, run).n_rows == 213
    notes = conn.execute(
        "select partition_date, notes from raw.ingested_drops where notes <> '{}'"
    ).fetchall()
    assert notes == [(DAY, ["added column ignored: cloud_cover"])]


def test_single_bad_rows_are_quarantined_and_counted_when_within_the_limit(settings, conn, run):
    play(settings, fault(FaultType.BAD_ROWS, column="temperature_f", value="cold", n_rows=3))

    result = ingest(settings, "weather", DAYS, run)

    assert [(p.n_rows, p.n_refused) for p in result.partitions] == [(72, 0), (66, 3), (72, 0)]
    assert count_rows(conn, "raw/weather", DAYS) == {("wrong_type", QuarantineState.OPEN): 3}
    row = list_rows(conn, "raw/weather", DAYS)[0]
    assert (row.partition_date, row.column_name, row.delivered["temperature_f"], row.state) == (
        DAY,
        "temperature_f",
        "cold",
        "open",
    )
    assert row.source_uri.endswith("dt=2013-03-10/weather.csv")
    assert ingest(settings, "weather", DAYS, run).n_refused == 3


def test_too_many_bad_rows_refuse_the_file_when_over_the_limit(settings, conn, run):
    play(settings, fault(FaultType.BAD_ROWS, column="temperature_f", value="cold", n_rows=4))

    with pytest.raises(
        RefusedRatioError,
        match=r"at most 5.0% of the rows refused\n  got:      65 good, 4 refused: 4 wrong_type",
    ):
        ingest(settings, "weather", DAYS, run)


def test_the_same_bad_rows_are_kept_once_when_the_file_comes_reordered(settings, conn, run):
    bad = fault(FaultType.BAD_ROWS, column="temperature_f", value="cold", n_rows=2)
    play(settings, bad)
    ingest(settings, "weather", DAYS, run)
    play(
        settings,
        bad,
        fault(FaultType.REORDERED_ROWS),
        fault(FaultType.RENAMED),
        fault(FaultType.LATE),
    )

    ingest(settings, "weather", DAYS, run)

    assert count_rows(conn, "raw/weather", DAYS) == {("wrong_type", QuarantineState.OPEN): 2}


def test_schedules_are_refused_when_they_are_not_for_the_next_day(settings, conn, run):
    one_day = PartitionRange.of("2013-03-10")
    bad = Fault(
        FaultType.BAD_ROWS,
        "flight_schedules",
        DAY,
        column="flight_date",
        value="2013-03-10",
        n_rows=2,
    )
    deliver(settings, one_day, [bad], datasets=("flight_schedules",))

    result = ingest(settings, "flight_schedules", one_day, run)

    assert result.n_refused == 2
    assert count_rows(conn, "raw/flight_schedules", one_day) == {
        ("outside_partition", QuarantineState.OPEN): 2
    }


def test_local_times_are_refused_when_the_clock_was_set_over_them(settings, conn, run):
    data = b"id,at\na,2013-03-10 01:59\nb,2013-03-10 02:30\nc,2013-03-10 03:00\n"
    folder = settings.home / "datasets"
    folder.mkdir()
    for name, zone, day in (
        ("events", "America/New_York", DAY),
        ("island", "Australia/Lord_Howe", dt.date(2013, 4, 7)),
    ):
        (folder / f"{name}.yaml").write_text(
            f"{{name: {name}, description: d, schema_version: 1, timezone: {zone},"
            " delivery: on_change, history_start: 2013-01-01,"
            " grain: g, key: [id], event_timestamp: at, columns: [{name: id, type: text}, "
            "{name: at, type: local_timestamp}],"
            " maximum_refused_ratio: 0.5}"
        )
        text = (
            data
            if name == "events"
            else b"id,at\na,2013-04-07 01:15\nb,2013-04-07 01:45\nc,2013-04-07 02:00\n"
        )
        write_suite(settings.home / "expectations", f"raw/{name}")
        store = ObjectStore.open(settings)
        store.ensure_bucket()
        write_drop(store, NewDrop(name, day, dt.datetime(2013, 5, 1, tzinfo=dt.UTC), text, 3, "x"))
    migrate(conn, load_contracts(folder))
    moved = settings.model_copy(
        update={"dags_dir": settings.home, "expectations_dir": settings.home / "expectations"}
    )

    assert ingest(moved, "events", PartitionRange.of("2013-03-10"), run).n_refused == 1
    assert ingest(moved, "island", PartitionRange.of("2013-04-07"), run).n_refused == 0

    at = dict(conn.execute("select id, at from raw.events").fetchall())
    assert at == {
        "a": dt.datetime(2013, 3, 10, 6, 59, tzinfo=dt.UTC),
        "c": dt.datetime(2013, 3, 10, 7, 0, tzinfo=dt.UTC),
    }
    island = [at for (at,) in conn.execute("select at from raw.island order by id")]
    assert island == [
        dt.datetime(2013, 4, 6, *clock, tzinfo=dt.UTC) for clock in ((14, 15), (14, 45), (15, 30))
    ]


def test_nothing_is_visible_when_the_gate_refuses(settings, conn, run):
    play(settings)
    folder = settings.home / "expectations"
    (folder / "raw").mkdir(parents=True)
    strict = [{"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 10}}]
    (folder / "raw" / "weather.json").write_text(
        json.dumps({"name": "raw/weather", "expectations": strict})
    )
    refusing = settings.model_copy(update={"expectations_dir": folder})

    with pytest.raises(GateError):
        ingest(refusing, "weather", DAYS, run)

    assert visible(conn) == []
    assert conn.execute("select distinct state from ops.loads").fetchall() == [("refused",)]
    assert ingest(settings, "weather", DAYS, run).n_rows == 213


@pytest.mark.parametrize(
    ("dataset", "days"), [("weather", DAYS), ("carriers", PartitionRange.of("2013-01-01"))]
)
def test_a_dataset_is_refused_when_it_has_no_suite_however_often_it_comes(
    settings, conn, run, dataset, days
):
    play(settings, dataset=dataset, days=days)

    with pytest.raises(SuiteError):
        ingest(settings.model_copy(update={"expectations_dir": settings.home}), dataset, days, run)
    assert conn.execute("select count(*) from ops.published").fetchone() == (0,)


def test_a_rerun_ends_the_same_when_an_attempt_was_killed_before_publishing(
    settings, conn, run, monkeypatch
):
    from nightshift.ingestion import raw_load

    play(settings, fault(FaultType.BAD_ROWS, column="temperature_f", value="cold", n_rows=2))
    real = raw_load.publish

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(raw_load, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest(settings, "weather", DAYS, run)
    assert visible(conn) == []
    monkeypatch.setattr(raw_load, "publish", real)

    result = ingest(settings, "weather", DAYS, run)

    assert (result.n_rows, result.n_refused, result.is_new) == (211, 2, True)
    assert len(visible(conn)) == 211
    assert count_rows(conn, "raw/weather", DAYS) == {("wrong_type", QuarantineState.OPEN): 2}


def test_every_error_has_a_stable_code_when_raised():
    codes = [
        error.code for error in (DropMissingError, ContractError, *ContractError.__subclasses__())
    ]

    assert len(set(codes)) == len(codes) == 11
    assert issubclass(DropMissingError, NightshiftError)


def test_a_lost_pointer_comes_back_when_the_drop_is_read_again(settings, conn, run):
    play(settings)
    ingest(settings, "weather", DAYS, run)
    before, rows = versions(conn), visible(conn)
    conn.execute("delete from ops.published where partition_date = %s", [DAY])

    ingest(settings, "weather", DAYS, run)

    assert visible(conn) == rows
    assert versions(conn) == before


def test_old_and_new_code_write_to_a_table_of_before_and_no_version_changes(settings, conn, run):
    """Old code fills two columns that new code leaves null.

    Both may run while a deployment is rolled out.
    """
    play(settings)
    for column in ("source_uri", "source_sha256"):
        conn.execute(
            f"alter table raw.weather add column {column} text not null default 'x'".encode()
        )
    ingest(settings, "weather", DAYS, run)
    rows, known = visible(conn), versions(conn)
    for column in ("source_uri", "source_sha256"):
        conn.execute(f"alter table raw.weather alter column {column} drop default".encode())

    migrate(conn, load_contracts(settings.datasets_dir))
    conn.execute("delete from raw.ingested_drops")  # so that the drops are taken again
    ingest(settings, "weather", DAYS, run)

    assert (visible(conn), versions(conn)) == (rows, known)
    hashes = conn.execute(
        "select count(*), count(distinct content_hash) from ops.loads where dataset = 'raw/weather'"
    ).fetchone()
    assert hashes == (6, 3)
