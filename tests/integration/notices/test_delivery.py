"""Each incident is told once to each channel, whatever becomes of receivers and senders."""

from __future__ import annotations

import hmac
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from hashlib import sha256

import psycopg
import pytest
from tests.integration.notices.incident_rows import add_event, open_incident
from tests.integration.notices.receivers import (
    free_port,
    make_certificate,
    running_hook,
    running_mail_server,
)

from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.facts import Rule
from nightshift.incidents.rules.channels import dead_channels
from nightshift.notices import delivery
from nightshift.notices.delivery import deliver
from nightshift.notices.notice_settings import NoticeSettings
from nightshift.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.promise("R20")]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(delivery, "pause_after", lambda _: delivery.FIRST_PAUSE * 0)


@pytest.fixture
def hook():
    with running_hook() as server:
        yield server


def webhook(name, hook, monkeypatch, **more):
    variable = f"TEST_URL_{name.upper()}"
    monkeypatch.setenv(variable, hook.url)
    return {name: {"url": {"env": variable}, **more}}


def mail(port, **more):
    entry = {
        "host": "127.0.0.1", "port": port, "security": "none", "timeout_seconds": 2,
        "sender": "nightshift@example.com", "recipients": ["on-call@example.com"],
    }  # fmt: skip
    return {"mail": {**entry, **more}}


def to_all(digest_above=5, **channels):
    names = [name for entries in channels.values() for name in entries]
    values = {"channels": channels, "otherwise": names, "digest_above": digest_above}
    return NoticeSettings.model_validate(values)


def tries(conn, channel):
    query = "select outcome from ops.notice_tries where channel = %s order by try_id"
    return [outcome for (outcome,) in conn.execute(query, [channel])]


def test_one_notice_when_it_opens_grows_worse_and_ends(settings, conn, hook, monkeypatch):
    with running_mail_server() as (server, port):
        notices = to_all(email=mail(port), webhook=webhook("hook", hook, monkeypatch))
        number = open_incident(conn)
        for _ in range(3):
            deliver(settings, notices)
        add_event(conn, number, "worsened")
        for _ in range(2):
            deliver(settings, notices)
        add_event(conn, number, "closed")
        for _ in range(2):
            deliver(settings, notices)

    assert [document["event"] for document in hook.documents] == ["opened", "worsened", "closed"]
    assert [subject.split(":")[0] for subject in server.subjects] == [
        "[critical] opened", "[critical] worse", "[critical] ended",
    ]  # fmt: skip
    assert len(set(hook.keys)) == 3
    # The mails of an incident are one thread, and each has the key of its message.
    first, _, last = [mail for _, _, mail in server.mails]
    assert first["References"] == last["References"]
    assert first["Idempotency-Key"] in first["Message-ID"]
    assert len(conn.execute("select from ops.notices").fetchall()) == 6


def test_the_text_says_what_to_do_in_few_lines(settings, conn, hook, monkeypatch):
    open_incident(conn)
    values = {
        "channels": {"webhook": webhook("hook", hook, monkeypatch)},
        "otherwise": ["hook"],
        "runbooks_url": "https://git.example.com/nightshift",
    }
    deliver(settings, NoticeSettings.model_validate(values))
    text = hook.documents[0]["text"]
    assert text.startswith("CRITICAL, opened: Predictions of flight_delayed for 2013-03-04")
    assert "do:       nightshift rescue flight_delayed --night 2013-03-04\n" in text
    assert "at 2013-03-05 04:00 EST (09:00 UTC): Readers keep the predictions" in text
    assert "https://git.example.com/nightshift/docs/runbooks/NS-FRESH-001.md" in text
    assert re.search(r"since:    \d{4}-.* UTC\), 0 min ago", text)
    assert len(text.splitlines()) <= 20
    assert hook.documents[0]["incidents"][0]["partitions"] == ["2013-03-04"]


def test_what_ended_before_it_was_told_is_told_once(settings, conn, hook, monkeypatch):
    number = open_incident(conn)
    add_event(conn, number, "worsened")
    add_event(conn, number, "closed")
    deliver(settings, to_all(webhook=webhook("hook", hook, monkeypatch)))
    assert [document["event"] for document in hook.documents] == ["closed"]


