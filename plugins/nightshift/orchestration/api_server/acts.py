"""Record what people do in Airflow: a middleware of its API server, by which page and API go.

A trigger with its form, a clear, a mark, a pause, a backfill: each becomes an act with the user's
name. Airflow serves the request also when the warehouse is away; its log then says so.
Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from nightshift.settings import load_settings
from nightshift.warehouse.control_tables.acts import (
    Act,
    RunningAct,
    begin_act,
    end_act,
)

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Document = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 65_536
"""Bytes of a request or an answer that are looked at; more is passed on unseen."""
_API = "/api/v2"
_FIRST_ERROR = 400
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
_LOOKING = re.compile(r".*/(list|dry_run|dryRun)$")
# The first pattern that matches names the act. Bodies of other resources (connections, variables)
# hold secrets: of them only the path is kept.
_ACTS = {
    r"POST /dags/(?P<dag>[^/]+)/dagRuns": "airflow.trigger",
    r"POST /dags/(?P<dag>[^/]+)/dagRuns/(?P<run>[^/]+)/clear": "airflow.clear",
    r"POST /dags/(?P<dag>[^/]+)/clear\w*": "airflow.clear",
    r"PATCH /dags/(?P<dag>[^/]+)/dagRuns/(?P<run>[^/]+)(/task.+)?": "airflow.mark",
    r"PATCH /dags/(?P<dag>[^/]+)": "airflow.pause",
    r"DELETE /dags/(?P<dag>[^/]+)(/dagRuns/(?P<run>[^/]+))?": "airflow.delete",
    r"POST /backfills": "airflow.backfill",
    r"POST /assets/.+": "airflow.emit",
}
# What an answer says about the outcome.
_READ_BACK = ("dag_run_id", "state", "is_paused", "total_entries")


@dataclass
class Exchange:
    """One request and its answer, as far as they are looked at.

    Attributes:
        messages: The request's messages, which Airflow reads again.
        request: Its body.
        answer: The answer's body.
        status: The answer's status, 0 without an answer.
    """

    messages: list[Message] = field(default_factory=list)
    request: bytes = b""
    answer: bytes = b""
    status: int = 0

    async def read_request(self, receive: Receive) -> None:
        """Read the request's body, or the first part of a large one."""
        has_more = True
        while has_more and len(self.request) <= MAX_BODY_BYTES:
            message = await receive()
            self.messages.append(message)
            self.request += message.get("body", b"")
            has_more = message.get("more_body", False)

    def note_answer(self, message: Message) -> None:
        """Keep status and body of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif len(self.answer) < MAX_BODY_BYTES:
            self.answer += message.get("body", b"")

    @property
    def error_code(self) -> str | None:
        """Return ``HTTP <status>`` of an answer that refuses; None for success."""
        is_success = 0 < self.status < _FIRST_ERROR
        return None if is_success else f"HTTP {self.status}"


class RecordActs:
    """An ASGI middleware that records the requests by which people change something."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass a request on; record it if it is an act of a known user."""
        user = None
        if _changes_something(scope):
            user = await user_of(scope)
        # Without a user Airflow refuses the request: nobody acted.
        if user is None:
            await self.app(scope, receive, send)
        else:
            await self._record(scope, receive, send, user)

    async def _record(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        user: str,
    ) -> None:
        from anyio import to_thread

        exchange = Exchange()
        await exchange.read_request(receive)

        async def replay() -> Message:
            if exchange.messages:
                return exchange.messages.pop(0)
            return await receive()

        async def watch(message: Message) -> None:
            exchange.note_answer(message)
            await send(message)

        act = act_of(scope["method"], _path(scope), exchange.request, user)
        if act is None:
            await self.app(scope, replay, send)
            return
        # In a thread: the warehouse may be slow, and the server has one loop for everybody.
        running = await to_thread.run_sync(_begin, act)
        try:
            await self.app(scope, replay, watch)
        finally:
            await to_thread.run_sync(_end, act, running, exchange)


def _path(scope: Scope) -> str:
    """Return the path behind Airflow's prefix; empty for another one."""
    return str(scope.get("path", "")).partition(_API)[2]


def _changes_something(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in _CHANGES:
        return False
    path = _path(scope)
    # Long questions are sent as POST too.
    return bool(path) and _LOOKING.match(path) is None


async def user_of(scope: Scope) -> str | None:
    """Return the name of the user whose token a request carries; None without a valid one."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.base_auth_manager import (
        COOKIE_NAME_JWT_TOKEN,
    )
    from starlette.requests import HTTPConnection

    connection = HTTPConnection(scope)
    header = connection.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    # The page sends a cookie, programs send a header.
    if scheme.lower() != "bearer":
        token = connection.cookies.get(COOKIE_NAME_JWT_TOKEN, "")
    if not token:
        return None
    try:
        user = await get_auth_manager().get_user_from_token(token)
    except Exception:  # noqa: BLE001 - Airflow itself answers an invalid token
        return None
    return str(user.get_name())


def act_of(
    method: str,
    path: str,
    request: bytes,
    user: str,
) -> Act | None:
    """Return the act of a request; None for one that only tries.

    Args:
        method: Of HTTP.
        path: Behind ``/api/v2``.
        request: The body.
        user: Who asks.
    """
    resource = path.split("/")[1]
    name = f"airflow.{resource}.{method.lower()}"
    arguments: Document = {"path": path}
    body: Document = {}
    for pattern, known_name in _ACTS.items():
        match = re.fullmatch(pattern, f"{method} {path}")
        if match:
            name = known_name
            body = _parsed(request)
            arguments = body | match.groupdict()
            break
    # Airflow's own default of a clear is to try.
    if name == "airflow.clear" and body.get("dry_run", True):
        return None
    form = body.get("conf") or {}
    reason = arguments.pop("note", None) or form.get("reason") or ""
    return Act(
        name,
        "airflow",
        f"airflow:{user}",
        str(reason),
        arguments,
        must_be_recorded=False,
    )


def _parsed(body: bytes) -> Document:
    """Return a JSON object; empty for anything else, and for what was not read to its end."""
    if not body or len(body) > MAX_BODY_BYTES:
        return {}
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _begin(act: Act) -> RunningAct:
    # Whatever is wrong with our settings: a person must be able to clear a run.
    try:
        return begin_act(load_settings(), act)
    except Exception:
        logger.warning("%s by %s is not on record.", act.name, act.actor, exc_info=True)
        return RunningAct(None)


def _end(
    act: Act,
    running: RunningAct,
    exchange: Exchange,
) -> None:
    # What could not be recorded at the beginning was logged there.
    if running.act_id is None:
        return
    answer = _parsed(exchange.answer)
    running.read_back["status"] = exchange.status
    for name in _READ_BACK:
        if name in answer:
            running.read_back[name] = answer[name]
    end_act(load_settings(), act, running, exchange.error_code)
