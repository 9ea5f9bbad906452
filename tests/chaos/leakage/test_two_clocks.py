"""No feature knows the future.

Against an oracle, under poison on both clocks, and with planted leaks that must be caught.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg.rows import dict_row
from pydantic import ValidationError
from tests.chaos.leakage.conftest import N_FLIGHTS, RandomHistory
from tests.integration.transformation.conftest import World
from tests.integration.transformation.test_build import Oracle

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.training.point_in_time_probe import LeakError, SkewError, probe_features
from nightshift.transformation.point_in_time_rebuild import HiddenSourceError
from nightshift.warehouse import ledger
from nightshift.warehouse.content_hash import measure
from nightshift.warehouse.dbt.compiled_views import UnknownViewError, compile_view
from nightshift.warehouse.dbt.runner import ensure_relations, run_models
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    Target,
    audit,
    begin,
    publish,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.promise("R7"),
    pytest.mark.mlts("data-4"),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_dbt"),
]


def stage_features(
    world: World, days: Sequence[dt.date], tables: Sequence[str] = ("feat_flight",)
) -> PartitionWrite:
    """Build feature views by the project's own dbt run, up to the audit.

    Everything but the gate and the flip of the pointer.
    """
    ensure_relations(world.settings)
    targets = [
        Target(f"features/{table.removeprefix('feat_')}", "features", table, ("flight_id",))
        for table in tables
    ]
    span = PartitionRange(Partition(days[0]), Partition(days[-1]))
    versions = ledger.raw_versions(world.conn, world.contracts.values(), span.last)
    as_of = ledger.as_of_by_partition(world.contracts, versions, span)
    write = begin(
        world.conn,
        targets,
        span,
        LoadManifest(RunContext("test/features", 1, "test"), ledger.input_digests(versions, as_of)),
    )
    variables = {
        "load_id": write.load_id,
        "as_of": {partition.key: instant.isoformat() for partition, instant in as_of.items()},
    }
    run_models(world.settings, tables, variables)
    audit(world.conn, write)
    return write


def hashes_of(world: World, write: PartitionWrite) -> dict[dt.date, str]:
    return {
        day: measured.content_hash
        for day, measured in measure(world.conn, write.targets[0], write.load_id).items()
    }


def rows_of(world: World, write: PartitionWrite) -> list[dict[str, Any]]:
    with world.conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select * from features.feat_flight where load_id = %s", [write.load_id]
        ).fetchall()


def differing_rows(world: World, rows: list[dict[str, Any]]) -> list[str]:
    """Return the keys of rows that differ from what the oracle makes of the known versions."""
    expected = {
        day: Oracle(world, day).features() for day in {row["partition_date"] for row in rows}
    }
    return [
        row["flight_id"]
        for row in rows
        if not agrees(row, expected[row["partition_date"]][row["flight_id"]])
    ]


def agrees(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(
        row[name]
        == (value if value is None or name == "as_of" else pytest.approx(value, rel=1e-12))
        for name, value in wanted.items()
    )


def change_one_outcome(world: World, day: dt.date) -> None:
    """Make the oracle, not the warehouse, believe in another arrival."""
    dataset, _, known_at, rows = next(
        v for v in world.versions if v[:2] == ("flight_outcomes", day)
    )
    place = next(
        i
        for i, row in enumerate(rows)
        if row["arrival_delay_minutes"] is not None and row["arrival_delay_minutes"] < 15
    )
    wrong = [
        row | {"arrival_delay_minutes": 500} if i == place else row for i, row in enumerate(rows)
    ]
    world.versions[:] = [
        (dataset, day, known_at, wrong) if v[3] is rows else v for v in world.versions
    ]


@pytest.mark.promise("R6")
def test_features_equal_the_oracle_on_300_histories_and_keep_their_bytes_when_all_that_came_later_is_poisoned(  # noqa: E501
    world: World, record_figure: Callable[[str, float], None]
) -> None:
    """A history is what one flight's row could see.

    Partitions differ in their versions, flights in carrier, route and aircraft.
    """
    history = RandomHistory(world, 40, 40, seed=7)
    whole = stage_features(world, history.days)
    rows, before = rows_of(world, whole), hashes_of(world, whole)
    assert len({(row["partition_date"], row["flight_id"]) for row in rows}) == len(rows) >= 300
    assert differing_rows(world, rows) == []
    record_figure("random histories equal to the oracle", len(rows))

    n_poisoned = 0
    for day in (history.days[36], history.days[11]):
        n_poisoned += poison(world, day, Oracle(world, day).as_of)
        assert hashes_of(world, stage_features(world, [day])) == {day: before[day]}
    assert n_poisoned > 1000
    record_figure("poisoned rows without effect", n_poisoned)

    poison(world, history.days[6], Partition(history.days[6]).cutoff)
    assert hashes_of(world, stage_features(world, [history.days[11]])) != {
        history.days[11]: before[history.days[11]]
    }
    change_one_outcome(world, history.days[3])
    assert differing_rows(world, rows) != []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(9))
def test_features_equal_the_oracle_when_each_schedule_of_deliveries_counts_as_one_history(
    world: World, seed: int
) -> None:
    """Nine worlds of 36 partitions.

    324 schedules of deliveries, each with its own late and corrected drops.
    """
    history = RandomHistory(world, 36, 45, 100 + seed)
    rows = rows_of(world, stage_features(world, history.days))
    assert len({row["partition_date"] for row in rows}) == 36
    assert differing_rows(world, rows) == []


_POISON = [
    """update raw.flight_outcomes r set arrival_delay_minutes = 900,
        departure_delay_minutes = 900, air_time_minutes = 500,
        status = 'arrived', tail_number = 'N1', origin = 'EWR', destination = 'ORD'
    where {later}""",
    """update raw.weather r set temperature_f = -60, pressure_mb = 850,
        precipitation_in = 9, wind_speed_mph = 200, visibility_miles = 0
        where {later}""",
    (
        "update raw.flight_schedules r set distance_miles = 1, tail_number = 'N1',"
        " scheduled_arrival_hhmm = 1 where {later}"
    ),
    "delete from raw.flight_schedules r where flight_number > 5 and {later}",
    """insert into raw.weather
            (partition_date, load_id, known_at, source_row, origin, observed_at, temperature_f)
        select %(day)s, load_id, known_at, source_row, origin, %(as_of)s + interval '1 hour', 999
        from raw.weather r where partition_date = %(day)s limit 1""",
]
_LATER = "(partition_date > %(day)s or known_at > %(as_of)s)"


def poison(world: World, day: dt.date, as_of: dt.datetime) -> int:
    """Make every raw row wrong that happened or was delivered after the as-of.

    And put one observation of the future into the past.
    """
    values = {"day": day, "as_of": as_of}
    return sum(
        world.conn.execute(statement.format(later=_LATER).encode(), values).rowcount
        for statement in _POISON
    )


_HEAD = """select
    s.flight_id, s.scheduled_departure_at as event_timestamp, s.as_of, s.partition_date,
    {{ var("load_id") }}::bigint as load_id,
    %s::double precision as happened, %s::double precision as delivered