def test_routes_by_owner_and_severity(settings, conn, monkeypatch):
    with running_hook() as flights, running_hook() as pager, running_hook() as others:
        channels = {
            **webhook("flights", flights, monkeypatch),
            **webhook("pager", pager, monkeypatch),
            **webhook("others", others, monkeypatch),
        }
        notices = NoticeSettings.model_validate(
            {
                "channels": {"webhook": channels},
                "routes": [
                    {"owners": ["flight-operations"], "channels": ["flights"]},
                    {"severities": ["critical"], "channels": ["pager"]},
                ],
                "otherwise": ["others"],
            }
        )
        open_incident(conn, "a", "warning")
        open_incident(conn, "b", "critical", owner="data-platform")
        number = open_incident(conn, "c", "info", owner="data-platform")
        deliver(settings, notices)
        assert [len(one.received) for one in (flights, pager, others)] == [1, 1, 1]
        # What becomes critical reaches the pager as new, and the others as worse.
        conn.execute("update ops.incidents set severity = 'critical' where subject = 'c'")
        add_event(conn, number, "worsened")
        deliver(settings, notices)
        assert [document["event"] for document in pager.documents] == ["opened", "opened"]
        assert [document["event"] for document in others.documents] == ["opened", "worsened"]


def test_quiet_hours_hold_what_is_not_severe(settings, conn, hook, monkeypatch):
    values = {
        "channels": {"webhook": webhook("hook", hook, monkeypatch)},
        "otherwise": ["hook"],
        "quiet_hours": {"begin": "00:00", "end": "23:59:59", "severities": ["info"]},
    }
    open_incident(conn, "severe")
    gone = open_incident(conn, "gone", "info")
    open_incident(conn, "mild", "info")
    deliver(settings, NoticeSettings.model_validate(values))
    assert [d["incidents"][0]["subject"] for d in hook.documents] == ["severe"]
    add_event(conn, gone, "closed")
    deliver(settings, NoticeSettings.model_validate({**values, "quiet_hours": None}))
    told = [(d["event"], d["incidents"][0]["subject"]) for d in hook.documents[1:]]
    assert told == [("closed", "gone"), ("opened", "mild")]


def test_two_hundred_incidents_at_once_are_one_digest(settings, conn, hook, monkeypatch):
    with running_mail_server() as (server, port):
        notices = to_all(email=mail(port), webhook=webhook("hook", hook, monkeypatch))
        numbers = [open_incident(conn, f"model_{n}", "warning") for n in range(199)]
        numbers.append(open_incident(conn, "the_severe_one", "critical"))
        deliver(settings, notices)
        assert server.subjects == [
            "[digest] 200 incidents (1 critical, 199 warning, 0 info), 0 ended"
        ]
        text = server.mails[0][2].get_content()
        assert len(text.splitlines()) <= 20
        # The most severe one comes first, and the reader is told that there are more.
        assert "[critical] opened: Predictions of the_severe_one" in text.splitlines()[2]
        assert "and 190 more" in text
        for number in numbers[:150]:
            add_event(conn, number, "closed")
        deliver(settings, notices)
        deliver(settings, notices)
    assert len(server.mails) == 2
    assert [len(document["incidents"]) for document in hook.documents] == [200, 150]


def test_a_few_more_in_ten_minutes_are_one_digest_too(settings, conn, hook, monkeypatch):
    notices = to_all(webhook=webhook("hook", hook, monkeypatch))
    for n in range(5):
        open_incident(conn, f"first_{n}")
    deliver(settings, notices)
    for n in range(3):
        open_incident(conn, f"then_{n}")
    deliver(settings, notices)
    assert [document["event"] for document in hook.documents] == ["opened"] * 5 + ["digest"]


def test_a_fact_that_comes_and_goes_gives_no_flood(settings, conn, hook, monkeypatch):
    notices = to_all(webhook=webhook("hook", hook, monkeypatch))
    for _ in range(10):
        number = open_incident(conn)
        deliver(settings, notices)
        add_event(conn, number, "closed")
        deliver(settings, notices)
    assert [document["event"] for document in hook.documents] == ["opened", "closed"] * 2
    # Another fact is told at once.
    open_incident(conn, "sales")
    deliver(settings, notices)
    assert [document["event"] for document in hook.documents][4:] == ["opened"]

    conn.execute("alter table ops.notices disable trigger notices_are_append_only")
    conn.execute("update ops.notices set queued_at = queued_at - interval '11 minutes'")
    deliver(settings, notices)
    assert [len(document["incidents"]) for document in hook.documents][5:] == [8]


