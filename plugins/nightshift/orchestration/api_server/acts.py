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

from nightshift.errors import cause_of
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
# A long question, and a trial: of a backfill by POST, of a mark by PATCH behind its task.
_LOOKING = re.compile(
    r"POST .*/(list|dry_run)|PATCH .*/task(Group)?Instances/[^/]+(/[^/]+)?/dry_run"
)
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
        if changes_something(scope):
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


def changes_something(scope: Scope) -> bool:
    """Return whether a request to Airflow may change something: no question and no trial."""
    if scope["type"] != "http" or scope["method"] not in _CHANGES:
        return False
    path = _path(scope)
    is_api = path.startswith("/")
    return is_api and _LOOKING.fullmatch(f"{scope['method']} {path}") is None


async def user_of(scope: Scope) -> str | None:
    """Return the name of the user of a request, as Airflow sees it; None without a valid one."""
    from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
    from starlette.requests import Request

    request = Request(scope)
    try:
        credentials = await bearer_scheme(request)
        user = await get_user(request, None, credentials)
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
    body: Document | None = {}
    for pattern, known_name in _ACTS.items():
        match = re.fullmatch(pattern, f"{method} {path}")
        if match:
            name = known_name
            body = _parsed(request)
            arguments = (body or {}) | match.groupdict()
            break
    # Airflow's own default of a clear is to try. What was not understood may have said otherwise.
    is_trial = body is not None and body.get("dry_run", True) is True
    if name == "airflow.clear" and is_trial:
        return None
    form = arguments.get("conf")
    form_reason = form.get("reason") if isinstance(form, dict) else None
    reason = arguments.pop("note", None) or form_reason or ""
    return Act(
        name,
        "airflow",
        f"airflow:{user}",
        str(reason),
        arguments,
        must_be_recorded=False,
    )


def _parsed(body: bytes) -> Document | None:
    """Return a JSON object; None for anything else, and for what was not read to its end."""
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _begin(act: Act) -> RunningAct:
    # Whatever is wrong with our settings: a person must be able to clear a run.
    try:
        return begin_act(load_settings(), act)
    except Exception:  # noqa: BLE001 - the end tries to record it once more, and logs a failure
        return RunningAct(None)


def _end(
    act: Act,
    running: RunningAct,
    exchange: Exchange,
) -> None:
    """Record the outcome, and here also an act that could not be recorded when it began."""
    answer = _parsed(exchange.answer) or {}
    running.read_back["status"] = exchange.status
    for name in _READ_BACK:
        if name in answer:
            running.read_back[name] = answer[name]
    # The request was answered: nothing may turn that into an error.
    try:
        settings = load_settings()
    except Exception as error:  # noqa: BLE001 - see above
        logger.warning(
            "%s by %s is not on record: %s.",
            act.name,
            act.actor,
            cause_of(error),
        )
        return
    end_act(settings, act, running, exchange.error_code)
