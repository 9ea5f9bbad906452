"""The settings of notices: channels, routes and quiet hours, in a YAML file without any secret."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, SecretStr, model_validator

from nightshift.contracts.yaml_document import Frozen, Identifier, PositiveInt, read_document
from nightshift.errors import NightshiftError, SpecError
from nightshift.notices.local_hours import Heartbeat, QuietHours

if TYPE_CHECKING:
    from nightshift.settings import Settings

Severity = Literal["critical", "warning", "info"]
FILE_NAME = "notices.yaml"
# Channels that the two variables of before this file stand for.
COMMAND_OF_ENVIRONMENT, WEBHOOK_OF_ENVIRONMENT = "notify_command", "notify_url"


class NoticeSettingsError(NightshiftError):
    """The settings of notices are wrong, or a secret that they name is missing.

    Attributes:
        command: Brings the last good file back; empty where that is not known.
    """

    code = "NS-NOTICE-001"
    command: str = ""


class SecretReference(Frozen):
    """Where a secret is; the secret itself never stands in the file.

    Attributes:
        env: Name of a variable of the process.
        file: Path of a file whose content it is, without white space around it.
    """

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SecretReference:
        if (self.env is None) == (self.file is None):
            raise ValueError("either env or file")
        return self

    def resolve(self) -> str:
        """Return the secret.

        Raises:
            NoticeSettingsError: The variable or file is missing or empty.
        """
        # The name is shown, the value never is.
        source = f"variable {self.env}"
        value = os.environ.get(self.env or "", "")
        if self.file is not None:
            source = f"file {self.file}"
            value = _read_secret(self.file)
        if not value:
            raise NoticeSettingsError(
                f"A secret of the notices is missing: {source}.",
                todo="Set it where notices are sent; `nightshift notices check` looks for all.",
            )
        return value


class Channel(Frozen):
    """What all channels share.

    Attributes:
        timeout_seconds: Limit of each wait for the receiver.
    """

    timeout_seconds: float = Field(default=10, gt=0, le=60)


class EmailChannel(Channel):
    """E-mail over SMTP.

    Attributes:
        host: Mail server.
        port: Its port: 587 for starttls, 465 for tls.
        security: ``starttls``, ``tls``, or ``none`` for a relay that takes no login.
        username: Login; null for none.
        password: Where its password is.
        sender: Address of the sender.
        recipients: Addresses of the recipients.
        ca_file: Certificate authorities of the server; null takes those of the machine.
    """

    host: str
    port: int = Field(default=587, gt=0, lt=65536)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: SecretReference | None = None
    sender: str
    recipients: tuple[str, ...] = Field(min_length=1)
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _login_is_encrypted(self) -> EmailChannel:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password, or neither")
        if self.password is not None and self.security == "none":
            raise ValueError("starttls or tls: a password is not sent in clear")
        return self


class SlackChannel(Channel):
    """A chat that takes Slack's incoming webhooks (Slack, Mattermost, Rocket.Chat, …).

    Attributes:
        url: Where the webhook's URL is; it is a secret.
    """

    url: SecretReference


class WebhookChannel(Channel):
    """A webhook that takes JSON by POST.

    Attributes:
        url: Where its URL is.
        signing_key: Where the key of the signature is (HMAC-SHA-256); null sends no signature.
    """

    url: SecretReference
    signing_key: SecretReference | None = None


class CommandChannel(Channel):
    """A command that gets the JSON on standard input.

    Attributes:
        command: Program and arguments; no shell reads them.
    """

    command: tuple[str, ...] = Field(min_length=1)


class Channels(Frozen):
    """The channels by type, each under a name that is used once.

    Attributes:
        email: E-mail.
        slack: Slack-compatible webhooks.
        webhook: Webhooks.
        command: Commands.
    """

    email: dict[Identifier, EmailChannel] = Field(default_factory=dict)
    slack: dict[Identifier, SlackChannel] = Field(default_factory=dict)
    webhook: dict[Identifier, WebhookChannel] = Field(default_factory=dict)
    command: dict[Identifier, CommandChannel] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Channels:
        n_channels = len(self.email) + len(self.slack) + len(self.webhook) + len(self.command)
        # A name that two types have is there once.
        if len(self.by_name) < n_channels:
            raise ValueError("a name for each channel that no other channel has")
        return self

    @property
    def by_name(self) -> dict[str, Channel]:
        """Return all channels by name."""
        return {
            **self.email,
            **self.slack,
            **self.webhook,
            **self.command,
        }


class Route(Frozen):
    """Which incidents go to which channels; every route that fits counts.

    Attributes:
        owners: Owners of incidents; empty for all.
        severities: Severities of incidents.
        channels: Names of channels.
    """

    owners: tuple[str, ...] = ()
    severities: tuple[Severity, ...] = ("critical", "warning", "info")
    channels: tuple[Identifier, ...] = Field(min_length=1)

    def fits(self, owner: str, severity: str) -> bool:
        """Return whether incidents of this owner and severity go this way."""
        is_owner = not self.owners or owner in self.owners
        return is_owner and severity in self.severities


class NoticeSettings(Frozen):
    """Who is told of incidents, how, and when.

    Attributes:
        channels: The channels.
        routes: Which incidents go where.
        otherwise: Channels for an incident that no route fits.
        quiet_hours: Hours in which less severe incidents wait; null for none.
        heartbeat: When and where a sign of life is sent each day; null for none.
        digest_above: Messages of a channel in ten minutes above which all further ones become one
            digest.
        runbooks_url: Address that a page such as ``docs/runbooks/NS-CORE-000.md`` is appended to;
            empty shows the path.
    """

    # A secret that was written here by mistake must not be shown by the message about it.
    hides_values: ClassVar[bool] = True

    channels: Channels = Channels()
    routes: tuple[Route, ...] = ()
    otherwise: tuple[Identifier, ...] = ()
    quiet_hours: QuietHours | None = None
    heartbeat: Heartbeat | None = None
    digest_above: PositiveInt = 5
    runbooks_url: str = ""

    @model_validator(mode="after")
    def _channels_exist(self) -> NoticeSettings:
        named = set(self.otherwise)
        for route in self.routes:
            named |= set(route.channels)
        if self.heartbeat is not None:
            named |= set(self.heartbeat.channels)
        # A typo here would tell nobody, and nobody would notice.
        known = self.channels.by_name.keys()
        unknown = sorted(named - known)
        if unknown:
            raise ValueError(f"channels that exist; {', '.join(unknown)} are not among them")
        return self


def load_notice_settings(settings: Settings) -> NoticeSettings:
    """Read the settings of notices, and add the channels of the two variables of before.

    Raises:
        NoticeSettingsError: The file is wrong, or a named one does not exist.
    """
    path = settings.notices_file or settings.dags_dir / FILE_NAME
    notices = NoticeSettings()
    if settings.notices_file is not None or path.exists():
        try:
            notices = read_document(path, NoticeSettings)
        except SpecError as error:
            raise NoticeSettingsError(
                error.what,
                expected=error.expected,
                todo="Correct it; docs/notices.md has an example.",
            ) from None
    return _with_environment(notices, settings)


def select_channels(notices: NoticeSettings, name: str) -> dict[str, Channel]:
    """Return the channel of a name, or all channels without one.

    Raises:
        NoticeSettingsError: There is no such channel, or none at all.
    """
    channels = notices.channels.by_name
    chosen = channels
    if name:
        chosen = {key: channel for key, channel in channels.items() if key == name}
    if not chosen:
        raise NoticeSettingsError(
            "There is no such channel.",
            expected=", ".join(sorted(channels)) or f"channels in {FILE_NAME}",
            got=name or "none",
            todo="docs/notices.md has an example.",
        )
    return chosen


def missing_secrets(notices: NoticeSettings) -> dict[str, str]:
    """Return what is missing, by channel; the secrets themselves are in no text."""
    problems: dict[str, str] = {}
    for name, channel in notices.channels.by_name.items():
        for reference in _references(channel):
            try:
                reference.resolve()
            except NoticeSettingsError as error:
                problems[name] = error.what
    return problems


def _references(channel: Channel) -> list[SecretReference]:
    references = []
    for field in type(channel).model_fields:
        value = getattr(channel, field)
        if isinstance(value, SecretReference):
            references.append(value)
    return references


def _with_environment(notices: NoticeSettings, settings: Settings) -> NoticeSettings:
    """Add NIGHTSHIFT_NOTIFY_COMMAND and NIGHTSHIFT_NOTIFY_URL as channels that get everything."""
    channels = notices.channels
    added = []
    if settings.notify_command:
        words = tuple(_words(settings.notify_command))
        command = CommandChannel(command=words, timeout_seconds=30)
        commands = {**channels.command, COMMAND_OF_ENVIRONMENT: command}
        channels = channels.model_copy(update={"command": commands})
        added.append(COMMAND_OF_ENVIRONMENT)
    if settings.notify_url.get_secret_value():
        url = _SettingsWebhook(value=settings.notify_url)
        # Validation would ask the reference of its base class for a place, which this has not.
        webhook = WebhookChannel.model_construct(url=url, timeout_seconds=30.0)
        webhooks = {**channels.webhook, WEBHOOK_OF_ENVIRONMENT: webhook}
        channels = channels.model_copy(update={"webhook": webhooks})
        added.append(WEBHOOK_OF_ENVIRONMENT)
    if not added:
        return notices
    routes = (*notices.routes, Route(channels=tuple(added)))
    return notices.model_copy(update={"channels": channels, "routes": routes})


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise NoticeSettingsError(
            "NIGHTSHIFT_NOTIFY_COMMAND is no command.",
            got=str(error),
            todo="Quote its words as for a shell.",
        ) from None
    return words


class _SettingsWebhook(SecretReference):
    """A secret that the settings have read already, from a variable or the home's file.

    Attributes:
        value: The secret.
    """

    value: SecretStr

    @model_validator(mode="after")
    def _one_source(self) -> _SettingsWebhook:
        return self

    def resolve(self) -> str:
        """Return the secret."""
        return self.value.get_secret_value()


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
