"""Thirty good nights, looked at after every stage: nobody is woken."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from tests.chaos.on_call.airflow_tasks import ReportedAirflow
from tests.conftest import write_suite
from tests.integration.monitoring.conftest import SPEC, TRAINED_ON, World
from tests.integration.scoring.conftest import with_suite

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.records import open_incidents, read_health
from nightshift.incidents.rules import services
from nightshift.scoring import pipeline
from nightshift.settings import PROJECT_ROOT, Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R20"),
    pytest.mark.usefixtures("quick_gate"),
    pytest.mark.timeout(900, func_only=True),
]

N_NIGHTS, N_SHORT = 30, 2
DATASET = "weather"
MINUTE = dt.timedelta(minutes=1)
FAKE_CLOCK = """
create schema fake;
create table fake.present (at timestamptz not null);
insert into fake.present values (pg_catalog.clock_timestamp());
create function fake.clock_timestamp() returns timestamptz stable language sql
    as 'select at from fake.present';
create function fake.now() returns timestamptz stable language sql
    as 'select at from fake.present';
"""
# What the write path dates by a column's default carries the true clock: now it is that night.
DATED = (
    "update ops.published set published_at = %(at)s where published_at > %(end)s",
    "update ops.loads set published_at = %(at)s where published_at > %(end)s",
    """
    update ops.loads
    set started_at = %(at)s, published_at = coalesce(published_at, %(at)s), actor = 'airflow'
    where started_at > %(end)s
    """,
)


@dataclass
class Nights:
    """A warehouse whose present is the night that is played.

    Attributes:
        world: Features, labels and a champion.
        settings: With one model and one daily dataset.
        incidents: What an evaluation has found, with the stage after which it looked.
        seconds: How long each evaluation took.
    """

    world: World
    settings: Settings
    incidents: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def set_clock(self, at: dt.datetime) -> None:
        """Let it be this instant, for whatever was written since as well."""
        self.world.conn.execute("update fake.present set at = %s", [at])
        for statement in DATED:
            self.world.conn.execute(statement, {"at": at, "end": at + dt.timedelta(days=400)})

    def look(self, at: dt.datetime, stage: str) -> None:
        """Evaluate each rule, as a watch does that runs each minute."""
        self.set_clock(at)
        self.world.conn.execute("delete from ops.incident_rules")
        evaluation = evaluate(self.settings, airflow=ReportedAirflow({}))
        assert evaluation.at == at
        assert evaluation.failed_rules == ()
        self.seconds.append(evaluation.seconds)
        found = open_incidents(self.world.conn)
        self.incidents += [f"{at} {stage}: {each.code} {each.what}" for each in found]

    def play(self, night: Partition) -> None:
        """Play one night: files, features, scores, monitor; look after each step."""
        begin, day = night.cutoff, str(night.day)
        spec, run, nights = self.world.spec, self.world.run, PartitionRange.of(day)
        self.look(begin - 10 * MINUTE, "before the files")
        self.try_task("ingest", f"load_{DATASET}", night, "waiting")
        self.look(begin + 2 * MINUTE, "while a load waits")
        self.world.flip(f"raw/{DATASET}", night.day, night.day.toordinal())
        self.try_task("ingest", f"load_{DATASET}", night, "success")
        self.look(begin + 10 * MINUTE, "ingested")
        self.try_task("transform", "build_features", night, None)
        self.look(begin + 15 * MINUTE, "while features are built")
        self.world.add_night(day)
        self.try_task("transform", "build_features", night, "success")
        self.look(begin + 20 * MINUTE, "features published")
        plan = pipeline.begin(self.settings, spec, nights, run)
        # One shard meets a store that is away for a moment, and is tried again.
        self.try_task(f"score__{spec.name}", "score_shard", night, "NS-LAKE-001")
        self.look(begin + 25 * MINUTE, "while shards are scored")
        pipeline.score_shards(self.settings, spec, plan, run)
        self.try_task(f"score__{spec.name}", "score_shard", night, "success")
        pipeline.publish(self.settings, spec, plan, run)
        self.look(begin + 30 * MINUTE, "scored")
        self.world.measure(day)
        self.look(begin + 40 * MINUTE, "monitored")
        deadline = spec.deadline_of(night)
        self.look(deadline - 10 * MINUTE, "before the deadline")
        self.look(deadline + 5 * MINUTE, "after the deadline")
        self.look(deadline + 12 * 60 * MINUTE, "at noon")

    def try_task(self, dag_id: str, task_id: str, night: Partition, outcome: str | None) -> None:
        """Record a try of a task, none of which is its last; None runs on."""
        self.world.conn.execute(
            """
            insert into ops.task_tries (dag_id, dag_run_id, task_id, map_index, attempt,
                partition_date, started_at, ended_at, outcome)
            select %(dag)s, %(run)s, %(task)s, -1, (
                    select count(*) + 1 from ops.task_tries
                    where (dag_id, dag_run_id, task_id) = (%(dag)s, %(run)s, %(task)s)
                ), %(day)s, at, case when %(outcome)s::text is not null then at end, %(outcome)s
            from fake.present
            """,
            {
                "dag": dag_id,
                "run": f"scheduled__{night}",
                "task": task_id,
                "day": night.day,
                "outcome": outcome,
            },
        )


@pytest.fixture
def nights(world: World, no_report: None, tmp_path: Path, monkeypatch) -> Nights:
    dags = tmp_path / "dags"
    (dags / "models").mkdir(parents=True)
    (dags / "datasets").mkdir()
    # The champion is not trained again in these nights, and must not be called old.
    document = SPEC | {"training": SPEC["training"] | {"window_days": 90}}
    (dags / "models" / "parcel_late.yaml").write_text(yaml.safe_dump(document))
    shutil.copy(PROJECT_ROOT / "dags" / "datasets" / f"{DATASET}.yaml", dags / "datasets")
    settings = Settings(**(dict(with_suite(world.settings, tmp_path)) | {"dags_dir": dags}))
    suite = settings.expectations_dir / "predictions" / "parcel_late.json"
    # Here the wind decides nearly alone: some parcels are late for sure.
    suite.write_text(suite.read_text().replace("0.99", "1.0"))
    world.spec = load_spec(settings.models_dir, "parcel_late")
    for dataset in (f"raw/{DATASET}", world.spec.features_dataset):
        write_suite(settings.expectations_dir, dataset)
    for day in PartitionRange.of("2020-01-01", str(TRAINED_ON)).days:
        world.flip(f"raw/{DATASET}", day, day.toordinal())
    world.conn.execute(FAKE_CLOCK.encode())
    database = settings.warehouse_database
    world.conn.execute(
        f"alter database {database} set search_path = fake, pg_catalog, public".encode()
    )
    # The clock of the nights is years behind the machine's.
    monkeypatch.setattr(services, "WRONG_CLOCK_SECONDS", float("inf"))
    played = Nights(world, settings)
    # The history is loaded on the day before the first night.
    played.set_clock(TRAINED_ON.shift(1).start)
    return played


@pytest.mark.parametrize(
    "n_nights",
    [
        N_SHORT,
        pytest.param(N_NIGHTS, marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
def test_no_incident_is_open_after_any_stage_of_quiet_nights(
    nights: Nights, n_nights: int, record_figure: Callable[[str, float], None]
) -> None:
    for number in range(1, n_nights + 1):
        nights.play(TRAINED_ON.shift(number))
        assert nights.incidents == []
        print(f"night {number}: {len(nights.seconds)} looks, no incident", flush=True)
    # A view keeps the clock that it was made with: for it these evaluations are years old.
    parts = {part for health in read_health(nights.world.conn) for part in health.parts}
    assert parts == {"evaluation"}
    mean_seconds = sum(nights.seconds) / len(nights.seconds)
    for name, value in {
        "quiet nights": n_nights,
        "looks at quiet nights": len(nights.seconds),
        "false incidents in quiet nights": len(nights.incidents),
        "seconds of a look at a quiet night, mean": mean_seconds,
    }.items():
        record_figure(name, value)
        print(f"{name}: {value}", flush=True)


def test_the_same_nights_have_an_incident_when_one_of_them_is_not_scored(nights: Nights) -> None:
    first, second = TRAINED_ON.shift(1), TRAINED_ON.shift(2)
    nights.play(first)
    assert nights.incidents == []
    nights.look(nights.world.spec.deadline_of(second) + MINUTE, "a night without files")
    assert any("NS-FRESH-001" in line for line in nights.incidents)
    assert any("NS-INGEST-001" in line for line in nights.incidents)