def test_a_receiver_that_is_down_and_back_gets_everything_once(settings, conn, hook, monkeypatch):
    port = free_port()
    notices = to_all(10, email=mail(port), webhook=webhook("hook", hook, monkeypatch))
    numbers = [open_incident(conn, f"model_{n}") for n in range(3)]
    for _ in range(2):
        results = deliver(settings, notices)
    # The other channel was told at once, and only once.
    assert len(hook.received) == 3
    by_name = {one.channel: one for one in results}
    assert by_name["mail"].problem == "The mail was not taken. (ConnectionRefusedError)"
    for number in numbers:
        add_event(conn, number, "closed")
    with running_mail_server(port) as (server, _):
        deliver(settings, notices)
        deliver(settings, notices)
    assert len(server.mails) == 6
    # The beginning of an incident is told before its end.
    assert [subject.split(":")[0] for subject in server.subjects[:3]] == ["[critical] opened"] * 3
    assert tries(conn, "mail")[:2] == ["failed", "failed"]
    assert len({mail["Message-ID"] for _, _, mail in server.mails}) == 6


def test_after_a_long_outage_of_the_receiver_the_rest_is_one_digest(settings, conn, monkeypatch):
    port = free_port()
    notices = to_all(email=mail(port))
    open_incident(conn, "first")
    deliver(settings, notices)
    for n in range(40):
        open_incident(conn, f"later_{n}")
        if n % 10 == 0:
            deliver(settings, notices)
    with running_mail_server(port) as (server, _):
        deliver(settings, notices)
    assert len(server.subjects) == 2
    assert server.subjects[1].startswith("[digest] 40 incidents (40 critical")


def test_a_slow_receiver_is_given_up_and_holds_up_no_other(settings, conn, hook, monkeypatch):
    with running_hook() as slow, running_mail_server() as (slow_mail, port):
        slow.pause = slow_mail.pause = 4
        notices = to_all(
            email=mail(port, timeout_seconds=1),
            webhook={
                **webhook("slow", slow, monkeypatch, timeout_seconds=1),
                **webhook("quick", hook, monkeypatch),
            },
        )
        open_incident(conn)
        begin = time.monotonic()
        results = {one.channel: one for one in deliver(settings, notices)}
        assert time.monotonic() - begin < 10
        assert results["quick"].n_sent == 1
        assert results["slow"].problem == "The receiver did not answer. (TimeoutError)"
        assert results["mail"].problem.startswith("The mail was not taken.")
        slow.pause = slow_mail.pause = 0
        deliver(settings, notices)
        until = time.monotonic() + 10
        while len(slow.keys) < 2 and time.monotonic() < until:
            time.sleep(0.1)
    assert tries(conn, "slow") == ["failed", "sent"]
    # The first try arrived after all: the second one carries the same key.
    assert len(slow.keys) == 2
    assert len(set(slow.keys)) == 1


