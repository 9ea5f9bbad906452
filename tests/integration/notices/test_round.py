"""A round tells what is broken, and also that nobody can see what is broken."""

from __future__ import annotations

import datetime as dt
import logging
import sys
import types

import pytest
from tests.integration.notices.incident_rows import open_incident
from tests.integration.notices.receivers import running_hook

from nightshift.errors import ReadOnlyWarehouseError, StatementCancelledError
from nightshift.notices import round as notice_round
from nightshift.notices.notice_settings import NoticeSettingsError
from nightshift.notices.round import (
    FRESHNESS_CHECK,
    end_blindness,
    tell,
    tell_blindness,
    tell_quietly,
)

pytestmark = [pytest.mark.integration, pytest.mark.promise("R20")]


@pytest.fixture
def evaluations(monkeypatch):
    """Return the calls of the evaluation, which finds nothing by itself."""
    calls = []
    module = types.ModuleType("nightshift.incidents.evaluation")
    module.evaluate = lambda settings, **more: calls.append(more)
    monkeypatch.setitem(sys.modules, "nightshift.incidents.evaluation", module)
    return calls


@pytest.fixture
def hook():
    with running_hook() as server:
        yield server


@pytest.fixture
def told(settings, tmp_path, hook, monkeypatch, evaluations):
    """Return settings of a home of its own with one channel."""
    path = tmp_path / "notices.yaml"
    path.write_text("channels: {webhook: {hook: {url: {env: TEST_URL}}}}\notherwise: [hook]\n")
    monkeypatch.setenv("TEST_URL", hook.url)
    return settings.model_copy(update={"notices_file": path, "home": tmp_path / "home"})


def events(hook):
    return [document["event"] for document in hook.documents]


def test_a_round_evaluates_and_tells(told, conn, hook, evaluations):
    open_incident(conn)
    assert tell(told).failures == []
    assert tell(told).results[0].n_sent == 0
    assert events(hook) == ["opened"]
    assert len(evaluations) == 2


def test_a_sign_of_life_comes_once_a_day_and_again_to_who_did_not_take_it(told, conn, hook):
    with told.notices_file.open("a") as file:
        file.write("heartbeat: {at: '00:00', channels: [hook]}\n")
    open_incident(conn)
    hook.status = 500
    assert [result.problem != "" for result in tell(told).results].count(True) == 2
    hook.status = 200
    hook.received.clear()
    conn.execute("update ops.incidents set closed_at = clock_timestamp()")
    for _ in range(2):
        tell(told)
    alive = [document for document in hook.documents if document["event"] == "alive"]
    assert len(alive) == 1
    assert "0 incident(s) open" in alive[0]["text"]


@pytest.mark.parametrize("damage", ["otherwise: [hok]\n", "", None])
def test_a_wrong_file_is_told_by_the_settings_that_worked_last(
    told, conn, hook, monkeypatch, damage
):
    monkeypatch.setattr(notice_round, "EVALUATION_PATIENCE", dt.timedelta())
    tell(told)
    good = told.notices_file.read_text()
    if damage is None:
        told.notices_file.unlink()
    else:
        told.notices_file.write_text(damage)
    open_incident(conn)
    for _ in range(2):
        assert tell(told).failures == []
    texts = [document["text"] for document in hook.documents]
    assert len(texts) == 2
    assert "the settings that worked last" in texts[0]
    assert "NS-NOTICE-001" in texts[0]

    told.notices_file.write_text(good)
    tell(told)
    assert events(hook) == ["opened", "opened", "closed"]


def test_a_warehouse_that_is_away_is_told_once_and_its_end_too(told, hook):
    away = told.model_copy(update={"warehouse_port": 1})
    for _ in range(3):
        done = tell(away)
        assert done.problem.startswith("NS-WAREHOUSE-001")
    assert events(hook) == ["opened"]
    assert hook.documents[0]["incidents"][0]["code"] == "NS-WAREHOUSE-001"
    assert "do:       nightshift up" in hook.documents[0]["text"]
    assert told.warehouse_password.get_secret_value() not in str(hook.documents)

    for _ in range(2):
        tell(told)
    assert events(hook) == ["opened", "closed"]
    # The next outage is another one.
    tell(away)
    assert events(hook) == ["opened", "closed", "opened"]
    assert len(set(hook.keys)) == 3


def test_a_receiver_that_was_down_too_hears_of_the_outage_at_its_end(told, hook):
    away = told.model_copy(update={"warehouse_port": 1})
    hook.status = 503
    for _ in range(2):
        assert tell(away).failures == ["hook: The receiver refused. (HTTP 503)"]
    tell(told)
    assert events(hook) == ["opened", "opened", "closed"]
    hook.status = 204
    for _ in range(2):
        tell(told)
    assert events(hook)[3:] == ["closed"]
    # Each try carries the key of its message.
    assert len(set(hook.keys)) == 2


def test_what_was_found_before_is_told_while_the_evaluation_fails(told, conn, hook, monkeypatch):
    def fail(*_args, **_more):
        raise StatementCancelledError("too slow")

    monkeypatch.setattr(sys.modules["nightshift.incidents.evaluation"], "evaluate", fail)
    open_incident(conn)
    assert tell(told).problem == "NS-WAREHOUSE-004: too slow"
    assert events(hook) == ["opened"]


def test_an_evaluation_that_goes_on_failing_is_told_and_one_that_failed_once_is_not(
    told, hook, monkeypatch
):
    module = sys.modules["nightshift.incidents.evaluation"]
    works = module.evaluate

    def fail(*_args, **_more):
        raise ReadOnlyWarehouseError("The warehouse is read-only.")

    # Once: the next round is good, and nobody was woken.
    monkeypatch.setattr(module, "evaluate", fail)
    tell(told)
    monkeypatch.setattr(module, "evaluate", works)
    tell(told)
    assert events(hook) == []

    monkeypatch.setattr(module, "evaluate", fail)
    tell(told)
    monkeypatch.setattr(notice_round, "EVALUATION_PATIENCE", dt.timedelta())
    for _ in range(2):
        tell(told)
    assert events(hook) == ["opened"]
    (incident,) = hook.documents[0]["incidents"]
    assert (incident["code"], incident["subject"]) == ("NS-WAREHOUSE-006", "evaluation")
    monkeypatch.setattr(module, "evaluate", works)
    tell(told)
    assert events(hook) == ["opened", "closed"]


def test_a_check_that_cannot_run_has_a_beginning_and_an_end_of_its_own(told, hook):
    for _ in range(2):
        tell_blindness(told, FRESHNESS_CHECK, ValueError("a value: 'secret-9137'"))
    # A good round says nothing of the check.
    tell(told)
    assert events(hook) == ["opened"]
    assert "freshness check: ValueError" in hook.documents[0]["text"]
    assert "9137" not in str(hook.documents)
    end_blindness(told, FRESHNESS_CHECK)
    end_blindness(told, FRESHNESS_CHECK)
    assert events(hook) == ["opened", "closed"]


def test_a_task_never_fails_because_of_a_notice(told, tmp_path, caplog):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("nothing: good\n")
    broken = told.model_copy(update={"notices_file": wrong})
    with pytest.raises(NoticeSettingsError):
        tell(broken)
    with caplog.at_level(logging.WARNING):
        tell_quietly(broken)
    assert "NS-NOTICE-001" in caplog.text
