"""The page in Airflow's own interface: a plugin with an application and an entry of the navigation.

Airflow loads plugins in every process, also in each task. So this module imports nothing heavy, and
the application is made when its first page is requested.
"""

from __future__ import annotations

from html import escape
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/nightshift"
LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>nightshift: log in</title>
<link rel="icon" href="data:,"></head><body>
<p>{words} <a href="{href}" target="_top">Log in to Airflow</a>.</p></body></html>"""


class AirflowGate:
    """The gate within Airflow: its login, and the rights to see the website and to read DAGs."""

    async def refusal(self, request: Request) -> Response | None:
        """Return 401 without a login, 403 without the rights; None lets the request through."""
        from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
        from fastapi import HTTPException
        from starlette.concurrency import run_in_threadpool

        try:
            credentials = await bearer_scheme(request)
            user = await get_user(request, None, credentials)
        except HTTPException as error:
            return _login_page(request, error.status_code, "You are not logged in.")
        # An auth manager may ask a database or a server: that must not hold the event loop.
        if not await run_in_threadpool(may_read, user):
            return _login_page(request, 403, "Your role may not read DAGs.")
        return None


def may_read(user: Any) -> bool:  # noqa: ANN401 - the auth manager's own class
    """Return whether Airflow lets a user see its website and read DAGs."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView

    manager = get_auth_manager()
    may_see = manager.is_authorized_view(access_view=AccessView.WEBSITE, user=user)
    return bool(may_see and manager.is_authorized_dag(method="GET", user=user))


def _login_page(request: Request, status: int, words: str) -> Response:
    from airflow.api_fastapi.app import get_auth_manager
    from starlette.responses import HTMLResponse

    next_url = str(request.base_url.replace(path=request.url.path))
    href = get_auth_manager().get_url_login(next_url=next_url)
    html = LOGIN_PAGE.format(words=escape(words), href=escape(href))
    return HTMLResponse(html, status)


class LazyApp:
    """The application, made at its first request."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._lock = Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from starlette.concurrency import run_in_threadpool

        app = self._app
        if app is None:
            # The imports take a second, which belongs to this request alone.
            app = await run_in_threadpool(self._make)
        await app(scope, receive, send)

    def _make(self) -> ASGIApp:
        from nightshift.page.application import create_app
        from nightshift.settings import load_settings

        # Two first requests at once: the second one waits for the first one's application.
        with self._lock:
            if self._app is None:
                self._app = create_app(load_settings(), AirflowGate())
            return self._app


class NightshiftPlugin(AirflowPlugin):  # type: ignore[misc] # Airflow has no types here
    """What Airflow reads."""

    name = "nightshift"
    fastapi_apps: ClassVar = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "nightshift"}]
    external_views: ClassVar = [
        {
            "name": "nightshift",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "url_route": "nightshift",
        }
    ]
