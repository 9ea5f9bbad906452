"""Who may see the page: a gate answers every request that it does not let through.

The gate stands before all routes, so a path that does not exist is refused too.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from html import escape
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

logger = logging.getLogger(__name__)

STYLE_PATH = "/style.css"
"""The only path that the gate of a password leaves open: colours and sizes, no data."""
LOGIN_PATH = "/login"
COOKIE = "nightshift_page"
SESSION_SECONDS = 12 * 3600
MAX_LOGIN_BYTES = 4096
MAX_LOGINS = 100
"""Logins that are remembered; the oldest ends when another one comes."""
LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>nightshift: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="{style}"></head>
<body class="login"><main><h1>nightshift</h1>{notice}
<form method="post" action="{action}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required
 autofocus>
<button type="submit">Log in</button></form>
<p class="quiet">The password is in the file that <code>nightshift page</code> named when it
started.</p>
</main></body></html>"""


class Gate(Protocol):
    """Decides about a request before any route sees it."""

    async def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not let through; None lets it through."""


class PasswordGate:
    """The gate of `nightshift page`: one password, sessions in memory, known hosts only.

    Args:
        password: The password; an empty one is refused.
        hosts: Values of the Host header that name this server. Another name is a foreign page
            whose name leads here (DNS rebinding).
    """

    def __init__(self, password: str, hosts: frozenset[str]) -> None:
        if not password:
            raise ValueError("the page is not served without a password")
        self._password = password.encode()
        self._hosts = hosts
        self._ends: dict[str, float] = {}

    async def refusal(self, request: Request) -> Response | None:
        """Return the answer to a request without a login, or to a login; None lets it through."""
        # First, so that a foreign page learns nothing, not even that a login is needed.
        if request.headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("Unknown host.", 421)
        if request.url.path == STYLE_PATH and request.method == "GET":
            return None
        if request.url.path == LOGIN_PATH and request.method == "POST":
            return await self._log_in(request)
        if self._is_known(request.cookies.get(COOKIE, "")):
            return None
        return _login_page(401)

    async def _log_in(self, request: Request) -> Response:
        if not self._is_own_form(request):
            return PlainTextResponse("Another site sent this form.", 403)
        # Read here, so that no form parser sees what a stranger sends.
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_LOGIN_BYTES:
                return PlainTextResponse("Too long.", 413)
        fields = parse_qs(body.decode("utf-8", "replace"))
        given = fields.get("password", [""])[0].encode()
        # In constant time: the time of an answer must not tell how much of a guess is right.
        if not hmac.compare_digest(given, self._password):
            logger.warning("a wrong login was refused")
            return _login_page(401, "That is not the password.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, self._new_session(), SESSION_SECONDS, httponly=True, samesite="strict", path="/"
        )
        return answer

    def _is_own_form(self, request: Request) -> bool:
        """Return whether the browser says that the form is ours; programs say nothing."""
        origin = request.headers.get("origin")
        return origin is None or urlsplit(origin).netloc.lower() in self._hosts

    def _new_session(self) -> str:
        # A monotonic clock: setting the machine's clock ends no session and prolongs none.
        now = time.monotonic()
        self._ends = {token: end for token, end in self._ends.items() if end > now}
        while len(self._ends) >= MAX_LOGINS:
            del self._ends[next(iter(self._ends))]
        token = secrets.token_urlsafe(32)
        self._ends[token] = now + SESSION_SECONDS
        return token

    def _is_known(self, token: str) -> bool:
        # A token has 256 random bits: looking it up tells nothing about the ones that exist.
        return self._ends.get(token, 0.0) > time.monotonic()


def _login_page(status: int, notice: str = "") -> Response:
    words = f'<p class="bad-text" role="alert">{escape(notice)}</p>' if notice else ""
    html = LOGIN_PAGE.format(style=STYLE_PATH, action=LOGIN_PATH, notice=words)
    return HTMLResponse(html, status)