def test_pauses_between_tries_grow_and_end_at_two_minutes(settings, conn, hook, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("TEST_URL_HOOK", hook.url)
    hook.status = 503
    notices = to_all(webhook={"hook": {"url": {"env": "TEST_URL_HOOK"}}})
    open_incident(conn)
    for _ in range(3):
        deliver(settings, notices)
    assert len(hook.received) == 1
    pauses = [delivery.pause_after(n).total_seconds() for n in (1, 2, 3, 4, 5, 50)]
    assert pauses == [15, 30, 60, 120, 120, 120]


def test_a_message_that_is_refused_for_what_it_is_blocks_no_later_one(
    settings, conn, hook, monkeypatch
):
    notices = to_all(webhook=webhook("hook", hook, monkeypatch))
    hook.status = 413
    open_incident(conn, "too_large")
    for _ in range(delivery.MAX_REFUSALS):
        deliver(settings, notices)
    hook.status = 200
    open_incident(conn, "next")
    deliver(settings, notices)
    assert tries(conn, "hook") == ["failed"] * 4 + ["abandoned", "sent"]


def test_many_senders_at_once_tell_once(settings, conn, hook, monkeypatch):
    notices = to_all(webhook=webhook("hook", hook, monkeypatch))
    hook.pause = 0.1
    for n in range(4):
        open_incident(conn, f"model_{n}")
    threads = [threading.Thread(target=deliver, args=(settings, notices)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliver(settings, notices)
    assert len(hook.received) == 4
    assert len(set(hook.keys)) == 4


KILLED_SENDER = """
from nightshift.notices.delivery import deliver
from nightshift.notices.notice_settings import NoticeSettings
from nightshift.settings import load_settings
import json, sys
deliver(load_settings(), NoticeSettings.model_validate(json.loads(sys.argv[1])))
"""


def test_a_sender_that_is_killed_after_sending_sends_the_same_key_again(
    settings, conn, tmp_path, monkeypatch
):
    said, armed = tmp_path / "said", tmp_path / "armed"
    script = tmp_path / "pager.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib, sys
        with open({str(said)!r}, "a") as file:
            file.write(os.environ["NIGHTSHIFT_NOTICE_KEY"] + "\\n")
        armed = pathlib.Path({str(armed)!r})
        if armed.exists():
            armed.unlink()
            os.kill(os.getppid(), {int(signal.SIGKILL)})
        """)
    )
    armed.touch()
    channels = {"command": {"pager": {"command": [sys.executable, str(script)]}}}
    values = {"channels": channels, "otherwise": ["pager"]}
    open_incident(conn)
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
    }
    argv = [sys.executable, "-c", KILLED_SENDER, json.dumps(values)]
    first = subprocess.run(argv, env=environment, check=False, timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert tries(conn, "pager") == []
    subprocess.run(argv, env=environment, check=True, timeout=60)
    subprocess.run(argv, env=environment, check=True, timeout=60)
    # At least once: told again, since nobody knows whether the first one arrived; the key tells.
    keys = said.read_text().split()
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert tries(conn, "pager") == ["sent"]


def test_mail_goes_over_starttls_with_a_login(settings, conn, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("TEST_MAIL_PASSWORD", "a-password")
    open_incident(conn)
    with running_mail_server(certificate=certificate, login=("me", "a-password")) as (server, port):
        entry = {
            "host": "localhost", "security": "starttls", "username": "me",
            "password": {"env": "TEST_MAIL_PASSWORD"},
        }  # fmt: skip
        # A certificate that nobody vouches for is refused, before the password is sent.
        refused = deliver(settings, to_all(email=mail(port, **entry)))
        assert "SSLCertVerificationError" in refused[0].problem
        deliver(settings, to_all(email=mail(port, **entry, ca_file=str(certificate[0]))))
        session, envelope, _ = server.mails[0]
        assert session.ssl is not None
        assert envelope.rcpt_tos == ["on-call@example.com"]
        monkeypatch.setenv("TEST_MAIL_PASSWORD", "a-wrong-one")
        open_incident(conn, "another")
        wrong = deliver(settings, to_all(email=mail(port, **entry, ca_file=str(certificate[0]))))
        assert wrong[0].problem == "The mail server refused. (SMTP 535)"


def test_a_webhook_can_check_who_sent_it(settings, conn, hook, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "a signing key")
    open_incident(conn)
    entry = webhook("hook", hook, monkeypatch, signing_key={"env": "TEST_KEY"})
    deliver(settings, to_all(webhook=entry))
    headers, body = hook.received[0]
    signed = headers["X-Nightshift-Timestamp"].encode() + b"." + body
    expected = hmac.new(b"a signing key", signed, sha256).hexdigest()
    assert headers["X-Nightshift-Signature"] == f"sha256={expected}"
    assert abs(int(headers["X-Nightshift-Timestamp"]) - time.time()) < 60


def test_a_redirect_is_not_followed(settings, conn, hook, monkeypatch):
    hook.status = 307
    open_incident(conn)
    results = deliver(settings, to_all(webhook=webhook("hook", hook, monkeypatch)))
    assert results[0].problem == "The receiver refused. (HTTP 307)"
    assert len(hook.received) == 1


def test_a_chat_gets_text_that_it_does_not_take_for_markup(settings, conn, hook, monkeypatch):
    open_incident(conn, what="Lost <!channel> & more\r\nBcc: x@example.com")
    deliver(settings, to_all(slack=webhook("chat", hook, monkeypatch)))
    text = hook.documents[0]["text"]
    assert "Lost &lt;!channel&gt; &amp; more Bcc: x@example.com" in text


def test_no_secret_is_recorded_or_logged(settings, conn, hook, monkeypatch, caplog):
    hook.status = 500
    secrets = {"TEST_MAIL_PASSWORD": "pass-9137", "TEST_KEY": "key-9137"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TEST_URL_GONE", "http://127.0.0.1:1/hook/path-9137")
    login = {"username": "me", "password": {"env": "TEST_MAIL_PASSWORD"}, "security": "tls"}
    notices = to_all(
        email=mail(free_port(), **login),
        webhook={
            **webhook("hook", hook, monkeypatch, signing_key={"env": "TEST_KEY"}),
            "gone": {"url": {"env": "TEST_URL_GONE"}},
            "unset": {"url": {"env": "TEST_URL_UNSET"}},
        },
        command={"pager": {"command": ["/no/such/pager", "token-9137"]}},
    )
    open_incident(conn)
    results = deliver(settings, notices)
    assert all(one.problem for one in results)
    rows = conn.execute("select reason from ops.notice_tries").fetchall()
    everything = f"{caplog.text} {results} {rows}"
    assert len(rows) == 5
    assert "9137" not in everything
    assert "a-secret-path" not in everything
    assert "variable TEST_URL_UNSET" in everything


def test_the_records_cannot_be_changed(settings, conn, hook, monkeypatch):
    open_incident(conn)
    deliver(settings, to_all(webhook=webhook("hook", hook, monkeypatch)))
    for table in ("ops.notices", "ops.notice_tries"):
        for statement in (
            f"delete from {table}",
            f"truncate {table}",
            f"update {table} set channel = ''",
        ):
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                conn.execute(statement.encode())
    state = conn.execute("select n_failed, n_pending from ops.notice_channels").fetchall()
    assert state == [(0, 0)]


def test_a_snoozed_incident_waits_until_it_grows_worse(settings, conn, hook, monkeypatch):
    notices = to_all(webhook=webhook("hook", hook, monkeypatch))
    number = open_incident(conn)
    until = "update ops.incidents set snoozed_until = %s where incident_id = %s"
    conn.execute(until, ["2100-01-01", number])
    deliver(settings, notices)
    assert hook.received == []
    conn.execute(until, [None, number])
    add_event(conn, number, "worsened")
    deliver(settings, notices)
    assert [document["event"] for document in hook.documents] == ["opened"]


def test_a_dead_channel_is_an_incident_that_the_others_are_told(settings, conn, hook, monkeypatch):
    rule = Rule("dead channel", "services", dead_channels)
    channels = {
        **webhook("hook", hook, monkeypatch),
        "dead": {"url": {"env": "TEST_URL_DEAD"}},
    }
    monkeypatch.setenv("TEST_URL_DEAD", "http://127.0.0.1:1")
    notices = to_all(webhook=channels)
    open_incident(conn)
    for _ in range(2):
        deliver(settings, notices)
    assert evaluate(settings, rules=[rule]).opened == ()

    # Two tries in a moment are no dead channel; the same after some minutes are.
    conn.execute("alter table ops.notice_tries disable trigger notice_tries_are_append_only")
    conn.execute("update ops.notice_tries set at = at - interval '4 minutes'")
    assert len(evaluate(settings, rules=[rule]).opened) == 1
    deliver(settings, notices)
    about = hook.documents[-1]["incidents"][0]
    assert (about["code"], about["subject"]) == ("NS-NOTICE-002", "notices to dead")
    assert "nightshift notices test dead" in hook.documents[-1]["text"]

    monkeypatch.setenv("TEST_URL_DEAD", hook.url)
    deliver(settings, notices)
    assert len(evaluate(settings, rules=[rule]).closed) == 1
    deliver(settings, notices)
    # What the dead channel has missed, without the word that it is dead.
    assert [one["event"] for one in hook.documents] == ["opened", "opened", "opened", "closed"]