from {{ ref("int_flight_spine") }} s"""
_TOMORROW = (
    "(select sum(o.arrival_delay_minutes) from {{ ref('fct_flight_outcomes') }} o where"
    " o.partition_date = s.partition_date + 1)"
)
_NEWEST = """(select sum(o.arrival_delay_minutes) from {{ ref('fct_flight_outcomes') }} o
    where o.partition_date = s.partition_date and o.superseded_at is null)"""
_KNOWN = """(select sum(o.arrival_delay_minutes) from {{ ref('fct_flight_outcomes') }} o
    join {{ ref('int_visible_versions') }} v on v.dataset = 'raw/flight_outcomes'
    and v.source_partition_date = o.partition_date
    and v.source_load_id = o.load_id
    where v.partition_date = s.partition_date and v.age_days = 0)"""
_PLANTED = {
    "leaking": _HEAD % (_TOMORROW, _NEWEST),
    "hidden": _HEAD % (_KNOWN, "(select count(*) from raw.flight_outcomes)"),
    "honest": _HEAD % (_KNOWN, _KNOWN),
}
_SIZES = {"tiny": 0.03, "small": 0.08, "large": 0.2}
for _name, _size in _SIZES.items():
    # An honest number and a part of the outcome that it must predict.
    _PLANTED[_name] = _HEAD % (f"{_KNOWN} + {_size} * {_TOMORROW}", _KNOWN)
_COLUMNS = {
    "flight_id": "text",
    "event_timestamp": "timestamp with time zone",
    "as_of": "timestamp with time zone",
    "partition_date": "date",
    "load_id": "bigint",
    "happened": "double precision",
    "delivered": "double precision",
}


@pytest.fixture
def planted(world: World, tmp_path: Path) -> World:
    """Return a world whose dbt project has leaking feature views beside the real one."""
    project = tmp_path / "dbt_project"
    shutil.copytree(
        PROJECT_ROOT / "dbt_project", project, ignore=shutil.ignore_patterns("target", "logs")
    )
    folder = project / "models" / "features" / "planted"
    folder.mkdir()
    models = []
    for name, sql in _PLANTED.items():
        (folder / f"feat_{name}.sql").write_text(sql)
        columns = "".join(
            f"\n      - {{name: {column}, data_type: {kind}}}" for column, kind in _COLUMNS.items()
        )
        models.append(
            f"  - name: feat_{name}\n    config: {{meta: {{entity_key: flight_id}}}}\n   "
            f" columns:{columns}"
        )
    (folder / "_planted.yml").write_text("version: 2\nmodels:\n" + "\n".join(models) + "\n")
    world.settings = world.settings.model_copy(update={"dbt_project_dir": project})
    return world


def spec_of(view: str) -> ModelSpec:
    spec = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")
    features = spec.features.model_copy(
        update={"numeric": ("happened", "delivered"), "categorical": ()}
    )
    return spec.model_copy(update={"feature_view": view, "features": features})


def test_training_is_refused_when_a_planted_feature_reads_the_future(
    planted: World, run: RunContext
) -> None:
    history = RandomHistory(planted, 5, 0, seed=5)
    built = PartitionRange(Partition(history.days[2]), Partition(history.days[3]))
    publish(
        planted.conn, stage_features(planted, history.days, [f"feat_{name}" for name in _PLANTED])
    )
    for day in built.days:
        planted.deliver(
            "flight_outcomes",
            day,
            history.rows("flight_outcomes", day),
            Partition(day).cutoff + dt.timedelta(days=20),
        )

    with pytest.raises(LeakError, match=r"feat_leaking .*: delivered, happened\.") as leak:
        probe_features(planted.settings, spec_of("leaking"), built, run)
    assert leak.value.code == "NS-LEAK-001"
    with pytest.raises(HiddenSourceError, match=r"feat_hidden reads raw\.flight_outcomes"):
        probe_features(planted.settings, spec_of("hidden"), built, run)

    honest = probe_features(planted.settings, spec_of("honest"), built, run)
    assert len(honest.partitions) == 1
    assert honest.n_rows == N_FLIGHTS
    planted.conn.execute("update features.feat_honest set delivered = delivered + 1")
    with pytest.raises(SkewError, match="delivered"):
        probe_features(planted.settings, spec_of("honest"), built, run)


def test_a_leak_is_found_on_the_newest_night_when_nothing_came_later_yet(
    planted: World, run: RunContext
) -> None:
    history = RandomHistory(planted, 5, 0, seed=6)
    publish(
        planted.conn, stage_features(planted, history.days, [f"feat_{name}" for name in _PLANTED])
    )
    newest = PartitionRange.single(Partition(history.days[-1]))

    with pytest.raises(LeakError, match=r"delivered, happened") as leak:
        probe_features(planted.settings, spec_of("leaking"), newest, run)
    probe_features(planted.settings, spec_of("honest"), newest, run)

    # Clock and source are named, the innocent ones are not.
    assert leak.value.got == (
        "other values with raw/flight_outcomes delivered later; raw/flight_outcomes happened later"
    )
    probes = planted.conn.execute(
        "select leaks, perturbations from ml.leak_probes order by probe_id"
    ).fetchall()
    leaks, invented = probes[0]
    assert leaks == {
        "delivered": ["raw/flight_outcomes delivered later"],
        "happened": ["raw/flight_outcomes happened later"],
    }
    # A perturbation without a row would prove nothing.
    assert len(invented) >= 2
    assert min(invented.values()) >= N_FLIGHTS
    assert probes[1][0] == {}


def test_no_leak_of_any_size_passes_on_seven_nights_and_no_honest_night_is_refused(
    planted: World, run: RunContext, record_figure: Callable[[str, float], None]
) -> None:
    history = RandomHistory(planted, 9, 0, seed=8)
    publish(
        planted.conn, stage_features(planted, history.days, [f"feat_{name}" for name in _PLANTED])
    )
    n_refused = 0
    for day in history.days[2:]:
        night = PartitionRange.single(Partition(day))
        probe_features(planted.settings, spec_of("honest"), night, run)
        for name in _SIZES:
            with pytest.raises(LeakError, match="change with what came later: happened"):
                probe_features(planted.settings, spec_of(name), night, run)
            n_refused += 1
    assert n_refused == 21
    record_figure("planted leaks that the probe refused, of 21", n_refused)


def test_a_view_that_dbt_does_not_know_is_refused(settings: Settings) -> None:
    with pytest.raises(UnknownViewError, match="feat_nowhere"):
        compile_view(settings, "feat_nowhere", {})


def test_the_probe_cannot_be_switched_off() -> None:
    with pytest.raises(ValidationError, match="leakage_probe_days"):
        Settings(warehouse_host="h", leakage_probe_days=0)
