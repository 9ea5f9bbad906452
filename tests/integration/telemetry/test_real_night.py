"""A real night, from files to the verdict: one trace with stages, and events of the standard."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from examples.flights.upstream import deliver
from pydantic import SecretStr
from tests.databases import own_database
from tests.integration.telemetry.openlineage_schema import problems_by_files, problems_of
from tests.integration.telemetry.receiver import running

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.load import ingest
from nightshift.monitoring.monitor import monitor
from nightshift.orchestration.task_scope import task_identity
from nightshift.orchestration.task_tries import TaskTry, recorded
from nightshift.scoring.pipeline import begin, publish, score_shards
from nightshift.settings import Settings
from nightshift.telemetry.export_round import export_new, is_on
from nightshift.telemetry.identifiers import deployment_of
from nightshift.telemetry.lineage.exporter import as_document, night_events
from nightshift.telemetry.night_records import read_night
from nightshift.telemetry.spans import QUIET, NightTrace, make_trace
from nightshift.transformation.build import build
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_dbt"),
]

DAY = dt.date(2013, 1, 1)
NIGHT = PartitionRange.of(str(DAY))
MODEL = "flight_delayed"
DATASETS = (
    "airports",
    "carriers",
    "planes",
    "flight_schedules",
    "flight_outcomes",
    "weather",
)
SPEC_VARIABLE = "NIGHTSHIFT_OPENLINEAGE_SPEC"
# Read before the fixtures of the session drop every variable of ours.
SPEC_FOLDER = os.environ.get(SPEC_VARIABLE, "")
CANARY = "jane.doe@example.com"


@dataclass
class Tasks:
    """Runs stages as Airflow's tasks do, each try with its record."""

    settings: Settings

    def run(self, dag_id: str, task_id: str, body: Callable[[RunContext], Any]) -> Any:
        run_id = f"asset_triggered__2013-01-02T05:00:00+00:00_{len(dag_id)}"
        identity = task_identity(dag_id, run_id, str(DAY), task_id)
        this = TaskTry(dag_id, run_id, task_id, -1, 1, 1)
        with recorded(self.settings, this, DAY):
            return body(RunContext(identity, 1, "airflow"))


@contextmanager
def in_home(state: Settings, home: Path) -> Iterator[Settings]:
    """Yield settings with a home of their own; the parsed dbt project is the session's."""
    (home / "dbt").symlink_to(state.home / "dbt")
    yield state.model_copy(update={"home": home, "mlflow_tracking_uri": SecretStr("")})


@pytest.fixture(scope="module")
def night(
    session_settings: Settings,
    dbt_database: tuple[str, str],
    warm_dbt: None,
    quick_gate: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Settings]:
    """Run one night through all stages."""
    with (
        own_database(session_settings, *dbt_database) as own,
        in_home(own, tmp_path_factory.mktemp("home")) as settings,
    ):
        tasks = Tasks(settings)
        spec = load_spec(settings.models_dir, MODEL)
        deliver(settings, NIGHT)
        for name in DATASETS:
            tasks.run("ingest", f"load_{name}", partial(ingest, settings, name, NIGHT))
        tasks.run("transform", "build", lambda run: build(settings, NIGHT, run))
        score = f"score__{MODEL}"
        plan = tasks.run(score, "begin", lambda run: begin(settings, spec, NIGHT, run))
        tasks.run(score, "shards", lambda run: score_shards(settings, spec, plan, run))
        tasks.run(score, "publish", lambda run: publish(settings, spec, plan, run))
        tasks.run(f"monitor__{MODEL}", "monitor", lambda run: monitor(settings, spec, NIGHT, run))
        yield settings


@pytest.fixture(scope="module")
def events(night: Settings) -> list[dict[str, Any]]:
    with connect(night, "test") as conn:
        return [as_document(event) for event in night_events(night, conn, DAY)]


@pytest.fixture
def trace(night: Settings) -> NightTrace:
    with connect(night, "test") as conn:
        records = read_night(conn, DAY)
    return make_trace(deployment_of(night), records, dt.datetime.now(dt.UTC) + QUIET)


def of_job(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["job"]["name"] == name]


def table(settings: Settings, name: str) -> tuple[str, str]:
    namespace = f"postgres://{settings.warehouse_host}:{settings.warehouse_port}"
    return namespace, f"{settings.warehouse_database}.{name}"


def names(datasets: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["namespace"], each["name"]) for each in datasets}


