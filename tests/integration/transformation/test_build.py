from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.quality.gate_errors import GateError
from nightshift.transformation import build as stage
from nightshift.transformation.build import InputsChangedError, LookbackIncomplete, build
from nightshift.warehouse.damage import DamagedInputError
from nightshift.warehouse.dbt.invocation import DbtError

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse.connection import Connection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("warm_dbt", "quick_gate"),
]

FIRST = dt.date(2013, 1, 1)
N_FLIGHTS = 5


def days(n: int) -> list[dt.date]:
    return [FIRST + dt.timedelta(days=i) for i in range(n)]


def hashes(conn: Connection) -> dict[dt.date, str]:
    query = """
    select p.partition_date, l.content_hash from ops.published p
    join ops.loads l using (dataset, partition_date, load_id)
    where dataset = 'features/flight'
    """
    return dict(conn.execute(query).fetchall())


def published_features(conn: Connection) -> list[dict[str, Any]]:
    cursor = conn.execute(
        """
        select f.* from features.feat_flight f
        join ops.published p on p.dataset = 'features/flight'
            and (p.partition_date, p.load_id) = (f.partition_date, f.load_id)
        """
    )
    names = [column.name for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class Oracle:
    """Recompute features of one partition from the delivered versions, without SQL."""

    def __init__(self, world: Any, day: dt.date) -> None:
        self.day = day
        first_known: dict[tuple[str, dt.date], dt.datetime] = {}
        for dataset, delivered, known_at, _ in world.versions:
            first_known[dataset, delivered] = min(
                known_at, first_known.get((dataset, delivered), known_at)
            )
        lookback = [
            known
            for (_, q), known in first_known.items()
            if day - dt.timedelta(days=28) <= q <= day
        ]
        self.as_of = max([Partition(day).cutoff, *lookback])
        self.visible: dict[tuple[str, dt.date], list[dict[str, Any]]] = {}
        for dataset, delivered, known_at, rows in sorted(
            world.versions, key=lambda version: version[2]
        ):
            if delivered <= day and known_at <= self.as_of:
                self.visible[dataset, delivered] = rows

    def outcomes(self, n_days: int) -> list[dict[str, Any]]:
        span = [self.day - dt.timedelta(days=i) for i in range(n_days)]
        return [row for q in span for row in self.visible.get(("flight_outcomes", q), [])]

    def rate(self, n_days: int, weight: int, **group: Any) -> float | None:
        arrived = [row for row in self.outcomes(n_days) if row["arrival_delay_minutes"] is not None]
        if not arrived:
            return None
        prior = sum(row["arrival_delay_minutes"] >= 15 for row in arrived) / len(arrived)
        mine = [row for row in arrived if all(row[name] == value for name, value in group.items())]
        return (sum(row["arrival_delay_minutes"] >= 15 for row in mine) + weight * prior) / (
            len(mine) + weight
        )

    def last_weather(self, origin: str, column: str) -> float | None:
        rows = [
            row
            for i in range(2)
            for row in self.visible.get(("weather", self.day - dt.timedelta(days=i)), [])
            if row["origin"] == origin and row[column] is not None
        ]
        return max(rows, key=lambda row: row["observed_at"])[column] if rows else None

    def last_delay(self, tail: str | None) -> int | None:
        rows = [
            row
            for row in self.outcomes(3)
            if row["tail_number"] == tail and tail and row["arrival_delay_minutes"] is not None
        ]
        return (
            max(rows, key=lambda row: row["outcome_at"])["arrival_delay_minutes"] if rows else None
        )

    def features(self) -> dict[str, dict[str, Any]]:
        return {
            self._id(row): self._features(row) for row in self.visible["flight_schedules", self.day]
        }

    def _id(self, row: dict[str, Any]) -> str:
        return f"{row['flight_date']}_{row['carrier']}_{row['flight_number']}_{row['origin']}"

    def _features(self, row: dict[str, Any]) -> dict[str, Any]:
        carrier, tail = row["carrier"], row["tail_number"]
        route = {"origin": row["origin"], "destination": row["destination"]}
        values = {f"carrier_delay_rate_{n}d": self.rate(n, 20, carrier=carrier) for n in (1, 7, 28)}
        values |= {f"route_delay_rate_{n}d": self.rate(n, 20, **route) for n in (1, 7, 28)}
        values |= {
            f"aircraft_delay_rate_{n}d": self.rate(n, 5, tail_number=tail or "none")
            for n in (1, 7, 28)
        }
        values["temperature_f_last"] = self.last_weather(row["origin"], "temperature_f")
        values["pressure_mb_last"] = self.last_weather(row["origin"], "pressure_mb")
        values["aircraft_arrival_delay_last_3d"] = self.last_delay(tail)
        return values | {"as_of": self.as_of}


@pytest.mark.promise("R7")
@pytest.mark.promise("R10")
@pytest.mark.mlts("data-4")
def test_features_equal_an_independent_recomputation_when_drops_come_late_and_are_corrected(
    world, run: RunContext
) -> None:
    whole = days(33)
    for day in whole:
        late = Partition(day).cutoff + dt.timedelta(days=3) if day.day in (7, 20) else None
        world.deliver_day(day, seed=1, known_at=late)
    for day, lag_hours in ((whole[4], 30), (whole[15], 80), (whole[28], 3), (whole[31], 1)):
        world.deliver(
            "flight_outcomes",
            day,
            world.outcomes(day, seed=2),
            Partition(day).cutoff + dt.timedelta(hours=lag_hours),
        )
        world.deliver(
            "weather",
            day,
            world.weather(day, seed=2),
            Partition(day).cutoff + dt.timedelta(hours=lag_hours),
        )
    world.deliver(
        "flight_schedules",
        whole[10],
        world.schedules(whole[10])[:3],
        Partition(whole[10]).cutoff + dt.timedelta(hours=2),
    )

    build(world.settings, PartitionRange(Partition(FIRST), Partition(whole[-1])), run)

    rows = published_features(world.conn)
    assert len(rows) == 33 * N_FLIGHTS
    expected = {day: Oracle(world, day).features() for day in whole}
    for row in rows:
        wanted = expected[row["partition_date"]][row["flight_id"]]
        got = {name: row[name] for name in wanted}
        as_of = wanted.pop("as_of")
        assert got.pop("as_of") == as_of
        absent = {name for name, value in wanted.items() if value is None}
        assert {name for name, value in got.items() if value is None} == absent
        assert [got[name] for name in wanted.keys() - absent] == pytest.approx(
            [wanted[name] for name in wanted.keys() - absent], rel=1e-12
        )
    at_once = hashes(world.conn)
    for day in (whole[16], whole[32]):
        result = build(world.settings, PartitionRange.single(Partition(day)), run)
        assert not any(load.is_new for load in result.published)
    assert hashes(world.conn) == at_once


@pytest.mark.promise("R7")
@pytest.mark.promise("R6")
def test_an_older_as_of_keeps_its_features_when_a_correction_comes_later(
    world, run: RunContext
) -> None:
    for day in days(4):
        world.deliver_day(day, seed=1)
    whole = PartitionRange(Partition(FIRST), Partition(days(4)[-1]))
    build(world.settings, whole, run)
    before = hashes(world.conn)

    world.deliver(
        "flight_outcomes",
        days(4)[1],
        world.outcomes(days(4)[1], seed=9),
        Partition(days(4)[2]).cutoff + dt.timedelta(hours=1),
    )
    result = build(world.settings, whole, run)

    after = hashes(world.conn)
    assert [day for day in days(4) if after[day] != before[day]] == [days(4)[3]]
    assert [load.partition_date for load in result.published if load.is_new] == [days(4)[3]]


def test_build_waits_and_names_the_hole_when_a_drop_is_missing(world, run: RunContext) -> None:
    world.deliver_day(FIRST, seed=1)
    world.deliver_day(days(2)[1], seed=1, skip="weather")

    with pytest.raises(LookbackIncomplete, match=r"raw/weather 2013-01-02") as caught:
        build(world.settings, PartitionRange.of("2013-01-02"), run)

    assert caught.value.is_retryable
    assert caught.value.code == "NS-TRANSFORM-001"
    assert hashes(world.conn) == {}


def test_nothing_is_published_when_the_gate_refuses(
    world, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deliver_day(FIRST, seed=1)

    def refuse(*_: object) -> None:
        raise GateError("refused by the test")

    monkeypatch.setattr("nightshift.quality.gates.run_gate", refuse)
    with pytest.raises(GateError):
        build(world.settings, PartitionRange.of("2013-01-01"), run)

    assert hashes(world.conn) == {}
    states = world.conn.execute(
        "select state, detail->>'refused' from ops.loads where dataset = 'features/flight'"
    ).fetchall()
    assert states == [("refused", "NS-GATE-001: refused by the test")]


def test_nothing_is_published_when_an_input_changes_meanwhile(
    world, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deliver_day(FIRST, seed=1)
    real = stage.run_models

    def deliver_and_run(*args: Any) -> Any:
        world.deliver(
            "flight_outcomes",
            FIRST,
            world.outcomes(FIRST, seed=2),
            Partition(FIRST).cutoff - dt.timedelta(minutes=1),
        )
        return real(*args)

    monkeypatch.setattr(stage, "run_models", deliver_and_run)
    with pytest.raises(InputsChangedError):
        build(world.settings, PartitionRange.of("2013-01-01"), run)

    assert hashes(world.conn) == {}


def test_the_error_names_the_model_and_the_database_message_when_dbt_fails(
    world, run: RunContext
) -> None:
    world.deliver_day(FIRST, seed=1)
    stage.ensure_relations(world.settings)
    world.conn.execute(
        "alter table features.feat_flight add constraint nobody_flies check (flight_id is null)"
        " not valid"
    )

    with pytest.raises(DbtError, match="feat_flight") as caught:
        build(world.settings, PartitionRange.of("2013-01-01"), run)

    assert "nobody_flies" in str(caught.value)
    assert hashes(world.conn) == {}


def test_features_are_published_again_when_their_rows_are_damaged_and_refused_when_raw_rows_are(
    world, run: RunContext
) -> None:
    world.deliver_day(FIRST, seed=1)
    first_day = PartitionRange.single(Partition(FIRST))
    build(world.settings, first_day, run)
    right = published_features(world.conn)
    world.conn.execute("update features.feat_flight set temperature_f_last = 0")
    world.conn.execute(
        "delete from features.feat_flight where flight_id in (select min(flight_id) from"
        " features.feat_flight)"
    )

    assert [load.is_new for load in build(world.settings, first_day, run).published] == [True]

    def content(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(
            str({name: value for name, value in row.items() if name != "load_id"}) for row in rows
        )

    assert content(published_features(world.conn)) == content(right)
    world.conn.execute("delete from raw.weather where origin = 'EWR'")
    with pytest.raises(DamagedInputError, match="raw/weather") as caught:
        build(world.settings, first_day, run)
    assert caught.value.got == "48 of 72 rows are there"
