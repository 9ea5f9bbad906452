"""The settings of notices: what is refused, and that no message about them shows a secret."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from nightshift.notices.local_hours import QuietHours
from nightshift.notices.notice_settings import (
    NoticeSettings,
    NoticeSettingsError,
    load_notice_settings,
    missing_secrets,
)
from nightshift.notices.settings_schema import SCHEMA_FILE, schema_text
from nightshift.settings import PROJECT_ROOT, Settings

MAIL = "channels: {email: {mail: {host: h, sender: a@b, recipients: [c@d]%s}}}\n"


def load(tmp_path: Path, text: str, **more) -> NoticeSettings:
    path = tmp_path / "notices.yaml"
    path.write_text(text)
    return load_notice_settings(Settings(warehouse_host="h", notices_file=path, **more))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MAIL % ", pasword: hunter2-9137", "a known key"),
        (MAIL % ", username: me, password: hunter2-9137", "password"),
        (MAIL % ", username: me", "username and password"),
        (
            MAIL % ", username: me, password: {env: P}, security: none",
            "a password is not sent in clear",
        ),
        (MAIL % "" + "routes: [{channels: [male]}]\n", "male are not among them"),
        ("channels: {email: {}, webhook: {x: {url: {env: A, file: /b}}}}\n", "either env or file"),
        ("channels: {webhook: {x: {url: https://h/9137}}}\n", "url"),
        ("quiet_hours: {begin: '20:00', end: '07:00', timezone: Nowhere}\n", "a timezone such as"),
        ("quiet_hours: {begin: '20:00', end: '07:00', severities: [critical]}\n", "severities"),
        (
            "channels: {command: {x: {command: [a]}}, slack: {x: {url: {env: A}}}}\n",
            "that no other channel has",
        ),
    ],
)
def test_a_wrong_file_is_refused_without_showing_a_value(tmp_path, text, expected):
    with pytest.raises(NoticeSettingsError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert expected in message
    assert "notices.yaml:" in message
    assert "9137" not in message


def test_a_file_that_was_named_must_exist(tmp_path):
    settings = Settings(warehouse_host="h", notices_file=tmp_path / "absent.yaml")
    with pytest.raises(NoticeSettingsError):
        load_notice_settings(settings)
    # The default one need not: then only the variables count.
    assert (
        load_notice_settings(Settings(warehouse_host="h", dags_dir=tmp_path)).channels.by_name == {}
    )


def test_the_two_variables_of_before_are_channels_that_get_everything(tmp_path):
    settings = load(
        tmp_path,
        "channels: {slack: {chat: {url: {env: A}}}}\nroutes: [{owners: [x], channels: [chat]}]\n",
        notify_command="/bin/page --severity 'very high'",
        notify_url=SecretStr("https://h/secret-9137"),
    )
    assert settings.channels.command["notify_command"].command == (
        "/bin/page", "--severity", "very high",
    )  # fmt: skip
    assert settings.channels.webhook["notify_url"].url.resolve() == "https://h/secret-9137"
    fitting = [route.channels for route in settings.routes if route.fits("anybody", "info")]
    assert fitting == [("notify_command", "notify_url")]
    assert "9137" not in repr(settings)


def test_secrets_are_read_from_a_variable_or_a_file(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    text = (
        f"channels: {{webhook: {{x: {{url: {{env: TEST_U}}, signing_key: {{file: {secret}}}}}}}}}\n"
    )
    settings = load(tmp_path, text)
    monkeypatch.setenv("TEST_U", "https://h")
    assert missing_secrets(settings) == {"x": f"A secret of the notices is missing: file {secret}."}
    secret.write_text(" key\n")
    assert missing_secrets(settings) == {}
    assert settings.channels.webhook["x"].signing_key.resolve() == "key"


@pytest.mark.parametrize(
    ("utc", "severity", "is_held"),
    [
        ("2013-03-05T23:59", "info", False),  # 18:59 in New York
        ("2013-03-06T00:00", "info", True),
        ("2013-03-06T11:59", "info", True),
        ("2013-03-06T12:00", "info", False),
        ("2013-03-06T03:00", "critical", False),
    ],
)
def test_quiet_hours_go_over_midnight_in_their_own_zone(utc, severity, is_held):
    quiet = QuietHours(begin=dt.time(19), end=dt.time(7), timezone="America/New_York")
    at = dt.datetime.fromisoformat(utc).replace(tzinfo=dt.UTC)
    assert quiet.hold(severity, at) is is_held


def test_the_schema_for_editors_is_that_of_the_types():
    path = PROJECT_ROOT / "docs" / "schemas" / SCHEMA_FILE
    assert path.read_text(encoding="utf-8") == schema_text(), "run `make docs`"
    schema = json.loads(schema_text())
    assert schema["$defs"]["EmailChannel"]["properties"]["security"]["description"]


def test_the_example_of_the_page_is_valid(tmp_path):
    page = (PROJECT_ROOT / "docs" / "notices.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    settings = load(tmp_path, example)
    assert len(settings.channels.by_name) == 4
    assert settings.quiet_hours is not None