def test_the_stages_of_the_night_are_spans_of_one_trace(trace: NightTrace) -> None:
    by_key = {span.key: span for span in trace.spans}
    stages = {span.name for span in trace.spans if " stage " in span.key}
    assert {"begin", "transfer", "audit", "gate", "publish", "dbt_build"} <= stages
    dags = {span.name for span in trace.spans if span.parent == "night"}
    assert dags == {"ingest", "transform", f"score__{MODEL}", f"monitor__{MODEL}"}
    for span in trace.spans[1:]:
        parent = by_key[span.parent]
        assert parent.started_at <= span.started_at
        assert span.ended_at <= parent.ended_at
    (build_span,) = [span for span in trace.spans if span.name == "dbt_build"]
    assert by_key[build_span.parent].name == "transform.build"
    (load,) = [span for span in trace.spans if span.name == f"load/predictions/{MODEL}"]
    assert load.attributes["nightshift.rows"] > 0
    assert load.attributes["nightshift.score_source"] == "fallback_rule"
    assert all(span.is_complete for span in trace.spans)


def test_every_event_meets_the_standard(events: list[dict[str, Any]]) -> None:
    assert len(events) > 20
    assert [problem for event in events for problem in problems_of(event)] == []


def test_the_schema_refuses_what_the_standard_refuses(events: list[dict[str, Any]]) -> None:
    (event,) = [each for each in of_job(events, "transform") if each["eventType"] == "COMPLETE"]

    def broken(change: Callable[[dict[str, Any]], object]) -> list[str]:
        changed = copy.deepcopy(event)
        change(changed)
        return problems_of(changed)

    assert broken(lambda each: each) == []
    assert broken(lambda each: each.pop("eventTime"))
    assert broken(lambda each: each.update(eventType="DONE"))
    assert broken(lambda each: each["run"].update(runId="load 7"))
    assert broken(lambda each: each["job"].pop("namespace"))
    assert broken(lambda each: each["outputs"][0].pop("name"))
    assert broken(lambda each: each["run"]["facets"]["nominalTime"].pop("nominalStartTime"))
    assert broken(lambda each: each["run"]["facets"]["parent"]["run"].pop("runId"))
    assert broken(lambda each: each["outputs"][0]["facets"]["version"].pop("datasetVersion"))
    assert broken(lambda each: each["outputs"][0]["facets"]["schema"].update(fields="a"))
    assert broken(lambda each: each["outputs"][0]["facets"].update(ours={"_schemaURL": "x"}))


@pytest.mark.skipif(not SPEC_FOLDER, reason=f"{SPEC_VARIABLE} names no spec folder")
def test_every_event_meets_the_files_of_the_standard(events: list[dict[str, Any]]) -> None:
    spec = Path(SPEC_FOLDER)
    assert [problem for event in events for problem in problems_by_files(spec, event)] == []
    # The files refuse what is wrong: a time without a zone, a facet under another key.
    wrong = copy.deepcopy(events[0])
    wrong["eventTime"] = "2013-01-01T00:00:00"
    facets = wrong["run"]["facets"]
    facets["nominal"] = facets.pop("nominalTime")
    problems = "\n".join(problems_by_files(spec, wrong))
    assert "eventTime" in problems
    assert "nominal" in problems


def test_each_run_begins_and_ends_once(events: list[dict[str, Any]]) -> None:
    states: dict[str, list[str]] = {}
    for event in events:
        states.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert set(map(tuple, states.values())) == {("START", "COMPLETE")}


def test_the_chain_from_the_files_to_the_verdict_is_closed(
    night: Settings, events: list[dict[str, Any]]
) -> None:
    bucket = f"s3://{night.s3_bucket}"
    (weather,) = [e for e in of_job(events, "ingest.weather") if e["eventType"] == "COMPLETE"]
    assert names(weather["inputs"]) == {(bucket, "landing/weather")}
    assert names(weather["outputs"]) == {table(night, "raw.weather")}
    (built,) = [e for e in of_job(events, "transform") if e["eventType"] == "COMPLETE"]
    assert table(night, "raw.weather") in names(built["inputs"])
    assert names(built["outputs"]) == {table(night, "features.feat_flight")}
    (scored,) = [e for e in of_job(events, f"score.{MODEL}") if e["eventType"] == "COMPLETE"]
    assert names(scored["inputs"]) == {
        table(night, "features.feat_flight"),
        (bucket, f"models/{MODEL}"),
    }
    (monitored,) = [e for e in of_job(events, f"monitor.{MODEL}") if e["eventType"] == "COMPLETE"]
    assert table(night, f"predictions.{MODEL}") in names(monitored["inputs"])


