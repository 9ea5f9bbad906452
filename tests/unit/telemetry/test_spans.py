"""A night is one tree of spans; a rerun is new spans in it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

from nightshift.telemetry.identifiers import WITHHELD, run_digest
from nightshift.telemetry.night_records import Load, ModelFact, NightRecords, Try
from nightshift.telemetry.picture import draw
from nightshift.telemetry.spans import QUIET, ROOT, NightTrace, Span, make_trace

DAY = dt.date(2013, 3, 4)
MIDNIGHT = dt.datetime(2013, 3, 5, tzinfo=dt.UTC)
RUN = "scheduled__2013-03-05T00:00:00+00:00"


def at(seconds: float) -> dt.datetime:
    return MIDNIGHT + dt.timedelta(seconds=seconds)


def a_try(task: str, start: float, end: float | None, **changed: Any) -> Try:
    values: dict[str, Any] = {
        "dag_id": "score__m",
        "dag_run_id": RUN,
        "task_id": task,
        "map_index": -1,
        "attempt": 1,
        "started_at": at(start),
        "ended_at": None if end is None else at(end),
        "outcome": None if end is None else "success",
        "is_final": False,
        "peak_memory_bytes": 5,
        "stages": [],
    }
    return Try(**values | changed)


def a_load(task: str, start: float, end: float | None, **changed: Any) -> Load:
    values: dict[str, Any] = {
        "dataset": "predictions/m",
        "load_id": 7,
        "run_id": f"score__m/2013-03-04/{task}@{run_digest(RUN)}",
        "attempt": 1,
        "actor": "airflow",
        "n_rows": 100,
        "content_hash": "h",
        "started_at": at(start),
        "settled_at": None if end is None else at(end),
        "verdict": None if end is None else "published",
        "refused_by": "",
        "score_source": "champion",
        "peak_memory_bytes": None,
        "first_day": DAY,
        "last_day": DAY,
        "next_begun_at": None,
    }
    return Load(**values | changed)


def trace_of(*tries: Try, loads: tuple[Load, ...] = (), **more: Any) -> NightTrace:
    values: dict[str, Any] = {"verdicts": {}, "facts": []} | more
    now = values.pop("now", at(1e6))
    records = NightRecords(DAY, list(tries), list(loads), **values)
    return make_trace("test/warehouse", records, now)


def named(trace: NightTrace, name: str) -> list[Span]:
    return [span for span in trace.spans if span.name == name]


def one(trace: NightTrace, name: str) -> Span:
    (span,) = named(trace, name)
    return span


def test_every_span_hangs_below_the_root_and_has_an_id_of_its_own() -> None:
    trace = trace_of(
        a_try("load_weather", 0, 5, dag_id="ingest"),
        a_try("begin", 10, 12),
        a_try("score_shard", 12, 20, map_index=0),
        a_try("score_shard", 12, 21, map_index=1),
        a_try("publish", 21, 30),
        loads=(a_load("begin", 11, 29),),
    )
    keys = {span.key for span in trace.spans}
    assert len(keys) == len(trace.spans) == len({trace.id_of(key) for key in keys})
    assert all(span.parent in keys for span in trace.spans[1:])
    assert trace.spans[0].key == ROOT
    assert (trace.spans[0].started_at, trace.spans[0].ended_at) == (at(0), at(30))
    run = one(trace, "score__m")
    assert (run.started_at, run.ended_at) == (at(10), at(30))
    # Begun in one task and published by another: below the run, not below one of the two.
    load = one(trace, "load/predictions/m")
    assert load.parent == run.key
    assert load.attributes["nightshift.rows"] == 100
    assert load.attributes["nightshift.score_source"] == "champion"


def test_retries_are_spans_of_one_run_with_their_number_and_error() -> None:
    failed = a_try("publish", 0, 5, outcome="NS-GATE-001")
    trace = trace_of(failed, a_try("publish", 25, 30, attempt=2))
    first, second = named(trace, "score__m.publish")
    assert (first.error, first.attributes["nightshift.attempt"]) == ("NS-GATE-001", 1)
    assert (second.error, second.attributes["nightshift.attempt"]) == ("", 2)
    assert first.parent == second.parent == one(trace, "score__m").key
    # The run went well in the end, and so did the night.
    assert one(trace, "score__m").error == trace.spans[0].error == ""


def test_a_run_that_was_cleared_is_a_second_span_in_the_same_trace() -> None:
    tries = [a_try("publish", 0, 5), a_try("publish", 900, 910, attempt=2)]
    before, after = trace_of(tries[0]), trace_of(*tries)
    first, second = named(after, "score__m")
    assert (first.ended_at, second.started_at) == (at(5), at(900))
    assert second.attributes["nightshift.execution"] == 2
    # What was sent before the rerun stays as it is.
    assert one(before, "score__m") == first
    assert before.id_of(first.key) == after.id_of(first.key)


def test_a_night_whose_last_try_failed_is_an_error() -> None:
    trace = trace_of(a_try("publish", 0, 5, outcome="NS-GATE-001", is_final=True))
    assert one(trace, "score__m").error == trace.spans[0].error == "NS-GATE-001"


def test_nothing_is_complete_before_it_can_no_longer_go_on() -> None:
    soon = at(30) + QUIET / 2
    trace = trace_of(a_try("begin", 0, 10), a_try("publish", 20, 30), now=soon)
    assert [span.is_complete for span in trace.spans] == [False, False, True, True]
    later = trace_of(a_try("begin", 0, 10), a_try("publish", 20, 30), now=at(30) + QUIET)
    assert all(span.is_complete for span in later.spans)
    # A task that waits for upstream goes on however long that takes.
    waiting = trace_of(a_try("load_weather", 0, 10, outcome="waiting"))
    assert not any(span.is_complete for span in waiting.spans)
    assert not waiting.spans[0].error


def test_stages_keep_their_order_and_what_never_ended_is_left_out() -> None:
    def a_stage(name: str, parent: int | None, start: float, end: float | None) -> dict[str, Any]:
        return {
            "name": name,
            "parent": parent,
            "started_at": at(start).isoformat(),
            "ended_at": None if end is None else at(end).isoformat(),
            "outcome": "success",
            "attributes": {"dataset": "raw/weather", "rows": 3},
        }

    stages = [
        a_stage("gate", None, 1, 3),
        a_stage("ge", 0, 1, 2),
        a_stage("publish", None, 4, None),
    ]
    trace = trace_of(a_try("load_weather", 0, 5, stages=stages))
    gate, inner = one(trace, "gate"), one(trace, "ge")
    assert gate.parent == one(trace, "score__m.load_weather").key
    assert inner.parent == gate.key
    assert gate.attributes == {"nightshift.dataset": "raw/weather", "nightshift.rows": 3}
    assert named(trace, "publish") == []


def test_a_refusal_keeps_its_code_and_a_verdict_its_word() -> None:
    refused = a_load("begin", 0, 5, verdict="refused", refused_by="NS-GATE-001")
    monitored = a_load("monitor", 6, 9, dataset="monitoring/m", load_id=9)
    trace = trace_of(a_try("begin", 0, 10), loads=(refused, monitored), verdicts={9: "retrain"})
    assert one(trace, "load/predictions/m").error == "NS-GATE-001"
    assert one(trace, "load/monitoring/m").attributes["nightshift.verdict"] == "retrain"


def test_a_decision_is_an_event_of_the_try_that_made_it() -> None:
    run_id = f"train__m/2013-03-04/decide@{run_digest(RUN)}"
    fact = ModelFact("decision", "m", 3, "promoted", at(4), run_id)
    tries = [a_try("decide", 0, 5, dag_id="train__m"), a_try("publish", 0, 5)]
    trace = trace_of(*tries, facts=[fact])
    (event,) = one(trace, "train__m.decide").events
    assert event.attributes == {
        "nightshift.model": "m",
        "nightshift.version": 3,
        "nightshift.verdict": "promoted",
    }
    assert one(trace, "score__m.publish").events == ()


def test_a_load_of_a_person_hangs_below_the_night() -> None:
    load = a_load("x", 0, 5, actor="cli:jane", run_id="score/jane")
    trace = trace_of(loads=(load,))
    assert one(trace, "load/predictions/m").parent == ROOT
    assert "jane" not in str(trace)


def test_no_text_of_a_person_or_of_a_row_becomes_an_attribute() -> None:
    canary = "jane@example.com"
    stage = {
        "name": canary,
        "parent": None,
        "started_at": at(1).isoformat(),
        "ended_at": at(2).isoformat(),
        "outcome": canary,
        "attributes": {"dataset": canary},
    }
    trace = trace_of(
        a_try(canary, 0, 5, dag_run_id=f"manual {canary}", outcome=canary, stages=[stage]),
        loads=(a_load("x", 0, 5, score_source=canary),),
    )
    for span in trace.spans:
        said = replace(span, key="", parent=None)
        assert canary not in str(said)
    assert one(trace, "score__m").attributes["airflow.run_id"] == WITHHELD


def test_the_picture_has_a_bar_for_each_span() -> None:
    trace = trace_of(a_try("begin", 0, 10), a_try("publish", 10, 30, outcome="NS-GATE-001"))
    picture = draw(trace)
    assert picture.count("<rect") == 1 + len(trace.spans)
    assert f"{trace.trace_id:032x}" in picture
    assert 'class="error"' in picture


def test_a_night_without_records_has_no_span() -> None:
    assert trace_of().spans == []
