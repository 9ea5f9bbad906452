"""Spans reach a receiver once, whatever it does, and hold no value of a row."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.integration.metrics.world import make_world, publish_night
from tests.integration.telemetry.ledger_rows import BEGAN, DAY, N_SPANS, add_night, add_try
from tests.integration.telemetry.receiver import Receiver, running
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.settings import Settings
from nightshift.telemetry.export_round import export_new, is_on
from nightshift.telemetry.identifiers import deployment_of, trace_id
from nightshift.telemetry.sent_records import sole_sender

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration]

TIMEOUT_SECONDS = 1
CANARY = "jane.doe@example.com"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with running() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(TIMEOUT_SECONDS))
        yield started


def names(receiver: Receiver) -> list[str]:
    return sorted(span.name for span in receiver.spans)


def test_a_night_over_all_dags_is_one_trace(
    settings: Settings, conn: Connection, receiver: Receiver
) -> None:
    add_night(conn)
    publish_night(conn, ["champion"])
    (result,) = export_new(settings, now=dt.datetime.now(dt.UTC) + BEGAN)
    assert (result.receiver, result.problem) == ("traces", "")
    assert result.n_sent == len(receiver.spans) == N_SPANS + 1

    # Whoever knows the deployment and the day knows the trace.
    expected = trace_id(deployment_of(settings), DAY).to_bytes(16)
    assert {span.trace_id for span in receiver.spans} == {expected}
    ids = {span.span_id for span in receiver.spans}
    (root,) = [span for span in receiver.spans if not span.parent_span_id]
    assert root.name == "night"
    assert all(span.parent_span_id in ids for span in receiver.spans if span is not root)
    failed = [span for span in receiver.spans if span.status.code == 2]
    assert [(span.name, span.status.message) for span in failed] == [
        ("transform.build", "NS-WAREHOUSE-003")
    ]
    assert receiver.resources[0]["service.name"] == "nightshift"
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in receiver.spans)


def test_what_was_accepted_is_not_sent_again_and_a_rerun_joins_the_trace(
    settings: Settings, conn: Connection, receiver: Receiver
) -> None:
    add_night(conn)
    export_new(settings)
    before = list(receiver.spans)
    assert len(before) == N_SPANS
    assert export_new(settings)[0].n_sent == 0
    add_try(conn, "score__flight_delayed", "publish", 900, 910, attempt=2)
    assert export_new(settings)[0].n_sent == 2
    rerun = receiver.spans[len(before) :]
    assert sorted(span.name for span in rerun) == [
        "score__flight_delayed",
        "score__flight_delayed.publish",
    ]
    assert {span.trace_id for span in rerun} == {before[0].trace_id}


def test_a_night_that_runs_gives_what_has_ended_and_the_rest_later(
    settings: Settings, conn: Connection, receiver: Receiver
) -> None:
    now = dt.datetime.now(dt.UTC)
    add_night(conn)
    add_try(conn, "shadow__flight_delayed", "score_shadows", 205, None, outcome=None)
    export_new(settings, now=now - BEGAN + dt.timedelta(seconds=210))
    assert all("." in name for name in names(receiver))
    assert len(receiver.spans) == 6
    conn.execute(
        "update ops.task_tries set ended_at = started_at, outcome = 'success' where outcome is null"
    )
    export_new(settings)
    assert len(receiver.spans) == N_SPANS + 2
    assert "night" in names(receiver)


@pytest.mark.parametrize("status", [500, 503, 401])
def test_a_receiver_that_refuses_costs_little_and_gets_all_later(
    settings: Settings, conn: Connection, receiver: Receiver, status: int
) -> None:
    add_night(conn)
    receiver.status = status
    begin = time.monotonic()
    (result,) = export_new(settings)
    assert time.monotonic() - begin < TIMEOUT_SECONDS + 2
    assert (result.n_sent, result.problem[:16]) == (0, "NS-TELEMETRY-002")
    receiver.status = 200
    assert export_new(settings)[0].n_sent == N_SPANS


def test_a_receiver_that_hangs_costs_its_time_limit_once(
    settings: Settings, conn: Connection, receiver: Receiver
) -> None:
    for number in range(5):
        add_night(conn, DAY + dt.timedelta(days=number))
    receiver.delay_seconds = 30
    begin = time.monotonic()
    (result,) = export_new(settings)
    assert result.problem
    assert time.monotonic() - begin < 2 * TIMEOUT_SECONDS + 2
    receiver.delay_seconds = 0
    assert export_new(settings)[0].n_sent == 5 * N_SPANS


def test_a_receiver_that_is_away_loses_nothing(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(TIMEOUT_SECONDS))
    add_night(conn)
    with running() as gone:
        port = gone.port
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    begin = time.monotonic()
    assert export_new(settings)[0].problem
    assert time.monotonic() - begin < TIMEOUT_SECONDS + 2
    with running() as back:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", back.url)
        export_new(settings)
        assert len(back.spans) == N_SPANS


def test_two_senders_send_once(settings: Settings, conn: Connection, receiver: Receiver) -> None:
    add_night(conn)
    with sole_sender(conn, "traces") as is_sole:
        assert is_sole
        assert export_new(settings)[0].problem == "another process sends"
    assert receiver.n_requests == 0
    assert export_new(settings)[0].n_sent == N_SPANS


def test_off_reads_nothing_and_sends_nothing(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_night(conn)
    assert not is_on()
    # Without a receiver not even the warehouse is asked.
    assert export_new(settings.model_copy(update={"warehouse_port": 1})) == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert is_on()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not is_on()


def test_no_value_of_a_row_no_secret_and_no_person_is_in_any_span(
    settings: Settings, conn: Connection, receiver: Receiver
) -> None:
    make_world(conn)
    secret = settings.warehouse_password.get_secret_value()
    stage = {
        "name": "gate",
        "parent": None,
        "started_at": dt.datetime.now(dt.UTC).isoformat(),
        "ended_at": dt.datetime.now(dt.UTC).isoformat(),
        "outcome": f"{CANARY}: {secret}",
        "attributes": {"dataset": CANARY, "verdict": f"/home/jane/{secret}"},
    }
    add_try(conn, "ingest", "load_weather", 0, 5, run=f"for {CANARY}", stages=(stage,))
    # A refusal quotes what it is about, in the ledger and nowhere else.
    conn.execute("alter table ops.loads disable trigger all")
    conn.execute(
        "update ops.loads set actor = %s, run_id = %s, code_version = %s, inputs = %s,"
        " detail = %s where dataset = 'raw/weather'",
        [
            f"cli:{CANARY}",
            CANARY,
            CANARY,
            json.dumps({CANARY: CANARY}),
            json.dumps({"refused": f"NS-CONTRACT-001: {CANARY}"}),
        ],
    )
    export_new(settings, now=dt.datetime.now(dt.UTC) + BEGAN)
    assert receiver.spans
    everything = b"".join(receiver.bodies)
    for text in (CANARY, "jane", secret, "/home/"):
        assert text.encode() not in everything


def test_the_command_prints_the_tree_and_writes_files(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    add_night(conn)
    monkeypatch.setattr("nightshift.cli.telemetry.trace.load_settings", lambda: settings)
    runner = CliRunner()
    shown = runner.invoke(app, ["trace", DAY.isoformat()])
    assert shown.exit_code == 0, shown.output
    trace = f"{trace_id(deployment_of(settings), DAY):032x}"
    assert f"trace {trace}: {N_SPANS} spans" in shown.output
    assert "    transform.build" in shown.output
    assert "NS-WAREHOUSE-003" in shown.output

    file = tmp_path / "night.json"
    assert runner.invoke(app, ["trace", DAY.isoformat(), "--to", str(file)]).exit_code == 0
    (resource,) = json.loads(file.read_text())["resourceSpans"]
    spans = resource["scopeSpans"][0]["spans"]
    assert len(spans) == N_SPANS
    assert {span["traceId"] for span in spans} == {trace}
    assert all(len(span["spanId"]) == 16 for span in spans)

    picture = tmp_path / "night.svg"
    assert runner.invoke(app, ["trace", DAY.isoformat(), "--to", str(picture)]).exit_code == 0
    assert "transform.build" in picture.read_text()

    with running() as started:
        given = runner.invoke(app, ["trace", DAY.isoformat(), "--to", started.url])
        assert given.exit_code == 0, given.output
        assert len(started.spans) == N_SPANS
    missing = runner.invoke(app, ["trace", "2001-01-01"])
    assert "NS-TELEMETRY-003" in str(missing.exception)