def test_an_output_says_what_the_warehouse_says(
    night: Settings, events: list[dict[str, Any]]
) -> None:
    (scored,) = [e for e in of_job(events, f"score.{MODEL}") if e["eventType"] == "COMPLETE"]
    (output,) = scored["outputs"]
    with connect(night, "test") as conn:
        n_rows, content_hash = conn.execute(
            "select n_rows, content_hash from ops.loads where dataset = %s and state = 'published'",
            [f"predictions/{MODEL}"],
        ).fetchone()
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == n_rows
    assert output["facets"]["version"]["datasetVersion"] == content_hash
    assert output["facets"]["dataQualityMetrics"]["rowCount"] == n_rows
    fields = {each["name"]: each["type"] for each in output["facets"]["schema"]["fields"]}
    assert fields["score"] == "double precision"
    assert output["facets"]["ownership"]["owners"][0]["name"] == "team:flight-operations"
    nominal = scored["run"]["facets"]["nominalTime"]
    assert nominal["nominalStartTime"] == "2013-01-01T00:00:00-05:00"
    assert nominal["nominalEndTime"] == "2013-01-02T00:00:00-05:00"
    parent = scored["run"]["facets"]["parent"]
    assert (parent["job"]["name"], parent["root"]["job"]["name"]) == (f"score__{MODEL}", "night")

    (weather,) = [e for e in of_job(events, "ingest.weather") if e["eventType"] == "COMPLETE"]
    lineage = weather["outputs"][0]["facets"]["columnLineage"]["fields"]
    (origin,) = lineage["temperature_f"]["inputFields"]
    assert (origin["name"], origin["field"]) == ("landing/weather", "temperature_f")
    features = output["facets"]["columnLineage"]["fields"]["score"]["inputFields"]
    assert len(features) == len(load_spec(night.models_dir, MODEL).features.names)


def test_the_gate_of_a_load_tells_each_expectation(
    night: Settings, events: list[dict[str, Any]]
) -> None:
    gates = of_job(events, f"gate.predictions.{MODEL}")
    assert [event["eventType"] for event in gates] == ["START", "COMPLETE"]
    (dataset,) = gates[-1]["inputs"]
    assertions = dataset["inputFacets"]["dataQualityAssertions"]["assertions"]
    suite = json.loads((night.expectations_dir / "predictions" / f"{MODEL}.json").read_text())
    assert len(assertions) == len(suite["expectations"])
    assert all(each["success"] for each in assertions)


def test_a_refused_load_fails_with_its_code_and_an_abandoned_one_is_aborted(
    night: Settings,
) -> None:
    target = partition_write.Target("features/flight", "features", "feat_flight", ("flight_id",))
    # Of a day before the night, which has no other event.
    day = PartitionRange.of("2012-12-31")
    with connect(night, "test") as conn:
        loads = []
        for number in range(3):
            run = RunContext(f"cli/{CANARY}", number, f"cli:{CANARY}")
            manifest = partition_write.LoadManifest(run, {CANARY: CANARY, "n": str(number)})
            loads.append(partition_write.begin(conn, [target], day, manifest))
        reason = f"NS-GATE-001: {CANARY} is no flight"
        partition_write.refuse(conn, loads[1], reason)
        documents = [as_document(e) for e in night_events(night, conn, day.first.day)]
    assert [each["eventType"] for each in documents] == ["START", "ABORT", "START", "FAIL", "START"]
    assert [problem for each in documents for problem in problems_of(each)] == []
    assert documents[3]["run"]["facets"]["errorMessage"]["message"] == "NS-GATE-001"
    assert not documents[3]["outputs"][0].get("outputFacets")
    assert "parent" not in documents[3]["run"]["facets"]
    assert CANARY not in json.dumps(documents)


def forget_what_was_sent(night: Settings) -> None:
    with connect(night, "test") as conn:
        conn.execute("delete from ops.telemetry_sent")


def test_events_reach_a_receiver_once_whatever_it_does(
    night: Settings, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    assert not is_on()
    forget_what_was_sent(night)
    with running() as receiver:
        config = {
            "type": "http",
            "url": receiver.url,
            "timeout": "1",
            "retry": json.dumps({"total": 0}),
        }
        for name, value in config.items():
            monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name.upper()}", value)
        receiver.status = 500
        (result,) = export_new(night)
        assert (result.receiver, result.n_sent) == ("lineage", 0)
        assert result.problem.startswith("NS-TELEMETRY-002")
        receiver.status = 200
        receiver.delay_seconds = 5
        begin_at = dt.datetime.now(dt.UTC)
        assert export_new(night)[0].problem
        assert dt.datetime.now(dt.UTC) - begin_at < dt.timedelta(seconds=4)
        receiver.delay_seconds = 0
        receiver.events.clear()
        assert export_new(night)[0].problem == ""
        assert export_new(night)[0].n_sent == 0
    assert [problem for event in receiver.events for problem in problems_of(event)] == []

    def keys(of: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(each["run"]["runId"], each["eventType"]) for each in of]

    # A request that hung was taken after all: a lost answer is the only reason to send twice.
    assert set(keys(receiver.events)) >= set(keys(events))


def test_events_go_into_a_file_as_the_standard_says(
    night: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forget_what_was_sent(night)
    path = tmp_path / "events.json"
    config = tmp_path / "openlineage.yml"
    config.write_text(
        f"transport:\n  type: file\n  log_file_path: {path}\n  append: true\n", encoding="utf-8"
    )
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
    (result,) = export_new(night)
    assert len(path.read_text().splitlines()) == result.n_sent > 20
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    assert export_new(night) == []
