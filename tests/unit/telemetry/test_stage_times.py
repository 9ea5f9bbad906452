"""Stages are kept while a task is recorded, nested as they ran, and cost nothing outside."""

from __future__ import annotations

import threading

import pytest

from nightshift.errors import SettingsError
from nightshift.stage_times import MAX_OF_NAME, recording, stage


def test_stages_are_nested_as_they_ran_and_say_what_became_known() -> None:
    with recording() as log:
        with stage("gate", dataset="raw/weather") as known, stage("great_expectations"):
            known["verdict"] = "passed"
        with stage("publish", load_id=7):
            pass
    gate, inner, publish = log.as_documents()
    assert (gate["name"], gate["parent"], gate["outcome"]) == ("gate", None, "success")
    assert gate["attributes"] == {"dataset": "raw/weather", "verdict": "passed"}
    assert (inner["name"], inner["parent"]) == ("great_expectations", 0)
    assert (publish["parent"], publish["attributes"]) == (None, {"load_id": 7})
    assert gate["started_at"] <= inner["started_at"] <= inner["ended_at"] <= gate["ended_at"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(SettingsError("jane@example.com"), "NS-SETTINGS-001"), (KeyError("jane"), "KeyError")],
)
def test_a_stage_that_fails_keeps_the_code_and_not_the_message(
    error: Exception, outcome: str
) -> None:
    with recording() as log, pytest.raises(type(error)), stage("fit"):
        raise error
    (document,) = log.as_documents()
    assert document["outcome"] == outcome
    assert "jane" not in str(document)


def test_outside_of_a_task_nothing_is_kept() -> None:
    with stage("gate") as known:
        known["verdict"] = "passed"
    with recording() as log:
        pass
    assert log.as_documents() == []


def test_stages_of_other_threads_are_kept_too() -> None:
    def work() -> None:
        with stage("transfer", bytes=3):
            pass

    with recording() as log:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [each["name"] for each in log.as_documents()] == ["transfer"]


def test_many_small_stages_hide_no_other() -> None:
    with recording() as log:
        for _ in range(10 * MAX_OF_NAME):
            with stage("transfer"):
                pass
        with stage("publish"):
            pass
    names = [each["name"] for each in log.as_documents()]
    assert names == ["transfer"] * MAX_OF_NAME + ["publish"]
